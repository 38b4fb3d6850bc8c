//! The files that a configuration names: whether they are there, of the right kind, and open to
//! this process.
//!
//! Nothing is created or changed, not even a time of access where that can be helped. This file
//! must not know TOML, nor what is in a file.

use std::ffi::CString;
use std::fs::{self, File, FileType, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use super::media::{self, MediumId};
use super::problems::{Diagnostics, Problems, Refusal};
use crate::console;

/// The largest configuration, in bytes.
const CONFIG_MAX: u64 = 1 << 20;
/// Where pipes are that have no name (PIPEFS_MAGIC, linux/magic.h).
const PIPE_FS: u32 = 0x5049_5045;
/// The longest path of a Unix socket, in bytes: `sun_path` without its NUL.
const SOCKET_PATH_MAX: usize = 107;

/// Reads the configuration.
pub(super) fn read_config(path: &Path) -> Result<String, Diagnostics> {
    // To open a FIFO waits for somebody who writes. The pipe of a shell has one.
    if fs::metadata(path).is_ok_and(|file| file.file_type().is_fifo())
        && media::file_system(path) != Some(PIPE_FS)
    {
        let refusal = Refusal::new("is a FIFO", "name a regular file, or /dev/stdin");
        return Err(Diagnostics::of_file(path, &refusal));
    }
    let bytes = read_bounded(path).map_err(|error| {
        let refusal = Refusal::new(reason(&error), "check the path of the configuration");
        Diagnostics::of_file(path, &refusal)
    })?;
    if bytes.len() as u64 > CONFIG_MAX {
        let refusal = Refusal::new("larger than 1 MiB", "check the path of the configuration");
        return Err(Diagnostics::of_file(path, &refusal));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(error.as_bytes());
        let mut problems = Problems::new(path, &text);
        problems.report(valid, "text", &Refusal::new("not UTF-8", "save the file as UTF-8"));
        problems.into_diagnostics()
    })
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(CONFIG_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Opens for reading, and leaves the time of access as it is if this user may.
fn open(path: &Path) -> io::Result<File> {
    let quietly = OpenOptions::new().read(true).custom_flags(libc::O_NOATIME).open(path);
    match quietly {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => File::open(path),
        opened => opened,
    }
}

/// A regular file, to be read, and its size in bytes.
pub(super) fn readable(path: &Path) -> Result<(File, u64), Refusal> {
    let metadata = regular(path)?;
    let file = open(path).map_err(|error| refused(path, &error))?;
    Ok((file, metadata.len()))
}

/// A file that can be written, or made; which it is, if it is there.
pub(super) fn output(path: &Path) -> Result<Option<MediumId>, Refusal> {
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => room_for(path).map(|()| None),
        Err(error) => Err(refused(path, &error)),
        Ok(metadata) if metadata.is_file() || metadata.file_type().is_char_device() => {
            access(path, libc::W_OK).map_err(|error| refused(path, &error))?;
            Ok(Some(MediumId::of(&metadata)))
        }
        Ok(metadata) => Err(wrong_kind(path, &metadata, "name a file")),
    }
}

/// The path of a Unix socket that can be made, perhaps in place of an old one.
pub(super) fn socket(path: &Path) -> Result<(), Refusal> {
    if path.as_os_str().len() > SOCKET_PATH_MAX {
        let why = format!("{} is longer than {SOCKET_PATH_MAX} bytes", path.display());
        return Err(Refusal::new(why, "use a shorter path"));
    }
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(refused(path, &error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(wrong_kind(path, &metadata, "name a path where there is nothing yet"));
        }
        Ok(_) if console::is_in_use(path).is_ok_and(|used| used) => {
            let why = format!("{} is the socket of another program", path.display());
            return Err(Refusal::new(why, "end that, or choose another name"));
        }
        _ => {}
    }
    room_for(path)
}

/// The Unix socket of a program that serves.
pub(super) fn service(path: &Path) -> Result<(), Refusal> {
    let metadata = look(path)?;
    if !metadata.file_type().is_socket() {
        return Err(wrong_kind(path, &metadata, "name the socket of a broker"));
    }
    access(path, libc::W_OK).map_err(|error| refused(path, &error))?;
    if console::is_in_use(path).is_ok_and(|used| !used) {
        let why = format!("nobody serves {}", path.display());
        return Err(Refusal::new(why, "start the broker"));
    }
    Ok(())
}

/// Whether something can be made at `path`.
fn room_for(path: &Path) -> Result<(), Refusal> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let metadata = look(directory)?;
    if !metadata.is_dir() {
        return Err(wrong_kind(directory, &metadata, "name a path in a directory"));
    }
    access(directory, libc::W_OK | libc::X_OK).map_err(|error| refused(directory, &error))
}

/// Looks before anything is opened: to open a FIFO or a device may wait or act.
fn regular(path: &Path) -> Result<Metadata, Refusal> {
    let metadata = look(path)?;
    match metadata.is_file() {
        true => Ok(metadata),
        false => Err(wrong_kind(path, &metadata, "name a regular file")),
    }
}

fn look(path: &Path) -> Result<Metadata, Refusal> {
    fs::metadata(path).map_err(|error| refused(path, &error))
}

/// Whether this process' effective user may do what `mode` says.
#[expect(unsafe_code, reason = "faccessat")]
fn access(path: &Path, mode: i32) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: `path` is a string that ends with a NUL, and is only read.
    match unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), mode, libc::AT_EACCESS) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn wrong_kind(path: &Path, metadata: &Metadata, remedy: &str) -> Refusal {
    Refusal::new(format!("{} is {}", path.display(), kind(metadata.file_type())), remedy)
}

fn kind(file_type: FileType) -> &'static str {
    match file_type {
        kind if kind.is_file() => "a regular file",
        kind if kind.is_dir() => "a directory",
        kind if kind.is_symlink() => "a symbolic link",
        kind if kind.is_block_device() => "a block device",
        kind if kind.is_char_device() => "a character device",
        kind if kind.is_fifo() => "a FIFO",
        kind if kind.is_socket() => "a socket",
        _ => "of an unknown kind",
    }
}

fn refused(path: &Path, error: &io::Error) -> Refusal {
    let remedy = match error.kind() {
        ErrorKind::NotFound => "create it, or correct the path",
        ErrorKind::PermissionDenied => "change its permissions, or run as another user",
        ErrorKind::ReadOnlyFilesystem => "name a path elsewhere",
        _ => "correct the path",
    };
    Refusal::new(format!("{} cannot be opened: {}", path.display(), reason(error)), remedy)
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "no such file".to_owned(),
        ErrorKind::PermissionDenied => "permission denied".to_owned(),
        ErrorKind::IsADirectory => "it is a directory".to_owned(),
        ErrorKind::ReadOnlyFilesystem => "read-only file system".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_only_file_system_is_no_matter_of_disks() {
        let error = io::Error::from_raw_os_error(libc::EROFS);
        let refusal = refused(Path::new("/x"), &error).to_string();
        assert_eq!(refusal, "/x cannot be opened: read-only file system; name a path elsewhere");
    }
}

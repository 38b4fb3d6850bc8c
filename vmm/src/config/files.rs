//! The files that a configuration names: whether they are there, and of the right kind.
//!
//! This file must not know TOML, nor what is in a file.

use std::fs::{self, File, FileType, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::problems::{Diagnostics, Problems, Refusal};

/// The largest configuration, in bytes.
const CONFIG_MAX: u64 = 1 << 20;

/// What makes two paths one file: device and inode, also through links and bind mounts.
pub(super) type FileId = (u64, u64);

/// A disk image that can be opened.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Image {
    /// Where it is.
    pub(super) path: PathBuf,
    /// Which file it is.
    pub(super) id: FileId,
}

/// Reads the configuration.
pub(super) fn read_config(path: &Path) -> Result<String, Diagnostics> {
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
    File::open(path)?.take(CONFIG_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A regular file that can be read.
pub(super) fn readable(path: PathBuf) -> Result<PathBuf, Refusal> {
    regular(&path)?;
    File::open(&path).map_err(|error| refused(&path, &error))?;
    Ok(path)
}

/// A regular file of whole blocks that can be read, and written unless `read_only`.
pub(super) fn image(path: PathBuf, read_only: bool) -> Result<Image, Refusal> {
    let metadata = regular(&path)?;
    OpenOptions::new()
        .read(true)
        .write(!read_only)
        .open(&path)
        .map_err(|error| refused(&path, &error))?;
    whole_blocks(&path, metadata.len())?;
    Ok(Image { path, id: (metadata.dev(), metadata.ino()) })
}

/// Looks before anything is opened: to open a FIFO or a device may wait or act.
fn regular(path: &Path) -> Result<Metadata, Refusal> {
    let metadata = fs::metadata(path).map_err(|error| refused(path, &error))?;
    if metadata.is_file() {
        return Ok(metadata);
    }
    let why = format!("{} is {}", path.display(), kind(metadata.file_type()));
    Err(Refusal::new(why, "name a regular file"))
}

fn kind(file_type: FileType) -> &'static str {
    match file_type {
        kind if kind.is_dir() => "a directory",
        kind if kind.is_block_device() => "a block device",
        kind if kind.is_char_device() => "a character device",
        kind if kind.is_fifo() => "a FIFO",
        kind if kind.is_socket() => "a socket",
        _ => "no regular file",
    }
}

fn whole_blocks(path: &Path, size: u64) -> Result<(), Refusal> {
    let path = path.display();
    if size == 0 {
        let why = format!("{path} is empty");
        return Err(Refusal::new(why, format!("give it a size, as with truncate -s 1G {path}")));
    }
    if !size.is_multiple_of(512) {
        let why = format!("the {size} bytes of {path} are not a multiple of 512");
        return Err(Refusal::new(why, format!("extend it, as with truncate -s %512 {path}")));
    }
    Ok(())
}

fn refused(path: &Path, error: &io::Error) -> Refusal {
    let remedy = match error.kind() {
        ErrorKind::NotFound => "create it, or correct the path",
        ErrorKind::PermissionDenied => "change its permissions, or run as another user",
        ErrorKind::ReadOnlyFilesystem => "set read_only = true, or move it",
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

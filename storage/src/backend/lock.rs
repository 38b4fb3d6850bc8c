//! Locks that keep two programs from one image by mistake.
//!
//! They are QEMU's (its `block/file-posix.c`): a byte for each thing that one may do with an
//! image, and a byte for each that one does not want others to do. Both are locked shared, and
//! whoever comes later looks whether the opposite byte of each is free. The locks belong to the
//! open file, so they last until the last descriptor of it is closed, by whatever end, and two
//! logical units of one process are as foreign to each other as two processes.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fmt, process};

use super::open::Options;
use super::sys;

/// Why a lock cannot be had.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Somebody has it, who may be known.
    InUse(Option<Holder>),
    /// There are no locks where the file is.
    NoLocks(io::Error),
}

/// The first byte of what is done, one for each permission.
const DONE: u32 = 100;
/// The first byte of what others are not to do.
const FORBIDDEN: u32 = 200;

// Permissions, by their numbers.
const CONSISTENT_READ: u32 = 0;
const WRITE: u32 = 1;
const RESIZE: u32 = 3;

/// Who has an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The process.
    pub pid: u32,
    /// Its name.
    pub name: String,
}

impl Holder {
    /// The process with this number, if it still runs.
    pub(crate) fn running(pid: u32) -> Option<Holder> {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        Some(Holder { pid, name: name.trim_end().to_owned() })
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pid == process::id() {
            return write!(f, "another logical unit of this guest");
        }
        write!(f, "{} (process {})", self.name, self.pid)
    }
}

/// What one who opens an image does with it, and what others are not to do then.
struct Claim {
    does: &'static [u32],
    forbids: &'static [u32],
}

impl Claim {
    fn of(options: &Options) -> Claim {
        Claim {
            does: if options.read_only { &[CONSISTENT_READ] } else { &[CONSISTENT_READ, WRITE] },
            // A logical unit never changes its size.
            forbids: if options.shared { &[RESIZE] } else { &[WRITE, RESIZE] },
        }
    }

    fn take(&self, file: &File) -> io::Result<()> {
        for permission in self.does {
            sys::lock_shared(file, DONE + permission)?;
        }
        for permission in self.forbids {
            sys::lock_shared(file, FORBIDDEN + permission)?;
        }
        Ok(())
    }

    /// The first byte by which somebody else is against it.
    fn conflict(&self, file: &File) -> io::Result<Option<u32>> {
        let forbidden = self.does.iter().map(|permission| FORBIDDEN + permission);
        let done = self.forbids.iter().map(|permission| DONE + permission);
        for byte in forbidden.chain(done) {
            if sys::is_locked(file, byte)? {
                return Ok(Some(byte));
            }
        }
        Ok(None)
    }
}

/// Locks `file` for what `options` say, or finds out who has it.
pub(crate) fn take(file: &File, options: &Options) -> Result<(), Refused> {
    let claim = Claim::of(options);
    match claim.take(file) {
        Ok(()) => look(file, &claim, options),
        Err(error) if is_conflict(&error) => Err(Refused::InUse(None)),
        Err(error) => without_locks(error, options),
    }
}

/// Whether [`take`] would be let, without taking anything.
pub(crate) fn test(file: &File, options: &Options) -> Result<(), Refused> {
    look(file, &Claim::of(options), options)
}

fn look(file: &File, claim: &Claim, options: &Options) -> Result<(), Refused> {
    match claim.conflict(file) {
        Ok(None) => Ok(()),
        Ok(Some(byte)) => Err(Refused::InUse(holder(file, byte..=byte))),
        Err(error) => without_locks(error, options),
    }
}

fn is_conflict(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES))
}

/// Some file systems have no locks. Those who share an image need none.
fn without_locks(error: io::Error, options: &Options) -> Result<(), Refused> {
    if !options.shared {
        return Err(Refused::NoLocks(error));
    }
    log::warn!("a shared image is on a file system without locks: {error}");
    Ok(())
}

/// Who has any lock of an image that cannot be opened.
pub(crate) fn holder_of(path: &Path) -> Option<Holder> {
    let file = File::open(path).ok()?;
    holder(&file, DONE..=FORBIDDEN + RESIZE)
}

/// Who has a lock on `bytes` of `file`, as far as this user may see: the kernel names no process
/// for a lock of an open file, but lists the locks of each descriptor.
fn holder(file: &File, bytes: std::ops::RangeInclusive<u32>) -> Option<Holder> {
    let metadata = file.metadata().ok()?;
    let (device, inode) = (metadata.dev(), metadata.ino());
    let id = format!("{:02x}:{:02x}:{inode}", libc::major(device), libc::minor(device));
    let own = PathBuf::from(format!("/proc/{}/fdinfo/{}", process::id(), file.as_raw_fd()));
    let pid = numbers("/proc").find(|pid| {
        let descriptors = format!("/proc/{pid}/fdinfo");
        numbers(&descriptors)
            .map(|fd| PathBuf::from(format!("{descriptors}/{fd}")))
            .filter(|info| *info != own)
            .filter_map(|info| fs::read_to_string(info).ok())
            .any(|info| info.lines().any(|line| locks(line, &id, &bytes)))
    })?;
    Holder::running(pid)
}

/// Names in a folder that are numbers.
pub(crate) fn numbers(folder: &str) -> impl Iterator<Item = u32> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Whether `line` tells of a lock on `bytes` of the file `id`:
/// `lock: 1: OFDLCK ADVISORY READ -1 fe:00:1234 100 101`.
fn locks(line: &str, id: &str, bytes: &std::ops::RangeInclusive<u32>) -> bool {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let ["lock:", .., file, start, end] = words.as_slice() else { return false };
    let start = start.parse().unwrap_or(0);
    let end = end.parse().unwrap_or(u32::MAX);
    *file == id && start <= *bytes.end() && *bytes.start() <= end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_shares_does_without_locks() {
        let without = |shared| {
            let error = io::Error::from_raw_os_error(libc::ENOLCK);
            without_locks(error, &Options { shared, ..Options::default() })
        };
        assert!(matches!(without(false), Err(Refused::NoLocks(_))));
        assert!(without(true).is_ok());
    }

    #[test]
    fn a_lock_is_recognised_by_file_and_bytes() {
        let line = "lock:\t1: OFDLCK ADVISORY  READ -1 fe:00:1234 100 101";
        assert!(locks(line, "fe:00:1234", &(101..=101)));
        assert!(!locks(line, "fe:00:1234", &(102..=199)));
        assert!(!locks(line, "fe:00:123", &(101..=101)));
        assert!(locks("lock:\t1: POSIX ADVISORY  WRITE 7 fe:00:9 0 EOF", "fe:00:9", &(201..=201)));
        assert!(!locks("pos:\t0", "fe:00:9", &(0..=300)));
    }
}

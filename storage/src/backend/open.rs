//! What files and block devices have in common when they are opened: how one wants it, and why it
//! cannot be.

use std::fs::{self, File, FileType, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use super::lock::{self, Holder};
use super::sys;

/// How an image or a block device is to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// For reading alone.
    pub read_only: bool,
    /// Others may have it open too, and write to it.
    pub shared: bool,
    /// Past the host's page cache.
    pub direct: bool,
    /// Whether space may be given back.
    pub discard: bool,
    /// Bytes of a logical block; `None` for what a device has, and for 512 in a file.
    pub block_size: Option<u32>,
}

impl Default for Options {
    fn default() -> Options {
        Options { read_only: false, shared: false, direct: false, discard: true, block_size: None }
    }
}

/// What something is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It is taken until it is closed.
    Use,
    /// It is looked at: nothing is changed, and nothing kept.
    Check,
}

/// What holds the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A block device.
    BlockDevice,
}

/// Why an image or a block device cannot be used: the predicate of a sentence about it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The host does not open it.
    #[error("cannot be opened: {}", reason(.0))]
    Open(io::Error),
    /// The host does not say what it has to.
    #[error("cannot be examined: {0}")]
    Examine(io::Error),
    /// It is something else.
    #[error("is {found}")]
    Kind {
        /// What it is.
        found: &'static str,
        /// What it was to be.
        wanted: Kind,
    },
    /// There is no block in it.
    #[error("is empty")]
    Empty(Kind),
    /// Its last block would be cut off.
    #[error("has {size} bytes, which is not a multiple of {block_size}")]
    PartialBlock {
        /// What it is.
        kind: Kind,
        /// Its length in bytes.
        size: u64,
        /// Bytes of a block.
        block_size: u32,
    },
    /// Somebody else has it, and one of the two does not want to share.
    #[error("is in use{}", by(.0.as_ref()))]
    InUse(Option<Holder>),
    /// The host's kernel itself has it.
    #[error("is mounted, or taken by LVM, md, device mapper or another program")]
    Claimed,
    /// There are no locks where it is.
    #[error("cannot be locked: {0}")]
    NoLocks(io::Error),
    /// There is no direct I/O where it is.
    #[error("is on a file system without direct I/O")]
    NoDirect,
    /// Direct I/O moves larger pieces than a block.
    #[error("takes direct I/O in units of {unit} bytes only, and blocks are to have {block_size}")]
    DirectUnit {
        /// What direct I/O moves, in bytes.
        unit: u32,
        /// Bytes of a block.
        block_size: u32,
    },
    /// A block of the device is larger, or not a part, of the blocks that are wanted.
    #[error("has blocks of {device} bytes, which blocks of {wanted} bytes cannot be made of")]
    DeviceBlock {
        /// Bytes of the device's logical block.
        device: u32,
        /// Bytes of the blocks that are wanted.
        wanted: u32,
    },
    /// The device's blocks have a size that no initiator takes.
    #[error("has blocks of {0} bytes")]
    UnusableBlock(u32),
    /// A physical block would be smaller than a logical one.
    #[error("has blocks of {block_size} bytes, and physical ones are to have {physical}")]
    PhysicalBlock {
        /// Bytes of a physical block, as wanted.
        physical: u32,
        /// Bytes of a logical block.
        block_size: u32,
    },
    /// It has zones that must be written in order.
    #[error("is a host-managed zoned device, which must be written in order")]
    HostManaged,
    /// The device takes no writes.
    #[error("takes no writes")]
    ReadOnly,
}

impl OpenError {
    /// What to do about `path`, as a clause of its own.
    #[must_use]
    pub fn remedy(&self, path: &Path) -> String {
        let path = path.display();
        match self {
            OpenError::Open(error) => match error.kind() {
                ErrorKind::NotFound => "create it, or correct the path".into(),
                ErrorKind::PermissionDenied => {
                    "change its permissions, or run as another user".into()
                }
                ErrorKind::ReadOnlyFilesystem => "set read_only = true, or move it".into(),
                _ => "correct the path".into(),
            },
            OpenError::Examine(_) => "use another device, or see the host's log".into(),
            OpenError::Kind { found, wanted } => other_kind(found, *wanted).into(),
            OpenError::Empty(Kind::File) => {
                format!("give it a size, as with truncate -s 1G {path}")
            }
            OpenError::Empty(Kind::BlockDevice) => "give the device a medium".into(),
            OpenError::PartialBlock { kind: Kind::File, block_size, .. } => {
                format!("extend it, as with truncate -s %{block_size} {path}")
            }
            OpenError::PartialBlock { kind: Kind::BlockDevice, .. } => {
                "set block_size to that of the device".into()
            }
            OpenError::InUse(_) => {
                "end that use, or set shared = true for each of its users".into()
            }
            OpenError::Claimed => {
                "unmount or release it, or name the volume that is made of it".into()
            }
            OpenError::NoLocks(_) => {
                "move it to a file system with locks, or set shared = true".into()
            }
            OpenError::NoDirect => "set direct = false, or move it".into(),
            OpenError::DirectUnit { unit, .. } => {
                format!("set block_size = {unit}, or direct = false")
            }
            OpenError::DeviceBlock { device, .. } => {
                format!("set block_size = {device}, or leave it out")
            }
            OpenError::UnusableBlock(_) => "use a device with blocks of 512 to 4096 bytes".into(),
            OpenError::PhysicalBlock { block_size, .. } => {
                format!("set physical_block_size to {block_size} or more, or leave it out")
            }
            OpenError::HostManaged => {
                "pass it through: name it by passthrough instead of block".into()
            }
            OpenError::ReadOnly => "set read_only = true".into(),
        }
    }
}

fn other_kind(found: &str, wanted: Kind) -> &'static str {
    match wanted {
        Kind::File if found == BLOCK_DEVICE => "name it by block instead of image",
        Kind::File => "name a regular file",
        Kind::BlockDevice if found == REGULAR_FILE => "name it by image instead of block",
        Kind::BlockDevice => "name a block device",
    }
}

const BLOCK_DEVICE: &str = "a block device";
const REGULAR_FILE: &str = "a regular file";

fn kind_of(file_type: FileType) -> &'static str {
    match file_type {
        kind if kind.is_file() => REGULAR_FILE,
        kind if kind.is_block_device() => BLOCK_DEVICE,
        kind if kind.is_dir() => "a directory",
        kind if kind.is_char_device() => "a character device",
        kind if kind.is_fifo() => "a FIFO",
        kind if kind.is_socket() => "a socket",
        _ => "neither a file nor a device",
    }
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "no such file".into(),
        ErrorKind::PermissionDenied => "permission denied".into(),
        ErrorKind::ReadOnlyFilesystem => "read-only file system".into(),
        _ => error.to_string(),
    }
}

fn by(holder: Option<&Holder>) -> String {
    holder.map_or_else(String::new, |holder| format!(" by {holder}"))
}

/// Opens what must be a `kind`.
pub(super) fn open(
    path: &Path,
    kind: Kind,
    options: &Options,
    purpose: Purpose,
) -> Result<File, OpenError> {
    // Looked at first, since to open a FIFO may wait, and a device may act.
    expect(&fs::metadata(path).map_err(OpenError::Open)?, kind)?;
    let writable = !options.read_only;
    if writable && purpose == Purpose::Check {
        sys::may_write(path).map_err(OpenError::Open)?;
    }
    let exclusive = if kind == Kind::BlockDevice && !options.shared { libc::O_EXCL } else { 0 };
    let direct = if options.direct { libc::O_DIRECT } else { 0 };
    let file = OpenOptions::new()
        .read(true)
        .write(writable && purpose == Purpose::Use)
        .custom_flags(exclusive | direct)
        .open(path)
        .map_err(|error| refused(error, path, kind, options))?;
    expect(&file.metadata().map_err(OpenError::Examine)?, kind)?;
    Ok(file)
}

fn expect(metadata: &Metadata, wanted: Kind) -> Result<(), OpenError> {
    let file_type = metadata.file_type();
    let fits = match wanted {
        Kind::File => file_type.is_file(),
        Kind::BlockDevice => file_type.is_block_device(),
    };
    if fits { Ok(()) } else { Err(OpenError::Kind { found: kind_of(file_type), wanted }) }
}

fn refused(error: io::Error, path: &Path, kind: Kind, options: &Options) -> OpenError {
    match (error.raw_os_error(), kind) {
        (Some(libc::EINVAL), _) if options.direct => OpenError::NoDirect,
        (Some(libc::EBUSY), Kind::BlockDevice) => match lock::holder_of(path) {
            None => OpenError::Claimed,
            holder => OpenError::InUse(holder),
        },
        (Some(libc::EROFS), Kind::BlockDevice) => OpenError::ReadOnly,
        _ => OpenError::Open(error),
    }
}

/// Takes what was opened, or looks whether it could be taken.
pub(super) fn claim(file: &File, options: &Options, purpose: Purpose) -> Result<(), OpenError> {
    let claimed = match purpose {
        Purpose::Use => lock::take(file, options),
        Purpose::Check => lock::test(file, options),
    };
    claimed.map_err(|refused| match refused {
        lock::Refused::InUse(holder) => OpenError::InUse(holder),
        lock::Refused::NoLocks(error) => OpenError::NoLocks(error),
    })
}

/// The number of whole blocks in `size` bytes.
pub(super) fn whole_blocks(kind: Kind, size: u64, block_size: u32) -> Result<u64, OpenError> {
    match size / u64::from(block_size) {
        0 if size == 0 => Err(OpenError::Empty(kind)),
        blocks if blocks * u64::from(block_size) == size => Ok(blocks),
        _ => Err(OpenError::PartialBlock { kind, size, block_size }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_for_a_guest_that_sees_them() {
        let remedy = OpenError::HostManaged.remedy(Path::new("/dev/sda"));
        assert_eq!(remedy, "pass it through: name it by passthrough instead of block");
    }
}

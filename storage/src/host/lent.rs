//! A node of a SCSI device that somebody else has opened and lent: nothing of it is taken, and its
//! open file stays as it is.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt;

use super::sys::{self, Command};
use super::{Completion, HostLimits, Request, ScsiHost};

/// A node that was lent.
#[derive(Debug)]
pub struct LentDevice {
    file: File,
}

impl LentDevice {
    /// The sg node or block node that is open as `file`.
    ///
    /// # Errors
    /// `Unsupported` where it is neither; the host's own.
    pub fn new(file: File) -> io::Result<LentDevice> {
        let kind = file.metadata()?.file_type();
        if kind.is_block_device() || kind.is_char_device() {
            Ok(LentDevice { file })
        } else {
            Err(io::ErrorKind::Unsupported.into())
        }
    }
}

impl ScsiHost for LentDevice {
    /// Memory that the device does not fill comes back with anything in it: only what the residual
    /// leaves is the device's.
    fn execute(&self, request: Request<'_>) -> io::Result<Completion> {
        Command::of(&request)?.sg_io_alone(&self.file).map(Completion::from)
    }

    /// Whoever lends it knows.
    fn carries(&self, _: &[u8]) -> bool {
        true
    }

    fn reset_logical_unit(&self) -> io::Result<()> {
        sys::reset_device(&self.file)
    }

    /// Nobody splits commands for a lender.
    fn limits(&self) -> io::Result<HostLimits> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

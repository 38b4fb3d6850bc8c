//! A node of a SCSI device that somebody else has opened and lent: nothing of it is taken, and its
//! open file stays as it is.
#![expect(unsafe_code, reason = "segments of data are lent to the kernel")]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt;

use super::sys::{self, Command, Direction};
use super::{Completion, Data, HostLimits, HostStatus, Request, ScsiHost};
use crate::scsi::status::Status;

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
        let (direction, segments) = match &request.data {
            Data::None => (Direction::None, &[][..]),
            Data::In(data) => (Direction::In, data.iovecs()),
            Data::Out(data) => (Direction::Out, data.iovecs()),
        };
        // SAFETY: the segments are those of a `DataBuf`, which is borrowed until the command has
        // ended, and writable where data comes in.
        let command = unsafe { Command::new(request.cdb, direction, segments, request.timeout) }?;
        let ended = command.sg_io_alone(&self.file)?;
        Ok(Completion {
            status: Status(ended.status),
            sense: ended.sense,
            resid: ended.resid,
            host_status: HostStatus(ended.host_status),
        })
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

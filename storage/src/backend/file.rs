//! A raw image file.
#![expect(unsafe_code, reason = "preadv2 and pwritev2 on scattered memory")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

use libc::{c_int, iovec, off_t};

use super::{Backend, Geometry};
use crate::buffer::DataBuf;

/// `IOV_MAX`: the segments that one system call takes.
pub(crate) const MAX_SEGMENTS: usize = 1024;

/// A raw image: block N is at N × block size.
#[derive(Debug)]
pub struct RawFile {
    file: File,
    geometry: Geometry,
}

/// An image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be opened, or not as wanted.
    #[error("cannot open: {0}")]
    Open(#[from] io::Error),
    /// It is a directory, a device or a pipe.
    #[error("is not a regular file")]
    NotAFile,
    /// Its last block would be cut off.
    #[error("is {size} bytes long, which is no multiple of the block size of {block_size}")]
    PartialBlock {
        /// Length of the file in bytes.
        size: u64,
        /// Bytes of a block.
        block_size: u32,
    },
    /// There is no block in it.
    #[error("is empty")]
    Empty,
}

impl RawFile {
    /// Opens the image at `path`, for reading and, unless `read_only`, for writing.
    ///
    /// # Errors
    /// [`OpenError`] says why it cannot be used.
    pub fn open(path: &Path, read_only: bool, block_size: u32) -> Result<RawFile, OpenError> {
        let file = OpenOptions::new().read(true).write(!read_only).open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(OpenError::NotAFile);
        }
        let size = metadata.len();
        if !size.is_multiple_of(u64::from(block_size)) {
            return Err(OpenError::PartialBlock { size, block_size });
        }
        match size / u64::from(block_size) {
            0 => Err(OpenError::Empty),
            blocks => Ok(RawFile { file, geometry: Geometry { blocks, block_size } }),
        }
    }

    /// Repeats `call` with a descriptor, segments, their number and an offset until `data` is
    /// done.
    fn transfer(
        &self,
        mut offset: u64,
        data: &mut DataBuf,
        end: io::ErrorKind,
        call: impl Fn(c_int, *const iovec, c_int, off_t) -> isize,
    ) -> io::Result<()> {
        while !data.is_empty() {
            let segments = data.iovecs();
            let count = c_int::try_from(segments.len().min(MAX_SEGMENTS)).unwrap_or(c_int::MAX);
            let position = off_t::try_from(offset).map_err(io::Error::other)?;
            let moved = call(self.file.as_raw_fd(), segments.as_ptr(), count, position);
            match usize::try_from(moved) {
                Ok(0) => return Err(end.into()),
                Ok(moved) => {
                    data.advance(moved);
                    offset += moved as u64;
                }
                Err(_) => retry_if_interrupted(io::Error::last_os_error())?,
            }
        }
        Ok(())
    }
}

fn retry_if_interrupted(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) }
}

impl Backend for RawFile {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read(&self, offset: u64, data: &mut DataBuf) -> io::Result<()> {
        self.transfer(offset, data, io::ErrorKind::UnexpectedEof, |fd, segments, count, at| {
            // SAFETY: `segments` come from a `DataBuf`, whose memory is valid and writable.
            unsafe { libc::preadv2(fd, segments, count, at, 0) }
        })
    }

    fn write(&self, offset: u64, data: &mut DataBuf) -> io::Result<()> {
        self.transfer(offset, data, io::ErrorKind::WriteZero, |fd, segments, count, at| {
            // SAFETY: `segments` come from a `DataBuf`, whose memory is valid.
            unsafe { libc::pwritev2(fd, segments, count, at, 0) }
        })
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn raw_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }
}

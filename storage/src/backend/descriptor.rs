//! Transfers on an open file, at once or by way of memory that direct I/O can use.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use super::{Alignment, sys};
use crate::buffer::DataBuf;

/// What a transfer of unaligned memory takes up for as long as it lasts, in bytes.
const BOUNCE_MAX: usize = 1 << 20;

/// An open file, and what transfers on it have to keep to.
#[derive(Debug)]
pub(super) struct Descriptor {
    pub(super) file: File,
    pub(super) alignment: Alignment,
}

impl Descriptor {
    /// Fills `data` from `offset`. The end of the file is `UnexpectedEof`.
    pub(super) fn read(&self, offset: u64, data: &mut DataBuf) -> io::Result<()> {
        self.transfer(offset, data, io::ErrorKind::UnexpectedEof, |data, offset| {
            if self.alignment.admits(data) {
                return sys::read(&self.file, data, offset);
            }
            let mut bounce = Bounce::new(data.len(), self.alignment);
            let moved = self.file.read_at(bounce.bytes(), offset)?;
            Ok(data.write(bounce.bytes().get(..moved).unwrap_or_default()))
        })
    }

    /// Stores `data` at `offset`.
    pub(super) fn write(&self, offset: u64, data: &mut DataBuf) -> io::Result<()> {
        self.transfer(offset, data, io::ErrorKind::WriteZero, |data, offset| {
            if self.alignment.admits(data) {
                return sys::write(&self.file, data, offset);
            }
            let mut bounce = Bounce::new(data.len(), self.alignment);
            data.read(bounce.bytes());
            self.file.write_at(bounce.bytes(), offset)
        })
    }

    pub(super) fn flush(&self) -> io::Result<()> {
        sys::sync_data(&self.file)
    }

    /// Direct I/O leaves nothing in the cache. What cannot be dropped is read from there.
    pub(super) fn drop_cached(&self, offset: u64, len: u64) {
        if self.alignment == Alignment::NONE
            && let Err(error) = sys::drop_cached(&self.file, offset, len)
        {
            log::debug!("the page cache keeps what it has: {error}");
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Repeats `step` until `data` is done, or fails with `end` where no more can be moved.
    fn transfer(
        &self,
        mut offset: u64,
        data: &mut DataBuf,
        end: io::ErrorKind,
        mut step: impl FnMut(&mut DataBuf, u64) -> io::Result<usize>,
    ) -> io::Result<()> {
        while !data.is_empty() {
            match step(data, offset) {
                Ok(moved) => {
                    data.advance(moved);
                    offset += moved as u64;
                    if !data.is_empty() && self.alignment.ends_after(moved) {
                        return Err(end.into());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Aligned memory between a descriptor and a buffer that is not.
pub(super) struct Bounce {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Bounce {
    /// For the first of `wanted` bytes, a multiple of the offset's alignment.
    pub(super) fn new(wanted: usize, alignment: Alignment) -> Bounce {
        let len = wanted.min(BOUNCE_MAX);
        let align = alignment.memory.max(1) as usize;
        let memory = vec![0; len + align];
        let start = memory.as_ptr().align_offset(align).min(align);
        Bounce { memory, start, len }
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.start..self.start + self.len).unwrap_or_default()
    }
}

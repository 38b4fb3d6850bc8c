//! A medium in memory, for tests and benchmarks.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, PoisonError};

use super::{Backend, Geometry, Provisioning};
use crate::buffer::DataBuf;

/// Bytes that nobody keeps.
#[derive(Debug)]
pub struct Memory {
    bytes: Mutex<Vec<u8>>,
    geometry: Geometry,
}

impl Memory {
    /// A zeroed medium.
    #[must_use]
    pub fn new(geometry: Geometry) -> Memory {
        let len = geometry.blocks.saturating_mul(u64::from(geometry.block_size));
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        Memory { bytes: Mutex::new(vec![0; len]), geometry }
    }
}

fn from(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

impl Backend for Memory {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read(&self, offset: u64, data: &mut DataBuf) -> io::Result<()> {
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let there = bytes.get(from(offset)..).ok_or(io::ErrorKind::UnexpectedEof)?;
        let moved = data.write(there);
        data.advance(moved);
        if data.is_empty() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn write(&self, offset: u64, data: &mut DataBuf) -> io::Result<()> {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let there = bytes.get_mut(from(offset)..).ok_or(io::ErrorKind::WriteZero)?;
        let moved = data.read(there);
        data.advance(moved);
        if data.is_empty() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn provisioning(&self) -> Provisioning {
        let granularity = Some(self.geometry.block_size);
        Provisioning { unmap_granularity: granularity, unmapped_reads_zero: true }
    }

    fn unmap(&self, offset: u64, len: u64) -> io::Result<()> {
        self.zero(offset, len, true)
    }

    fn zero(&self, offset: u64, len: u64, _may_unmap: bool) -> io::Result<()> {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let there = bytes.get_mut(from(offset)..).and_then(|rest| rest.get_mut(..from(len)));
        there.ok_or(io::ErrorKind::WriteZero)?.fill(0);
        Ok(())
    }

    fn raw_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

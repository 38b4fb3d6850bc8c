//! What carries the data of an emulated logical unit.
//!
//! A backend is blocking, positional and shared between threads; who waits for it, and how, is
//! the [engine](crate::engine)'s business. Offsets and lengths are bytes. The caller keeps within
//! the [`Geometry`].

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::buffer::DataBuf;

mod file;
mod memory;

pub(crate) use file::MAX_SEGMENTS;
pub use file::{OpenError, RawFile};
pub use memory::Memory;

/// Size of a medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Number of logical blocks.
    pub blocks: u64,
    /// Bytes of a logical block.
    pub block_size: u32,
}

/// The data of one logical unit.
pub trait Backend: fmt::Debug + Send + Sync {
    /// How large it is.
    fn geometry(&self) -> Geometry;

    /// Fills `data` from `offset`, and advances it past what was read.
    ///
    /// # Errors
    /// What the host says; `data` is then advanced past what arrived before.
    fn read(&self, offset: u64, data: &mut DataBuf) -> io::Result<()>;

    /// Stores `data` at `offset`, and advances it past what was written.
    ///
    /// # Errors
    /// What the host says; `data` is then advanced past what was taken before.
    fn write(&self, offset: u64, data: &mut DataBuf) -> io::Result<()>;

    /// Makes everything stable that was written before.
    ///
    /// # Errors
    /// What the host says; nothing can then be assumed about earlier writes.
    fn flush(&self) -> io::Result<()>;

    /// A descriptor on which the same offsets mean the same bytes, for a ring to use directly.
    fn raw_fd(&self) -> Option<BorrowedFd<'_>>;
}

/// A backend, and whether what it acknowledged can still be made stable.
///
/// Linux reports a failed write-back once and then forgets the pages, so a second fdatasync that
/// succeeds proves nothing: after the first failure the medium takes no writes until it is opened
/// again.
#[derive(Debug)]
pub struct Medium {
    name: String,
    backend: Box<dyn Backend>,
    lost_writes: AtomicBool,
}

impl Medium {
    /// A medium that has lost nothing yet; `name` tells it apart in logs.
    #[must_use]
    pub fn new(name: impl Into<String>, backend: Box<dyn Backend>) -> Medium {
        Medium { name: name.into(), backend, lost_writes: AtomicBool::new(false) }
    }

    /// Its name in logs.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What carries the data.
    #[must_use]
    pub fn backend(&self) -> &dyn Backend {
        self.backend.as_ref()
    }

    /// Makes everything stable that was written before.
    ///
    /// # Errors
    /// What the host says; unless it was short of something and tried nothing, writes are lost.
    pub fn flush(&self) -> io::Result<()> {
        self.note_flush(self.backend.flush())
    }

    /// Takes note of how a flush ended.
    pub(crate) fn note_flush(&self, result: io::Result<()>) -> io::Result<()> {
        if result.as_ref().is_err_and(|error| !is_shortage(error)) {
            self.lost_writes.store(true, Ordering::Relaxed);
        }
        result
    }

    /// Whether a flush failed.
    #[must_use]
    pub fn has_lost_writes(&self) -> bool {
        self.lost_writes.load(Ordering::Relaxed)
    }
}

/// Whether the host was short of something for now and did nothing.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    let shortages = [libc::ENOMEM, libc::EAGAIN, libc::EBUSY, libc::ENOBUFS];
    error.raw_os_error().is_some_and(|errno| shortages.contains(&errno))
}

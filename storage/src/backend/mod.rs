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

    /// Stores `data` at `offset`, and advances it past what was written; with `fua`, returns only
    /// once it is stable.
    ///
    /// # Errors
    /// What the host says; `data` is then advanced past what was taken before.
    fn write(&self, offset: u64, data: &mut DataBuf, fua: bool) -> io::Result<()>;

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
    backend: Box<dyn Backend>,
    lost_writes: AtomicBool,
}

impl Medium {
    /// A medium that has lost nothing yet.
    #[must_use]
    pub fn new(backend: Box<dyn Backend>) -> Medium {
        Medium { backend, lost_writes: AtomicBool::new(false) }
    }

    /// What carries the data.
    #[must_use]
    pub fn backend(&self) -> &dyn Backend {
        self.backend.as_ref()
    }

    /// Whether a flush failed.
    #[must_use]
    pub fn has_lost_writes(&self) -> bool {
        self.lost_writes.load(Ordering::Relaxed)
    }

    /// Remembers that a flush failed.
    pub fn note_lost_writes(&self) {
        self.lost_writes.store(true, Ordering::Relaxed);
    }
}

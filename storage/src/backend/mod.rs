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

/// How a medium gives space back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Provisioning {
    /// Bytes of the smallest piece that can be unmapped, a multiple of the block size; `None` if
    /// nothing can.
    pub unmap_granularity: Option<u32>,
    /// What is unmapped reads as zeros (LBPRZ).
    pub unmapped_reads_zero: bool,
}

/// What the addresses and lengths of a transfer must be multiples of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alignment {
    /// Offsets on the medium, and lengths, in bytes.
    pub offset: u32,
    /// Addresses of memory, in bytes.
    pub memory: u32,
}

impl Alignment {
    /// None.
    pub const NONE: Alignment = Alignment { offset: 1, memory: 1 };
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

    /// What [`Backend::unmap`] can do.
    fn provisioning(&self) -> Provisioning {
        Provisioning::default()
    }

    /// Gives `len` bytes from `offset` back to the host; what they then hold, `provisioning`
    /// says. Pieces smaller than its granularity may be left as they are.
    ///
    /// # Errors
    /// What the host says; some of the bytes may then be unmapped.
    fn unmap(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Makes `len` bytes from `offset` read as zeros, with `may_unmap` by giving them back to the
    /// host where that comes to the same.
    ///
    /// # Errors
    /// `Unsupported` where writing zeros is the only way, which is the caller's; otherwise what
    /// the host says.
    fn zero(&self, _offset: u64, _len: u64, _may_unmap: bool) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// What the caller has to keep to in transfers on [`Backend::raw_fd`]; `read` and `write`
    /// take any memory, and whole blocks.
    fn alignment(&self) -> Alignment {
        Alignment::NONE
    }

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

/// Whether the host did nothing, being short of something for now or told to stop.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    let shortages =
        [libc::ENOMEM, libc::EAGAIN, libc::EBUSY, libc::ENOBUFS, libc::ECANCELED, libc::EINTR];
    error.raw_os_error().is_some_and(|errno| shortages.contains(&errno))
}

//! What carries the data of an emulated logical unit.
//!
//! A backend is blocking, positional and shared between threads; who waits for it, and how, is
//! the [engine](crate::engine)'s business. Offsets and lengths are bytes. The caller keeps within
//! the [`Geometry`].

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;

use crate::buffer::DataBuf;

mod block;
mod descriptor;
mod direct;
mod file;
pub(crate) mod lock;
mod medium;
mod memory;
mod open;
mod queue;
pub(crate) mod sys;

pub use block::BlockDevice;
pub use file::RawFile;
pub use lock::Holder;
pub(crate) use medium::FlushTurn;
pub use medium::Medium;
pub use memory::Memory;
pub use open::{Kind, OpenError, Options};
pub(crate) use sys::MAX_SEGMENTS;

/// Size of a medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Number of logical blocks.
    pub blocks: u64,
    /// Bytes of a logical block.
    pub block_size: u32,
}

/// How a medium's logical blocks lie on its physical ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Bytes of a physical block, a power of two and not less than a logical block.
    pub physical_block_size: u32,
    /// Where the first physical block begins that begins with a logical one, in bytes.
    pub alignment_offset: u32,
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

    /// Whether each segment of `data` begins and ends where it has to.
    pub(crate) fn admits(self, data: &DataBuf) -> bool {
        self == Alignment::NONE
            || data.iovecs().iter().all(|segment| {
                segment.iov_base.addr().is_multiple_of(self.memory as usize)
                    && segment.iov_len.is_multiple_of(self.offset as usize)
            })
    }

    /// Whether nothing can follow a transfer that moved `moved` bytes and was to move more: the
    /// file ended.
    pub(crate) fn ends_after(self, moved: usize) -> bool {
        moved == 0 || !moved.is_multiple_of(self.offset as usize)
    }
}

/// The data of one logical unit.
pub trait Backend: fmt::Debug + Send + Sync {
    /// How large it is.
    fn geometry(&self) -> Geometry;

    /// How its blocks lie on what carries them.
    fn topology(&self) -> Topology {
        Topology { physical_block_size: self.geometry().block_size, alignment_offset: 0 }
    }

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

    /// Has the next read of these bytes come from the medium, as far as the host lets it: what it
    /// caches of them and has made stable is dropped.
    fn drop_cached(&self, _offset: u64, _len: u64) {}

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

#[cfg(test)]
#[expect(unsafe_code, reason = "buffers are lent")]
mod tests {
    use super::*;
    use crate::testing::OwnedBuf;

    #[test]
    fn alignment_is_that_of_each_segment() {
        let alignment = Alignment { offset: 512, memory: 4096 };
        let admits = |lengths: &[usize], align| {
            let mut memory = OwnedBuf::aligned(lengths, align);
            // SAFETY: `memory` outlives the buffer.
            alignment.admits(&unsafe { memory.lend() })
        };
        assert!(admits(&[512, 0, 1024], 4096));
        assert!(!admits(&[512, 100, 412], 4096));
        assert!((0..64).any(|_| !admits(&[512, 512], 512)), "memory is aligned by chance");
    }

    #[test]
    fn a_transfer_that_ends_within_a_unit_ends_with_the_file() {
        let direct = Alignment { offset: 512, memory: 512 };
        assert!(direct.ends_after(0) && direct.ends_after(100) && !direct.ends_after(1024));
        assert!(Alignment::NONE.ends_after(0) && !Alignment::NONE.ends_after(100));
    }
}

//! What tests and benchmarks of this crate and of those above it share.
#![expect(unsafe_code, reason = "buffers are lent to tasks")]

use std::ops::Range;
use std::ptr::NonNull;

use libc::iovec;

use crate::buffer::DataBuf;
use crate::lun::spec::{Ascii, Backing, DiskSpec, Identity, Naa, WriteCache};

mod fake_device;
mod fake_host;
pub mod recorded;

pub use fake_device::FakeDevice;
pub use fake_host::{FakeHost, Hold, Outcome, Sent};

/// A writable disk's specification, with names like those of the configuration's defaults; the
/// backing is never opened.
#[must_use]
pub fn disk_spec() -> DiskSpec {
    DiskSpec {
        backing: Backing::RawImage("disk.img".into()),
        read_only: false,
        rotational: false,
        shared: false,
        direct: false,
        write_cache: WriteCache::Back,
        discard: true,
        block_size: None,
        physical_block_size: None,
        identity: Identity {
            vendor: ascii("VMM"),
            product: ascii("VIRTUAL DISK"),
            revision: ascii("0.1"),
            serial: "0123456789".into(),
            wwn: Naa::locally_assigned(0x0123_4567_89ab_cdef),
        },
    }
}

fn ascii<const N: usize>(text: &str) -> Ascii<N> {
    Ascii::new(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Memory of our own in segments, for tests and benchmarks that play the driver.
#[derive(Debug)]
pub struct OwnedBuf {
    segments: Vec<Segment>,
    iovecs: Vec<iovec>,
}

#[derive(Debug)]
struct Segment {
    memory: Box<[u8]>,
    at: Range<usize>,
}

impl Segment {
    /// Zeros, at a multiple of `align`.
    fn zeroed(len: usize, align: usize) -> Segment {
        let memory = vec![0; len + align - 1].into_boxed_slice();
        let start = memory.as_ptr().align_offset(align);
        Segment { memory, at: start..start + len }
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.at.clone()]
    }
}

// SAFETY: the iovecs point to `segments`, which move along.
unsafe impl Send for OwnedBuf {}

impl OwnedBuf {
    /// Zeroed segments of these lengths.
    #[must_use]
    pub fn zeroed(lengths: &[usize]) -> OwnedBuf {
        OwnedBuf::aligned(lengths, 1)
    }

    /// Zeroed segments of these lengths, each of which begins at a multiple of `align`.
    #[must_use]
    pub fn aligned(lengths: &[usize], align: usize) -> OwnedBuf {
        let segments = lengths.iter().map(|&len| Segment::zeroed(len, align)).collect();
        OwnedBuf { segments, iovecs: Vec::new() }
    }

    /// One segment that holds `bytes`.
    #[must_use]
    pub fn holding(bytes: &[u8]) -> OwnedBuf {
        let segment = Segment { memory: bytes.into(), at: 0..bytes.len() };
        OwnedBuf { segments: vec![segment], iovecs: Vec::new() }
    }

    /// The whole as a task's buffer.
    ///
    /// # Safety
    /// `self` outlives the task, and is not used before the task is answered.
    pub unsafe fn lend(&mut self) -> DataBuf {
        let to_iovec = |segment: &mut Segment| iovec {
            iov_base: segment.memory[segment.at.clone()].as_mut_ptr().cast(),
            iov_len: segment.at.len(),
        };
        self.iovecs = self.segments.iter_mut().map(to_iovec).collect();
        let Some(first) = NonNull::new(self.iovecs.as_mut_ptr()) else { return DataBuf::empty() };
        // SAFETY: the caller's promise.
        unsafe { DataBuf::from_raw(first, self.iovecs.len()) }
    }

    /// Lends the whole to `with`, which does not keep it.
    pub fn with<T>(&mut self, with: impl FnOnce(&mut DataBuf) -> T) -> T {
        // SAFETY: the buffer ends here, and `self` is borrowed until then.
        with(&mut unsafe { self.lend() })
    }

    /// All bytes in order.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.segments.iter().flat_map(Segment::bytes).copied().collect()
    }

    /// Replaces the bytes, as far as there are any.
    pub fn fill(&mut self, bytes: &[u8]) {
        let places = self.segments.iter_mut().flat_map(|it| &mut it.memory[it.at.clone()]);
        places.zip(bytes).for_each(|(place, byte)| *place = *byte);
    }
}

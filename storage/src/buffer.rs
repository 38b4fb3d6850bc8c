//! The data of a command: scattered memory that a driver shares with us.
//!
//! This memory may change under our hands at any time, so it is reached through raw pointers
//! only, never through a reference, and nothing read from it once is read again to decide
//! something.
#![expect(unsafe_code, reason = "scattered memory is reached through raw pointers")]

use std::fmt;
use std::ptr::{self, NonNull};

use libc::{c_void, iovec};

/// The data-out or data-in buffer of one task: an array of `iovec`s that its creator keeps.
///
/// Dropping it frees nothing. Its task owns it alone, so the array itself may be shortened in
/// place.
pub struct DataBuf {
    iovecs: NonNull<iovec>,
    count: usize,
    len: usize,
}

// SAFETY: whoever calls `from_raw` promises that the array and the memory stay valid until the
// task is answered, whichever thread that happens on, and that nobody else uses the array.
unsafe impl Send for DataBuf {}

impl DataBuf {
    /// A buffer without bytes, of a task that transfers none in this direction.
    #[must_use]
    pub const fn empty() -> DataBuf {
        DataBuf { iovecs: NonNull::dangling(), count: 0, len: 0 }
    }

    /// The `count` segments at `iovecs`.
    ///
    /// # Safety
    /// Until the task that carries this buffer is answered, the array stays valid and is used by
    /// nobody else, and the memory that it names stays mapped, writable for a data-in buffer.
    #[must_use]
    pub unsafe fn from_raw(iovecs: NonNull<iovec>, count: usize) -> DataBuf {
        let mut buf = DataBuf { iovecs, count, len: 0 };
        buf.len = buf.iovecs().iter().map(|segment| segment.iov_len).sum();
        buf
    }

    /// Number of bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The segments, for a system call.
    #[must_use]
    pub fn iovecs(&self) -> &[iovec] {
        // SAFETY: `from_raw`'s promise; `empty` has a count of 0.
        unsafe { std::slice::from_raw_parts(self.iovecs.as_ptr(), self.count) }
    }

    fn iovecs_mut(&mut self) -> &mut [iovec] {
        // SAFETY: as above, and the array is used by nobody else.
        unsafe { std::slice::from_raw_parts_mut(self.iovecs.as_ptr(), self.count) }
    }

    /// Keeps the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        let mut left = len.min(self.len);
        self.len = left;
        let mut count = 0;
        for segment in self.iovecs_mut() {
            if left == 0 {
                break;
            }
            segment.iov_len = segment.iov_len.min(left);
            left -= segment.iov_len;
            count += 1;
        }
        self.count = count;
    }

    /// Drops the first `len` bytes, those that a short transfer has already carried.
    pub fn advance(&mut self, len: usize) {
        let mut left = len.min(self.len);
        self.len -= left;
        while let Some(first) = self.iovecs_mut().first_mut() {
            if left < first.iov_len {
                first.iov_base = first.iov_base.wrapping_byte_add(left);
                first.iov_len -= left;
                break;
            }
            left -= first.iov_len;
            self.count -= 1;
            // SAFETY: the array had at least one more element, so this is within it or one past.
            self.iovecs = unsafe { self.iovecs.add(1) };
        }
    }

    /// Lends `with` the `len` bytes from `offset` on, as far as there are any, as a buffer.
    pub fn with_part<T>(
        &mut self,
        offset: usize,
        len: usize,
        with: impl FnOnce(&mut DataBuf) -> T,
    ) -> T {
        let mut segments = self.iovecs().to_vec();
        let Some(first) = NonNull::new(segments.as_mut_ptr()) else {
            return with(&mut DataBuf::empty());
        };
        // SAFETY: the array outlives the buffer, which ends here, and is used by nobody else; the
        // memory is that of `self`, which nobody uses meanwhile.
        let mut part = unsafe { DataBuf::from_raw(first, segments.len()) };
        part.advance(offset);
        part.truncate(len);
        with(&mut part)
    }

    /// Copies `bytes` to the start of the buffer, as far as they fit; returns how many did.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        for segment in self.iovecs() {
            let (now, later) = rest.split_at(rest.len().min(segment.iov_len));
            // SAFETY: `from_raw`'s promise; `bytes` is ours and so cannot overlap.
            unsafe { ptr::copy_nonoverlapping(now.as_ptr(), segment.iov_base.cast(), now.len()) };
            rest = later;
        }
        bytes.len() - rest.len()
    }

    /// Copies the start of the buffer to `bytes`, as far as it reaches; returns how many it had.
    pub fn read(&self, bytes: &mut [u8]) -> usize {
        let mut done = 0;
        for segment in self.iovecs() {
            let Some(rest) = bytes.get_mut(done..) else { break };
            let now = rest.len().min(segment.iov_len);
            let from: *const c_void = segment.iov_base;
            // SAFETY: `from_raw`'s promise; `bytes` is ours and so cannot overlap.
            unsafe { ptr::copy_nonoverlapping(from.cast(), rest.as_mut_ptr(), now) };
            done += now;
        }
        done
    }
}

/// Lends `bytes` to `with` as a buffer of one segment, which `with` does not keep.
pub(crate) fn lend<T>(bytes: &mut [u8], with: impl FnOnce(&mut DataBuf) -> T) -> T {
    let mut segment = iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: the segment and the bytes outlive the buffer, which ends here, and nobody else
    // reaches either meanwhile.
    let mut buf = unsafe { DataBuf::from_raw(NonNull::from(&mut segment), 1) };
    with(&mut buf)
}

impl fmt::Debug for DataBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DataBuf({} bytes in {} segments)", self.len, self.count)
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::OwnedBuf;
    use proptest::prelude::*;

    fn numbered(lengths: &[usize]) -> (OwnedBuf, Vec<u8>) {
        let mut memory = OwnedBuf::zeroed(lengths);
        let bytes: Vec<u8> = (0..=255).cycle().take(lengths.iter().sum()).collect();
        // SAFETY: `buf` ends before `memory` is used again.
        let mut buf = unsafe { memory.lend() };
        assert_eq!(buf.write(&bytes), bytes.len());
        (memory, bytes)
    }

    proptest! {
        #[test]
        fn what_is_left_after_truncate_and_advance_is_the_middle(
            lengths in prop::collection::vec(0usize..40, 0..6),
            keep in 0usize..200,
            skip in 0usize..200,
        ) {
            let (mut memory, bytes) = numbered(&lengths);
            // SAFETY: `memory` is not used before `buf` ends.
            let mut buf = unsafe { memory.lend() };
            buf.truncate(keep);
            buf.advance(skip);
            let end = keep.min(bytes.len());
            let expected = &bytes[skip.min(end)..end];
            let mut seen = vec![0; buf.len()];
            prop_assert_eq!(buf.read(&mut seen), expected.len());
            prop_assert_eq!(&seen[..], expected);
            prop_assert!(buf.iovecs().iter().map(|s| s.iov_len).sum::<usize>() == expected.len());
        }

        #[test]
        fn a_copy_never_passes_the_end(
            lengths in prop::collection::vec(0usize..20, 0..5),
            len in 0usize..120,
        ) {
            let mut memory = OwnedBuf::zeroed(&lengths);
            let total: usize = lengths.iter().sum();
            // SAFETY: `memory` is not used before `buf` ends.
            let mut buf = unsafe { memory.lend() };
            prop_assert_eq!(buf.write(&vec![7; len]), len.min(total));
            prop_assert_eq!(buf.read(&mut vec![0; len]), len.min(total));
            prop_assert_eq!(memory.bytes().iter().filter(|&&b| b == 7).count(), len.min(total));
        }
    }
}

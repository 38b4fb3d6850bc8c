//! Descriptor chains as segments of the host's memory (virtio 1.2, 2.7).
//!
//! A driver may frame its buffers as it likes: a request's header, data and response are told
//! apart by length, never by descriptor (virtio 1.2, 2.7.4). The guest's memory is reached
//! through the segments alone; nothing is read from a descriptor twice.
#![expect(unsafe_code, reason = "segments become buffers")]

use std::ptr::NonNull;

use libc::iovec;
use storage::buffer::DataBuf;
use virtio_queue::DescriptorChain;
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap};

/// More segments than any driver uses: what a chain may make us remember.
const MAX_SEGMENTS: usize = 1280;

/// A chain breaks the rules of virtio, so that it cannot be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadChain {
    #[error("a descriptor names memory that the guest does not have")]
    Memory,
    #[error("a device-readable descriptor follows a device-writable one")]
    Order,
    #[error("it has more than {MAX_SEGMENTS} descriptors")]
    Length,
    #[error("it leads nowhere, or back to itself")]
    Cut,
}

/// Segments of one chain: those that the device reads, then those that it writes. Kept from
/// request to request, so that a queue allocates only until it has seen its longest chain.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    all: Vec<iovec>,
    readable: usize,
}

// SAFETY: the segments are plain addresses; only `Segments::buffers`, whose caller promises that
// they are valid, makes anything of them.
unsafe impl Send for Segments {}

/// The parts of a request, all of them within one chain.
#[derive(Debug)]
pub(crate) struct Buffers {
    /// What the device reads.
    pub(crate) readable: DataBuf,
    /// The first bytes that the device writes, up to the length that was asked for.
    pub(crate) response: DataBuf,
    /// The rest that the device writes.
    pub(crate) writable: DataBuf,
}

impl Segments {
    /// Reads `chain`'s descriptors, in place of what was there.
    pub(crate) fn fill(
        &mut self,
        memory: &GuestMemoryMmap,
        chain: DescriptorChain<&GuestMemoryMmap>,
    ) -> Result<(), BadChain> {
        self.all.clear();
        self.readable = 0;
        let mut goes_on = true;
        for descriptor in chain {
            goes_on = descriptor.has_next();
            if self.all.len() == MAX_SEGMENTS {
                return Err(BadChain::Length);
            }
            let writable = descriptor.is_write_only();
            if !writable && self.readable < self.all.len() {
                return Err(BadChain::Order);
            }
            let len = descriptor.len() as usize;
            let slice = memory.get_slice(descriptor.addr(), len).map_err(|_| BadChain::Memory)?;
            let iov_base = slice.ptr_guard_mut().as_ptr().cast();
            self.all.push(iovec { iov_base, iov_len: len });
            self.readable += usize::from(!writable);
        }
        if goes_on { Err(BadChain::Cut) } else { Ok(()) }
    }

    /// The parts of the request, with `response_len` bytes of response if the chain has as many.
    ///
    /// # Safety
    /// The memory that `fill` was given stays mapped, and `self` unused, until the last of the
    /// buffers is.
    pub(crate) unsafe fn buffers(&mut self, response_len: usize) -> Buffers {
        let response_len = self.split(response_len);
        let part = |segments: &mut [iovec]| match NonNull::new(segments.as_mut_ptr()) {
            // SAFETY: the caller's promise; the parts do not overlap.
            Some(first) => unsafe { DataBuf::from_raw(first, segments.len()) },
            None => DataBuf::empty(),
        };
        // Both indices are within, by `fill` and `split`; were they not, all would be one part.
        let (readable, rest) = split_at(&mut self.all, self.readable);
        let (response, writable) = split_at(rest, response_len);
        Buffers { readable: part(readable), response: part(response), writable: part(writable) }
    }

    /// Makes a segment end where the first `len` writable bytes do; returns how many segments
    /// those have.
    fn split(&mut self, len: usize) -> usize {
        let mut left = len;
        let mut count = 0;
        while let Some(segment) = self.all.get_mut(self.readable + count)
            && left > 0
        {
            count += 1;
            if segment.iov_len > left {
                let rest = iovec {
                    iov_base: segment.iov_base.wrapping_byte_add(left),
                    iov_len: segment.iov_len - left,
                };
                segment.iov_len = left;
                self.all.insert(self.readable + count, rest);
                break;
            }
            left -= segment.iov_len;
        }
        count
    }
}

fn split_at(segments: &mut [iovec], index: usize) -> (&mut [iovec], &mut [iovec]) {
    let index = index.min(segments.len());
    segments.split_at_mut(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Segments of these lengths, `readable` of them for the device to read, over `memory`.
    fn segments(memory: &mut [u8], readable: usize, lengths: &[usize]) -> Segments {
        let mut base = memory.as_mut_ptr();
        let mut all = Vec::new();
        for &len in lengths {
            all.push(iovec { iov_base: base.cast(), iov_len: len });
            base = base.wrapping_add(len);
        }
        Segments { all, readable }
    }

    fn bytes(buf: &DataBuf) -> Vec<u8> {
        let mut bytes = vec![0; buf.len()];
        buf.read(&mut bytes);
        bytes
    }

    #[test]
    fn parts_are_told_apart_by_length_however_they_are_framed() {
        for lengths in [&[4, 3, 5][..], &[4, 8], &[2, 2, 1, 1, 1, 1, 4], &[4, 2, 6]] {
            let readable = if lengths[0] == 2 { 2 } else { 1 };
            let mut memory: Vec<u8> = (0..12).collect();
            let mut segments = segments(&mut memory, readable, lengths);
            // SAFETY: `memory` outlives the buffers.
            let parts = unsafe { segments.buffers(3) };
            assert_eq!(bytes(&parts.readable), [0, 1, 2, 3]);
            assert_eq!(bytes(&parts.response), [4, 5, 6]);
            assert_eq!(bytes(&parts.writable), [7, 8, 9, 10, 11]);
        }
    }

    #[test]
    fn a_short_chain_has_a_short_response() {
        let mut memory = [0; 4];
        let mut segments = segments(&mut memory, 1, &[2, 2]);
        // SAFETY: `memory` outlives the buffers.
        let parts = unsafe { segments.buffers(3) };
        assert_eq!((parts.response.len(), parts.writable.len()), (2, 0));
    }
}

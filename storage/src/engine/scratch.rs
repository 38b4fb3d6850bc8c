//! Memory of our own for what passes between a medium and nobody's buffer, in a bounded amount.

use crate::buffer::{self, DataBuf};

/// As much of a medium as is held at a time, in bytes; a multiple of every block size.
pub(super) const PIECE: u64 = 256 << 10;

/// Room for a piece of a medium.
#[derive(Debug)]
pub(super) struct Scratch {
    bytes: Box<[u8]>,
}

impl Scratch {
    /// Zeroed room for `len` bytes, at most a [`PIECE`].
    pub(super) fn new(len: u64) -> Scratch {
        let len = usize::try_from(len.min(PIECE)).unwrap_or(0);
        Scratch { bytes: vec![0; len].into_boxed_slice() }
    }

    /// Its first `len` bytes.
    pub(super) fn first(&self, len: u64) -> &[u8] {
        &self.bytes[..self.bound(len)]
    }

    /// Its first `len` bytes.
    pub(super) fn first_mut(&mut self, len: u64) -> &mut [u8] {
        let len = self.bound(len);
        &mut self.bytes[..len]
    }

    fn bound(&self, len: u64) -> usize {
        usize::try_from(len).unwrap_or(usize::MAX).min(self.bytes.len())
    }

    /// Fills it with `block`, again and again.
    pub(super) fn repeat(&mut self, block: &[u8]) {
        for (to, from) in self.bytes.iter_mut().zip(block.iter().cycle()) {
            *to = *from;
        }
    }

    /// Lends its first `len` bytes to `with` as a buffer.
    pub(super) fn lend<T>(&mut self, len: u64, with: impl FnOnce(&mut DataBuf) -> T) -> T {
        buffer::lend(self.first_mut(len), with)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_repeats() {
        let mut scratch = Scratch::new(u64::MAX);
        assert_eq!(scratch.first(u64::MAX).len() as u64, PIECE);
        scratch.repeat(&[1, 2, 3, 4]);
        assert_eq!(scratch.first(6), [1, 2, 3, 4, 1, 2]);
        let seen = scratch.lend(3, |buf| {
            buf.write(&[9; 5]);
            buf.len()
        });
        assert_eq!((seen, scratch.first(4)), (3, &[9, 9, 9, 4][..]));
    }
}

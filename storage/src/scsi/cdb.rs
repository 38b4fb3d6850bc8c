//! Command descriptor blocks (SPC-6, Command descriptor block).

use super::wire::{u16_at, u32_at, u64_at};

/// A CDB, padded with zeros to the longest that a controller carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cdb(pub [u8; Cdb::MAX_LEN]);

impl Cdb {
    /// The longest CDB, in bytes.
    pub const MAX_LEN: usize = 32;

    /// The CDB that begins with `bytes`; what exceeds [`Cdb::MAX_LEN`] is cut off.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Cdb {
        let mut cdb = [0; Cdb::MAX_LEN];
        for (to, from) in cdb.iter_mut().zip(bytes) {
            *to = *from;
        }
        Cdb(cdb)
    }

    /// OPERATION CODE
    #[must_use]
    pub fn opcode(&self) -> u8 {
        self.0[0]
    }

    /// The byte at `offset`; 0 past the end.
    #[must_use]
    pub fn u8(&self, offset: usize) -> u8 {
        self.0.get(offset).copied().unwrap_or(0)
    }

    /// The 16-bit field at `offset`.
    #[must_use]
    pub fn u16(&self, offset: usize) -> u16 {
        u16_at(&self.0, offset)
    }

    /// The 32-bit field at `offset`.
    #[must_use]
    pub fn u32(&self, offset: usize) -> u32 {
        u32_at(&self.0, offset)
    }

    /// The 64-bit field at `offset`.
    #[must_use]
    pub fn u64(&self, offset: usize) -> u64 {
        u64_at(&self.0, offset)
    }

    /// Whether bit `bit` of the byte at `offset` is set.
    #[must_use]
    pub fn bit(&self, offset: usize, bit: u8) -> bool {
        self.u8(offset) >> bit & 1 == 1
    }
}

//! How much data a CDB asks for.

use super::{Command, Direction, VARIABLE_LENGTH};
use crate::scsi::cdb::Cdb;

/// How a CDB says how much data goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// There is none.
    None,
    /// As many bytes, whatever the CDB says.
    Exactly(u16),
    /// ALLOCATION LENGTH, PARAMETER LIST LENGTH or the like, in bytes.
    Bytes(Field),
    /// The same, in units of 512 bytes where INC_512 is set (SPC-6, SECURITY PROTOCOL IN).
    Increments(Field),
    /// TRANSFER LENGTH, in logical blocks.
    Blocks(Field),
    /// TRANSFER LENGTH of a READ(6) or WRITE(6): in logical blocks, 0 for 256.
    Blocks6,
    /// NUMBER OF LOGICAL BLOCKS, of which there are two instances (SBC-4, COMPARE AND WRITE).
    BlocksTwice(Field),
    /// VERIFICATION LENGTH in logical blocks, of which BYTCHK says how many are sent.
    Verification(Field),
    /// One logical block, unless NDOB is set (SBC-4, WRITE SAME(16)).
    OneBlock,
    /// TRANSFER LENGTH of a tape: in blocks where FIXED is set, otherwise in bytes.
    Sequential(Field),
    /// VERIFICATION LENGTH of a tape, sent where BYTCMP is set.
    SequentialVerification(Field),
    /// As the buffers say.
    Buffers,
}

/// A big-endian field of a CDB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Offset in bytes.
    pub offset: u8,
    /// Width in bytes.
    pub width: u8,
}

impl Field {
    fn of(self, cdb: &Cdb) -> u64 {
        let start = usize::from(self.offset);
        let bytes = start..start.saturating_add(self.width.into());
        bytes.fold(0, |value, offset| value << 8 | u64::from(cdb.u8(offset)))
    }
}

/// What a logical block looks like in a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockFormat {
    /// Bytes of user data in a logical block; of a tape, in a block of fixed length.
    pub size: u32,
    /// Bytes of protection information that come with each logical block if the CDB asks for them;
    /// 0 for a medium that has none.
    pub protection: u32,
}

impl Command {
    /// How many bytes of data go with `cdb`, which is one of this command; `None` where only the
    /// buffers tell.
    #[must_use]
    pub fn transfer_length(&self, cdb: &Cdb, format: BlockFormat) -> Option<u64> {
        let blocks = |count: u64| count.saturating_mul(self.block_len(cdb, format));
        Some(match self.transfer {
            Transfer::None => 0,
            Transfer::Exactly(bytes) => bytes.into(),
            Transfer::Bytes(field) => field.of(cdb),
            Transfer::Increments(field) => increments(cdb, field),
            Transfer::Blocks(field) => blocks(field.of(cdb)),
            Transfer::Blocks6 if cdb.u8(4) == 0 => blocks(256),
            Transfer::Blocks6 => blocks(cdb.u8(4).into()),
            Transfer::BlocksTwice(field) => blocks(field.of(cdb).saturating_mul(2)),
            Transfer::Verification(field) => blocks(self.verified_blocks(cdb, field)),
            Transfer::OneBlock => blocks(u64::from(!self.has_no_data_out(cdb))),
            Transfer::Sequential(field) => sequential(cdb, field, format),
            Transfer::SequentialVerification(field) => {
                let bytes_are_compared = u64::from(cdb.bit(1, 1));
                sequential(cdb, field, format).saturating_mul(bytes_are_compared)
            }
            Transfer::Buffers => return None,
        })
    }

    /// Which way the data of `cdb` goes, which is one of this command.
    #[must_use]
    pub fn direction_of(&self, cdb: &Cdb) -> Direction {
        const ANY: BlockFormat = BlockFormat { size: 1, protection: 0 };
        match self.transfer_length(cdb, ANY) {
            Some(0) => Direction::None,
            _ => self.direction,
        }
    }

    fn block_len(&self, cdb: &Cdb, format: BlockFormat) -> u64 {
        let protected = self.has_protect() && cdb.u8(self.options()) >> 5 != 0;
        let protection = if protected { format.protection } else { 0 };
        u64::from(format.size).saturating_add(protection.into())
    }

    /// Offset of the byte that has RDPROTECT, WRPROTECT or VRPROTECT, BYTCHK and NDOB.
    fn options(&self) -> usize {
        if self.opcode == VARIABLE_LENGTH { 10 } else { 1 }
    }

    /// In the 6-byte CDBs the LBA begins where the field would be.
    fn has_protect(&self) -> bool {
        self.transfer != Transfer::Blocks6
    }

    /// BYTCHK: nothing is sent, all blocks, or one that all must equal.
    fn verified_blocks(&self, cdb: &Cdb, field: Field) -> u64 {
        match cdb.u8(self.options()) >> 1 & 0b11 {
            0b01 => field.of(cdb),
            0b11 => 1,
            _ => 0,
        }
    }

    /// NDOB; in a WRITE SAME(10) the bit is obsolete.
    fn has_no_data_out(&self, cdb: &Cdb) -> bool {
        self.cdb_len > 10 && cdb.bit(self.options(), 0)
    }
}

/// INC_512 (SPC-6, SECURITY PROTOCOL IN command).
fn increments(cdb: &Cdb, field: Field) -> u64 {
    let unit = if cdb.bit(4, 7) { 512 } else { 1 };
    field.of(cdb).saturating_mul(unit)
}

/// FIXED (SSC-4, READ(6) command).
fn sequential(cdb: &Cdb, field: Field, format: BlockFormat) -> u64 {
    let unit = if cdb.bit(1, 0) { format.size } else { 1 };
    field.of(cdb).saturating_mul(unit.into())
}

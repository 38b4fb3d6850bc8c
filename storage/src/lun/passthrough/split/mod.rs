//! Commands that are longer than the host carries: a READ or WRITE becomes several.

use std::iter::FusedIterator;
use std::ops::Range;

use super::limits::Limits;
use crate::scsi::cdb::Cdb;
use crate::scsi::sense::Sense;
use crate::scsi::wire::{put_bytes, put_u16, put_u32, put_u64};

/// What becomes of a command, by its length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Split {
    /// It goes as it is.
    Whole,
    /// It goes in pieces, one after the other.
    Pieces(Pieces),
    /// It can neither be carried nor split.
    Refused(Sense),
}

/// A part of a READ or WRITE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its CDB.
    pub cdb: Cdb,
    /// Length of the CDB, in bytes.
    pub cdb_len: usize,
    /// Which bytes of the whole command's data it moves.
    pub bytes: Range<u64>,
}

/// What becomes of the command of a device of type `device_type` that moves `len` bytes, as its
/// CDB says where it says so.
#[must_use]
pub fn split(cdb: &Cdb, device_type: u8, len: u64, limits: &Limits) -> Split {
    if len <= limits.hard {
        return Split::Whole;
    }
    let pieces = limits.block_size.and_then(|block_size| {
        let transfer = Transfer::of(cdb).filter(|_| matches!(device_type, 0x00 | 0x14))?;
        Pieces::new(transfer, block_size, limits)
    });
    match pieces {
        Some(pieces) if pieces.is_whole_of(len) => Split::Pieces(pieces),
        _ => Split::Refused(Sense::invalid_field(transfer_length(cdb, device_type), None)),
    }
}

/// The parts of a READ or WRITE, in the order of their blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pieces {
    rest: Transfer,
    block_size: u32,
    granularity: u32,
    most: u32,
    moved: u64,
}

impl Pieces {
    /// `None` where the host does not even carry a block.
    fn new(transfer: Transfer, block_size: u32, limits: &Limits) -> Option<Pieces> {
        let most = limits.hard.checked_div(block_size.into()).filter(|&blocks| blocks > 0)?;
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        let granularity = limits.granularity;
        Some(Pieces { rest: transfer, block_size, granularity, most, moved: 0 })
    }

    fn is_whole_of(&self, len: u64) -> bool {
        u64::from(self.rest.blocks) * u64::from(self.block_size) == len
    }

    /// Blocks of the next piece: it ends where the alignment is best, if it reaches that.
    fn next_blocks(&self) -> u32 {
        if self.rest.blocks <= self.most {
            return self.rest.blocks;
        }
        let end = self.rest.lba.saturating_add(self.most.into());
        let beyond = end.checked_rem(self.granularity.into()).unwrap_or(0);
        let beyond = u32::try_from(beyond).unwrap_or(0);
        if beyond < self.most { self.most - beyond } else { self.most }
    }
}

impl Iterator for Pieces {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        let blocks = self.next_blocks();
        if blocks == 0 {
            return None;
        }
        let (cdb, cdb_len) = Transfer { blocks, ..self.rest }.to_cdb();
        let end = self.moved + u64::from(blocks) * u64::from(self.block_size);
        let bytes = self.moved..end;
        self.moved = end;
        self.rest.blocks -= blocks;
        self.rest.lba = self.rest.lba.saturating_add(blocks.into());
        Some(Piece { cdb, cdb_len, bytes })
    }
}

impl FusedIterator for Pieces {}

/// A READ or WRITE without protection information (SBC-4, READ and WRITE commands).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Transfer {
    family: Family,
    write: bool,
    /// Byte 1 without an LBA: DPO, FUA and the bits around them.
    flags: u8,
    lba: u64,
    blocks: u32,
    /// The byte of GROUP NUMBER, with what lies beside it.
    group: u8,
    control: u8,
}

/// The layouts of its CDB, by their lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Six,
    Ten,
    Twelve,
    Sixteen,
}

impl Transfer {
    fn of(cdb: &Cdb) -> Option<Transfer> {
        const PROTECT: u8 = 0xe0;
        let (family, write) = match cdb.opcode() {
            0x08 => (Family::Six, false),
            0x0a => (Family::Six, true),
            0x28 => (Family::Ten, false),
            0x2a => (Family::Ten, true),
            0xa8 => (Family::Twelve, false),
            0xaa => (Family::Twelve, true),
            0x88 => (Family::Sixteen, false),
            0x8a => (Family::Sixteen, true),
            _ => return None,
        };
        let transfer = |flags, lba, blocks, group| {
            let control = cdb.u8(family.len() - 1);
            Transfer { family, write, flags, lba, blocks, group, control }
        };
        let flags = cdb.u8(1);
        match family {
            Family::Six => {
                let blocks = if cdb.u8(4) == 0 { 256 } else { cdb.u8(4).into() };
                Some(transfer(0, (cdb.u32(0) & 0x1f_ffff).into(), blocks, 0))
            }
            _ if flags & PROTECT != 0 => None,
            Family::Ten => Some(transfer(flags, cdb.u32(2).into(), cdb.u16(7).into(), cdb.u8(6))),
            Family::Twelve => Some(transfer(flags, cdb.u32(2).into(), cdb.u32(6), cdb.u8(10))),
            Family::Sixteen => Some(transfer(flags, cdb.u64(2), cdb.u32(10), cdb.u8(14))),
        }
    }

    /// Its CDB, in its family's layout or in the next that has room for the LBA; and how long
    /// that is.
    fn to_cdb(self) -> (Cdb, usize) {
        let family = self.family.with_room_for(self.lba);
        let mut cdb = [0; Cdb::MAX_LEN];
        cdb[0] = family.opcode(self.write);
        cdb[1] = self.flags;
        let short_lba = u32::try_from(self.lba).unwrap_or(u32::MAX);
        match family {
            Family::Six => {
                // Its length and its LBA reach to the fields' ends: 256 blocks are a 0.
                put_bytes(&mut cdb, 1, &short_lba.to_be_bytes()[1..]);
                cdb[4] = self.blocks.to_be_bytes()[3];
            }
            Family::Ten => {
                put_u32(&mut cdb, 2, short_lba);
                cdb[6] = self.group;
                put_u16(&mut cdb, 7, u16::try_from(self.blocks).unwrap_or(u16::MAX));
            }
            Family::Twelve => {
                put_u32(&mut cdb, 2, short_lba);
                put_u32(&mut cdb, 6, self.blocks);
                cdb[10] = self.group;
            }
            Family::Sixteen => {
                put_u64(&mut cdb, 2, self.lba);
                put_u32(&mut cdb, 10, self.blocks);
                cdb[14] = self.group;
            }
        }
        cdb[family.len() - 1] = self.control;
        (Cdb(cdb), family.len())
    }
}

impl Family {
    fn len(self) -> usize {
        match self {
            Family::Six => 6,
            Family::Ten => 10,
            Family::Twelve => 12,
            Family::Sixteen => 16,
        }
    }

    fn opcode(self, write: bool) -> u8 {
        let read = match self {
            Family::Six => 0x08,
            Family::Ten => 0x28,
            Family::Twelve => 0xa8,
            Family::Sixteen => 0x88,
        };
        if write { read + 2 } else { read }
    }

    fn with_room_for(self, lba: u64) -> Family {
        const LAST_OF_SIX: u64 = 0x1f_ffff;
        match self {
            Family::Six if lba <= LAST_OF_SIX => Family::Six,
            Family::Six => Family::Ten.with_room_for(lba),
            Family::Ten | Family::Twelve if lba <= u32::MAX.into() => self,
            _ => Family::Sixteen,
        }
    }
}

/// Where the CDB says how much it moves.
fn transfer_length(cdb: &Cdb, device_type: u8) -> u16 {
    const TAPE: u8 = 0x01;
    match cdb.opcode() {
        // READ and WRITE of tapes, and others with three bytes.
        0x00..=0x1f if device_type == TAPE => 2,
        0x00..=0x1f => 4,
        // WRITE BUFFER and READ BUFFER(10)
        0x3b | 0x3c => 6,
        0x20..=0x5f => 7,
        0x7e..=0x7f => 28,
        // COMPARE AND WRITE; WRITE STREAM(16) and WRITE ATOMIC(16)
        0x89 => 13,
        0x9a | 0x9c => 12,
        0x80..=0x9f => 10,
        _ => 6,
    }
}

#[cfg(test)]
mod tests;

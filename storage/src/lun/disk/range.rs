//! The blocks that a command names.

use super::Disk;
use crate::engine::ByteRange;
use crate::scsi::cdb::Cdb;
use crate::scsi::sense::Sense;

/// What the commands that name blocks have in common, wherever it is in a CDB of their length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockCommand {
    /// LOGICAL BLOCK ADDRESS
    pub(super) lba: u64,
    /// TRANSFER LENGTH, VERIFICATION LENGTH or NUMBER OF LOGICAL BLOCKS
    pub(super) blocks: u32,
    /// Where that is in the CDB.
    blocks_at: u16,
    /// Byte 1, where an LBA does not begin in it.
    options: u8,
}

impl BlockCommand {
    pub(super) fn of(cdb: &Cdb) -> BlockCommand {
        const GROUP_SIX: u8 = 0;
        const GROUP_SIXTEEN: u8 = 4;
        const GROUP_TWELVE: u8 = 5;
        let (options, short_lba) = (cdb.u8(1), u64::from(cdb.u32(2)));
        match cdb.opcode() >> 5 {
            GROUP_SIX => BlockCommand {
                lba: u64::from(cdb.u32(0) & 0x001f_ffff),
                // 0 stands for what would not fit (SBC-4, READ(6) command).
                blocks: if cdb.u8(4) == 0 { 256 } else { cdb.u8(4).into() },
                blocks_at: 4,
                options: 0,
            },
            GROUP_SIXTEEN => {
                BlockCommand { lba: cdb.u64(2), blocks: cdb.u32(10), blocks_at: 10, options }
            }
            GROUP_TWELVE => {
                BlockCommand { lba: short_lba, blocks: cdb.u32(6), blocks_at: 6, options }
            }
            _ => BlockCommand { lba: short_lba, blocks: cdb.u16(7).into(), blocks_at: 7, options },
        }
    }

    /// FUA
    pub(super) fn fua(&self) -> bool {
        self.options & 0x08 != 0
    }

    /// Refuses RDPROTECT, WRPROTECT and VRPROTECT: there is no protection information.
    pub(super) fn refuse_protection(&self) -> Result<(), Sense> {
        match self.options >> 5 {
            0 => Ok(()),
            _ => Err(Sense::invalid_field(1, Some(7))),
        }
    }

    /// INVALID FIELD IN CDB at the number of blocks.
    pub(super) fn wrong_length(&self) -> Sense {
        Sense::invalid_field(self.blocks_at, None)
    }
}

impl Disk {
    /// What `command` names on the medium, at most `limit` bytes.
    pub(super) fn range(&self, command: BlockCommand, limit: u32) -> Result<ByteRange, Sense> {
        let range = self.existing(command.lba, command.blocks)?;
        if range.len > limit.into() {
            return Err(command.wrong_length());
        }
        Ok(range)
    }

    /// The bytes of blocks, if they exist. A range without blocks may begin where the medium ends
    /// (SBC-4, READ(10) command).
    pub(super) fn existing(&self, lba: u64, blocks: u32) -> Result<ByteRange, Sense> {
        let capacity = self.geometry.blocks;
        match capacity.checked_sub(lba) {
            None => Err(Sense::lba_out_of_range(lba)),
            Some(left) if left < blocks.into() => Err(Sense::lba_out_of_range(capacity)),
            Some(_) => {
                let block_size = u64::from(self.geometry.block_size);
                // The medium's last byte has an offset.
                let offset = lba.saturating_mul(block_size);
                Ok(ByteRange { offset, len: u64::from(blocks) * block_size })
            }
        }
    }
}

//! The commands of a direct access block device (SBC-4).

use super::{BufferLens, Disk, MAX_TRANSFER, Plan};
use crate::engine::BlockIo;
use crate::scsi::cdb::Cdb;
use crate::scsi::sense::{Sense, SenseCode};
use crate::scsi::wire::{put_u32, put_u64};
use crate::task::ServiceResponse;

/// The blocks that a command names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BlockRange {
    lba: u64,
    blocks: u32,
    /// Where TRANSFER LENGTH is in the CDB.
    length_at: u16,
}

impl BlockRange {
    /// Reads the fields that 10- and 16-byte commands have in common.
    fn of(cdb: &Cdb) -> BlockRange {
        const SIXTEEN_BYTES: u8 = 4;
        match cdb.opcode() >> 5 {
            SIXTEEN_BYTES => BlockRange { lba: cdb.u64(2), blocks: cdb.u32(10), length_at: 10 },
            _ => BlockRange { lba: cdb.u32(2).into(), blocks: cdb.u16(7).into(), length_at: 7 },
        }
    }
}

impl Disk {
    pub(super) fn read(&self, cdb: &Cdb, lens: BufferLens) -> Result<Plan, Sense> {
        let (offset, len) = self.transfer(cdb)?;
        let io = BlockIo::Read { offset, fua: cdb.bit(1, 3) };
        Ok(plan_io(io, len, lens.data_in))
    }

    pub(super) fn write(&self, cdb: &Cdb, lens: BufferLens) -> Result<Plan, Sense> {
        let (offset, len) = self.transfer(cdb)?;
        self.refuse_after_lost_writes()?;
        let io = BlockIo::Write { offset, fua: cdb.bit(1, 3) };
        Ok(plan_io(io, len, lens.data_out))
    }

    /// SYNCHRONIZE CACHE makes the whole medium stable, whichever blocks it names, and answers
    /// only then, whatever IMMED says: more than is asked for, and never less.
    pub(super) fn synchronize_cache(&self, cdb: &Cdb) -> Result<Plan, Sense> {
        self.check(BlockRange::of(cdb))?;
        self.refuse_after_lost_writes()?;
        Ok(Plan::Io { io: BlockIo::Flush, len: 0 })
    }

    pub(super) fn read_capacity_10(&self) -> Plan {
        let last = u32::try_from(self.geometry.blocks.saturating_sub(1)).unwrap_or(u32::MAX);
        let mut bytes = vec![0; 8];
        put_u32(&mut bytes, 0, last);
        put_u32(&mut bytes, 4, self.geometry.block_size);
        Plan::Data { bytes, allocation_length: usize::MAX }
    }

    pub(super) fn read_capacity_16(&self, cdb: &Cdb) -> Plan {
        let mut bytes = vec![0; 32];
        put_u64(&mut bytes, 0, self.geometry.blocks.saturating_sub(1));
        put_u32(&mut bytes, 8, self.geometry.block_size);
        let allocation_length = usize::try_from(cdb.u32(10)).unwrap_or(usize::MAX);
        Plan::Data { bytes, allocation_length }
    }

    /// Offset and length in bytes of what a READ or WRITE names.
    fn transfer(&self, cdb: &Cdb) -> Result<(u64, usize), Sense> {
        let protection = cdb.u8(1) >> 5;
        if protection != 0 {
            return Err(Sense::invalid_field(1, Some(7)));
        }
        let range = BlockRange::of(cdb);
        self.check(range)?;
        let block_size = u64::from(self.geometry.block_size);
        let len = u64::from(range.blocks) * block_size;
        if len > u64::from(MAX_TRANSFER) {
            return Err(Sense::invalid_field(range.length_at, None));
        }
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        // `check` bounded the LBA, and the medium's last byte has an offset.
        Ok((range.lba.saturating_mul(block_size), len))
    }

    /// Refuses blocks that do not exist. A range without blocks may begin where the medium ends
    /// (SBC-4, READ(10) command).
    fn check(&self, range: BlockRange) -> Result<(), Sense> {
        let blocks = self.geometry.blocks;
        match blocks.checked_sub(range.lba) {
            None => Err(Sense::lba_out_of_range(range.lba)),
            Some(left) if left < u64::from(range.blocks) => Err(Sense::lba_out_of_range(blocks)),
            Some(_) => Ok(()),
        }
    }

    fn refuse_after_lost_writes(&self) -> Result<(), Sense> {
        match self.medium.has_lost_writes() {
            true => Err(SenseCode::WRITE_ERROR.into()),
            false => Ok(()),
        }
    }
}

fn plan_io(io: BlockIo, len: usize, buffer_len: usize) -> Plan {
    if len > buffer_len {
        Plan::Fail(ServiceResponse::Overrun)
    } else if len == 0 {
        Plan::Good
    } else {
        Plan::Io { io, len }
    }
}

//! Data to and from the medium: READ, WRITE, VERIFY, SYNCHRONIZE CACHE (SBC-4). DPO is a hint of
//! which no use is made.

use super::range::BlockCommand;
use super::state::State;
use super::{BufferLens, Disk, MAX_TRANSFER, Plan};
use crate::engine::{BlockIo, Compare};
use crate::scsi::cdb::Cdb;
use crate::scsi::sense::{Sense, SenseCode};

impl Disk {
    pub(super) fn read(&self, cdb: &Cdb, lens: BufferLens) -> Result<Plan, Sense> {
        let command = BlockCommand::of(cdb);
        command.refuse_protection()?;
        let range = self.range(command, MAX_TRANSFER)?;
        let io = BlockIo::Read { offset: range.offset, fua: command.fua() };
        Ok(Plan::io(io, range.len, lens.data_in))
    }

    pub(super) fn write(&self, cdb: &Cdb, lens: BufferLens) -> Result<Plan, Sense> {
        let command = BlockCommand::of(cdb);
        command.refuse_protection()?;
        let range = self.range(command, MAX_TRANSFER)?;
        self.refuse_after_lost_writes()?;
        let io = BlockIo::Write { offset: range.offset, fua: command.fua() || self.is_through() };
        Ok(Plan::io(io, range.len, lens.data_out))
    }

    /// VERIFY makes what it reads stable first (SBC-4, Verify medium operation interactions with
    /// caches), so it fails where SYNCHRONIZE CACHE does.
    pub(super) fn verify(&self, cdb: &Cdb, lens: BufferLens) -> Result<Plan, Sense> {
        let command = BlockCommand::of(cdb);
        command.refuse_protection()?;
        let compare = match cdb.u8(1) >> 1 & 0x03 {
            0b00 => Compare::Nothing,
            0b01 => Compare::DataOut,
            0b11 => Compare::RepeatedBlock,
            _ => return Err(Sense::invalid_field(1, Some(2))),
        };
        let range = self.range(command, MAX_TRANSFER)?;
        self.refuse_after_lost_writes()?;
        if range.len == 0 {
            return Ok(Plan::Good);
        }
        let data_out = match compare {
            Compare::Nothing => 0,
            Compare::DataOut => range.len,
            Compare::RepeatedBlock => self.geometry.block_size.into(),
        };
        Ok(Plan::io(BlockIo::Verify { range, compare }, data_out, lens.data_out))
    }

    /// SYNCHRONIZE CACHE makes the whole medium stable, whichever blocks it names, and answers
    /// only then, whatever IMMED says: more than is asked for, and never less.
    pub(super) fn synchronize_cache(&self, cdb: &Cdb) -> Result<Plan, Sense> {
        let command = BlockCommand::of(cdb);
        self.existing(command.lba, command.blocks)?;
        self.refuse_after_lost_writes()?;
        Ok(Plan::Io { io: BlockIo::Flush, len: 0 })
    }

    /// Whether a write is answered only once it is stable (WCE = 0).
    pub(super) fn is_through(&self) -> bool {
        !self.state.now().has(State::WRITE_CACHE)
    }

    pub(super) fn refuse_after_lost_writes(&self) -> Result<(), Sense> {
        match self.medium.has_lost_writes() {
            true => Err(SenseCode::WRITE_ERROR.into()),
            false => Ok(()),
        }
    }
}

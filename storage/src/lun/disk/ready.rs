//! Whether the disk is ready: TEST UNIT READY, REQUEST SENSE (SPC-6), START STOP UNIT (SBC-4,
//! START STOP UNIT and power conditions). Besides active, the only power condition is stopped.

use super::state::{Change, State};
use super::{Disk, Plan};
use crate::scsi::cdb::Cdb;
use crate::scsi::sense::{Sense, SenseCode};
use crate::scsi::start_stop::StartStop;

impl Disk {
    pub(super) fn test_unit_ready(&self) -> Result<Plan, Sense> {
        self.refuse_when_stopped()?;
        Ok(Plan::Good)
    }

    /// REQUEST SENSE with nothing pending, since every error was told with its command: what TEST
    /// UNIT READY would say.
    pub(super) fn request_sense(&self, cdb: &Cdb) -> Plan {
        let sense = self.refuse_when_stopped().err().unwrap_or(SenseCode::NO_SENSE.into());
        let bytes = sense.to_bytes(cdb.bit(1, 0));
        Plan::Data { bytes, allocation_length: cdb.u8(4).into() }
    }

    /// START STOP UNIT. It answers when all is done, whatever IMMED says. The disk is stopped
    /// before it is flushed, and stays so if that fails.
    pub(super) fn start_stop_unit(&self, cdb: &Cdb) -> Result<Plan, Sense> {
        let StartStop { start, flush } = StartStop::read(cdb)?;
        if start {
            let change = Change::between(State::STOPPED, State::default());
            return Ok(Plan::Change { change, flush: false });
        }
        if flush {
            self.refuse_after_lost_writes()?;
        }
        Ok(Plan::Change { change: Change::between(State::default(), State::STOPPED), flush })
    }

    pub(super) fn refuse_when_stopped(&self) -> Result<(), Sense> {
        match self.state.now().has(State::STOPPED) {
            true => Err(SenseCode::INITIALIZING_COMMAND_REQUIRED.into()),
            false => Ok(()),
        }
    }
}

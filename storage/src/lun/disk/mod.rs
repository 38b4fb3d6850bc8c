//! An emulated disk (SBC-4): a direct access block device over a [`Medium`].
//!
//! A command becomes a [`Plan`] by a pure function; [`Disk::submit`] carries the plan out. The
//! commands are grouped as the standards group them: [`primary`] (SPC) and [`block`] (SBC).

use std::sync::Arc;

use super::spec::{Identity, LunSpec};
use super::{LogicalUnit, Submitted};
use crate::backend::{Geometry, Medium};
use crate::engine::{BlockIo, IoContext};
use crate::scsi::cdb::Cdb;
use crate::scsi::opcode::{self, Opcode, Operation};
use crate::scsi::sense::{Sense, SenseCode};
use crate::task::{Response, ServiceResponse, Task};

mod block;
mod primary;

/// The longest READ or WRITE, in bytes: it bounds how long one command keeps its buffers, and is
/// far above what a driver's segments reach.
const MAX_TRANSFER: u32 = 16 << 20;

/// What a command comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing is left to do.
    Good,
    /// The command cannot be carried out with its buffers.
    Fail(ServiceResponse),
    /// Parameter data goes to the initiator, cut to the CDB's allocation length.
    Data {
        /// All of the data.
        bytes: Vec<u8>,
        /// How much of it is wanted.
        allocation_length: usize,
    },
    /// The first `len` bytes of the task's buffer go to or from the medium.
    Io {
        /// What is to be done.
        io: BlockIo,
        /// Bytes to move.
        len: usize,
    },
}

/// Length in bytes of a task's buffers, all that a plan needs to know of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BufferLens {
    /// Data-out
    pub data_out: usize,
    /// Data-in
    pub data_in: usize,
}

/// An emulated disk.
#[derive(Debug)]
pub struct Disk {
    medium: Arc<Medium>,
    geometry: Geometry,
    identity: Identity,
    read_only: bool,
    rotational: bool,
}

impl Disk {
    /// A disk over `medium`, with the names and properties of `spec`.
    #[must_use]
    pub fn new(medium: Medium, spec: &LunSpec) -> Disk {
        Disk {
            geometry: medium.backend().geometry(),
            medium: Arc::new(medium),
            identity: spec.identity.clone(),
            read_only: spec.read_only,
            rotational: spec.rotational,
        }
    }

    /// What `cdb` comes to with buffers of these lengths.
    ///
    /// # Errors
    /// The sense data of a command that ends with CHECK CONDITION at once.
    pub fn plan(&self, cdb: &Cdb, lens: BufferLens) -> Result<Plan, Sense> {
        let row = Opcode::find(cdb)?;
        if row.medium == opcode::Medium::Modifies && self.read_only {
            return Err(SenseCode::WRITE_PROTECTED.into());
        }
        match row.operation {
            Operation::TestUnitReady => Ok(Plan::Good),
            Operation::RequestSense => Ok(primary::request_sense(cdb)),
            Operation::Inquiry => self.inquiry(cdb),
            Operation::ModeSense6 => self.mode_sense_6(cdb),
            Operation::ReadCapacity10 => Ok(self.read_capacity_10()),
            Operation::ReadCapacity16 => Ok(self.read_capacity_16(cdb)),
            Operation::Read => self.read(cdb, lens),
            Operation::Write => self.write(cdb, lens),
            Operation::SynchronizeCache => self.synchronize_cache(cdb),
            // The target answers it for all its logical units.
            Operation::ReportLuns => Err(SenseCode::INVALID_COMMAND_OPERATION_CODE.into()),
        }
    }

    fn start(
        &self,
        mut task: Task,
        block_io: BlockIo,
        len: usize,
        io: &mut IoContext,
    ) -> Submitted {
        let before = task.buffer_len();
        match block_io {
            BlockIo::Read { .. } => task.data_in.truncate(len),
            BlockIo::Write { .. } => task.data_out.truncate(len),
            BlockIo::Flush => {}
        }
        // What stays in the buffers counts as residual when the transfer ends.
        let cut = before.saturating_sub(task.buffer_len());
        io.start(task, &self.medium, block_io, cut)
    }
}

impl LogicalUnit for Disk {
    fn submit(&self, task: Task, io: &mut IoContext) -> Submitted {
        let lens = BufferLens { data_out: task.data_out.len(), data_in: task.data_in.len() };
        let answer = match self.plan(&task.cdb, lens) {
            Ok(Plan::Io { io: block_io, len }) => return self.start(task, block_io, len, io),
            Ok(Plan::Good) => {
                let resid = task.buffer_len();
                task.answer(Response::good(resid))
            }
            Ok(Plan::Fail(why)) => task.answer(Response::Failed(why)),
            Ok(Plan::Data { bytes, allocation_length }) => {
                task.answer_data(&bytes, allocation_length)
            }
            Err(sense) => task.answer_sense(sense),
        };
        Submitted::Done(answer)
    }

    fn flush(&self) -> std::io::Result<()> {
        self.medium.flush()
    }

    fn max_transfer(&self) -> u64 {
        u64::from(MAX_TRANSFER)
    }
}

#[cfg(test)]
mod tests;

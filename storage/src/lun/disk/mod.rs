//! An emulated disk (SBC-4): a direct access block device over a [`Medium`].
//!
//! A command becomes a [`Plan`] by a pure function, [`Disk::plan`]; [`Disk::submit`] carries the
//! plan out. A command with a parameter list is planned in two steps, the second with the list's
//! bytes ([`Disk::plan_with`]). The commands are grouped by what they are about:
//!
//! | file | commands |
//! |---|---|
//! | [`inquiry`] | INQUIRY |
//! | [`supported`] | REPORT SUPPORTED OPERATION CODES, … TASK MANAGEMENT FUNCTIONS |
//! | [`ready`] | TEST UNIT READY, REQUEST SENSE, START STOP UNIT |
//! | [`mode`] | MODE SENSE, MODE SELECT |
//! | [`capacity`] | READ CAPACITY |
//! | [`read_write`] | READ, WRITE, VERIFY, SYNCHRONIZE CACHE |
//! | [`provisioning`] | UNMAP, WRITE SAME |
//!
//! [`range`] reads what commands that name blocks have in common, [`state`] is what commands
//! change besides the medium.

use std::sync::Arc;

use super::spec::{DiskSpec, Identity, WriteCache};
use super::{LogicalUnit, Submitted};
use crate::backend::{Geometry, Medium, Topology};
use crate::engine::{BlockIo, IoContext};
use crate::scsi::cdb::Cdb;
use crate::scsi::opcode::{self, Operation};
use crate::scsi::sense::{Sense, SenseCode};
use crate::task::{Answer, Response, ServiceResponse, Task};

mod capacity;
mod inquiry;
mod mode;
mod provisioning;
mod range;
mod read_write;
mod ready;
mod state;
mod supported;

pub use state::{Change, State};

use provisioning::Thin;
use state::StateCell;

/// The longest READ, WRITE or VERIFY, in bytes: it bounds how long one command keeps its buffers,
/// and is far above what a driver's segments reach.
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
    /// The first `len` bytes of data-out are a parameter list, with which [`Disk::plan_with`]
    /// goes on.
    Parameters {
        /// PARAMETER LIST LENGTH
        len: usize,
    },
    /// The disk's state changes.
    Change {
        /// How.
        change: Change,
        /// Make stable what was written before, and answer only then.
        flush: bool,
    },
    /// Something is done with the medium and the first `len` bytes of a task's buffer.
    Io {
        /// What is to be done.
        io: BlockIo,
        /// Bytes of the buffer.
        len: usize,
    },
}

impl Plan {
    /// `io` with `len` bytes of a buffer that has `buffer_len`.
    fn io(io: BlockIo, len: u64, buffer_len: usize) -> Plan {
        let transfers = matches!(io, BlockIo::Read { .. } | BlockIo::Write { .. });
        match usize::try_from(len) {
            Ok(0) if transfers => Plan::Good,
            Ok(len) if len <= buffer_len => Plan::Io { io, len },
            _ => Plan::Fail(ServiceResponse::Overrun),
        }
    }

    /// A parameter list of `len` bytes. Where there is none, there is nothing to do.
    fn parameters(len: u16, lens: BufferLens) -> Plan {
        match usize::from(len) {
            0 => Plan::Good,
            len if len <= lens.data_out => Plan::Parameters { len },
            _ => Plan::Fail(ServiceResponse::Overrun),
        }
    }
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
    topology: Topology,
    /// What can be unmapped, if anything can.
    thin: Option<Thin>,
    identity: Identity,
    read_only: bool,
    rotational: bool,
    state: StateCell,
}

impl Disk {
    /// A disk over `medium`, with the names and properties of `spec`.
    #[must_use]
    pub fn new(medium: Medium, spec: &DiskSpec) -> Disk {
        let geometry = medium.backend().geometry();
        let provisioning = medium.backend().provisioning();
        let granularity = provisioning.unmap_granularity.filter(|_| spec.discard);
        let thin = granularity.map(|bytes| Thin {
            granularity: (bytes / geometry.block_size).max(1),
            reads_zero: provisioning.unmapped_reads_zero,
        });
        let write_cache = spec.write_cache == WriteCache::Back;
        Disk {
            geometry,
            topology: match spec.physical_block_size {
                Some(physical_block_size) => Topology { physical_block_size, alignment_offset: 0 },
                None => medium.backend().topology(),
            },
            medium: Arc::new(medium),
            thin,
            identity: spec.identity.clone(),
            read_only: spec.read_only,
            rotational: spec.rotational,
            state: StateCell::new(State::default().with(State::WRITE_CACHE, write_cache)),
        }
    }

    /// What `cdb` comes to with buffers of these lengths.
    ///
    /// # Errors
    /// The sense data of a command that ends with CHECK CONDITION at once.
    pub fn plan(&self, cdb: &Cdb, lens: BufferLens) -> Result<Plan, Sense> {
        let row = self.find(cdb)?;
        self.refuse_access(row.medium)?;
        match row.operation {
            Operation::Inquiry => self.inquiry(cdb),
            Operation::ReportSupportedOperationCodes => self.report_supported_operation_codes(cdb),
            Operation::ReportSupportedTaskManagementFunctions => {
                Ok(supported::report_supported_task_management_functions(cdb))
            }
            Operation::TestUnitReady => self.test_unit_ready(),
            Operation::RequestSense => Ok(self.request_sense(cdb)),
            Operation::StartStopUnit => self.start_stop_unit(cdb),
            Operation::ModeSense => self.mode_sense(cdb),
            Operation::ModeSelect => Disk::mode_select(cdb, lens),
            Operation::ReadCapacity10 => Ok(self.read_capacity_10()),
            Operation::ReadCapacity16 => Ok(self.read_capacity_16(cdb)),
            Operation::Read => self.read(cdb, lens),
            Operation::Write => self.write(cdb, lens),
            Operation::Verify => self.verify(cdb, lens),
            Operation::SynchronizeCache => self.synchronize_cache(cdb),
            Operation::Unmap => Disk::unmap(cdb, lens),
            Operation::WriteSame => self.write_same(cdb, lens),
            // The target answers it for all its logical units.
            Operation::ReportLuns => Err(SenseCode::INVALID_COMMAND_OPERATION_CODE.into()),
        }
    }

    /// What `cdb`, of which the plan is [`Plan::Parameters`], comes to with its parameter list.
    ///
    /// # Errors
    /// The sense data of a command that ends with CHECK CONDITION at once.
    pub fn plan_with(&self, cdb: &Cdb, list: &[u8]) -> Result<Plan, Sense> {
        match self.find(cdb)?.operation {
            Operation::ModeSelect => self.mode_selected(cdb, list),
            Operation::Unmap => self.unmap_listed(list),
            _ => Err(SenseCode::INVALID_COMMAND_OPERATION_CODE.into()),
        }
    }

    /// Refuses what a stopped or write-protected disk does not do.
    fn refuse_access(&self, medium: opcode::Medium) -> Result<(), Sense> {
        if medium == opcode::Medium::Untouched {
            return Ok(());
        }
        self.refuse_when_stopped()?;
        if medium == opcode::Medium::Accessed {
            return Ok(());
        }
        match self.is_write_protected() {
            true => Err(SenseCode::WRITE_PROTECTED.into()),
            false => Ok(()),
        }
    }

    fn carry_out(&self, plan: Result<Plan, Sense>, task: Task, io: &mut IoContext) -> Submitted {
        let answer = match plan {
            Ok(Plan::Io { io: block_io, len }) => return self.start(task, block_io, len, io),
            Ok(Plan::Change { change, flush }) => {
                self.state.apply(change);
                if flush {
                    return self.start(task, BlockIo::Flush, 0, io);
                }
                answer_good(task)
            }
            Ok(Plan::Good) => answer_good(task),
            Ok(Plan::Fail(why)) => task.answer(Response::Failed(why)),
            Ok(Plan::Data { bytes, allocation_length }) => {
                task.answer_data(&bytes, allocation_length)
            }
            Ok(Plan::Parameters { len }) => return self.read_parameters(task, len, io),
            Err(sense) => task.answer_sense(sense),
        };
        Submitted::Done(answer)
    }

    /// Reads a parameter list, once, and goes on with it.
    fn read_parameters(&self, mut task: Task, len: usize, io: &mut IoContext) -> Submitted {
        let mut list = vec![0; len];
        let taken = task.data_out.read(&mut list);
        list.truncate(taken);
        task.data_out.advance(taken);
        self.carry_out(self.plan_with(&task.cdb, &list), task, io)
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
            BlockIo::Flush | BlockIo::Unmap { .. } => {}
            _ => task.data_out.truncate(len),
        }
        // What stays in the buffers counts as residual when the transfer ends.
        let cut = before.saturating_sub(task.buffer_len());
        io.start(task, &self.medium, block_io, cut)
    }
}

fn answer_good(task: Task) -> Answer {
    let resid = task.buffer_len();
    task.answer(Response::good(resid))
}

impl LogicalUnit for Disk {
    fn submit(&self, task: Task, io: &mut IoContext) -> Submitted {
        let lens = BufferLens { data_out: task.data_out.len(), data_in: task.data_in.len() };
        self.carry_out(self.plan(&task.cdb, lens), task, io)
    }

    fn reset(&self) {
        self.state.reset();
    }

    fn descriptor_sense(&self) -> bool {
        self.state.now().has(State::DESCRIPTOR_SENSE)
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

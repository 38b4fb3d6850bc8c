//! A SCSI device of the host as a logical unit: its commands, data, status and sense reach the
//! initiator unchanged, except where the initiator or the host would break.
//!
//! | file | role |
//! |---|---|
//! | [`route`] | what becomes of a command: answered here, or forwarded |
//! | [`worker`] | a forwarded command, in a thread of its logical unit's own |
//! | [`outcome`] | what its end means to the initiator |
//! | [`retry`] | waiting between attempts |
//! | [`unit`] | what the logical unit is at present |

use std::sync::Arc;

use super::spec::PassthroughSpec;
use super::{LogicalUnit, Submitted, UnitEvents};
use crate::engine::IoContext;
use crate::engine::workers::{Capacity, Refused, Workers};
use crate::host::{OpenError, ScsiHost};
use crate::scsi::cdb::Cdb;
use crate::scsi::status::Status;
use crate::task::{Response, Task};

pub mod counters;
pub mod facts;
pub mod fixup;
pub mod identity;
pub mod limits;
pub mod mirror;
mod outcome;
pub mod pin;
pub mod policy;
pub mod presence;
pub mod reservations;
mod retry;
mod route;
pub mod split;
pub mod unit;
pub mod watch;
mod worker;

use counters::Event;
use route::Route;
use unit::Unit;
use worker::Forward;

/// A passthrough logical unit.
#[derive(Debug)]
pub struct Passthrough {
    unit: Arc<Unit>,
    workers: Workers<Forward>,
}

impl Passthrough {
    /// Threads of a logical unit that are not asked for by its specification.
    const MAX_THREADS: u16 = 64;
    /// Commands that wait for a thread: more than one driver sends before it is answered.
    const WAITING: usize = 1024;
    /// Bytes of a thread's stack, which holds no data.
    const STACK: usize = 256 << 10;

    /// A logical unit by way of `host`.
    ///
    /// # Errors
    /// [`OpenError`] when the host does not say what it can carry.
    pub fn new(spec: &PassthroughSpec, host: Arc<dyn ScsiHost>) -> Result<Passthrough, OpenError> {
        let limits = host.limits().map_err(OpenError::Open)?;
        let depth = spec.queue_depth.unwrap_or(limits.queue_depth.min(Passthrough::MAX_THREADS));
        let capacity = Capacity {
            threads: usize::from(depth.max(1)),
            waiting: Passthrough::WAITING,
            stack: Some(Passthrough::STACK),
        };
        let workers = Workers::new("lun", capacity);
        Ok(Passthrough { unit: Arc::new(Unit::new(spec, host)), workers })
    }

    /// What the logical unit is at present.
    #[must_use]
    pub fn unit(&self) -> &Arc<Unit> {
        &self.unit
    }

    fn forward(&self, forward: Forward) -> Submitted {
        let (forward, status) = match self.workers.start(forward) {
            Ok(()) => return Submitted::Pending,
            Err(Refused::Full(forward)) => (forward, Status::TASK_SET_FULL),
            // This thread has others to serve.
            Err(Refused::NoThread(forward)) => (forward, Status::BUSY),
        };
        self.unit.counters.count(Event::Refused);
        let resid = forward.task.buffer_len();
        Submitted::Done(forward.task.answer(Response::Status { status, sense: None, resid }))
    }
}

impl LogicalUnit for Passthrough {
    fn submit(&self, task: Task, _: &mut IoContext) -> Submitted {
        match route::route(&self.unit, &task) {
            Route::Answer(response) => Submitted::Done(task.answer(response)),
            Route::Forward(plan) => {
                self.forward(Forward { unit: Arc::clone(&self.unit), task, plan })
            }
        }
    }

    fn attached(&self, events: Arc<dyn UnitEvents>) {
        self.workers.rename(&format!("lun-{}", events.label()));
        self.unit.attach(events);
    }

    /// Nothing: the device orders what it is sent, and knows what its own commands change.
    fn runs_alone(&self, _: &Cdb) -> bool {
        false
    }

    fn cancel_aborted(&self) {
        self.workers.cancel_aborted();
        self.unit.wake();
    }

    fn max_transfer(&self) -> u64 {
        self.unit.host().limits().map_or(u64::MAX, |limits| limits.max_bytes)
    }
}

impl Drop for Passthrough {
    fn drop(&mut self) {
        self.unit.end();
    }
}

/// Opens the device, and takes it until it is dropped.
pub(super) fn open(_spec: &PassthroughSpec) -> Result<Arc<dyn LogicalUnit>, OpenError> {
    Err(OpenError::NotScsi)
}

/// Finds out whether [`open`] would succeed.
pub(super) fn check(_spec: &PassthroughSpec) -> Result<(), OpenError> {
    Err(OpenError::NotScsi)
}

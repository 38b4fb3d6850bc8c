//! Task management functions (SAM-6, Task management functions): what they name, and when they
//! are done.
//!
//! A function is an order to every lane of the bus, because the commands that it names may still
//! lie in the ring of any queue. Each lane answers those that wait, marks those that run, and
//! acknowledges; a command that is marked acknowledges by itself once its answer is where the
//! initiator sees it. After the last acknowledgement nothing that the function named can touch
//! memory or the medium any more, and only then it succeeds. If that takes too long it fails
//! instead, and the logical unit is quarantined until it has come about all the same.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::bus::Unit;
use crate::scsi::sense::SenseCode;
use crate::task::ServiceResponse;

/// What an initiator can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// End the command of this tag.
    AbortTask(u64),
    /// End all commands that the initiator sent to the logical unit.
    AbortTaskSet,
    /// End all commands of the logical unit.
    ClearTaskSet,
    /// Clear an auto contingent allegiance, which no logical unit here ever has.
    ClearAca,
    /// End all commands of the target, as if the initiator had been gone.
    NexusReset,
    /// End all commands of the logical unit and put it back into its first state.
    LogicalUnitReset,
    /// Is there a command of this tag?
    QueryTask(u64),
    /// Is there any command?
    QueryTaskSet,
}

/// How a function ended (SAM-6, Task management function services).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// FUNCTION COMPLETE; of a query: there is none.
    Complete,
    /// FUNCTION SUCCEEDED: of a query: there is one.
    Succeeded,
    /// FUNCTION REJECTED
    Rejected,
    /// Nothing answers at the target's address.
    BadTarget,
    /// INCORRECT LOGICAL UNIT NUMBER
    IncorrectLun,
    /// SERVICE DELIVERY OR TARGET FAILURE: commands may still be running.
    Failed,
}

/// Takes the outcome, on whichever thread found it.
pub type Reply = Box<dyn FnOnce(Outcome) + Send>;

/// What a lane does with the commands that are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// End them so.
    End(ServiceResponse),
    /// Say whether there are any.
    Look,
}

impl Function {
    /// The tag of the one command that it names; all otherwise.
    fn tag(self) -> Option<u64> {
        match self {
            Function::AbortTask(tag) | Function::QueryTask(tag) => Some(tag),
            _ => None,
        }
    }

    /// Whether it ends commands.
    pub(super) fn ends_commands(self) -> bool {
        matches!(self.order(), Order::End(_))
    }

    fn order(self) -> Order {
        match self {
            Function::QueryTask(_) | Function::QueryTaskSet => Order::Look,
            Function::NexusReset | Function::LogicalUnitReset => Order::End(ServiceResponse::Reset),
            _ => Order::End(ServiceResponse::Aborted),
        }
    }

    /// The condition that it leaves behind. What leaves one keeps new commands out until it is
    /// done.
    fn attention(self) -> Option<SenseCode> {
        match self {
            Function::LogicalUnitReset => Some(SenseCode::BUS_DEVICE_RESET_FUNCTION_OCCURRED),
            Function::NexusReset => Some(SenseCode::I_T_NEXUS_LOSS_OCCURRED),
            _ => None,
        }
    }
}

/// A function under way.
pub struct Management {
    function: Function,
    /// In the order of their places.
    units: Vec<Arc<Unit>>,
    /// Acknowledgements that are still to come.
    left: AtomicUsize,
    found: AtomicBool,
    stage: Mutex<Stage>,
}

enum Stage {
    Waiting(Reply),
    /// It failed; its logical units are quarantined until the last acknowledgement.
    Expired,
    Ended,
}

impl Management {
    /// Begins `function` on `units`, for which its beginner has the one acknowledgement to give.
    pub(super) fn begin(
        function: Function,
        mut units: Vec<Arc<Unit>>,
        reply: Reply,
    ) -> Arc<Management> {
        units.sort_unstable_by_key(|unit| unit.index);
        if function.attention().is_some() {
            units.iter().for_each(|unit| unit.gate.hold());
        }
        Arc::new(Management {
            function,
            units,
            left: AtomicUsize::new(1),
            found: AtomicBool::new(false),
            stage: Mutex::new(Stage::Waiting(reply)),
        })
    }

    pub(super) fn order(&self) -> Order {
        self.function.order()
    }

    /// Whose commands it names.
    pub(super) fn units(&self) -> &[Arc<Unit>] {
        &self.units
    }

    /// Whether `unit` is among them.
    pub(super) fn is_about(&self, unit: &Arc<Unit>) -> bool {
        let at = self.units.binary_search_by_key(&unit.index, |unit| unit.index);
        at.ok().and_then(|at| self.units.get(at)).is_some_and(|other| Arc::ptr_eq(unit, other))
    }

    /// Whether it names the commands of this tag.
    pub(super) fn names(&self, tag: u64) -> bool {
        self.function.tag().is_none_or(|named| named == tag)
    }

    /// A command is there that it names.
    pub(super) fn note_found(&self) {
        self.found.store(true, Ordering::Relaxed);
    }

    /// Has `unit` do what ends its commands; that has to be acknowledged too.
    pub(super) fn begin_reset(self: &Arc<Management>, unit: &Unit) {
        self.expect();
        let management = Arc::clone(self);
        unit.lun.begin_reset(Box::new(move || management.acknowledge()));
    }

    /// One more acknowledgement has to come.
    pub(super) fn expect(&self) {
        self.left.fetch_add(1, Ordering::Relaxed);
    }

    /// One has come.
    pub(super) fn acknowledge(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.finish();
        }
    }

    /// Gives it up: it fails, unless it has ended, and its logical units take no commands until
    /// those that it names have ended.
    pub fn expire(&self) {
        let mut stage = self.stage();
        if !matches!(*stage, Stage::Waiting(_)) {
            return;
        }
        let Stage::Waiting(reply) = std::mem::replace(&mut *stage, Stage::Expired) else { return };
        for unit in &self.units {
            log::error!(
                "{:?} on {:?}: commands do not end; it is quarantined",
                self.function,
                unit.lun
            );
            unit.gate.quarantine();
        }
        drop(stage);
        reply(Outcome::Failed);
    }

    fn finish(&self) {
        if let Some(attention) = self.function.attention() {
            self.units.iter().for_each(|unit| self.reset(unit, attention));
        }
        let stage = std::mem::replace(&mut *self.stage(), Stage::Ended);
        match stage {
            Stage::Waiting(reply) => reply(self.outcome()),
            Stage::Expired => self.units.iter().for_each(|unit| {
                log::warn!("{:?}: its commands have ended, and its quarantine with them", unit.lun);
                unit.gate.end_quarantine();
            }),
            Stage::Ended => {}
        }
    }

    /// Nobody is inside, and nobody comes in before the release.
    fn reset(&self, unit: &Unit, attention: SenseCode) {
        if self.function == Function::LogicalUnitReset {
            unit.lun.reset();
        }
        unit.attention.raise(attention);
        unit.gate.release();
    }

    fn outcome(&self) -> Outcome {
        match self.order() {
            Order::Look if self.found.load(Ordering::Relaxed) => Outcome::Succeeded,
            _ => Outcome::Complete,
        }
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Management {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, {} left", self.function, self.left.load(Ordering::Relaxed))
    }
}

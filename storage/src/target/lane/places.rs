//! What one lane has under way: for each place in its queue the command that takes it up.

use std::sync::Arc;

use crate::target::bus::UnitIndex;
use crate::target::gate::Admission;
use crate::target::management::Management;
use crate::task::{AbortFlag, ServiceResponse, Task};

/// A place and its command.
#[derive(Debug)]
pub(super) struct Place {
    open: bool,
    tag: u64,
    abort: Arc<AbortFlag>,
    pub(super) unit: UnitIndex,
    pub(super) admission: Admission,
    /// How the initiator had it ended.
    pub(super) end: Option<ServiceResponse>,
    /// Who waits for its end.
    pub(super) managements: Vec<Arc<Management>>,
}

/// All places, by number. A place is made once, so that commands allocate nothing.
#[derive(Debug, Default)]
pub(super) struct Places(Vec<Option<Place>>);

impl Places {
    /// Notes a command that has passed the gate of `unit`.
    pub(super) fn open(&mut self, task: &Task, unit: UnitIndex, admission: Admission) {
        let index = task.place() as usize;
        if self.0.len() <= index {
            self.0.resize_with(index + 1, || None);
        }
        let Some(slot) = self.0.get_mut(index) else { return };
        match slot {
            Some(place) if Arc::ptr_eq(&place.abort, task.abort_flag()) => {
                (place.open, place.tag, place.unit) = (true, task.tag, unit);
                place.admission = admission;
            }
            _ => *slot = Some(Place::new(task, unit, admission)),
        }
    }

    /// Ends the command at a place, if there is one; what it left there is to be taken.
    pub(super) fn close(&mut self, index: u32) -> Option<&mut Place> {
        let place = self.0.get_mut(index as usize)?.as_mut()?;
        std::mem::take(&mut place.open).then_some(place)
    }

    /// Whether there is a command whose logical unit and tag are `named`.
    pub(super) fn has(&self, named: impl Fn(UnitIndex, u64) -> bool) -> bool {
        self.0.iter().flatten().any(|place| place.is(&named))
    }

    /// Has the commands end for `why` whose logical unit and tag are `named`; `management` waits
    /// for each.
    pub(super) fn abort(
        &mut self,
        named: impl Fn(UnitIndex, u64) -> bool,
        why: ServiceResponse,
        management: &Arc<Management>,
    ) {
        for place in self.0.iter_mut().flatten().filter(|place| place.is(&named)) {
            place.abort.set();
            place.end.get_or_insert(why);
            management.expect();
            place.managements.push(Arc::clone(management));
        }
    }

    /// Has every command end as soon as it can.
    pub(super) fn abort_all(&mut self) {
        for place in self.0.iter_mut().flatten().filter(|place| place.open) {
            place.abort.set();
            place.end.get_or_insert(ServiceResponse::TargetFailure);
        }
    }
}

impl Place {
    fn new(task: &Task, unit: UnitIndex, admission: Admission) -> Place {
        Place {
            open: true,
            tag: task.tag,
            abort: Arc::clone(task.abort_flag()),
            unit,
            admission,
            end: None,
            managements: Vec::new(),
        }
    }

    fn is(&self, named: impl Fn(UnitIndex, u64) -> bool) -> bool {
        self.open && named(self.unit, self.tag)
    }
}

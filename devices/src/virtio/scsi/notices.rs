//! What other threads leave for the thread of the control and event queues.

use std::sync::{Mutex, MutexGuard, PoisonError};

use storage::target::{BusEvent, EventSink, Outcome};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Events that are kept for a thread that is busy; it takes all at a time.
const MAX_EVENTS: usize = 1024;

/// Events in their order, and whether some were lost behind them.
#[derive(Debug, Default)]
pub(super) struct Events {
    pub(super) kept: Vec<BusEvent>,
    pub(super) lost: bool,
}

/// Outcomes of task management functions by their number.
type Outcomes = Vec<(u64, Outcome)>;

/// Outcomes and events, and the eventfd that tells of them.
#[derive(Debug)]
pub(super) struct Notices {
    waiting: Mutex<(Outcomes, Events)>,
    event: EventFd,
}

impl Notices {
    pub(super) fn new() -> std::io::Result<Notices> {
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        Ok(Notices { waiting: Mutex::default(), event })
    }

    /// Written after each notice.
    pub(super) fn event(&self) -> &EventFd {
        &self.event
    }

    /// Takes what is there.
    pub(super) fn take(&self) -> (Outcomes, Events) {
        std::mem::take(&mut *self.waiting())
    }

    /// Leaves the outcome of function `id`.
    pub(super) fn reply(&self, id: u64, outcome: Outcome) {
        self.waiting().0.push((id, outcome));
        self.signal();
    }

    fn signal(&self) {
        if let Err(error) = self.event.write(1) {
            log::error!("cannot wake the control queue: {error}");
        }
    }

    fn waiting(&self) -> MutexGuard<'_, (Outcomes, Events)> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventSink for Notices {
    fn event(&self, event: BusEvent) {
        let events = &mut self.waiting().1;
        if events.kept.len() < MAX_EVENTS {
            events.kept.push(event);
        } else {
            events.lost = true;
        }
        self.signal();
    }
}

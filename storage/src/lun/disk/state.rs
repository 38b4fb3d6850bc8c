//! What commands change in a disk besides its medium, and a reset puts back.

use std::sync::atomic::{AtomicU8, Ordering};

/// A set of conditions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State(u8);

impl State {
    /// A write may be answered before it is stable (WCE of the Caching mode page).
    pub const WRITE_CACHE: State = State(1 << 0);
    /// Sense data goes with a status in descriptor format (D_SENSE of the Control mode page).
    pub const DESCRIPTOR_SENSE: State = State(1 << 1);
    /// The medium is not to be written (SWP of the Control mode page).
    pub const SOFTWARE_WRITE_PROTECT: State = State(1 << 2);
    /// The disk is in the stopped power condition.
    pub const STOPPED: State = State(1 << 3);

    /// Whether all of `conditions` hold.
    #[must_use]
    pub fn has(self, conditions: State) -> bool {
        self.0 & conditions.0 == conditions.0
    }

    /// The same, but with `conditions` as `hold` says.
    #[must_use]
    pub fn with(self, conditions: State, hold: bool) -> State {
        State(if hold { self.0 | conditions.0 } else { self.0 & !conditions.0 })
    }
}

/// A change of some conditions, which leaves the others alone whatever became of them meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Those that are to hold from now on.
    pub set: State,
    /// Those that are not.
    pub clear: State,
}

impl Change {
    /// What leads from one state to another.
    #[must_use]
    pub fn between(old: State, new: State) -> Change {
        Change { set: State(new.0 & !old.0), clear: State(old.0 & !new.0) }
    }

    fn of(self, state: State) -> State {
        State(state.0 & !self.clear.0 | self.set.0)
    }
}

/// The state of one disk, read by every command and seldom changed.
#[derive(Debug)]
pub(super) struct StateCell {
    now: AtomicU8,
    initial: State,
}

impl StateCell {
    pub(super) fn new(initial: State) -> StateCell {
        StateCell { now: AtomicU8::new(initial.0), initial }
    }

    /// What holds now.
    pub(super) fn now(&self) -> State {
        State(self.now.load(Ordering::Acquire))
    }

    /// What holds after a reset.
    pub(super) fn initial(&self) -> State {
        self.initial
    }

    pub(super) fn apply(&self, change: Change) {
        let next = |old| Some(change.of(State(old)).0);
        let _never_refused = self.now.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
    }

    pub(super) fn reset(&self) {
        self.now.store(self.initial.0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_leaves_the_rest_alone() {
        let cell = StateCell::new(State::WRITE_CACHE);
        let planned = Change::between(cell.now(), State::DESCRIPTOR_SENSE);
        cell.apply(Change::between(State::default(), State::STOPPED));
        cell.apply(planned);
        assert_eq!(cell.now(), State::DESCRIPTOR_SENSE.with(State::STOPPED, true));
        cell.reset();
        assert_eq!(cell.now(), State::WRITE_CACHE);
    }
}

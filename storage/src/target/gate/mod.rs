//! Exclusion on one logical unit: many commands at a time, or one alone.
//!
//! Each lane counts its commands in a counter of its own, so lanes do not share a cache line.
//! A command counts itself in and then reads the gate's word; whoever wants the logical unit for
//! itself stores the word and then reads the counters. Both are sequentially consistent, so at
//! least one sees the other, and the command steps back. While the word says [`Passage::Open`],
//! nothing here takes a lock.
//!
//! Who keeps others out, and from what:
//!
//! | | waits for commands inside | keeps out |
//! |---|---|---|
//! | a turn (ORDERED command, detaching) | yes, in line | later turns and SIMPLE commands; a change also HEAD OF QUEUE |
//! | a HEAD OF QUEUE command | no | SIMPLE, turns |
//! | a hold (reset) | no: it aborts them | everything |
//! | a quarantine (commands that do not end) | no | everything, for good or until they end |
//!
//! SIMPLE commands that came behind a turn and before another stand between the two in line, all
//! those of one lane in one place, so that no stream of turns can keep them out for ever. Without
//! turns there is no line.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::wakers::Wakers;

/// Whether commands may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passage {
    /// They may.
    Open,
    /// They wait until the gate opens again; their lane is woken then.
    Closed,
    /// They are told to come again later.
    Quarantined,
    /// The logical unit is gone for good.
    Gone,
}

impl Passage {
    fn from_word(word: u8) -> Passage {
        match word {
            0 => Passage::Open,
            1 => Passage::Closed,
            2 => Passage::Quarantined,
            _ => Passage::Gone,
        }
    }
}

/// How a command came in, which says how it leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Among others.
    Simple,
    /// Alone: it had the turn.
    Turn,
    /// Past those that wait.
    Head,
}

/// Commands that one lane has in flight, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct InFlight(AtomicU32);

/// Who waits for its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiter {
    /// A lane with an ORDERED command.
    Turn(usize),
    /// A lane with SIMPLE commands.
    Share(usize),
    /// A thread with a change.
    Change(u64),
}

/// What keeps commands out.
#[derive(Debug, Default)]
struct Keepers {
    /// The first has its turn once nobody is inside; then `taken` is set.
    line: VecDeque<Waiter>,
    taken: bool,
    heads: u32,
    holds: u32,
    quarantines: u32,
    gone: bool,
    changes: u64,
}

impl Keepers {
    fn passage(&self) -> Passage {
        if self.gone {
            Passage::Gone
        } else if self.quarantines > 0 {
            Passage::Quarantined
        } else if self.holds > 0 || self.heads > 0 || self.has_turns() {
            Passage::Closed
        } else {
            Passage::Open
        }
    }

    fn has_turns(&self) -> bool {
        self.line.iter().any(|waiter| !matches!(waiter, Waiter::Share(_)))
    }

    fn may_take(&self, waiter: Waiter) -> bool {
        let undisturbed = !self.taken && self.holds == 0 && self.quarantines == 0;
        undisturbed && self.line.front() == Some(&waiter)
    }

    fn end_turn(&mut self) {
        self.line.pop_front();
        self.taken = false;
    }
}

/// The gate of one logical unit.
#[derive(Debug)]
pub(super) struct Gate {
    word: AtomicU8,
    in_flight: Box<[InFlight]>,
    keepers: Mutex<Keepers>,
    drained: Condvar,
    wakers: Arc<Wakers>,
}

impl Gate {
    /// An open gate for the lanes that `wakers` wakes.
    pub(super) fn new(wakers: &Arc<Wakers>) -> Gate {
        Gate {
            word: AtomicU8::new(Passage::Open as u8),
            in_flight: (0..wakers.count()).map(|_| InFlight::default()).collect(),
            keepers: Mutex::default(),
            drained: Condvar::default(),
            wakers: Arc::clone(wakers),
        }
    }

    /// Counts a SIMPLE command of `lane` in, if the gate is open.
    pub(super) fn enter(&self, lane: usize) -> Passage {
        let Some(in_flight) = self.in_flight.get(lane) else { return Passage::Gone };
        in_flight.0.fetch_add(1, Ordering::SeqCst);
        let passage = self.passage();
        if passage != Passage::Open {
            self.leave(lane, Admission::Simple);
        }
        passage
    }

    /// Counts a HEAD OF QUEUE command of `lane` in, past all that wait but a change.
    pub(super) fn enter_at_head(&self, lane: usize) -> Passage {
        let mut keepers = self.keepers();
        let change = keepers.line.iter().any(|waiter| matches!(waiter, Waiter::Change(_)));
        match keepers.passage() {
            gone @ (Passage::Gone | Passage::Quarantined) => return gone,
            _ if change || keepers.holds > 0 => return Passage::Closed,
            _ => keepers.heads += 1,
        }
        self.count_in(lane, 1);
        self.update(&mut keepers);
        Passage::Open
    }

    /// Puts an ORDERED command of `lane` in line, so that younger commands wait. The lane is
    /// woken when [`Gate::take_turn`] may succeed.
    pub(super) fn line_up(&self, lane: usize) {
        let mut keepers = self.keepers();
        keepers.line.push_back(Waiter::Turn(lane));
        self.update(&mut keepers);
    }

    /// Counts the command of `lane` in that is in line, if it is first and nobody is inside.
    pub(super) fn take_turn(&self, lane: usize) -> Passage {
        let mut keepers = self.keepers();
        match keepers.passage() {
            gone @ (Passage::Gone | Passage::Quarantined) => gone,
            _ if keepers.may_take(Waiter::Turn(lane)) && !self.is_busy() => {
                keepers.taken = true;
                self.count_in(lane, 1);
                Passage::Open
            }
            _ => Passage::Closed,
        }
    }

    /// Counts `commands` SIMPLE commands of `lane` in that have to wait, if they need not any more.
    /// Otherwise the lane has a place in line, if there is one, and is woken when it may try
    /// again.
    pub(super) fn share(&self, lane: usize, commands: u32) -> Passage {
        let mut keepers = self.keepers();
        let waiter = Waiter::Share(lane);
        match keepers.passage() {
            Passage::Closed if keepers.heads == 0 && keepers.may_take(waiter) => {
                keepers.line.pop_front();
            }
            Passage::Closed => {
                if keepers.has_turns() && !keepers.line.contains(&waiter) {
                    keepers.line.push_back(waiter);
                }
                return Passage::Closed;
            }
            Passage::Open => {}
            gone => return gone,
        }
        self.count_in(lane, commands);
        self.update(&mut keepers);
        Passage::Open
    }

    /// Gives the place in line up that the SIMPLE commands of `lane` have.
    pub(super) fn waive(&self, lane: usize) {
        self.keep(|keepers| keepers.line.retain(|&waiter| waiter != Waiter::Share(lane)));
    }

    /// Takes the last command of `lane` that is in line out of it.
    pub(super) fn step_out(&self, lane: usize) {
        let mut keepers = self.keepers();
        if let Some(at) = keepers.line.iter().rposition(|&waiter| waiter == Waiter::Turn(lane)) {
            keepers.line.remove(at);
        }
        self.update(&mut keepers);
    }

    /// Counts a command of `lane` out.
    pub(super) fn leave(&self, lane: usize, admission: Admission) {
        let Some(in_flight) = self.in_flight.get(lane) else { return };
        in_flight.0.fetch_sub(1, Ordering::SeqCst);
        if self.passage() == Passage::Open {
            return;
        }
        let mut keepers = self.keepers();
        match admission {
            Admission::Simple => {}
            Admission::Turn => keepers.end_turn(),
            Admission::Head => keepers.heads = keepers.heads.saturating_sub(1),
        }
        self.update(&mut keepers);
    }

    /// Whether commands may pass now.
    pub(super) fn passage(&self) -> Passage {
        Passage::from_word(self.word.load(Ordering::SeqCst))
    }

    /// Keeps all commands out until as many [`Gate::release`]s.
    pub(super) fn hold(&self) {
        self.keep(|keepers| keepers.holds += 1);
    }

    /// Ends a [`Gate::hold`].
    pub(super) fn release(&self) {
        self.keep(|keepers| keepers.holds = keepers.holds.saturating_sub(1));
        // Also those that may now pass others which still keep the gate closed.
        self.wakers.wake_all();
    }

    /// Has all commands told to come later until as many [`Gate::end_quarantine`]s.
    pub(super) fn quarantine(&self) {
        self.keep(|keepers| keepers.quarantines += 1);
    }

    /// Ends a [`Gate::quarantine`].
    pub(super) fn end_quarantine(&self) {
        self.keep(|keepers| keepers.quarantines = keepers.quarantines.saturating_sub(1));
    }

    /// Waits for its turn, does `change`, and lets commands pass again, or for good not at all
    /// where it says [`Passage::Gone`]. Returns `None` without calling `change` if the turn has
    /// not come after `timeout`.
    ///
    /// The caller must not be a lane, whose own commands could then never leave.
    pub(super) fn exclude<T>(
        &self,
        timeout: Duration,
        change: impl FnOnce() -> (T, Passage),
    ) -> Option<T> {
        if !self.wait_for_turn(timeout) {
            return None;
        }
        let (result, passage) = change();
        let mut keepers = self.keepers();
        keepers.end_turn();
        keepers.gone = passage == Passage::Gone;
        self.update(&mut keepers);
        self.wakers.wake_all();
        Some(result)
    }

    fn wait_for_turn(&self, timeout: Duration) -> bool {
        let mut keepers = self.keepers();
        keepers.changes += 1;
        let change = Waiter::Change(keepers.changes);
        keepers.line.push_back(change);
        self.update(&mut keepers);
        let not_yet = |keepers: &mut Keepers| !keepers.may_take(change) || self.is_busy();
        let wait = self.drained.wait_timeout_while(keepers, timeout, not_yet);
        let (mut keepers, waited) = wait.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            keepers.line.retain(|&waiter| waiter != change);
            self.update(&mut keepers);
            self.wakers.wake_all();
            return false;
        }
        keepers.taken = true;
        true
    }

    fn keep(&self, change: impl FnOnce(&mut Keepers)) {
        let mut keepers = self.keepers();
        change(&mut keepers);
        self.update(&mut keepers);
    }

    /// Shows what the keepers now allow, and wakes whom it concerns.
    fn update(&self, keepers: &mut Keepers) {
        if !keepers.has_turns() {
            keepers.line.clear();
        }
        let passage = keepers.passage();
        let before = self.word.swap(passage as u8, Ordering::SeqCst);
        if passage as u8 != before && passage != Passage::Closed {
            self.wakers.wake_all();
        }
        match keepers.line.front() {
            Some(&Waiter::Share(lane)) => self.wakers.wake(lane),
            Some(&Waiter::Turn(lane)) if !keepers.taken && !self.is_busy() => {
                self.wakers.wake(lane);
            }
            Some(Waiter::Change(_)) => self.drained.notify_all(),
            _ => {}
        }
    }

    fn count_in(&self, lane: usize, commands: u32) {
        if let Some(in_flight) = self.in_flight.get(lane) {
            in_flight.0.fetch_add(commands, Ordering::SeqCst);
        }
    }

    /// Whether any command is inside.
    pub(super) fn is_busy(&self) -> bool {
        self.in_flight.iter().any(|lane| lane.0.load(Ordering::SeqCst) != 0)
    }

    fn keepers(&self) -> MutexGuard<'_, Keepers> {
        self.keepers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;

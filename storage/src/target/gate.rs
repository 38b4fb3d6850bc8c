//! Exclusion on one logical unit: many commands at a time, or one exclusive change.
//!
//! Each lane counts its commands in a counter of its own, so lanes do not share a cache line.
//! A command counts itself in and then reads the gate's word; a change stores the word and then
//! reads the counters. Both are sequentially consistent, so at least one sees the other, and the
//! command steps back.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Whether commands may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passage {
    /// They may.
    Open,
    /// They wait until the gate opens again.
    Closed,
    /// The logical unit is gone for good.
    Gone,
}

impl Passage {
    fn from_word(word: u8) -> Passage {
        match word {
            0 => Passage::Open,
            1 => Passage::Closed,
            _ => Passage::Gone,
        }
    }
}

/// Commands that one lane has in flight, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct InFlight(AtomicU32);

/// The gate of one logical unit.
#[derive(Debug)]
pub(super) struct Gate {
    word: AtomicU8,
    in_flight: Box<[InFlight]>,
    waiting: Mutex<()>,
    drained: Condvar,
}

impl Gate {
    /// An open gate for `lanes` lanes.
    pub(super) fn new(lanes: usize) -> Gate {
        Gate {
            word: AtomicU8::new(Passage::Open as u8),
            in_flight: (0..lanes).map(|_| InFlight::default()).collect(),
            waiting: Mutex::default(),
            drained: Condvar::default(),
        }
    }

    /// Counts a command of `lane` in, if the gate is open.
    pub(super) fn enter(&self, lane: usize) -> Passage {
        let Some(in_flight) = self.in_flight.get(lane) else { return Passage::Gone };
        in_flight.0.fetch_add(1, Ordering::SeqCst);
        let passage = self.passage();
        if passage != Passage::Open {
            self.leave(lane);
        }
        passage
    }

    /// Counts a command of `lane` out.
    pub(super) fn leave(&self, lane: usize) {
        let Some(in_flight) = self.in_flight.get(lane) else { return };
        in_flight.0.fetch_sub(1, Ordering::SeqCst);
        if self.passage() != Passage::Open {
            // The closer holds this lock from its last look at the counters until it sleeps.
            drop(self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
            self.drained.notify_all();
        }
    }

    /// Whether commands may pass now.
    pub(super) fn passage(&self) -> Passage {
        Passage::from_word(self.word.load(Ordering::SeqCst))
    }

    /// Keeps commands out, waits until those inside have left, and opens the gate again when
    /// `change` is done, or for good not at all where it says [`Passage::Gone`]. Returns `None`
    /// without calling `change` if they have not left after `timeout`.
    ///
    /// The caller must not be a lane, whose own commands could then never leave; callers take
    /// turns.
    pub(super) fn exclude<T>(
        &self,
        timeout: Duration,
        change: impl FnOnce() -> (T, Passage),
    ) -> Option<T> {
        self.word.store(Passage::Closed as u8, Ordering::SeqCst);
        let (result, passage) = match self.drain(timeout) {
            true => {
                let (result, passage) = change();
                (Some(result), passage)
            }
            false => (None, Passage::Open),
        };
        self.word.store(passage as u8, Ordering::SeqCst);
        result
    }

    /// Waits until no command is inside; says whether that came about.
    fn drain(&self, timeout: Duration) -> bool {
        let guard = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = self.drained.wait_timeout_while(guard, timeout, |()| self.is_busy());
        let (_guard, waited) = wait.unwrap_or_else(PoisonError::into_inner);
        !waited.timed_out()
    }

    fn is_busy(&self) -> bool {
        self.in_flight.iter().any(|lane| lane.0.load(Ordering::SeqCst) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;
    use std::thread;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_change_waits_for_the_commands_inside() {
        let gate = Gate::new(2);
        assert_eq!(gate.enter(1), Passage::Open);
        let changed = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                gate.exclude(LONG, || (changed.store(true, Ordering::SeqCst), Passage::Open))
            });
            while gate.passage() == Passage::Open {
                thread::yield_now();
            }
            assert_eq!(gate.enter(0), Passage::Closed);
            assert!(!changed.load(Ordering::SeqCst));
            gate.leave(1);
        });
        assert!(changed.load(Ordering::SeqCst));
        assert_eq!(gate.enter(0), Passage::Open);
    }

    #[test]
    fn a_change_gives_up_after_its_timeout() {
        let gate = Gate::new(1);
        assert_eq!(gate.enter(0), Passage::Open);
        let change = || -> ((), Passage) { panic!("a command is still inside") };
        assert_eq!(gate.exclude(Duration::from_millis(1), change), None);
        assert_eq!(gate.passage(), Passage::Open);
    }

    #[test]
    fn no_command_is_inside_during_a_change() {
        let gate = Gate::new(2);
        let (inside, stop) = (AtomicU32::new(0), AtomicBool::new(false));
        let command = |lane| {
            while !stop.load(Ordering::Relaxed) {
                if gate.enter(lane) == Passage::Open {
                    inside.fetch_add(1, Ordering::SeqCst);
                    inside.fetch_sub(1, Ordering::SeqCst);
                    gate.leave(lane);
                }
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| command(0));
            scope.spawn(|| command(1));
            for _ in 0..2000 {
                let seen = gate.exclude(LONG, || (inside.load(Ordering::SeqCst), Passage::Open));
                assert_eq!(seen, Some(0));
            }
            stop.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn a_gate_that_is_gone_stays_so() {
        let gate = Gate::new(1);
        gate.exclude(LONG, || ((), Passage::Gone));
        assert_eq!(gate.enter(0), Passage::Gone);
        assert!(!gate.is_busy());
    }
}

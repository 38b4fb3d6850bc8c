//! What a logical unit has done, counted.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters that only grow.
#[derive(Debug, Default)]
pub struct Counters {
    commands: AtomicU64,
    errors: AtomicU64,
    refused: AtomicU64,
    retried: AtomicU64,
    split: AtomicU64,
}

/// What [`Counters`] say at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Commands that were given to the device.
    pub commands: u64,
    /// Those of them that did not end with GOOD or CONDITION MET.
    pub errors: u64,
    /// Commands that were answered here instead of being given to the device.
    pub refused: u64,
    /// Attempts at commands beyond the first.
    pub retried: u64,
    /// Commands that went to the device in pieces.
    pub split: u64,
}

/// One event to be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Command,
    Error,
    Refused,
    Retried,
    Split,
}

impl Counters {
    pub(super) fn count(&self, event: Event) {
        let counter = match event {
            Event::Command => &self.commands,
            Event::Error => &self.errors,
            Event::Refused => &self.refused,
            Event::Retried => &self.retried,
            Event::Split => &self.split,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// What they say now.
    #[must_use]
    pub fn read(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            commands: read(&self.commands),
            errors: read(&self.errors),
            refused: read(&self.refused),
            retried: read(&self.retried),
            split: read(&self.split),
        }
    }
}

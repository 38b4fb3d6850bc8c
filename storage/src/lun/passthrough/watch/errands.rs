//! What has to be asked of a device, each in turn, by a thread that lives as long as there is
//! something to ask: it may wait for its device, and nobody waits for it.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::Watched;

/// A set of errands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted(pub(super) u8);

impl Wanted {
    /// Who is it? And where it is gone, is it back?
    pub(super) const CHECK: Wanted = Wanted(1);
    /// The host has given the device up: nothing of it is to be held.
    pub(super) const LOST: Wanted = Wanted(1 << 5);
    /// What does it say about itself?
    pub(super) const REFRESH: Wanted = Wanted(1 << 1);
    /// The same, and the initiator is told that limits changed.
    pub(super) const LIMITS: Wanted = Wanted(1 << 2);
    /// The same, and the initiator is told that the capacity changed.
    pub(super) const CAPACITY: Wanted = Wanted(1 << 3);
    /// The same, and the initiator, whom the device itself has told that its parameters changed,
    /// has its driver look at them.
    pub(super) const HEARD_OF_PARAMETERS: Wanted = Wanted(1 << 6);
    /// The same of its capacity.
    pub(super) const HEARD_OF_CAPACITY: Wanted = Wanted(1 << 7);
    /// All for which the device is examined.
    pub(super) const ABOUT_IT: Wanted = Wanted(
        Wanted::REFRESH.0
            | Wanted::LIMITS.0
            | Wanted::CAPACITY.0
            | Wanted::HEARD_OF_PARAMETERS.0
            | Wanted::HEARD_OF_CAPACITY.0,
    );
    /// Who is registered, and who holds the reservation?
    pub(super) const RESERVATIONS: Wanted = Wanted(1 << 4);

    /// What has become of the paths?
    pub(super) const PATHS: Wanted = Wanted(1 << 6);

    pub(super) fn and(self, other: Wanted) -> Wanted {
        Wanted(self.0 | other.0)
    }

    pub(super) fn has(self, other: Wanted) -> bool {
        self.0 & other.0 != 0
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// The errands of one logical unit.
#[derive(Debug, Default)]
pub(super) struct Errands {
    wanted: AtomicU8,
    postponed: AtomicU8,
    has_thread: Mutex<bool>,
    idle: Condvar,
}

impl Errands {
    /// Bytes of the thread's stack.
    const STACK: usize = 256 << 10;

    /// Wants these done, by a thread that calls `carry_out`.
    pub(super) fn want(
        &self,
        wanted: Wanted,
        unit: &Arc<dyn Watched>,
        carry_out: fn(&dyn Watched, Wanted),
    ) {
        self.wanted.fetch_or(wanted.0, Ordering::AcqRel);
        let mut has_thread = self.lock();
        if *has_thread || self.wanted.load(Ordering::Acquire) == 0 {
            return;
        }
        let at_work = Arc::clone(unit);
        let thread = thread::Builder::new().name("lun-watch".into()).stack_size(Errands::STACK);
        match thread.spawn(move || Errands::work(&at_work, carry_out)) {
            Ok(_) => *has_thread = true,
            // They stay wanted; the next one to want something tries again.
            Err(error) => log::warn!("{}: no thread to look after it: {error}", unit.name()),
        }
    }

    /// Wants these done once there is reason to hope for more.
    pub(super) fn postpone(&self, wanted: Wanted) {
        self.postponed.fetch_or(wanted.0, Ordering::AcqRel);
    }

    pub(super) fn take_postponed(&self) -> Wanted {
        Wanted(self.postponed.swap(0, Ordering::AcqRel))
    }

    fn work(unit: &Arc<dyn Watched>, carry_out: fn(&dyn Watched, Wanted)) {
        let errands = &unit.watch().errands;
        loop {
            let wanted = Wanted(errands.wanted.swap(0, Ordering::AcqRel));
            if !wanted.is_empty() {
                carry_out(unit.as_ref(), wanted);
                continue;
            }
            let mut has_thread = errands.lock();
            if errands.wanted.load(Ordering::Acquire) == 0 {
                *has_thread = false;
                errands.idle.notify_all();
                return;
            }
        }
    }

    /// Waits until all is done that was wanted.
    #[cfg(test)]
    pub(super) fn settle(&self) {
        let idle = self.idle.wait_while(self.lock(), |has_thread| *has_thread);
        drop(idle);
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.has_thread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

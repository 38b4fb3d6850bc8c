//! Why a guest stopped, and how the thread that noticed tells the main loop.

use std::io;
use std::sync::{Mutex, PoisonError};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Why a guest no longer runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It powered off.
    PowerOff,
    /// It asked for a reset.
    Reset,
    /// It cannot go on: what happened, where.
    Crash(String),
    /// The VMM cannot go on: what happened, where.
    Failure(String),
}

/// Where threads leave the reason why the guest stopped. The first reason stays.
#[derive(Debug)]
pub(crate) struct ExitReport {
    event: EventFd,
    first: Mutex<Option<Exit>>,
}

impl ExitReport {
    /// A report with nothing in it.
    ///
    /// # Errors
    /// When the host has no file descriptor left.
    pub(crate) fn new() -> io::Result<Self> {
        let event = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
        Ok(ExitReport { event, first: Mutex::new(None) })
    }

    /// Readable once there is, or may be, something to [`take`](Self::take).
    pub(crate) fn event(&self) -> &EventFd {
        &self.event
    }

    /// Leaves `exit`, unless there is an earlier one.
    pub(crate) fn set(&self, exit: Exit) {
        self.lock().get_or_insert(exit);
        if let Err(error) = self.event.write(1) {
            log::error!("the main loop cannot be told that the guest stopped: {error}");
        }
    }

    /// Takes the reason, if there is one.
    pub(crate) fn take(&self) -> Option<Exit> {
        self.lock().take()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Exit>> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_stays() {
        let report = ExitReport::new().unwrap();
        assert_eq!(report.take(), None);
        report.set(Exit::Crash("first".into()));
        report.set(Exit::PowerOff);
        report.event().read().unwrap();
        assert_eq!(report.take(), Some(Exit::Crash("first".into())));
    }
}

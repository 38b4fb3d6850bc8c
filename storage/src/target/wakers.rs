//! The events by which the lanes' threads are told to look at what is there for them.

use std::io;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// One event for each lane.
#[derive(Debug)]
pub(super) struct Wakers(Box<[EventFd]>);

impl Wakers {
    pub(super) fn new(lanes: u16) -> io::Result<Wakers> {
        let event = |_| EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC);
        Ok(Wakers((0..lanes).map(event).collect::<Result<_, _>>()?))
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// The event of `lane`.
    pub(super) fn event(&self, lane: usize) -> Option<&EventFd> {
        self.0.get(lane)
    }

    pub(super) fn wake(&self, lane: usize) {
        if let Some(Err(error)) = self.event(lane).map(|event| event.write(1)) {
            // A full counter has woken it already.
            log::debug!("request queue {lane} is not woken: {error}");
        }
    }

    pub(super) fn wake_all(&self) {
        (0..self.0.len()).for_each(|lane| self.wake(lane));
    }
}

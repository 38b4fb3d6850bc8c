//! Waiting for doorbells where there is no ring.

use std::io;
use std::os::fd::AsRawFd;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::Wakeups;

/// An epoll instance over a handful of events.
#[derive(Debug)]
pub(super) struct Poller {
    epoll: Epoll,
}

impl Poller {
    pub(super) fn new() -> io::Result<Poller> {
        Ok(Poller { epoll: Epoll::new()? })
    }

    pub(super) fn watch(&mut self, event: &EventFd, bit: u8) -> io::Result<()> {
        let interest = EventSet::IN | EventSet::EDGE_TRIGGERED;
        let entry = EpollEvent::new(interest, u64::from(bit));
        self.epoll.ctl(ControlOperation::Add, event.as_raw_fd(), entry)
    }

    pub(super) fn wait(&mut self, sleep: bool) -> io::Result<Wakeups> {
        let timeout = if sleep { -1 } else { 0 };
        let mut ready = [EpollEvent::default(); 8];
        match self.epoll.wait(timeout, &mut ready) {
            Ok(count) => Ok(Wakeups(
                ready
                    .iter()
                    .take(count)
                    .fold(0, |bits, event| bits | u8::try_from(event.data()).unwrap_or(0)),
            )),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Wakeups::default()),
            Err(error) => Err(error),
        }
    }
}

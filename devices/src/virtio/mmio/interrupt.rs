//! The one interrupt of a virtio-mmio device, and the events behind it.
//!
//! Follows virtio 1.2, 4.2.2 (`InterruptStatus`, `InterruptACK`) and 4.2.3.4. Atomics only:
//! devices interrupt from their own threads, and a driver reads and acknowledges the events while
//! a reset keeps the other registers busy.

use std::sync::atomic::{AtomicU32, Ordering};

use vmm_sys_util::eventfd::EventFd;

use crate::interrupt::Interrupt;
use crate::virtio::state::Transport;

/// Used Buffer Notification.
const QUEUE: u32 = 1 << 0;
/// Configuration Change Notification.
const CONFIG: u32 = 1 << 1;

/// The events that were not acknowledged, and the line that tells of them.
pub(super) struct MmioInterrupt {
    status: AtomicU32,
    line: EventFd,
}

impl MmioInterrupt {
    /// An interrupt that pulses its line by each write to `line`.
    pub(super) fn new(line: EventFd) -> MmioInterrupt {
        MmioInterrupt { status: AtomicU32::new(0), line }
    }

    /// `InterruptStatus`.
    pub(super) fn status(&self) -> u32 {
        self.status.load(Ordering::Acquire)
    }

    /// `InterruptACK`.
    pub(super) fn acknowledge(&self, events: u32) {
        self.status.fetch_and(!events, Ordering::AcqRel);
    }

    /// The line is edge-triggered, so the driver may look as soon as it is pulsed, and is not
    /// told again: the event has to be there first.
    fn raise(&self, event: u32) {
        self.status.fetch_or(event, Ordering::AcqRel);
        if let Err(error) = self.line.write(1) {
            log::debug!("virtio-mmio interrupt: {error}");
        }
    }
}

impl Interrupt for MmioInterrupt {
    fn queue(&self, _: u16) {
        self.raise(QUEUE);
    }

    fn config(&self) {
        self.raise(CONFIG);
    }
}

impl Transport for MmioInterrupt {
    fn reset(&self) {
        self.acknowledge(u32::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn an_event_is_there_before_its_edge() {
        // A write to a full event blocks until the event is read.
        let line = EventFd::new(0).unwrap();
        line.write(u64::MAX - 1).unwrap();
        let interrupt = MmioInterrupt::new(line.try_clone().unwrap());
        let start = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| interrupt.config());
            while interrupt.status() == 0 && start.elapsed() < Duration::from_secs(20) {
                std::thread::yield_now();
            }
            let seen = interrupt.status();
            line.read().unwrap();
            assert_eq!(seen, CONFIG);
        });
        assert_eq!(line.read().unwrap(), 1);
    }
}

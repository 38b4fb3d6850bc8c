//! pvpanic: the port by which a guest tells that its kernel panicked.
//!
//! Follows QEMU's specification of the device (docs/specs/pvpanic), which Linux has a driver for.
//! What becomes of a guest that panicked is the machine's affair.

use std::fmt;

use crate::bus::BusDevice;

/// The number of I/O ports.
pub const PORTS: u64 = 1;

const PANICKED: u8 = 1 << 0;
const CRASH_LOADED: u8 = 1 << 1;

/// What a guest can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PanicEvent {
    /// It panicked and cannot go on.
    Panicked,
    /// It panicked, and a kernel that it had ready for that takes over.
    CrashLoaded,
}

/// The port.
pub struct Pvpanic(Box<dyn Fn(PanicEvent) + Send + Sync>);

impl Pvpanic {
    /// A port that calls `tell`, which must not block, whenever the guest writes an event to it.
    #[must_use]
    pub fn new(tell: impl Fn(PanicEvent) + Send + Sync + 'static) -> Pvpanic {
        Pvpanic(Box::new(tell))
    }
}

impl BusDevice for Pvpanic {
    /// The events that are understood.
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(PANICKED | CRASH_LOADED);
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        match data.first() {
            Some(event) if event & PANICKED != 0 => (self.0)(PanicEvent::Panicked),
            Some(event) if event & CRASH_LOADED != 0 => (self.0)(PanicEvent::CrashLoaded),
            _ => {}
        }
    }
}

impl fmt::Debug for Pvpanic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pvpanic")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn the_events_that_it_understands_are_told_and_others_are_not() {
        let (sender, told) = mpsc::channel();
        let port = Pvpanic::new(move |event| sender.send(event).unwrap());
        let mut understood = [0];
        port.read(0, &mut understood);
        assert_eq!(understood, [0b11]);
        for (written, expected) in [
            (0, None),
            (0b100, None),
            (0b1, Some(PanicEvent::Panicked)),
            (0b10, Some(PanicEvent::CrashLoaded)),
            (0xff, Some(PanicEvent::Panicked)),
        ] {
            port.write(0, &[written]);
            assert_eq!(told.try_recv().ok(), expected, "{written:#b}");
        }
    }
}

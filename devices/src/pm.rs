//! Power management: the registers by which a guest asks to be switched off or reset.
//!
//! ACPI 6.5, 4.8.3.7 (sleep control and status of hardware-reduced ACPI) and 4.8.3.6 (the reset
//! register), the reset control register of PC chipsets at port 0xcf9, and as much of an i8042 as
//! resets. The addresses, and the tables that name them, are the machine's affair.
//!
//! A register only records the wish and signals an event; the first wish counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use vmm_sys_util::eventfd::EventFd;

use crate::bus::BusDevice;

/// The sleep type that `_S5` has to name.
pub const SLEEP_TYPE_S5: u8 = 5;
/// Bytes of [`SleepRegisters`]: the sleep control register, then the sleep status register.
pub const SLEEP_REGISTERS: u64 = 2;
/// The I/O port of [`ResetControl`], which FADT may name as its reset register.
pub const RESET_CONTROL_PORT: u64 = 0xcf9;
/// The value that resets when written to [`ResetControl`], for FADT's `RESET_VALUE`.
pub const RESET_CONTROL_VALUE: u8 = RESET_SYSTEM | RESET_CPU;
/// The I/O port of [`I8042`]'s data register.
pub const I8042_PORT: u64 = 0x60;
/// The I/O ports of [`I8042`], with the command and status register as the last.
pub const I8042_PORTS: u64 = 5;

const SLEEP_ENABLE: u8 = 1 << 5;
const RESET_SYSTEM: u8 = 1 << 1;
const RESET_CPU: u8 = 1 << 2;
const I8042_PULSE_RESET: u8 = 0xfe;
const I8042_DATA: u64 = 0;
const I8042_STATUS: u64 = 4;

/// What a guest asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerRequest {
    /// To be switched off.
    PowerOff = 1,
    /// To be reset.
    Reset = 2,
}

/// Where the requests of the registers arrive.
#[derive(Debug)]
pub struct Power {
    request: AtomicU8,
    event: EventFd,
}

impl Power {
    /// No request yet; `event` will be signalled when there is one.
    #[must_use]
    pub fn new(event: EventFd) -> Power {
        Power { request: AtomicU8::new(0), event }
    }

    /// The guest's request. It stays until the machine is built anew.
    pub fn request(&self) -> Option<PowerRequest> {
        let requests = [PowerRequest::PowerOff, PowerRequest::Reset];
        let request = self.request.load(Ordering::Acquire);
        requests.into_iter().find(|known| *known as u8 == request)
    }

    fn ask(&self, request: PowerRequest) {
        let order = (Ordering::AcqRel, Ordering::Acquire);
        let first = self.request.compare_exchange(0, request as u8, order.0, order.1).is_ok();
        if let Some(error) = first.then(|| self.event.write(1).err()).flatten() {
            log::error!("the guest's {request:?} cannot be signalled: {error}");
        }
    }
}

/// The sleep control and sleep status registers of hardware-reduced ACPI.
#[derive(Debug)]
pub struct SleepRegisters(Arc<Power>);

impl SleepRegisters {
    /// Registers that ask `power` to switch off.
    #[must_use]
    pub fn new(power: Arc<Power>) -> SleepRegisters {
        SleepRegisters(power)
    }
}

impl BusDevice for SleepRegisters {
    /// The sleep type is write-only, and the guest never wakes up.
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let (0, Some(control)) = (offset, data.first()) {
            let sleep_type = control >> 2 & 0b111;
            if control & SLEEP_ENABLE != 0 && sleep_type == SLEEP_TYPE_S5 {
                self.0.ask(PowerRequest::PowerOff);
            }
        }
    }
}

/// The reset control register of PC chipsets: setting bit 2 resets.
#[derive(Debug)]
pub struct ResetControl {
    power: Arc<Power>,
    /// Of the only register that keeps its value: guests set the kind of reset first.
    value: AtomicU8,
    offset: u64,
}

impl ResetControl {
    /// A register that asks `power` to reset, at `offset` of the range that it is reached by.
    #[must_use]
    pub fn new(power: Arc<Power>, offset: u64) -> ResetControl {
        ResetControl { power, value: AtomicU8::new(0), offset }
    }
}

impl BusDevice for ResetControl {
    fn read(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in (offset..=u64::MAX).zip(data) {
            let value = self.value.load(Ordering::Relaxed);
            *byte = if at == self.offset { value } else { 0xff };
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let here = (offset..=u64::MAX).zip(data).find(|(at, _)| *at == self.offset);
        if let Some((_, value)) = here {
            self.value.store(value & !RESET_CPU, Ordering::Relaxed);
            if value & RESET_CPU != 0 {
                self.power.ask(PowerRequest::Reset);
            }
        }
    }
}

/// What is left of a keyboard controller: no keyboard, an output buffer that is always empty,
/// and the command that pulses the reset line.
#[derive(Debug)]
pub struct I8042(Arc<Power>);

impl I8042 {
    /// A controller that asks `power` to reset.
    #[must_use]
    pub fn new(power: Arc<Power>) -> I8042 {
        I8042(power)
    }
}

impl BusDevice for I8042 {
    fn read(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in (offset..=u64::MAX).zip(data) {
            *byte = if matches!(at, I8042_DATA | I8042_STATUS) { 0 } else { 0xff };
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if (offset, data.first()) == (I8042_STATUS, Some(&I8042_PULSE_RESET)) {
            self.0.ask(PowerRequest::Reset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    const SLEEP_S5: u8 = SLEEP_TYPE_S5 << 2 | SLEEP_ENABLE;

    fn power() -> (Arc<Power>, EventFd) {
        let event = EventFd::new(EFD_NONBLOCK).unwrap();
        (Arc::new(Power::new(event.try_clone().unwrap())), event)
    }

    fn read(device: &dyn BusDevice, offset: u64) -> u8 {
        let mut data = [0xaa];
        device.read(offset, &mut data);
        data[0]
    }

    #[test]
    fn entering_s5_switches_off() {
        let (power, event) = power();
        let sleep = SleepRegisters::new(power.clone());
        sleep.write(1, &[SLEEP_S5]);
        for control in [0, SLEEP_TYPE_S5 << 2, SLEEP_ENABLE, 3 << 2 | SLEEP_ENABLE] {
            sleep.write(0, &[control]);
        }
        assert_eq!(power.request(), None);
        assert!(event.read().is_err());
        sleep.write(0, &[SLEEP_S5]);
        assert_eq!(power.request(), Some(PowerRequest::PowerOff));
        assert_eq!(event.read().unwrap(), 1);
        assert_eq!((read(&sleep, 0), read(&sleep, 1)), (0, 0));
    }

    #[test]
    fn reset_control_resets_when_bit_2_is_set() {
        let (power, event) = power();
        let reset = ResetControl::new(power.clone(), 1);
        reset.write(1, &[RESET_SYSTEM]);
        reset.write(0, &[RESET_CONTROL_VALUE]);
        assert_eq!((power.request(), read(&reset, 1)), (None, RESET_SYSTEM));
        reset.write(1, &[RESET_CONTROL_VALUE]);
        assert_eq!(power.request(), Some(PowerRequest::Reset));
        assert_eq!((event.read().unwrap(), read(&reset, 0)), (1, 0xff));
    }

    #[test]
    fn the_keyboard_controller_is_ready_and_resets() {
        let (power, event) = power();
        let i8042 = I8042::new(power.clone());
        assert_eq!((read(&i8042, 0), read(&i8042, 4), read(&i8042, 1)), (0, 0, 0xff));
        i8042.write(0, &[I8042_PULSE_RESET]);
        i8042.write(4, &[0xaa]);
        assert_eq!(power.request(), None);
        i8042.write(4, &[I8042_PULSE_RESET]);
        assert_eq!(power.request(), Some(PowerRequest::Reset));
        assert!(event.read().is_ok());
    }

    #[test]
    fn the_first_request_counts() {
        let (power, event) = power();
        SleepRegisters::new(power.clone()).write(0, &[SLEEP_S5]);
        I8042::new(power.clone()).write(4, &[I8042_PULSE_RESET]);
        assert_eq!(power.request(), Some(PowerRequest::PowerOff));
        assert_eq!(event.read().unwrap(), 1);
    }
}

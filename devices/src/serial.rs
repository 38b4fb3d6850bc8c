//! COM port: a 16550A, 8 I/O ports wide.
//!
//! The registers are vm-superio's (National Semiconductor PC16550D). This file gives them a lock,
//! an interrupt and a way to wait for room in the receive FIFO; it knows neither where the bytes
//! go nor who types them. Three deviations from the chip are deliberate: output never waits, the
//! receive FIFO is not cleared by the FIFO control register, and nothing is received before the
//! guest listens. So what was piped into a console before the guest opened it still arrives: a
//! driver that probes a port, or sets it up, reads and drops what has been received.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use vm_superio::serial::SerialEvents;
use vm_superio::{Serial as Uart, Trigger};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::BusDevice;

/// The number of I/O ports.
pub const PORTS: u64 = 8;

const INTERRUPT_ENABLE: u8 = 1;
const RECEIVED_DATA_AVAILABLE: u8 = 1;
const LINE_CONTROL: u8 = 3;
const DIVISOR_LATCH: u8 = 0x80;
const MODEM_CONTROL: u8 = 4;
const LINE_STATUS: u8 = 5;

/// A COM port.
pub struct Serial(Mutex<Port>);

struct Port {
    uart: Uart<Irq, Room, Box<dyn Write + Send>>,
    listener: Listener,
}

/// Whether the guest listens: from the day on which it enables the interrupt for received data or
/// polls for it.
#[derive(Debug, Default)]
struct Listener {
    listens: bool,
    /// The interrupt is enabled, and no other register was accessed since. Linux's probe enables it
    /// to see whether the register is there, and disables it at once.
    enabled: bool,
    divisor_latch: bool,
    /// How often the guest has read the line status with nothing else in between.
    polls: u32,
}

impl Listener {
    /// Who reads the line status so often in a row waits for data: output never has to wait.
    const POLLS: u32 = 16;

    fn on_read(&mut self, register: u8) {
        self.polls = if register == LINE_STATUS { self.polls.saturating_add(1) } else { 0 };
        self.conclude(register);
    }

    fn on_write(&mut self, register: u8, value: u8) {
        self.polls = 0;
        match register {
            LINE_CONTROL => self.divisor_latch = value & DIVISOR_LATCH != 0,
            INTERRUPT_ENABLE if !self.divisor_latch => {
                self.enabled = value & RECEIVED_DATA_AVAILABLE != 0;
            }
            _ => {}
        }
        self.conclude(register);
    }

    fn conclude(&mut self, accessed: u8) {
        let kept = self.enabled && accessed != INTERRUPT_ENABLE;
        self.listens |= kept || self.polls >= Self::POLLS;
    }
}

impl Serial {
    /// A port that interrupts through `irq` and writes what the guest sends to `output`, byte by
    /// byte, flushing each. An error of `output` loses the byte, and a slow `output` delays the
    /// guest.
    ///
    /// `room` is signalled whenever the receive FIFO may have got room: when the guest drained
    /// it, began to listen, or left the loopback mode in which nothing is received.
    #[must_use]
    pub fn new(irq: EventFd, room: EventFd, output: Box<dyn Write + Send>) -> Serial {
        let uart = Uart::with_events(Irq(irq), Room(room), output);
        Serial(Mutex::new(Port { uart, listener: Listener::default() }))
    }

    /// Puts as many of `bytes` into the receive FIFO as it takes, and returns their number. The
    /// rest may be offered again after `room` was signalled.
    pub fn enqueue(&self, bytes: &[u8]) -> usize {
        let Port { uart, listener } = &mut *self.port();
        if !listener.listens {
            return 0;
        }
        let before = uart.fifo_capacity();
        // An error after the bytes went in only says that the interrupt was lost.
        match uart.enqueue_raw_bytes(bytes) {
            Ok(taken) => taken,
            Err(_) => before - uart.fifo_capacity(),
        }
    }

    fn port(&self) -> MutexGuard<'_, Port> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Port {
    fn read(&mut self, register: u8) -> u8 {
        self.observe(|listener| listener.on_read(register));
        self.uart.read(register)
    }

    fn write(&mut self, register: u8, value: u8) {
        // What the host does with its output is no affair of the guest's.
        let _ = self.uart.write(register, value);
        self.observe(|listener| listener.on_write(register, value));
        if register == MODEM_CONTROL {
            self.uart.events().in_buffer_empty();
        }
    }

    fn observe(&mut self, access: impl FnOnce(&mut Listener)) {
        let before = self.listener.listens;
        access(&mut self.listener);
        if self.listener.listens && !before {
            self.uart.events().in_buffer_empty();
        }
    }
}

impl BusDevice for Serial {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut port = self.port();
        for (offset, byte) in (offset..=u64::MAX).zip(data) {
            *byte = register(offset).map_or(0xff, |register| port.read(register));
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut port = self.port();
        for (register, byte) in (offset..=u64::MAX).map_while(register).zip(data) {
            port.write(register, *byte);
        }
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serial").finish_non_exhaustive()
    }
}

fn register(offset: u64) -> Option<u8> {
    u8::try_from(offset).ok().filter(|register| u64::from(*register) < PORTS)
}

struct Irq(EventFd);

impl Trigger for Irq {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Tells that the receive FIFO may have room.
struct Room(EventFd);

impl SerialEvents for Room {
    fn buffer_read(&self) {}

    fn out_byte(&self) {}

    fn tx_lost_byte(&self) {}

    fn in_buffer_empty(&self) {
        // A full counter is a signal already.
        let _ = self.0.write(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    const DATA: u8 = 0;
    const DATA_READY: u8 = 1;
    const LOOPBACK: u8 = 0x10;

    #[derive(Clone, Default)]
    struct Output(Arc<Mutex<Vec<u8>>>);

    impl Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Broken;

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    struct TestPort {
        serial: Serial,
        irq: EventFd,
        room: EventFd,
    }

    fn port(output: Box<dyn Write + Send>) -> TestPort {
        let irq = EventFd::new(EFD_NONBLOCK).unwrap();
        let room = EventFd::new(EFD_NONBLOCK).unwrap();
        let serial = Serial::new(irq.try_clone().unwrap(), room.try_clone().unwrap(), output);
        TestPort { serial, irq, room }
    }

    impl TestPort {
        fn read(&self, register: u8) -> u8 {
            let mut data = [0];
            self.serial.read(register.into(), &mut data);
            data[0]
        }

        fn write(&self, register: u8, value: u8) {
            self.serial.write(register.into(), &[value]);
        }

        /// As a driver does that opens the port.
        fn listen(&self) {
            self.write(INTERRUPT_ENABLE, 1);
            self.write(LINE_CONTROL, 3);
        }
    }

    #[test]
    fn what_the_guest_sends_is_written() {
        let output = Output::default();
        let port = port(Box::new(output.clone()));
        for byte in b"vmm" {
            port.write(DATA, *byte);
        }
        assert_eq!(*output.0.lock().unwrap(), b"vmm");
    }

    #[test]
    fn an_output_that_fails_does_not_hold_up_the_guest() {
        let port = port(Box::new(Broken));
        port.write(INTERRUPT_ENABLE, 2);
        port.irq.read().unwrap();
        port.read(2);
        port.write(DATA, b'x');
        assert_eq!(port.irq.read().unwrap(), 1, "the transmitter is empty again");
    }

    #[test]
    fn the_fifo_takes_what_fits_and_tells_when_there_is_room() {
        let port = port(Box::new(io::sink()));
        port.listen();
        port.room.read().unwrap();
        let input: Vec<u8> = (0..100).collect();
        let taken = port.serial.enqueue(&input);
        assert!((16..100).contains(&taken), "{taken}");
        assert_eq!(port.serial.enqueue(&input[taken..]), 0);
        assert!(port.irq.read().is_ok());
        for byte in &input[..taken - 1] {
            assert_eq!(port.read(DATA), *byte);
        }
        assert!(port.room.read().is_err(), "one byte is left");
        assert_eq!(port.read(LINE_STATUS) & DATA_READY, DATA_READY);
        assert_eq!(port.read(DATA), input[taken - 1]);
        assert!(port.room.read().is_ok());
        assert_eq!(port.read(LINE_STATUS) & DATA_READY, 0);
        assert_eq!(port.serial.enqueue(&input[taken..]), 100 - taken);
    }

    #[test]
    fn nothing_is_received_before_the_guest_listens() {
        let port = port(Box::new(io::sink()));
        assert_eq!(port.serial.enqueue(b"early"), 0);
        // What Linux does to find out what is there (8250_port.c, autoconfig), and to open it.
        for value in [0, 0x0f, 0] {
            port.write(INTERRUPT_ENABLE, value);
            port.read(INTERRUPT_ENABLE);
        }
        port.write(LINE_CONTROL, DIVISOR_LATCH);
        port.write(INTERRUPT_ENABLE, 1);
        port.write(LINE_CONTROL, 3);
        for register in [LINE_STATUS, DATA, 2, 6, LINE_STATUS, DATA, 2, 6] {
            assert_eq!(port.serial.enqueue(b"early"), 0);
            port.read(register);
        }
        let _ = port.room.read();
        port.listen();
        assert!(port.room.read().is_ok());
        assert_eq!(port.serial.enqueue(b"early"), 5);
        // While it prints, the driver of Linux masks its interrupts.
        port.write(INTERRUPT_ENABLE, 0);
        assert_eq!(port.serial.enqueue(b"late"), 4);
    }

    #[test]
    fn a_guest_that_polls_listens() {
        let port = port(Box::new(io::sink()));
        // One that prints looks each time whether it may.
        for byte in b"printing, and not listening" {
            port.read(LINE_STATUS);
            port.write(DATA, *byte);
        }
        assert_eq!(port.serial.enqueue(b"x"), 0);
        for _ in 0..Listener::POLLS {
            port.read(LINE_STATUS);
        }
        assert!(port.room.read().is_ok());
        assert_eq!(port.serial.enqueue(b"x"), 1);
    }

    #[test]
    fn leaving_loopback_tells_that_there_is_room() {
        let port = port(Box::new(io::sink()));
        port.listen();
        port.write(MODEM_CONTROL, LOOPBACK);
        assert_eq!(port.serial.enqueue(b"lost?"), 0);
        let _ = port.room.read();
        port.write(MODEM_CONTROL, 0);
        assert!(port.room.read().is_ok());
        assert_eq!(port.serial.enqueue(b"lost?"), 5);
    }

    #[test]
    fn accesses_of_odd_widths_and_places_are_harmless() {
        let port = port(Box::new(io::sink()));
        let mut data = [0; 8];
        port.serial.read(4, &mut data);
        assert_eq!(data[4..], [0xff; 4]);
        port.serial.write(7, &[1, 2, 3, 4]);
        port.serial.write(u64::MAX, &[1, 2]);
        port.serial.read(256, &mut data);
        assert_eq!((data, port.read(7)), ([0xff; 8], 1));
    }
}

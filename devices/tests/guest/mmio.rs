//! virtio over MMIO as a driver meets it (virtio 1.2, 4.2).

use std::sync::Arc;

use devices::virtio::VirtioDevice;
use devices::virtio::mmio::{VirtioMmio, WINDOW_SIZE};
use devices::virtio::state::QueueArea;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::machine::Machine;
use super::registers::{Events, Register, Registers};

/// Where the window of the tests' device lies.
pub(crate) const BASE: u64 = 0xd000_0000;

/// Offsets of the registers.
pub(crate) mod register {
    pub(crate) const MAGIC_VALUE: u64 = 0x000;
    pub(crate) const VERSION: u64 = 0x004;
    pub(crate) const DEVICE_ID: u64 = 0x008;
    pub(crate) const VENDOR_ID: u64 = 0x00c;
    pub(crate) const DEVICE_FEATURES: u64 = 0x010;
    pub(crate) const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub(crate) const DRIVER_FEATURES: u64 = 0x020;
    pub(crate) const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub(crate) const QUEUE_SEL: u64 = 0x030;
    pub(crate) const QUEUE_NUM_MAX: u64 = 0x034;
    pub(crate) const QUEUE_NUM: u64 = 0x038;
    pub(crate) const QUEUE_READY: u64 = 0x044;
    pub(crate) const QUEUE_NOTIFY: u64 = 0x050;
    pub(crate) const INTERRUPT_STATUS: u64 = 0x060;
    pub(crate) const INTERRUPT_ACK: u64 = 0x064;
    pub(crate) const STATUS: u64 = 0x070;
    pub(crate) const QUEUE_DESC: u64 = 0x080;
    pub(crate) const QUEUE_DRIVER: u64 = 0x090;
    pub(crate) const QUEUE_DEVICE: u64 = 0x0a0;
    pub(crate) const SHM_SEL: u64 = 0x0ac;
    pub(crate) const SHM_LEN: u64 = 0x0b0;
    pub(crate) const SHM_BASE: u64 = 0x0b8;
    pub(crate) const QUEUE_RESET: u64 = 0x0c0;
    pub(crate) const CONFIG_GENERATION: u64 = 0x0fc;
    pub(crate) const CONFIG: u64 = 0x100;
}

/// The driver of a device at [`BASE`].
pub(crate) struct Mmio {
    machine: Machine,
    line: EventFd,
}

impl Mmio {
    pub(crate) fn probe(machine: Machine, device: Box<dyn VirtioDevice>) -> Mmio {
        let line = EventFd::new(EFD_NONBLOCK).unwrap();
        let (memory, platform) = (machine.memory.clone(), machine.platform.clone());
        let device =
            VirtioMmio::new(device, memory, platform, BASE, line.try_clone().unwrap()).unwrap();
        machine.mmio.insert(BASE, WINDOW_SIZE, Arc::new(device)).unwrap();
        let driver = Mmio { machine, line };
        assert_eq!(driver.get(register::MAGIC_VALUE).to_le_bytes(), *b"virt");
        assert_eq!(driver.get(register::VERSION), 2);
        assert_eq!(driver.get(register::DEVICE_ID), 8);
        driver
    }

    pub(crate) fn get(&self, register: u64) -> u32 {
        self.read(register)
    }

    pub(crate) fn set(&self, register: u64, value: u32) {
        self.write(register, value);
    }

    pub(crate) fn read<T: Register>(&self, offset: u64) -> T {
        T::read(|data| self.machine.read(BASE + offset, data))
    }

    pub(crate) fn write<T: Register>(&self, offset: u64, value: T) {
        self.machine.write(BASE + offset, &value.bytes());
    }

    /// How often the line was pulsed since the last look.
    pub(crate) fn pulses(&self) -> u64 {
        self.line.read().unwrap_or(0)
    }
}

impl Registers for Mmio {
    fn transport(&self) -> &'static str {
        "MMIO"
    }

    fn machine(&self) -> &Machine {
        &self.machine
    }

    fn window(&self) -> (u64, u64) {
        (BASE, WINDOW_SIZE)
    }

    fn status(&self) -> u8 {
        u8::try_from(self.get(register::STATUS)).unwrap()
    }

    fn set_status(&self, status: u8) {
        self.set(register::STATUS, status.into());
    }

    fn device_features(&self, window: u32) -> u32 {
        self.set(register::DEVICE_FEATURES_SEL, window);
        self.get(register::DEVICE_FEATURES)
    }

    fn set_driver_features(&self, window: u32, features: u32) {
        self.set(register::DRIVER_FEATURES_SEL, window);
        self.set(register::DRIVER_FEATURES, features);
    }

    fn queue_count(&self) -> u16 {
        let exists = |index: &u16| {
            self.select_queue(*index);
            self.queue_size() > 0
        };
        u16::try_from((0..u16::MAX).take_while(exists).count()).unwrap()
    }

    fn select_queue(&self, index: u16) {
        self.set(register::QUEUE_SEL, index.into());
    }

    fn queue_size(&self) -> u32 {
        self.get(register::QUEUE_NUM_MAX)
    }

    fn set_queue_size(&self, size: u16) {
        self.set(register::QUEUE_NUM, size.into());
    }

    fn set_queue_area(&self, area: QueueArea, address: u64) {
        let low = match area {
            QueueArea::Descriptor => register::QUEUE_DESC,
            QueueArea::Driver => register::QUEUE_DRIVER,
            QueueArea::Device => register::QUEUE_DEVICE,
        };
        self.set(low, u32::try_from(address & 0xffff_ffff).unwrap());
        self.set(low + 4, u32::try_from(address >> 32).unwrap());
    }

    fn queue_ready(&self) -> bool {
        self.get(register::QUEUE_READY) == 1
    }

    fn set_queue_ready(&self, ready: bool) {
        self.set(register::QUEUE_READY, ready.into());
    }

    fn generation(&self) -> u32 {
        self.get(register::CONFIG_GENERATION)
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.machine.read(BASE + register::CONFIG + offset, data);
    }

    fn write_config(&self, offset: u64, data: &[u8]) {
        self.machine.write(BASE + register::CONFIG + offset, data);
    }

    fn doorbell(&self, index: u16) -> (u64, Vec<u8>) {
        (BASE + register::QUEUE_NOTIFY, u32::from(index).bytes())
    }

    fn map_interrupts(&self) {}

    fn recover(&self) {}

    fn events(&self) -> Events {
        if self.pulses() == 0 {
            return Events::default();
        }
        let status = self.get(register::INTERRUPT_STATUS);
        self.set(register::INTERRUPT_ACK, status);
        assert_eq!(status & !3, 0, "undefined events");
        Events { queue: status & 1 != 0, config: status & 2 != 0 }
    }
}

//! virtio over PCI as a driver meets it (virtio 1.2, 4.1).

use std::sync::Arc;

use devices::virtio::VirtioDevice;
use devices::virtio::pci::VirtioPci;
use devices::virtio::state::QueueArea;

use super::machine::Machine;
use super::registers::{Events, Register, Registers};

pub(crate) const COMMAND: u8 = 0x04;
pub(crate) const BAR0: u8 = 0x10;
pub(crate) const NO_VECTOR: u16 = 0xffff;

/// The data of vector 0's message; the others count from here.
const VECTOR_0: u32 = 0x40;

/// Offsets in the common configuration.
pub(crate) mod common {
    pub(crate) const DEVICE_FEATURE_SELECT: u64 = 0;
    pub(crate) const DEVICE_FEATURE: u64 = 4;
    pub(crate) const DRIVER_FEATURE_SELECT: u64 = 8;
    pub(crate) const DRIVER_FEATURE: u64 = 12;
    pub(crate) const CONFIG_MSIX_VECTOR: u64 = 16;
    pub(crate) const NUM_QUEUES: u64 = 18;
    pub(crate) const DEVICE_STATUS: u64 = 20;
    pub(crate) const CONFIG_GENERATION: u64 = 21;
    pub(crate) const QUEUE_SELECT: u64 = 22;
    pub(crate) const QUEUE_SIZE: u64 = 24;
    pub(crate) const QUEUE_MSIX_VECTOR: u64 = 26;
    pub(crate) const QUEUE_ENABLE: u64 = 28;
    pub(crate) const QUEUE_NOTIFY_OFF: u64 = 30;
    pub(crate) const QUEUE_DESC: u64 = 32;
    pub(crate) const QUEUE_DRIVER: u64 = 40;
    pub(crate) const QUEUE_DEVICE: u64 = 48;
}

/// The driver of the device in one slot.
pub(crate) struct Pci {
    pub(crate) machine: Arc<Machine>,
    pub(crate) slot: u8,
    pub(crate) bar: u64,
    pub(crate) pci_cfg: u8,
    maps_interrupts: bool,
    msix: u8,
    common: u64,
    isr: u64,
    config: u64,
    notify: u64,
    notify_multiplier: u64,
}

impl Pci {
    /// Puts `device` on the bus, finds its capabilities and its region, and switches memory
    /// decoding on.
    pub(crate) fn probe(machine: &Arc<Machine>, device: Box<dyn VirtioDevice>) -> Pci {
        let function = VirtioPci::new(device, machine.memory.clone(), machine.platform.clone());
        let at = machine.root.add(Arc::new(function.unwrap())).unwrap();
        assert_eq!(at.function(), 0);
        let mut driver = Pci {
            machine: Arc::clone(machine),
            slot: at.slot(),
            bar: 0,
            pci_cfg: 0,
            maps_interrupts: false,
            msix: 0,
            common: u64::MAX,
            isr: u64::MAX,
            config: u64::MAX,
            notify: u64::MAX,
            notify_multiplier: 0,
        };
        assert_eq!(driver.pci::<u32>(0), 0x1048_1af4);
        driver.walk_capabilities();
        driver.bar = driver.pci::<u64>(BAR0) & !0xf;
        driver.set_pci(COMMAND, 0b110u16);
        driver
    }

    /// As [`Pci::probe`], with MSI-X enabled and a vector for each event.
    pub(crate) fn with_interrupts(machine: Machine, device: Box<dyn VirtioDevice>) -> Pci {
        let mut driver = Pci::probe(&Arc::new(machine), device);
        driver.enable_msix();
        driver.maps_interrupts = true;
        driver
    }

    fn walk_capabilities(&mut self) {
        assert_ne!(self.pci::<u16>(0x06) & 1 << 4, 0, "no capabilities");
        let mut at = self.pci::<u8>(0x34);
        while at != 0 {
            match (self.pci::<u8>(at), self.pci::<u8>(at + 3)) {
                (0x11, _) => self.msix = at,
                (0x09, 1) => self.common = self.structure(at, 56),
                (0x09, 2) => {
                    self.notify = self.structure(at, 6);
                    self.notify_multiplier = self.pci::<u32>(at + 16).into();
                }
                (0x09, 3) => self.isr = self.structure(at, 1),
                (0x09, 4) => self.config = self.structure(at, 16),
                (0x09, 5) => self.pci_cfg = at,
                other => panic!("unknown capability {other:?}"),
            }
            at = self.pci(at + 1);
        }
    }

    /// The offset into BAR 0 of the structure that the capability at `at` describes.
    fn structure(&self, at: u8, at_least: u32) -> u64 {
        assert_eq!(self.pci::<u8>(at + 4), 0, "not in BAR 0");
        assert!(self.pci::<u8>(at + 2) >= 16);
        assert!(self.pci::<u32>(at + 12) >= at_least);
        self.pci::<u32>(at + 8).into()
    }

    pub(crate) fn pci<T: Register>(&self, offset: u8) -> T {
        T::read(|data| {
            for (offset, dword) in (offset..).step_by(4).zip(data.chunks_mut(4)) {
                self.machine.read_config(self.slot, offset, dword);
            }
        })
    }

    pub(crate) fn set_pci<T: Register>(&self, offset: u8, value: T) {
        for (offset, dword) in (offset..).step_by(4).zip(value.bytes().chunks(4)) {
            self.machine.write_config(self.slot, offset, dword);
        }
    }

    /// Moves the region.
    pub(crate) fn move_bar(&mut self, address: u64) {
        self.set_pci(BAR0, address);
        self.bar = address;
    }

    pub(crate) fn read<T: Register>(&self, offset: u64) -> T {
        T::read(|data| self.machine.read(self.bar + offset, data))
    }

    pub(crate) fn write<T: Register>(&self, offset: u64, value: T) {
        self.machine.write(self.bar + offset, &value.bytes());
    }

    pub(crate) fn get<T: Register>(&self, field: u64) -> T {
        self.read(self.common + field)
    }

    pub(crate) fn set<T: Register>(&self, field: u64, value: T) {
        self.write(self.common + field, value);
    }

    pub(crate) fn isr(&self) -> u8 {
        self.read(self.isr)
    }

    /// The guest physical address of queue `index`'s doorbell.
    pub(crate) fn bell(&self, index: u16) -> u64 {
        self.set(common::QUEUE_SELECT, index);
        let offset = u64::from(self.get::<u16>(common::QUEUE_NOTIFY_OFF));
        self.bar + self.notify + offset * self.notify_multiplier
    }

    /// Enables MSI-X, with every vector unmasked and its number + 0x40 as its data.
    pub(crate) fn enable_msix(&self) {
        self.set_pci(self.msix + 2, 1u16 << 15 | 1 << 14);
        for vector in 0..self.vectors() {
            let entry = self.msix_entry(vector);
            self.write(entry, 0xfee0_0000u64);
            self.write(entry + 8, VECTOR_0 + u32::from(vector));
            self.write(entry + 12, 0u32);
        }
        self.set_pci(self.msix + 2, 1u16 << 15);
    }

    pub(crate) fn disable_msix(&self) {
        self.set_pci(self.msix + 2, 0u16);
    }

    pub(crate) fn vectors(&self) -> u16 {
        (self.pci::<u16>(self.msix + 2) & 0x7ff) + 1
    }

    pub(crate) fn mask_vector(&self, vector: u16, masked: bool) {
        self.write(self.msix_entry(vector) + 12, u32::from(masked));
    }

    fn msix_entry(&self, vector: u16) -> u64 {
        u64::from(self.pci::<u32>(self.msix + 4) & !7) + 16 * u64::from(vector)
    }

    /// The pending bits.
    pub(crate) fn pending(&self) -> u64 {
        self.read((self.pci::<u32>(self.msix + 8) & !7).into())
    }
}

impl Registers for Pci {
    fn transport(&self) -> &'static str {
        "PCI"
    }

    fn machine(&self) -> &Machine {
        &self.machine
    }

    fn window(&self) -> (u64, u64) {
        (self.bar, 0x8000)
    }

    fn status(&self) -> u8 {
        self.get(common::DEVICE_STATUS)
    }

    fn set_status(&self, status: u8) {
        self.set(common::DEVICE_STATUS, status);
    }

    fn device_features(&self, window: u32) -> u32 {
        self.set(common::DEVICE_FEATURE_SELECT, window);
        self.get(common::DEVICE_FEATURE)
    }

    fn set_driver_features(&self, window: u32, features: u32) {
        self.set(common::DRIVER_FEATURE_SELECT, window);
        self.set(common::DRIVER_FEATURE, features);
    }

    fn queue_count(&self) -> u16 {
        self.get(common::NUM_QUEUES)
    }

    fn select_queue(&self, index: u16) {
        self.set(common::QUEUE_SELECT, index);
    }

    fn queue_size(&self) -> u32 {
        self.get::<u16>(common::QUEUE_SIZE).into()
    }

    fn set_queue_size(&self, size: u16) {
        self.set(common::QUEUE_SIZE, size);
    }

    fn set_queue_area(&self, area: QueueArea, address: u64) {
        let field = match area {
            QueueArea::Descriptor => common::QUEUE_DESC,
            QueueArea::Driver => common::QUEUE_DRIVER,
            QueueArea::Device => common::QUEUE_DEVICE,
        };
        self.set(field, address);
    }

    fn queue_ready(&self) -> bool {
        self.get::<u16>(common::QUEUE_ENABLE) == 1
    }

    fn set_queue_ready(&self, ready: bool) {
        self.set(common::QUEUE_ENABLE, u16::from(ready));
    }

    fn generation(&self) -> u32 {
        self.get::<u8>(common::CONFIG_GENERATION).into()
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.machine.read(self.bar + self.config + offset, data);
    }

    fn write_config(&self, offset: u64, data: &[u8]) {
        self.machine.write(self.bar + self.config + offset, data);
    }

    fn doorbell(&self, index: u16) -> (u64, Vec<u8>) {
        (self.bell(index), index.bytes())
    }

    fn map_interrupts(&self) {
        if !self.maps_interrupts {
            return;
        }
        self.set(common::CONFIG_MSIX_VECTOR, 0u16);
        for queue in 0..self.queue_count() {
            self.select_queue(queue);
            self.set(common::QUEUE_MSIX_VECTOR, 1 + queue);
        }
    }

    fn recover(&self) {
        self.set_pci(BAR0, self.bar);
        self.set_pci(COMMAND, 0b110u16);
        self.enable_msix();
    }

    fn events(&self) -> Events {
        let fired = self.machine.platform.interrupts();
        let config = fired.contains(&VECTOR_0);
        Events { config, queue: fired.iter().any(|data| *data != VECTOR_0) }
    }
}

//! A virtio driver over PCI: what virtio 1.2, 3.1 and 4.1 tell a driver to do, by registers.

use std::sync::Arc;

use devices::virtio::pci::VirtioPci;
use vm_memory::{Bytes, GuestAddress};

use super::device::{ANSWER, Control, VERSION_1};
use super::machine::{Machine, Mechanism};

pub(crate) const COMMAND: u8 = 0x04;
pub(crate) const BAR0: u8 = 0x10;
pub(crate) const NO_VECTOR: u16 = 0xffff;

pub(crate) const ACKNOWLEDGE: u8 = 1;
pub(crate) const DRIVER: u8 = 2;
pub(crate) const DRIVER_OK: u8 = 4;
pub(crate) const FEATURES_OK: u8 = 8;
pub(crate) const NEEDS_RESET: u8 = 64;
pub(crate) const FAILED: u8 = 128;

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

/// Where the rings of queue `index` lie, a page for each area, and a buffer.
pub(crate) const fn rings(index: u16) -> [u64; 4] {
    let base = 0x1_0000 + index as u64 * 0x1_0000;
    [base, base + 0x2000, base + 0x4000, base + 0x8000]
}

/// A little-endian integer of a register's width.
pub(crate) trait Register: Sized {
    fn read(read: impl FnOnce(&mut [u8])) -> Self;
    fn bytes(self) -> Vec<u8>;
}

macro_rules! register {
    ($($type:ty),*) => {$(
        impl Register for $type {
            fn read(read: impl FnOnce(&mut [u8])) -> Self {
                let mut bytes = [0; size_of::<$type>()];
                read(&mut bytes);
                <$type>::from_le_bytes(bytes)
            }

            fn bytes(self) -> Vec<u8> {
                self.to_le_bytes().to_vec()
            }
        }
    )*};
}

register!(u8, u16, u32, u64);

/// The driver of the device in slot 1.
pub(crate) struct Driver {
    pub(crate) machine: Machine,
    pub(crate) device: Control,
    pub(crate) bar: u64,
    pub(crate) pci_cfg: u8,
    msix: u8,
    common: u64,
    isr: u64,
    config: u64,
    notify: u64,
    notify_multiplier: u64,
}

impl Driver {
    /// Finds the device, its capabilities and its region, and switches memory decoding on.
    pub(crate) fn probe(mechanism: Mechanism) -> Driver {
        let (machine, device) = (Machine::new(mechanism), Control::default());
        let function =
            VirtioPci::new(device.device(), machine.memory.clone(), machine.platform.clone());
        machine.root.add(Arc::new(function.unwrap())).unwrap();
        let mut driver = Driver {
            machine,
            device,
            bar: 0,
            pci_cfg: 0,
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
                self.machine.read_config(1, offset, dword);
            }
        })
    }

    pub(crate) fn set_pci<T: Register>(&self, offset: u8, value: T) {
        for (offset, dword) in (offset..).step_by(4).zip(value.bytes().chunks(4)) {
            self.machine.write_config(1, offset, dword);
        }
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

    pub(crate) fn config<T: Register>(&self, offset: u64) -> T {
        self.read(self.config + offset)
    }

    pub(crate) fn set_config<T: Register>(&self, offset: u64, value: T) {
        self.write(self.config + offset, value);
    }

    pub(crate) fn status(&self) -> u8 {
        self.get(common::DEVICE_STATUS)
    }

    /// Adds bits to the device status, as a driver does.
    pub(crate) fn add_status(&self, bits: u8) {
        self.set(common::DEVICE_STATUS, self.status() | bits);
    }

    pub(crate) fn offered(&self) -> u64 {
        let windows = [0u32, 1].map(|window| {
            self.set(common::DEVICE_FEATURE_SELECT, window);
            u64::from(self.get::<u32>(common::DEVICE_FEATURE))
        });
        windows[0] | windows[1] << 32
    }

    pub(crate) fn accept(&self, features: u64) {
        for window in [0u32, 1] {
            let part = u32::try_from(features >> (32 * window) & 0xffff_ffff).unwrap();
            self.set(common::DRIVER_FEATURE_SELECT, window);
            self.set(common::DRIVER_FEATURE, part);
        }
    }

    /// Up to `FEATURES_OK`, which has to hold.
    pub(crate) fn negotiate(&self, features: u64) {
        self.set(common::DEVICE_STATUS, 0u8);
        assert_eq!(self.status(), 0);
        self.add_status(ACKNOWLEDGE);
        self.add_status(DRIVER);
        self.accept(features);
        self.add_status(FEATURES_OK);
        assert_eq!(self.status(), ACKNOWLEDGE | DRIVER | FEATURES_OK);
    }

    /// Describes queue `index`, of `size` descriptors, and enables it.
    pub(crate) fn set_up_queue(&self, index: u16, size: u16) {
        let [descriptor, driver, device, _] = rings(index);
        self.set(common::QUEUE_SELECT, index);
        self.set(common::QUEUE_SIZE, size);
        self.set(common::QUEUE_DESC, descriptor);
        self.set(common::QUEUE_DRIVER, driver);
        self.set(common::QUEUE_DEVICE, device);
        self.set(common::QUEUE_ENABLE, 1u16);
    }

    /// A device that runs with queue 1, of 8 descriptors.
    pub(crate) fn start(mechanism: Mechanism) -> Driver {
        let driver = Driver::probe(mechanism);
        driver.negotiate(VERSION_1);
        driver.set_up_queue(1, 8);
        driver.add_status(DRIVER_OK);
        driver
    }

    /// Sends a request in queue `index`, the `count`th since the device started, from 0 on.
    pub(crate) fn request(&self, index: u16, count: u16) {
        let [descriptor, driver, _, buffer] = rings(index);
        let memory = &self.machine.memory;
        // One writable descriptor of 4 bytes.
        let flags_and_len = 2u64 << 32 | 4;
        memory.write_obj(buffer.to_le(), GuestAddress(descriptor)).unwrap();
        memory.write_obj(flags_and_len.to_le(), GuestAddress(descriptor + 8)).unwrap();
        memory.write_obj(0u16, GuestAddress(driver + 4 + 2 * u64::from(count % 8))).unwrap();
        memory.write_obj((count + 1).to_le(), GuestAddress(driver + 2)).unwrap();
        self.notify(index);
    }

    pub(crate) fn notify(&self, index: u16) {
        self.machine.write(self.doorbell(index), &index.to_le_bytes());
    }

    /// The guest physical address of queue `index`'s doorbell.
    pub(crate) fn doorbell(&self, index: u16) -> u64 {
        self.set(common::QUEUE_SELECT, index);
        let offset = u64::from(self.get::<u16>(common::QUEUE_NOTIFY_OFF));
        self.bar + self.notify + offset * self.notify_multiplier
    }

    /// How many requests queue `index` has used, and the answer to the last.
    pub(crate) fn used(&self, index: u16) -> (u16, bool) {
        let [_, _, device, buffer] = rings(index);
        let memory = &self.machine.memory;
        let used: u16 = memory.read_obj(GuestAddress(device + 2)).unwrap();
        let answer: u32 = memory.read_obj(GuestAddress(buffer)).unwrap();
        (u16::from_le(used), u32::from_le(answer) == ANSWER)
    }

    /// Enables MSI-X, with every vector unmasked and its number + 0x40 as its data.
    pub(crate) fn enable_msix(&self) {
        self.set_pci(self.msix + 2, 1u16 << 15 | 1 << 14);
        let vectors = (self.pci::<u16>(self.msix + 2) & 0x7ff) + 1;
        for vector in 0..vectors {
            let entry = self.msix_entry(vector);
            self.write(entry, 0xfee0_0000u64);
            self.write(entry + 8, 0x40 + u32::from(vector));
            self.write(entry + 12, 0u32);
        }
        self.set_pci(self.msix + 2, 1u16 << 15);
    }

    pub(crate) fn disable_msix(&self) {
        self.set_pci(self.msix + 2, 0u16);
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

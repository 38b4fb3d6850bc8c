//! A guest's side of virtio devices, by registers and doorbells alone, on either transport.
#![allow(dead_code, reason = "each test uses a part")]

pub(crate) mod device;
pub(crate) mod machine;
pub(crate) mod mmio;
pub(crate) mod pci;
pub(crate) mod registers;

use std::ops::Deref;
use std::sync::Arc;

use device::{Control, VERSION_1};
use devices::virtio::VirtioDevice;
use machine::{Machine, Mechanism};
use mmio::Mmio;
use pci::Pci;
use registers::{DRIVER_OK, Registers};
use vm_memory::{Bytes, GuestAddress};

/// A driver and the device that it drives.
pub(crate) struct Guest<R: ?Sized = dyn Registers> {
    registers: Box<R>,
    pub(crate) device: Control,
}

impl<R: ?Sized> Deref for Guest<R> {
    type Target = R;

    fn deref(&self) -> &R {
        &self.registers
    }
}

impl<R: ?Sized> Drop for Guest<R> {
    fn drop(&mut self) {
        // What goes with it waits for the device, also after a failed assertion.
        if std::thread::panicking() {
            self.device.unstall();
        }
    }
}

impl Guest<Pci> {
    pub(crate) fn registers_mut(&mut self) -> &mut Pci {
        &mut self.registers
    }
}

/// A device that was found on PCI, with MSI-X off, and nothing more.
pub(crate) fn on_pci(mechanism: Mechanism) -> Guest<Pci> {
    let device = Control::default();
    let machine = Arc::new(Machine::new(mechanism));
    Guest { registers: Box::new(Pci::probe(&machine, device.device())), device }
}

/// A device that was found, and nothing more: on each transport in turn.
pub(crate) fn probed() -> impl Iterator<Item = Guest> {
    probed_in(|| Machine::new(Mechanism::Ecam))
}

/// As [`probed`], where the hypervisor has no doorbells.
pub(crate) fn probed_without_doorbells() -> impl Iterator<Item = Guest> {
    probed_in(|| {
        let machine = Machine::new(Mechanism::Ecam);
        machine.platform.refuse_doorbells();
        machine
    })
}

fn probed_in(machine: fn() -> Machine) -> impl Iterator<Item = Guest> {
    TRANSPORTS.into_iter().map(move |find| {
        let device = Control::default();
        let registers = find(machine(), device.device());
        eprintln!("over {}", registers.transport());
        Guest { registers, device }
    })
}

/// Puts a device in a machine and finds it.
pub(crate) type Probe = fn(Machine, Box<dyn VirtioDevice>) -> Box<dyn Registers>;

/// The ways to find a device, with an interrupt for each event where there can be many.
pub(crate) const TRANSPORTS: [Probe; 2] = [
    |machine, device| Box::new(Pci::with_interrupts(machine, device)),
    |machine, device| Box::new(Mmio::probe(machine, device)),
];

/// A device that runs with queue 1, of 8 descriptors: on each transport in turn.
pub(crate) fn running() -> impl Iterator<Item = Guest> {
    probed().inspect(Guest::start)
}

/// Where the rings of queue `index` lie, a page for each area, and a buffer.
pub(crate) const fn rings(index: u16) -> [u64; 4] {
    let base = 0x1_0000 + index as u64 * 0x1_0000;
    [base, base + 0x2000, base + 0x4000, base + 0x8000]
}

/// A device that was found by MMIO, and nothing more.
pub(crate) fn on_mmio() -> Guest<Mmio> {
    let device = Control::default();
    let registers = Mmio::probe(Machine::new(Mechanism::Ecam), device.device());
    Guest { registers: Box::new(registers), device }
}

impl<R: Registers + ?Sized> Guest<R> {
    /// Makes the device run with queue 1, of 8 descriptors.
    pub(crate) fn start(&self) {
        self.negotiate(VERSION_1);
        self.place_queue(1, 8);
        self.add_status(DRIVER_OK);
    }

    /// Describes queue `index`, of `size` descriptors, and enables it.
    pub(crate) fn place_queue(&self, index: u16, size: u16) {
        let [descriptor, driver, device, _] = rings(index);
        self.set_up_queue(index, size, [descriptor, driver, device]);
    }

    /// Sends a request in queue `index`, the `count`th since the device started, from 0 on.
    pub(crate) fn request(&self, index: u16, count: u16) {
        let [descriptor, driver, _, buffer] = rings(index);
        let memory = &self.machine().memory;
        // One writable descriptor of 4 bytes.
        let flags_and_len = 2u64 << 32 | 4;
        memory.write_obj(buffer.to_le(), GuestAddress(descriptor)).unwrap();
        memory.write_obj(flags_and_len.to_le(), GuestAddress(descriptor + 8)).unwrap();
        memory.write_obj(0u16, GuestAddress(driver + 4 + 2 * u64::from(count % 8))).unwrap();
        memory.write_obj((count + 1).to_le(), GuestAddress(driver + 2)).unwrap();
        self.notify(index);
    }

    /// How many requests queue `index` has used, and whether the last was answered.
    pub(crate) fn used(&self, index: u16) -> (u16, bool) {
        let [_, _, device, buffer] = rings(index);
        let memory = &self.machine().memory;
        let used: u16 = memory.read_obj(GuestAddress(device + 2)).unwrap();
        let answer: u32 = memory.read_obj(GuestAddress(buffer)).unwrap();
        (u16::from_le(used), u32::from_le(answer) == device::ANSWER)
    }

    /// The numbers of the queues that the device was given.
    pub(crate) fn active_queues(&self) -> Vec<u16> {
        let inner = self.device.inner();
        inner.activation.iter().flat_map(|active| &active.queues).map(|queue| queue.index).collect()
    }
}

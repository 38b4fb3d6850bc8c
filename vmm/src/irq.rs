//! Interrupts and doorbells: [`Platform`] over KVM's in-kernel interrupt controllers.
//!
//! Owns the table of interrupt routes. `KVM_SET_GSI_ROUTING` replaces it whole, so it is kept
//! here, the routes of the PIC and the I/O APIC that KVM begins with among them. A GSI below
//! [`layout::IOAPIC_PINS`] is a pin of theirs; those from there on are MSI vectors.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use arch::layout;
use devices::platform::{MsiMessage, MsiVector, Platform};
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KVM_MAX_IRQ_ROUTES, KvmIrqRouting, kvm_irq_routing_entry,
    kvm_irq_routing_irqchip, kvm_irq_routing_msi,
};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

const PIC_PINS: u32 = 8;

/// The MSI vectors that all devices of a VM can have together.
pub(crate) fn msi_vectors_max() -> usize {
    KVM_MAX_IRQ_ROUTES - legacy_routes().count()
}

/// The host's side of every interrupt and doorbell of one VM.
#[derive(Debug)]
pub(crate) struct KvmPlatform {
    vm: Arc<VmFd>,
    vectors: Mutex<Vectors>,
}

/// The MSI vectors handed out, and the messages of those that are routed.
#[derive(Debug)]
struct Vectors {
    next: u32,
    routed: BTreeMap<u32, MsiMessage>,
}

impl KvmPlatform {
    /// The platform of `vm`, which has its interrupt controllers already.
    pub(crate) fn new(vm: Arc<VmFd>) -> Self {
        let vectors = Vectors { next: layout::IOAPIC_PINS, routed: BTreeMap::new() };
        KvmPlatform { vm, vectors: Mutex::new(vectors) }
    }

    /// An event that pulses pin `pin` of the I/O APIC.
    ///
    /// # Errors
    /// When the host has no file descriptor left or refuses the pin.
    pub(crate) fn line(&self, pin: u32) -> io::Result<EventFd> {
        self.interrupt(pin)
    }

    fn interrupt(&self, gsi: u32) -> io::Result<EventFd> {
        let event = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(|error| {
            explain(&error, "no event for an interrupt: raise the limit of open files (ulimit -n)")
        })?;
        self.vm
            .register_irqfd(&event, gsi)
            .map_err(|errno| explain(&errno.into(), "KVM refuses an interrupt's event"))?;
        Ok(event)
    }

    fn set_routes(&self, vectors: &Vectors) -> io::Result<()> {
        let table = KvmIrqRouting::from_entries(&vectors.table()).map_err(io::Error::other)?;
        self.vm
            .set_gsi_routing(&table)
            .map_err(|errno| explain(&errno.into(), "KVM refuses the interrupt routes"))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vectors> {
        self.vectors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Platform for KvmPlatform {
    fn allocate_msi(&self) -> io::Result<MsiVector> {
        let mut vectors = self.lock();
        if vectors.allocated() >= msi_vectors_max() {
            let why = format!(
                "KVM has no interrupt route left after {} MSI vectors: \
                 give the machine fewer controllers or queues",
                vectors.allocated()
            );
            return Err(io::Error::other(why));
        }
        let event = self.interrupt(vectors.next)?;
        let id = vectors.next;
        vectors.next += 1;
        Ok(MsiVector { id, event })
    }

    fn route_msi(&self, id: u32, message: Option<MsiMessage>) -> io::Result<()> {
        let mut vectors = self.lock();
        let old = vectors.set(id, message);
        if old == message {
            return Ok(());
        }
        let set = self.set_routes(&vectors);
        if set.is_err() {
            vectors.set(id, old);
        }
        set
    }

    fn add_doorbell(
        &self,
        address: u64,
        datamatch: Option<u32>,
        event: &EventFd,
    ) -> io::Result<()> {
        let place = IoEventAddress::Mmio(address);
        match datamatch {
            Some(value) => self.vm.register_ioevent(event, &place, value),
            None => self.vm.register_ioevent(event, &place, NoDatamatch),
        }
        .map_err(|errno| match errno.errno() {
            libc::ENOSPC => explain(
                &errno.into(),
                "KVM has no doorbell left: give the machine fewer controllers or queues",
            ),
            _ => explain(&errno.into(), "KVM refuses a doorbell"),
        })
    }

    fn remove_doorbell(
        &self,
        address: u64,
        datamatch: Option<u32>,
        event: &EventFd,
    ) -> io::Result<()> {
        let place = IoEventAddress::Mmio(address);
        match datamatch {
            Some(value) => self.vm.unregister_ioevent(event, &place, value),
            None => self.vm.unregister_ioevent(event, &place, NoDatamatch),
        }
        .map_err(|errno| explain(&errno.into(), "KVM has no such doorbell"))
    }
}

impl Vectors {
    /// Routes a vector, or unroutes it; returns how it was routed before.
    fn set(&mut self, id: u32, message: Option<MsiMessage>) -> Option<MsiMessage> {
        match message {
            Some(message) => self.routed.insert(id, message),
            None => self.routed.remove(&id),
        }
    }

    fn allocated(&self) -> usize {
        (self.next - layout::IOAPIC_PINS) as usize
    }

    fn table(&self) -> Vec<kvm_irq_routing_entry> {
        legacy_routes()
            .chain(self.routed.iter().map(|(gsi, message)| msi(*gsi, *message)))
            .collect()
    }
}

/// The routes of a new VM: the first 16 GSIs to the two PICs, all to the I/O APIC.
fn legacy_routes() -> impl Iterator<Item = kvm_irq_routing_entry> {
    let pics = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE];
    let pic = (0..).zip(pics).flat_map(|(index, chip)| {
        (0..PIC_PINS).map(move |pin| chip_pin(index * PIC_PINS + pin, chip, pin))
    });
    let ioapic = (0..layout::IOAPIC_PINS).map(|pin| chip_pin(pin, KVM_IRQCHIP_IOAPIC, pin));
    pic.chain(ioapic)
}

fn chip_pin(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    let mut entry =
        kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
    entry.u.irqchip = kvm_irq_routing_irqchip { irqchip, pin };
    entry
}

fn msi(gsi: u32, message: MsiMessage) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
    let [low, high] = split(message.address);
    entry.u.msi = kvm_irq_routing_msi {
        address_lo: low,
        address_hi: high,
        data: message.data,
        ..Default::default()
    };
    entry
}

/// The low and the high half of `value`.
fn split(value: u64) -> [u32; 2] {
    let low = value & u64::from(u32::MAX);
    [low, value >> 32].map(|half| u32::try_from(half).unwrap_or(u32::MAX))
}

fn explain(error: &io::Error, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_begins_with_kvms_own_routes() {
        let pins: Vec<_> = legacy_routes().map(|entry| (entry.gsi, entry.type_)).collect();
        assert_eq!(pins.len(), 16 + 24);
        assert_eq!(pins[15], (15, KVM_IRQ_ROUTING_IRQCHIP));
        assert_eq!(pins[16], (0, KVM_IRQ_ROUTING_IRQCHIP));
    }

    #[test]
    fn every_routed_vector_is_in_the_table() {
        let message = MsiMessage { address: 0x1_fee0_1000, data: 0x4041 };
        let routed = BTreeMap::from([(24, message), (30, message)]);
        let table = Vectors { next: 31, routed }.table();
        let gsis: Vec<_> = table.iter().skip(40).map(|entry| (entry.gsi, entry.type_)).collect();
        assert_eq!(gsis, [(24, KVM_IRQ_ROUTING_MSI), (30, KVM_IRQ_ROUTING_MSI)]);
        assert_eq!(split(message.address), [0xfee0_1000, 1]);
    }
}

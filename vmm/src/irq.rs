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
    /// Below it, all are handed out but those in `free`.
    next: u32,
    free: Vec<u32>,
    routed: BTreeMap<u32, MsiMessage>,
    /// KVM still has routes of vectors that were given back.
    stale: bool,
}

impl KvmPlatform {
    /// The platform of `vm`, which has its interrupt controllers already.
    pub(crate) fn new(vm: Arc<VmFd>) -> Self {
        KvmPlatform { vm, vectors: Mutex::new(Vectors::new()) }
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
        if vectors.stale {
            self.set_routes(&vectors)?;
            vectors.stale = false;
        }
        let id = vectors.free.last().copied().unwrap_or(vectors.next);
        let event = self.interrupt(id)?;
        vectors.take(id);
        Ok(MsiVector { id, event })
    }

    fn free_msi(&self, vector: &MsiVector) {
        if let Err(error) = self.vm.unregister_irqfd(&vector.event, vector.id) {
            log::error!("KVM keeps the event of interrupt {}: {error}", vector.id);
            return;
        }
        let mut vectors = self.lock();
        // The table need not be replaced for a route that nothing uses any more.
        vectors.stale |= vectors.set(vector.id, None).is_some();
        vectors.free.push(vector.id);
    }

    fn route_msi(&self, id: u32, message: Option<MsiMessage>) -> io::Result<()> {
        let mut vectors = self.lock();
        let old = vectors.set(id, message);
        if old == message {
            return Ok(());
        }
        let set = self.set_routes(&vectors);
        match set {
            Ok(()) => vectors.stale = false,
            Err(_) => drop(vectors.set(id, old)),
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
        .map_err(|errno| explain(&errno.into(), "KVM refuses a doorbell"))
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
    fn new() -> Vectors {
        let next = layout::IOAPIC_PINS;
        Vectors { next, free: Vec::new(), routed: BTreeMap::new(), stale: false }
    }

    /// Hands `id` out, which is the last of `free`, or `next`.
    fn take(&mut self, id: u32) {
        if self.free.pop().is_none() {
            self.next = id + 1;
        }
    }

    /// Routes a vector, or unroutes it; returns how it was routed before.
    fn set(&mut self, id: u32, message: Option<MsiMessage>) -> Option<MsiMessage> {
        match message {
            Some(message) => self.routed.insert(id, message),
            None => self.routed.remove(&id),
        }
    }

    fn allocated(&self) -> usize {
        (self.next - layout::IOAPIC_PINS) as usize - self.free.len()
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
        let table = Vectors { routed, ..Vectors::new() }.table();
        let gsis: Vec<_> = table.iter().skip(40).map(|entry| (entry.gsi, entry.type_)).collect();
        assert_eq!(gsis, [(24, KVM_IRQ_ROUTING_MSI), (30, KVM_IRQ_ROUTING_MSI)]);
        assert_eq!(split(message.address), [0xfee0_1000, 1]);
    }
    /// A platform with interrupt controllers; `None` where there is no KVM.
    fn platform() -> Option<KvmPlatform> {
        if !::tests::kvm::is_there() {
            return None;
        }
        crate::limits::raise_open_files().unwrap();
        let vm = kvm_ioctls::Kvm::new().unwrap().create_vm().unwrap();
        vm.create_irq_chip().unwrap();
        Some(KvmPlatform::new(Arc::new(vm)))
    }

    #[test]
    fn a_vector_that_was_given_back_is_free_and_has_no_route() {
        let Some(platform) = platform() else { return };
        let message = MsiMessage { address: 0xfee0_0000, data: 0x41 };
        let vectors: Vec<_> = (0..3).map(|_| platform.allocate_msi().unwrap()).collect();
        for vector in &vectors {
            platform.route_msi(vector.id, Some(message)).unwrap();
        }
        platform.free_msi(&vectors[1]);
        // KVM takes an event once.
        platform.vm.register_irqfd(&vectors[1].event, vectors[1].id).unwrap();
        platform.vm.unregister_irqfd(&vectors[1].event, vectors[1].id).unwrap();
        let again = platform.allocate_msi().unwrap();
        assert_eq!(again.id, vectors[1].id);
        let routed: Vec<u32> = platform.lock().routed.keys().copied().collect();
        assert_eq!((routed, platform.lock().stale), (vec![vectors[0].id, vectors[2].id], false));
        assert_eq!(platform.allocate_msi().unwrap().id, vectors[2].id + 1);
    }

    #[test]
    fn interrupt_routes_end_with_a_clear_error() {
        let Some(platform) = platform() else { return };
        let mut vectors = Vec::new();
        let error = loop {
            match platform.allocate_msi() {
                Ok(vector) => vectors.push(vector),
                Err(error) => break error.to_string(),
            }
        };
        assert_eq!(vectors.len(), 4056);
        assert!(error.contains("no interrupt route left after 4056 MSI vectors: give"), "{error}");
        let last = vectors.pop().unwrap();
        platform.route_msi(last.id, Some(MsiMessage::default())).unwrap();
        platform.free_msi(&last);
        platform.allocate_msi().unwrap();
    }

    #[test]
    fn there_are_doorbells_for_any_number_of_queues() {
        let Some(platform) = platform() else { return };
        let event = EventFd::new(EFD_NONBLOCK).unwrap();
        let (address, other) = (layout::VIRTIO_MMIO.base, EventFd::new(EFD_NONBLOCK).unwrap());
        for value in 0..2000 {
            platform.add_doorbell(address, Some(value), &event).unwrap();
        }
        assert!(platform.add_doorbell(address, Some(7), &other).is_err());
        assert!(platform.remove_doorbell(address, Some(7), &other).is_err());
        platform.remove_doorbell(address, Some(7), &event).unwrap();
        platform.add_doorbell(address, Some(7), &other).unwrap();
    }
}

//! Memory, ports and MMIO with a PCI bus, and the hypervisor's part of doorbells and MSIs.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard};

use devices::bus::Bus;
use devices::pci::access::{
    CONFIG_ADDRESS_PORT, CONFIG_PORTS, ConfigPorts, ECAM_BUS_SIZE, Ecam, MemoryWindow,
};
use devices::pci::root::{PciRoot, Window};
use devices::platform::{MsiMessage, MsiVector, Platform};
use devices::pm::{Power, ResetControl};
use vm_memory::{GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

pub(crate) const ECAM: u64 = 0xe000_0000;
pub(crate) const LOW: Window = Window { base: 0xc000_0000, size: 0x100_0000 };
pub(crate) const HIGH: Window = Window { base: 0x10_0000_0000, size: 0x1_0000_0000 };
/// RAM from 0 on.
pub(crate) const MEMORY_SIZE: u64 = 16 << 20;

/// What a hypervisor does, recorded.
#[derive(Default)]
pub(crate) struct FakePlatform(Mutex<Recorded>);

#[derive(Default)]
struct Recorded {
    msis: Vec<(EventFd, Option<MsiMessage>)>,
    /// By address and value.
    doorbells: BTreeMap<(u64, Option<u32>), EventFd>,
    refuse_doorbells: bool,
    rung: u64,
    freed: usize,
}

impl FakePlatform {
    fn recorded(&self) -> MutexGuard<'_, Recorded> {
        self.0.lock().unwrap()
    }

    /// The guest physical addresses of all doorbells.
    pub(crate) fn doorbells(&self) -> Vec<u64> {
        self.recorded().doorbells.keys().map(|(address, _)| *address).collect()
    }

    pub(crate) fn refuse_doorbells(&self) {
        self.recorded().refuse_doorbells = true;
    }

    /// The data of the messages delivered since the last call.
    pub(crate) fn interrupts(&self) -> Vec<u32> {
        let recorded = self.recorded();
        let fired = recorded.msis.iter().filter(|(event, _)| event.read().is_ok());
        fired.map(|(_, message)| message.expect("an unrouted vector fired").data).collect()
    }

    /// How many writes doorbells swallowed.
    pub(crate) fn rung(&self) -> u64 {
        self.recorded().rung
    }

    /// The vectors that were not given back.
    pub(crate) fn vectors(&self) -> usize {
        let recorded = self.recorded();
        recorded.msis.len() - recorded.freed
    }

    fn ring(&self, address: u64, data: &[u8]) -> bool {
        let mut recorded = self.recorded();
        let value = data.try_into().map(u32::from_le_bytes).ok();
        let doorbells = &recorded.doorbells;
        let doorbell = doorbells.get(&(address, None)).or_else(|| doorbells.get(&(address, value)));
        let Some(event) = doorbell else { return false };
        event.write(1).unwrap();
        recorded.rung += 1;
        true
    }
}

impl Platform for FakePlatform {
    fn allocate_msi(&self) -> io::Result<MsiVector> {
        let event = EventFd::new(EFD_NONBLOCK)?;
        let msis = &mut self.recorded().msis;
        msis.push((event.try_clone()?, None));
        Ok(MsiVector { id: u32::try_from(msis.len() - 1).unwrap(), event })
    }

    fn free_msi(&self, vector: &MsiVector) {
        let mut recorded = self.recorded();
        recorded.freed += 1;
        recorded.msis[usize::try_from(vector.id).unwrap()].1 = None;
    }

    fn route_msi(&self, id: u32, message: Option<MsiMessage>) -> io::Result<()> {
        self.recorded().msis[usize::try_from(id).unwrap()].1 = message;
        Ok(())
    }

    fn add_doorbell(
        &self,
        address: u64,
        datamatch: Option<u32>,
        event: &EventFd,
    ) -> io::Result<()> {
        let mut recorded = self.recorded();
        if recorded.refuse_doorbells {
            return Err(io::ErrorKind::StorageFull.into());
        }
        match recorded.doorbells.entry((address, datamatch)) {
            Entry::Vacant(entry) => drop(entry.insert(event.try_clone()?)),
            Entry::Occupied(_) => return Err(io::ErrorKind::AlreadyExists.into()),
        }
        Ok(())
    }

    fn remove_doorbell(
        &self,
        address: u64,
        datamatch: Option<u32>,
        event: &EventFd,
    ) -> io::Result<()> {
        match self.recorded().doorbells.entry((address, datamatch)) {
            Entry::Occupied(entry) if identity(entry.get()) == identity(event) => {
                drop(entry.remove());
            }
            _ => return Err(io::ErrorKind::NotFound.into()),
        }
        Ok(())
    }
}

/// What tells one event from another, whichever descriptor it goes by.
fn identity(event: &EventFd) -> String {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", event.as_raw_fd())).unwrap();
    info.lines().find(|line| line.starts_with("eventfd-id")).unwrap().into()
}

/// How a guest reaches configuration spaces.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mechanism {
    Ports,
    Ecam,
}

/// The machine as its vCPU sees it.
pub(crate) struct Machine {
    pub(crate) memory: Arc<GuestMemoryMmap>,
    pub(crate) platform: Arc<FakePlatform>,
    pub(crate) root: Arc<PciRoot>,
    ports: Bus,
    pub(crate) mmio: Bus,
    mechanism: Mechanism,
}

impl Machine {
    pub(crate) fn new(mechanism: Mechanism) -> Machine {
        let root = Arc::new(PciRoot::new(LOW, Some(HIGH)));
        let power = Arc::new(Power::new(EventFd::new(EFD_NONBLOCK).unwrap()));
        let (ports, mmio) = (Bus::default(), Bus::default());
        let reset = Arc::new(ResetControl::new(power, 1));
        let config_ports = Arc::new(ConfigPorts::new(root.clone(), reset));
        ports.insert(CONFIG_ADDRESS_PORT, CONFIG_PORTS, config_ports).unwrap();
        mmio.insert(ECAM, ECAM_BUS_SIZE, Arc::new(Ecam::new(root.clone()))).unwrap();
        for Window { base, size } in [LOW, HIGH] {
            mmio.insert(base, size, Arc::new(MemoryWindow::new(root.clone(), base))).unwrap();
        }
        let ram = [(GuestAddress(0), usize::try_from(MEMORY_SIZE).unwrap())];
        let memory = Arc::new(GuestMemoryMmap::from_ranges(&ram).unwrap());
        Machine { memory, platform: Arc::default(), root, ports, mmio, mechanism }
    }

    pub(crate) fn read(&self, address: u64, data: &mut [u8]) {
        self.mmio.read(address, data);
    }

    /// A write, which a doorbell swallows as KVM's do.
    pub(crate) fn write(&self, address: u64, data: &[u8]) {
        if !self.platform.ring(address, data) {
            self.mmio.write(address, data);
        }
    }

    pub(crate) fn read_config(&self, slot: u8, offset: u8, data: &mut [u8]) {
        match self.mechanism {
            Mechanism::Ports => self.ports.read(self.select(slot, offset), data),
            Mechanism::Ecam => self.mmio.read(ecam(slot, offset), data),
        }
    }

    pub(crate) fn write_config(&self, slot: u8, offset: u8, data: &[u8]) {
        match self.mechanism {
            Mechanism::Ports => self.ports.write(self.select(slot, offset), data),
            Mechanism::Ecam => self.mmio.write(ecam(slot, offset), data),
        }
    }

    fn select(&self, slot: u8, offset: u8) -> u64 {
        let address = 1 << 31 | u32::from(slot) << 11 | u32::from(offset & !3);
        self.ports.write(CONFIG_ADDRESS_PORT, &address.to_le_bytes());
        CONFIG_ADDRESS_PORT + 4 + u64::from(offset % 4)
    }
}

fn ecam(slot: u8, offset: u8) -> u64 {
    ECAM + (u64::from(slot) << 15) + u64::from(offset)
}

//! The ways in which a guest reaches the bus, each a device on the memory or port bus.
//!
//! Configuration mechanism #1 (PCI 3.0, 3.2.2.3.2), the enhanced configuration access mechanism
//! (PCI Express 3.0, 7.2.2), and the memory windows. All lead to one [`PciRoot`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::bus::BusDevice;
use crate::pci::Bdf;
use crate::pci::root::PciRoot;

/// Bytes of the enhanced configuration range of one bus.
pub const ECAM_BUS_SIZE: u64 = 1 << 20;
/// The I/O port of `CONFIG_ADDRESS`; `CONFIG_DATA` lies 4 above.
pub const CONFIG_ADDRESS_PORT: u64 = 0xcf8;
/// The I/O ports of mechanism #1.
pub const CONFIG_PORTS: u64 = 8;

/// `CONFIG_ADDRESS`: the enable bit, the bus, the function and the dword; the rest reads as zero.
const ADDRESS_BITS: u32 = 0x80ff_fffc;
const ADDRESS_ENABLE: u32 = 1 << 31;

/// Configuration mechanism #1: 8 I/O ports from 0xcf8.
///
/// `CONFIG_ADDRESS` takes dwords only; narrower accesses to its ports belong to whatever device
/// has them, which is how the reset control register comes to be at 0xcf9.
pub struct ConfigPorts {
    root: Arc<PciRoot>,
    address: AtomicU32,
    behind: Arc<dyn BusDevice>,
}

impl ConfigPorts {
    /// `behind` answers accesses to ports 0xcf8 to 0xcfb that are no dword, at offsets from 0xcf8.
    #[must_use]
    pub fn new(root: Arc<PciRoot>, behind: Arc<dyn BusDevice>) -> ConfigPorts {
        ConfigPorts { root, address: AtomicU32::new(0), behind }
    }

    /// The function and register that an access to `CONFIG_DATA` means.
    fn target(&self, port: u64) -> Option<(Bdf, u16)> {
        let address = self.address.load(Ordering::Acquire);
        let [register, devfn, bus, _] = address.to_le_bytes();
        let bdf = Bdf::new(devfn >> 3, devfn & 7)?;
        let byte = u16::try_from(port % 4).ok()?;
        let here = address & ADDRESS_ENABLE != 0 && bus == 0;
        here.then_some((bdf, u16::from(register) + byte))
    }
}

impl BusDevice for ConfigPorts {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match (offset, &mut *data) {
            (0, [a, b, c, d]) => {
                [*a, *b, *c, *d] = self.address.load(Ordering::Acquire).to_le_bytes();
            }
            (0..4, _) => self.behind.read(offset, data),
            _ => match self.target(offset) {
                Some((bdf, register)) => self.root.read_config(bdf, register, data),
                None => data.fill(0xff),
            },
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (0, &[a, b, c, d]) => {
                let address = u32::from_le_bytes([a, b, c, d]) & ADDRESS_BITS;
                self.address.store(address, Ordering::Release);
            }
            (0..4, _) => self.behind.write(offset, data),
            _ => {
                if let Some((bdf, register)) = self.target(offset) {
                    self.root.write_config(bdf, register, data);
                }
            }
        }
    }
}

impl fmt::Debug for ConfigPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigPorts").field("root", &self.root).finish_non_exhaustive()
    }
}

/// The enhanced configuration access mechanism, from bus 0 on: 4 KiB per function.
#[derive(Debug)]
pub struct Ecam(Arc<PciRoot>);

impl Ecam {
    /// The range of `root`'s configuration spaces.
    #[must_use]
    pub fn new(root: Arc<PciRoot>) -> Ecam {
        Ecam(root)
    }

    fn target(offset: u64) -> Option<(Bdf, u16)> {
        let function = u16::try_from(offset >> 12).ok().filter(|bdf| *bdf < 1 << 8)?;
        let [devfn, _] = function.to_le_bytes();
        let register = u16::try_from(offset & 0xfff).ok()?;
        Some((Bdf::new(devfn >> 3, devfn & 7)?, register))
    }
}

impl BusDevice for Ecam {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match Ecam::target(offset) {
            Some((bdf, register)) => self.0.read_config(bdf, register, data),
            None => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some((bdf, register)) = Ecam::target(offset) {
            self.0.write_config(bdf, register, data);
        }
    }
}

/// A range of memory addresses that the bus decodes, as long as a region claims them.
#[derive(Debug)]
pub struct MemoryWindow {
    root: Arc<PciRoot>,
    base: u64,
}

impl MemoryWindow {
    /// The window whose first guest physical address is `base`.
    #[must_use]
    pub fn new(root: Arc<PciRoot>, base: u64) -> MemoryWindow {
        MemoryWindow { root, base }
    }
}

impl BusDevice for MemoryWindow {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.root.read_memory(self.base.wrapping_add(offset), data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.root.write_memory(self.base.wrapping_add(offset), data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::root::Window;
    use proptest::prelude::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<(u64, Vec<u8>)>>);

    impl BusDevice for Recorder {
        fn read(&self, _: u64, data: &mut [u8]) {
            data.fill(0xcf);
        }

        fn write(&self, offset: u64, data: &[u8]) {
            self.0.lock().unwrap().push((offset, data.to_vec()));
        }
    }

    struct Guest {
        ports: ConfigPorts,
        ecam: Ecam,
        behind: Arc<Recorder>,
    }

    fn guest() -> Guest {
        let root = Arc::new(PciRoot::new(Window { base: 0xc000_0000, size: 0x1000 }, None));
        let behind = Arc::new(Recorder::default());
        Guest {
            ports: ConfigPorts::new(root.clone(), behind.clone()),
            ecam: Ecam::new(root),
            behind,
        }
    }

    impl Guest {
        fn select(&self, address: u32) {
            self.ports.write(0, &address.to_le_bytes());
        }

        fn dword(device: &dyn BusDevice, offset: u64) -> u32 {
            let mut data = [0; 4];
            device.read(offset, &mut data);
            u32::from_le_bytes(data)
        }
    }

    #[test]
    fn config_address_reads_back_and_needs_its_enable_bit() {
        let guest = guest();
        guest.select(0xffff_ffff);
        assert_eq!(Guest::dword(&guest.ports, 0), ADDRESS_BITS);
        guest.select(ADDRESS_ENABLE);
        assert_eq!(Guest::dword(&guest.ports, 4), 0x0008_1b36);
        guest.select(0);
        assert_eq!(Guest::dword(&guest.ports, 4), u32::MAX);
    }

    #[test]
    fn other_buses_are_empty() {
        let guest = guest();
        guest.select(ADDRESS_ENABLE | 1 << 16);
        assert_eq!(Guest::dword(&guest.ports, 4), u32::MAX);
        assert_eq!(Guest::dword(&guest.ecam, ECAM_BUS_SIZE), u32::MAX);
        assert_eq!(Guest::dword(&guest.ecam, u64::MAX), u32::MAX);
    }

    #[test]
    fn narrow_accesses_to_config_address_go_to_what_is_behind() {
        let guest = guest();
        guest.select(ADDRESS_ENABLE);
        guest.ports.write(1, &[6]);
        let mut byte = [0];
        guest.ports.read(1, &mut byte);
        assert_eq!(byte, [0xcf]);
        assert_eq!(*guest.behind.0.lock().unwrap(), [(1, vec![6])]);
        assert_eq!(Guest::dword(&guest.ports, 0), ADDRESS_ENABLE);
    }

    proptest! {
        /// One space behind both mechanisms: what one writes, the other reads.
        #[test]
        fn both_mechanisms_agree(
            offset in 0u8..=255,
            width in prop::sample::select(vec![1usize, 2, 4]),
            value in any::<[u8; 4]>(),
            write_by_ports in any::<bool>(),
        ) {
            prop_assume!(usize::from(offset % 4) + width <= 4);
            let guest = guest();
            guest.select(ADDRESS_ENABLE | u32::from(offset & !3));
            let port = 4 + u64::from(offset % 4);
            if write_by_ports {
                guest.ports.write(port, &value[..width]);
            } else {
                guest.ecam.write(offset.into(), &value[..width]);
            }
            let (mut by_ports, mut by_ecam) = ([0; 4], [0; 4]);
            guest.ports.read(port, &mut by_ports[..width]);
            guest.ecam.read(offset.into(), &mut by_ecam[..width]);
            prop_assert_eq!(by_ports, by_ecam);
        }
    }
}

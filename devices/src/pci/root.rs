//! Bus 0: which function sits where, and which of them answers an access.
//!
//! It plays the firmware too: it gives every memory region an address out of two windows, so
//! that a guest finds a configured bus. Where the guest moves a region, accesses follow, since
//! every access asks the functions by their current registers. That is slow and may be: what is
//! frequent, a doorbell, never comes here.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::pci::config::{ConfigSpace, HEADER_MULTI_FUNCTION, Identity, register};
use crate::pci::{BarOffset, Bdf, PciFunction};

const SLOTS: u8 = 32;
const FUNCTIONS: u8 = 8;
/// Functions of a bus besides the slot of its bridge.
pub const PLACES: usize = (SLOTS as usize - 1) * FUNCTIONS as usize;

/// A range of guest physical addresses out of which regions are given theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The first address.
    pub base: u64,
    /// The number of addresses.
    pub size: u64,
}

/// A function could not be added to the bus.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// There is a function already.
    #[error("{0} is taken")]
    Taken(Bdf),
    /// All slots and functions are taken.
    #[error("the PCI bus has {PLACES} functions, and no room for another")]
    Full,
    /// No window has an aligned range left.
    #[error("no room for a PCI memory region of {size:#x} bytes")]
    NoRoom {
        /// Bytes of the region.
        size: u64,
    },
}

/// Bus 0 with a host bridge in slot 0.
pub struct PciRoot {
    functions: RwLock<BTreeMap<Bdf, Arc<dyn PciFunction>>>,
    windows: Mutex<Windows>,
}

impl PciRoot {
    /// An empty bus. Regions that admit it are placed in `high`, a window above 4 GiB if there
    /// is one, and the others in `low`, a window below.
    #[must_use]
    pub fn new(low: Window, high: Option<Window>) -> PciRoot {
        let bridge: Arc<dyn PciFunction> = Arc::new(HostBridge::new());
        let bridge_at = Bdf { slot: 0, function: 0 };
        PciRoot {
            functions: RwLock::new(BTreeMap::from([(bridge_at, bridge)])),
            windows: Mutex::new(Windows { low, high }),
        }
    }

    /// Adds `function` to the next free place: function 0 of the lowest free slot, and once
    /// every slot is in use, the lowest free function. Its regions are given addresses.
    ///
    /// # Errors
    /// When the bus or a window is full.
    pub fn add(&self, function: Arc<dyn PciFunction>) -> Result<Bdf, AddError> {
        let mut functions = self.functions.write().unwrap_or_else(PoisonError::into_inner);
        let free = places().find(|at| !functions.contains_key(at)).ok_or(AddError::Full)?;
        self.assign(function.as_ref())?;
        functions.insert(free, function);
        Ok(free)
    }

    /// Adds `function` at `at`. A guest looks for further functions of a slot only if there is
    /// a function 0.
    ///
    /// # Errors
    /// When the place is taken or a window is full.
    pub fn add_at(&self, at: Bdf, function: Arc<dyn PciFunction>) -> Result<(), AddError> {
        let mut functions = self.functions.write().unwrap_or_else(PoisonError::into_inner);
        if functions.contains_key(&at) {
            return Err(AddError::Taken(at));
        }
        self.assign(function.as_ref())?;
        functions.insert(at, function);
        Ok(())
    }

    /// Reads the configuration space of the function at `at`; where there is none, all ones.
    pub fn read_config(&self, at: Bdf, offset: u16, data: &mut [u8]) {
        let Some(function) = self.function(at) else { return data.fill(0xff) };
        let (mut offset, mut rest) = (offset, data);
        while !rest.is_empty() {
            let (dword, tail) = rest.split_at_mut(within_dword(offset, rest.len()));
            function.read_config(offset, dword);
            self.show_multi_function(at, offset, dword);
            offset = next_dword(offset);
            rest = tail;
        }
    }

    /// Writes the configuration space of the function at `at`, if there is one.
    pub fn write_config(&self, at: Bdf, offset: u16, data: &[u8]) {
        let Some(function) = self.function(at) else { return };
        let (mut offset, mut rest) = (offset, data);
        while !rest.is_empty() {
            let (dword, tail) = rest.split_at(within_dword(offset, rest.len()));
            function.write_config(offset, dword);
            offset = next_dword(offset);
            rest = tail;
        }
    }

    /// Reads memory at guest physical `address`; where no region answers, all ones.
    pub fn read_memory(&self, address: u64, data: &mut [u8]) {
        match self.claim(address, data.len()) {
            Some((function, at)) => function.read_bar(at, data),
            None => data.fill(0xff),
        }
    }

    /// Writes memory at guest physical `address`, if a region answers.
    pub fn write_memory(&self, address: u64, data: &[u8]) {
        if let Some((function, at)) = self.claim(address, data.len()) {
            function.write_bar(at, data);
        }
    }

    fn function(&self, at: Bdf) -> Option<Arc<dyn PciFunction>> {
        let functions = self.functions.read().unwrap_or_else(PoisonError::into_inner);
        functions.get(&at).cloned()
    }

    fn claim(&self, address: u64, len: usize) -> Option<(Arc<dyn PciFunction>, BarOffset)> {
        let functions = self.functions.read().unwrap_or_else(PoisonError::into_inner);
        functions
            .values()
            .find_map(|function| Some((Arc::clone(function), function.claim(address, len)?)))
    }

    /// A function cannot know its neighbours, so their bit is put into what it answers.
    fn show_multi_function(&self, at: Bdf, offset: u16, data: &mut [u8]) {
        let Some(index) = register::HEADER_TYPE.checked_sub(offset) else { return };
        let Some(header_type) = data.get_mut(usize::from(index)) else { return };
        let functions = self.functions.read().unwrap_or_else(PoisonError::into_inner);
        if functions.keys().filter(|other| other.slot == at.slot).count() > 1 {
            *header_type |= HEADER_MULTI_FUNCTION;
        }
    }

    /// Sizes the regions of `function` as firmware does, and gives them addresses.
    fn assign(&self, function: &dyn PciFunction) -> Result<(), AddError> {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let mut registers = (register::BAR0..).step_by(4).take(6);
        while let Some(at) = registers.next() {
            let Some(region) = Region::probe(function, at) else { continue };
            let address = windows.allocate(region).ok_or(AddError::NoRoom { size: region.size })?;
            let [low, high] = halves(address);
            function.write_config(at, &low.to_le_bytes());
            if region.wide {
                registers.next();
                function.write_config(at + 4, &high.to_le_bytes());
            }
        }
        Ok(())
    }
}

impl fmt::Debug for PciRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let functions = self.functions.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_set().entries(functions.keys()).finish()
    }
}

/// The host bridge: a guest takes a bus for one only if it finds it.
#[derive(Debug)]
struct HostBridge(Mutex<ConfigSpace>);

impl HostBridge {
    /// The IDs of a generic PCI Express host bridge without device-specific registers.
    const ID: (u16, u16) = (0x1b36, 0x0008);

    fn new() -> HostBridge {
        HostBridge(Mutex::new(ConfigSpace::new(Identity {
            id: HostBridge::ID,
            revision: 0,
            class: (0x06, 0x00, 0x00),
            subsystem: (0, 0),
        })))
    }
}

impl PciFunction for HostBridge {
    fn read_config(&self, offset: u16, data: &mut [u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).read(offset, data);
    }

    fn write_config(&self, offset: u16, data: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(offset, data);
    }
}

/// A memory region as its base address register describes it.
#[derive(Clone, Copy)]
struct Region {
    size: u64,
    wide: bool,
}

impl Region {
    /// Sizes the region of the register at `at` (PCI 3.0, 6.2.5.1).
    fn probe(function: &dyn PciFunction, at: u16) -> Option<Region> {
        let low = write_ones(function, at);
        let wide = low & 0b110 == 0b100;
        let high = if wide { write_ones(function, at + 4) } else { u32::MAX };
        let mask = u64::from(high) << 32 | u64::from(low & !0xf);
        (low & !0xf != 0).then_some(Region { size: mask.wrapping_neg(), wide })
    }
}

fn write_ones(function: &dyn PciFunction, at: u16) -> u32 {
    let mut value = [0; 4];
    function.write_config(at, &[0xff; 4]);
    function.read_config(at, &mut value);
    u32::from_le_bytes(value)
}

/// What is left of the windows.
#[derive(Debug)]
struct Windows {
    low: Window,
    high: Option<Window>,
}

impl Windows {
    fn allocate(&mut self, region: Region) -> Option<u64> {
        let high = self.high.as_mut().filter(|_| region.wide);
        high.and_then(|window| window.take(region.size)).or_else(|| self.low.take(region.size))
    }
}

impl Window {
    /// Takes `size` addresses, aligned to `size`, a power of two.
    fn take(&mut self, size: u64) -> Option<u64> {
        let base = self.base.checked_next_multiple_of(size)?;
        let end = base.checked_add(size)?;
        let left = self.base.checked_add(self.size)?.checked_sub(end)?;
        *self = Window { base: end, size: left };
        Some(base)
    }
}

/// The places of functions in the order in which they are given out.
fn places() -> impl Iterator<Item = Bdf> {
    (0..FUNCTIONS).flat_map(|function| (1..SLOTS).map(move |slot| Bdf { slot, function }))
}

/// How many of `len` bytes from `offset` lie in its dword.
fn within_dword(offset: u16, len: usize) -> usize {
    len.min(usize::from(4 - offset % 4))
}

fn next_dword(offset: u16) -> u16 {
    (offset & !3).saturating_add(4)
}

fn halves(address: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = address.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::config::{BarWidth, COMMAND_MEMORY};

    const LOW: Window = Window { base: 0xc000_0800, size: 0x10_0000 };
    const HIGH: Window = Window { base: 0x1_0000_0000, size: 0x10_0000 };

    /// A function whose regions remember nothing and read as the number of their register.
    struct Plain(Mutex<ConfigSpace>);

    impl Plain {
        fn new(bars: &[(u8, BarWidth, u32)]) -> Arc<Plain> {
            let class = (0xff, 0, 0);
            let identity = Identity { id: (1, 2), revision: 0, class, subsystem: (0, 0) };
            let mut config = ConfigSpace::new(identity);
            for (index, width, size) in bars {
                config.add_bar(*index, *width, *size).unwrap();
            }
            Arc::new(Plain(Mutex::new(config)))
        }

        fn dword(&self, offset: u16) -> u32 {
            self.0.lock().unwrap().dword(offset)
        }
    }

    impl PciFunction for Plain {
        fn read_config(&self, offset: u16, data: &mut [u8]) {
            assert!(usize::from(offset % 4) + data.len() <= 4, "an access crosses dwords");
            self.0.lock().unwrap().read(offset, data);
        }

        fn write_config(&self, offset: u16, data: &[u8]) {
            assert!(usize::from(offset % 4) + data.len() <= 4, "an access crosses dwords");
            self.0.lock().unwrap().write(offset, data);
        }

        fn claim(&self, address: u64, len: usize) -> Option<BarOffset> {
            self.0.lock().unwrap().claim(address, len)
        }

        fn read_bar(&self, at: BarOffset, data: &mut [u8]) {
            data.fill(at.bar);
        }
    }

    fn bdf(slot: u8, function: u8) -> Bdf {
        Bdf::new(slot, function).unwrap()
    }

    fn config_dword(root: &PciRoot, at: Bdf, offset: u16) -> u32 {
        let mut data = [0; 4];
        root.read_config(at, offset, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn slot_0_is_a_host_bridge_and_absent_functions_read_all_ones() {
        let root = PciRoot::new(LOW, None);
        assert_eq!(config_dword(&root, bdf(0, 0), 0), 0x0008_1b36);
        assert_eq!(config_dword(&root, bdf(0, 0), 8) >> 8, 0x06_0000);
        assert_eq!(config_dword(&root, bdf(0, 1), 0), u32::MAX);
        assert_eq!(config_dword(&root, bdf(31, 7), 0), u32::MAX);
    }

    #[test]
    fn regions_are_placed_aligned_in_the_window_that_suits_them() {
        let function = Plain::new(&[(0, BarWidth::Bits32, 0x1000), (2, BarWidth::Bits64, 0x2000)]);
        PciRoot::new(LOW, Some(HIGH)).add(function.clone()).unwrap();
        assert_eq!(function.dword(0x10), 0xc000_1000);
        assert_eq!((function.dword(0x18), function.dword(0x1c)), (0x0000_0004, 1));
        PciRoot::new(LOW, None).add(function.clone()).unwrap();
        assert_eq!((function.dword(0x18), function.dword(0x1c)), (0xc000_2004, 0));
    }

    #[test]
    fn a_window_that_is_full_refuses_the_function() {
        let root = PciRoot::new(Window { base: 0xc000_0000, size: 0x1800 }, None);
        let region = [(0, BarWidth::Bits32, 0x1000)];
        root.add(Plain::new(&region)).unwrap();
        let refused = root.add(Plain::new(&region));
        assert_eq!(refused, Err(AddError::NoRoom { size: 0x1000 }));
    }

    #[test]
    fn the_bus_takes_31_slots_of_8_functions_and_shows_multi_function_slots() {
        let root = PciRoot::new(LOW, None);
        for slot in 1..32 {
            assert_eq!(root.add(Plain::new(&[])), Ok(bdf(slot, 0)));
            assert_eq!(config_dword(&root, bdf(slot, 0), 0x0c), 0);
        }
        assert_eq!(root.add(Plain::new(&[])), Ok(bdf(1, 1)));
        assert_eq!(config_dword(&root, bdf(1, 0), 0x0c), 0x80_0000);
        assert_eq!(config_dword(&root, bdf(1, 1), 0x0c), 0x80_0000);
        assert_eq!(config_dword(&root, bdf(2, 0), 0x0c), 0);
        let mut byte = [0];
        root.read_config(bdf(1, 0), 0x0e, &mut byte);
        assert_eq!(byte, [0x80]);
        for _ in 0..31 * 7 - 1 {
            root.add(Plain::new(&[])).unwrap();
        }
        assert_eq!(root.add(Plain::new(&[])), Err(AddError::Full));
        assert_eq!(root.add_at(bdf(0, 0), Plain::new(&[])), Err(AddError::Taken(bdf(0, 0))));
    }

    #[test]
    fn memory_accesses_follow_the_registers() {
        let root = PciRoot::new(LOW, None);
        let region = [(1, BarWidth::Bits32, 0x1000)];
        let at = root.add(Plain::new(&region)).unwrap();
        let read = |address| {
            let mut data = [0; 4];
            root.read_memory(address, &mut data);
            data
        };
        assert_eq!(read(0xc000_1000), [0xff; 4], "decoding is off");
        root.write_config(at, register::COMMAND, &COMMAND_MEMORY.to_le_bytes());
        assert_eq!(read(0xc000_1000), [1; 4]);
        root.write_config(at, 0x14, &0xd000_0000u32.to_le_bytes());
        assert_eq!(read(0xc000_1000), [0xff; 4]);
        assert_eq!((read(0xd000_0ffc), read(0xd000_0ffd)), ([1; 4], [0xff; 4]));
    }

    #[test]
    fn wide_and_crossing_config_accesses_are_split() {
        let root = PciRoot::new(LOW, None);
        let at = root.add(Plain::new(&[])).unwrap();
        let mut data = [0; 8];
        root.read_config(at, 2, &mut data);
        assert_eq!(data, [2, 0, 0, 0, 0, 0, 0, 0]);
        root.write_config(at, 0x39, &[0, 0, 0, 0x55]);
        root.read_config(at, 0x38, &mut data);
        assert_eq!(data, [0, 0, 0, 0, 0x55, 0, 0, 0]);
        root.read_config(at, 0xfffe, &mut data);
    }
}

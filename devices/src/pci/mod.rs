//! PCI: one bus of functions, as a guest without firmware finds it.
//!
//! `config` is a function's configuration space, `msix` its interrupts, `root` the bus and who
//! sits where, `access` the ways in which a guest reaches them. Nothing here knows virtio.

pub mod access;
pub mod config;
pub mod msix;
pub mod root;

use std::fmt;

/// Where a function sits on bus 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bdf {
    slot: u8,
    function: u8,
}

impl Bdf {
    /// Function `function` (0 to 7) of slot `slot` (0 to 31).
    #[must_use]
    pub const fn new(slot: u8, function: u8) -> Option<Bdf> {
        if slot < 32 && function < 8 { Some(Bdf { slot, function }) } else { None }
    }

    /// The slot, that is the device number, 0 to 31.
    #[must_use]
    pub const fn slot(self) -> u8 {
        self.slot
    }

    /// The function number, 0 to 7.
    #[must_use]
    pub const fn function(self) -> u8 {
        self.function
    }
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00:{:02x}.{}", self.slot, self.function)
    }
}

/// A place in a region that a base address register maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarOffset {
    /// The number of the (first) base address register, 0 to 5.
    pub bar: u8,
    /// Bytes from the start of the region.
    pub offset: u64,
}

/// A PCI function. It guards its own state: calls come from any vCPU at any time.
pub trait PciFunction: Send + Sync {
    /// Reads `data.len()` bytes (1 to 4, within one dword) of the configuration space.
    fn read_config(&self, offset: u16, data: &mut [u8]);

    /// Writes `data` (1 to 4 bytes, within one dword) to the configuration space.
    fn write_config(&self, offset: u16, data: &[u8]);

    /// Which region, if any, answers memory accesses to the `len` bytes from guest physical
    /// `address`, by the current values of the base address and command registers.
    fn claim(&self, address: u64, len: usize) -> Option<BarOffset> {
        let _ = (address, len);
        None
    }

    /// Reads from a region that [`PciFunction::claim`] named.
    fn read_bar(&self, at: BarOffset, data: &mut [u8]) {
        let _ = at;
        data.fill(0xff);
    }

    /// Writes to a region that [`PciFunction::claim`] named.
    fn write_bar(&self, at: BarOffset, data: &[u8]) {
        let _ = (at, data);
    }
}

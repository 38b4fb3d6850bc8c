//! The configuration space of one function: a register file with a writable mask per bit.
//!
//! Follows PCI 3.0, 6.1 (header type 0), 6.2.5 (base address registers) and 6.7 (capabilities).
//! Sizing a base address register needs no code: the address bits below the region's size are
//! not writable. It owns no behaviour: what a register does is its function's business.

use crate::pci::BarOffset;

/// Bytes of a conventional configuration space; reads beyond are zero, writes are lost.
pub const CONFIG_SPACE_SIZE: usize = 256;

/// The offsets of the registers that a function may have to act upon (PCI 3.0, 6.1).
pub mod register {
    /// Vendor ID, 16 bits; the device ID follows.
    pub const VENDOR_ID: u16 = 0x00;
    /// Command, 16 bits.
    pub const COMMAND: u16 = 0x04;
    /// Status, 16 bits.
    pub const STATUS: u16 = 0x06;
    /// Revision ID, 8 bits; the 24-bit class code follows.
    pub const REVISION_ID: u16 = 0x08;
    /// Header type, 8 bits.
    pub const HEADER_TYPE: u16 = 0x0e;
    /// The first of six 32-bit base address registers.
    pub const BAR0: u16 = 0x10;
    /// Subsystem vendor ID, 16 bits; the subsystem ID follows.
    pub const SUBSYSTEM_VENDOR_ID: u16 = 0x2c;
    /// Pointer to the first capability, 8 bits.
    pub const CAPABILITIES_POINTER: u16 = 0x34;
    /// Interrupt line, 8 bits, a scratch register of the guest's.
    pub const INTERRUPT_LINE: u16 = 0x3c;
}

/// Command: answer accesses to the memory regions.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// Command: may master the bus.
pub const COMMAND_MASTER: u16 = 1 << 2;
/// Command: may not assert `INTx`.
pub const COMMAND_INTX_DISABLE: u16 = 1 << 10;
/// Header type: the slot has more functions than this one.
pub const HEADER_MULTI_FUNCTION: u8 = 1 << 7;

const STATUS_INTERRUPT: u16 = 1 << 3;
const STATUS_CAPABILITIES: u16 = 1 << 4;
const BAR_MEMORY_64: u32 = 0b10 << 1;
const BAR_COUNT: u8 = 6;
const FIRST_CAPABILITY: u8 = 0x40;

/// What a function is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Vendor and device.
    pub id: (u16, u16),
    /// Revision of the device.
    pub revision: u8,
    /// Base class, sub-class and programming interface.
    pub class: (u8, u8, u8),
    /// Vendor and device of the subsystem.
    pub subsystem: (u16, u16),
}

/// The width of the addresses that a memory region may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarWidth {
    /// Below 4 GiB; one register.
    Bits32,
    /// Anywhere; two registers.
    Bits64,
}

/// A configuration space cannot hold what it is to have.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// There are six registers, and a 64-bit region takes two.
    #[error("base address register {0} does not exist or is taken")]
    BarIndex(u8),
    /// PCI 3.0, 6.2.5.1: a power of two of at least 16 bytes.
    #[error("a region of {0:#x} bytes is no power of two from 16 bytes to 2 GiB")]
    BarSize(u64),
    /// The capabilities exceed 256 bytes.
    #[error("no room for capability {0:#x}")]
    CapabilityRoom(u8),
}

#[derive(Clone, Copy, Debug)]
struct Bar {
    index: u8,
    width: BarWidth,
    size: u32,
}

/// The configuration space of a function with header type 0, without `INTx` (interrupt pin 0).
#[derive(Debug)]
pub struct ConfigSpace {
    registers: [u8; CONFIG_SPACE_SIZE],
    writable: [u8; CONFIG_SPACE_SIZE],
    bars: Vec<Bar>,
    /// Where the pointer to the next capability goes.
    last_pointer: u16,
    next_capability: u8,
}

impl ConfigSpace {
    /// A function of `identity`, without regions and capabilities, that decodes nothing yet.
    #[must_use]
    pub fn new(identity: Identity) -> ConfigSpace {
        let mut config = ConfigSpace {
            registers: [0; CONFIG_SPACE_SIZE],
            writable: [0; CONFIG_SPACE_SIZE],
            bars: Vec::new(),
            last_pointer: register::CAPABILITIES_POINTER,
            next_capability: FIRST_CAPABILITY,
        };
        let (base_class, sub_class, interface) = identity.class;
        config.set(register::VENDOR_ID, &pair(identity.id));
        config.set(register::REVISION_ID, &[identity.revision, interface, sub_class, base_class]);
        config.set(register::SUBSYSTEM_VENDOR_ID, &pair(identity.subsystem));
        let command = COMMAND_MEMORY | COMMAND_MASTER | COMMAND_INTX_DISABLE;
        config.set_writable(register::COMMAND, &command.to_le_bytes());
        config.set_writable(register::INTERRUPT_LINE, &[0xff]);
        config
    }

    /// Adds a memory region of `size` bytes, not prefetchable, at register `index`.
    ///
    /// # Errors
    /// When the register does not exist or is taken, or the size is no power of two.
    pub fn add_bar(&mut self, index: u8, width: BarWidth, size: u32) -> Result<(), ConfigError> {
        let bar = Bar { index, width, size };
        if bar.end() > BAR_COUNT || self.bars.iter().any(|other| other.overlaps(bar)) {
            return Err(ConfigError::BarIndex(index));
        }
        if !size.is_power_of_two() || size < 16 {
            return Err(ConfigError::BarSize(size.into()));
        }
        let address_bits = !(size - 1);
        self.set_writable(bar.register(), &address_bits.to_le_bytes());
        if width == BarWidth::Bits64 {
            self.set(bar.register(), &BAR_MEMORY_64.to_le_bytes());
            self.set_writable(bar.register() + 4, &[0xff; 4]);
        }
        self.bars.push(bar);
        Ok(())
    }

    /// Appends capability `id` with the bytes `body` after its two-byte header. `writable` masks
    /// the bits of `body` that the guest may write; bytes past its end are read-only. Returns
    /// the offset of the header.
    ///
    /// # Errors
    /// When the space is full.
    pub fn add_capability(
        &mut self,
        id: u8,
        body: &[u8],
        writable: &[u8],
    ) -> Result<u16, ConfigError> {
        let at = self.next_capability;
        let end = (usize::from(at) + 2 + body.len()).next_multiple_of(4);
        // The end of the space is no place for a further capability: one that ends there fails.
        self.next_capability = u8::try_from(end).map_err(|_| ConfigError::CapabilityRoom(id))?;
        let offset = u16::from(at);
        self.set(self.last_pointer, &[at]);
        self.set(offset, &[id, 0]);
        self.set(offset + 2, body);
        self.set_writable(offset + 2, writable);
        self.last_pointer = offset + 1;
        self.set_status(STATUS_CAPABILITIES, true);
        Ok(offset)
    }

    /// Reads `data.len()` bytes from `offset` on.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        for (at, byte) in (usize::from(offset)..).zip(data) {
            *byte = self.registers.get(at).copied().unwrap_or(0);
        }
    }

    /// A guest's write: changes the writable bits only.
    pub fn write(&mut self, offset: u16, data: &[u8]) {
        let from = usize::from(offset);
        let registers = self.registers.iter_mut().zip(&self.writable).skip(from);
        for ((register, writable), byte) in registers.zip(data) {
            *register = (*register & !writable) | (byte & writable);
        }
    }

    /// The device's own write: changes read-only registers too.
    pub fn set(&mut self, offset: u16, data: &[u8]) {
        store(&mut self.registers, offset, data);
    }

    /// Sets or clears the Interrupt Status bit.
    pub fn set_interrupt_status(&mut self, pending: bool) {
        self.set_status(STATUS_INTERRUPT, pending);
    }

    /// The 16-bit register at `offset`.
    #[must_use]
    pub fn word(&self, offset: u16) -> u16 {
        let mut bytes = [0; 2];
        self.read(offset, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    /// The 32-bit register at `offset`.
    #[must_use]
    pub fn dword(&self, offset: u16) -> u32 {
        let mut bytes = [0; 4];
        self.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// The guest physical address at which the region of register `index` answers; `None` while
    /// memory decoding is off.
    #[must_use]
    pub fn bar_address(&self, index: u8) -> Option<u64> {
        let bar = self.bars.iter().find(|bar| bar.index == index)?;
        self.decodes_memory().then(|| self.address(*bar))
    }

    /// The region that answers the `len` bytes from guest physical `address`.
    #[must_use]
    pub fn claim(&self, address: u64, len: usize) -> Option<BarOffset> {
        if !self.decodes_memory() {
            return None;
        }
        self.bars.iter().find_map(|bar| {
            let offset = address.checked_sub(self.address(*bar))?;
            let end = offset.checked_add(len as u64)?;
            (end <= bar.size.into()).then_some(BarOffset { bar: bar.index, offset })
        })
    }

    fn decodes_memory(&self) -> bool {
        self.word(register::COMMAND) & COMMAND_MEMORY != 0
    }

    fn address(&self, bar: Bar) -> u64 {
        let high = match bar.width {
            BarWidth::Bits32 => 0,
            BarWidth::Bits64 => self.dword(bar.register() + 4),
        };
        let low = self.dword(bar.register()) & !(bar.size - 1);
        u64::from(high) << 32 | u64::from(low)
    }

    fn set_writable(&mut self, offset: u16, mask: &[u8]) {
        store(&mut self.writable, offset, mask);
    }

    fn set_status(&mut self, bit: u16, on: bool) {
        let status = self.word(register::STATUS) & !bit;
        let status = if on { status | bit } else { status };
        self.set(register::STATUS, &status.to_le_bytes());
    }
}

impl Bar {
    fn register(self) -> u16 {
        register::BAR0 + 4 * u16::from(self.index)
    }

    fn end(self) -> u8 {
        let registers = match self.width {
            BarWidth::Bits32 => 1,
            BarWidth::Bits64 => 2,
        };
        self.index.saturating_add(registers)
    }

    fn overlaps(self, other: Bar) -> bool {
        self.index < other.end() && other.index < self.end()
    }
}

fn store(bytes: &mut [u8; CONFIG_SPACE_SIZE], offset: u16, data: &[u8]) {
    for (to, from) in bytes.iter_mut().skip(offset.into()).zip(data) {
        *to = *from;
    }
}

fn pair((first, second): (u16, u16)) -> [u8; 4] {
    (u32::from(second) << 16 | u32::from(first)).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ConfigSpace {
        ConfigSpace::new(Identity {
            id: (0x1234, 0x5678),
            revision: 1,
            class: (1, 2, 3),
            subsystem: (0x9abc, 0xdef0),
        })
    }

    fn enable_memory(config: &mut ConfigSpace) {
        config.write(register::COMMAND, &COMMAND_MEMORY.to_le_bytes());
    }

    #[test]
    fn the_header_says_who_the_function_is() {
        let config = config();
        assert_eq!(config.dword(0), 0x5678_1234);
        assert_eq!(config.dword(8), 0x0102_0301);
        assert_eq!(config.dword(0x2c), 0xdef0_9abc);
        assert_eq!(config.dword(0x3c), 0, "no interrupt pin");
    }

    #[test]
    fn a_guest_writes_only_what_is_writable() {
        let mut config = config();
        for offset in (0..256).step_by(4) {
            config.write(offset, &[0xff; 4]);
        }
        assert_eq!(config.dword(0), 0x5678_1234);
        assert_eq!(config.dword(4), 0x0000_0406);
        assert_eq!(config.dword(0x10), 0);
        assert_eq!(config.dword(0x3c), 0xff);
    }

    #[test]
    fn sizing_a_register_shows_its_size_and_kind() {
        let mut config = config();
        config.add_bar(0, BarWidth::Bits32, 0x1000).unwrap();
        config.add_bar(1, BarWidth::Bits64, 0x4000).unwrap();
        for register in [0x10, 0x14, 0x18] {
            config.write(register, &[0xff; 4]);
        }
        assert_eq!(config.dword(0x10), 0xffff_f000);
        assert_eq!(config.dword(0x14), 0xffff_c004);
        assert_eq!(config.dword(0x18), 0xffff_ffff);
    }

    #[test]
    fn a_region_answers_where_its_register_says_while_memory_decoding_is_on() {
        let mut config = config();
        config.add_bar(2, BarWidth::Bits64, 0x1000).unwrap();
        config.write(0x18, &0x8000_0000u32.to_le_bytes());
        config.write(0x1c, &1u32.to_le_bytes());
        assert_eq!((config.bar_address(2), config.claim(0x1_8000_0000, 4)), (None, None));
        enable_memory(&mut config);
        assert_eq!(config.bar_address(2), Some(0x1_8000_0000));
        let at = |offset| Some(BarOffset { bar: 2, offset });
        assert_eq!(config.claim(0x1_8000_0000, 4), at(0));
        assert_eq!(config.claim(0x1_8000_0ffc, 4), at(0xffc));
        assert_eq!(config.claim(0x1_8000_0ffd, 4), None);
        assert_eq!(config.claim(0x1_7fff_ffff, 1), None);
        assert_eq!(config.claim(u64::MAX, 8), None);
    }

    #[test]
    fn impossible_regions_are_refused() {
        let mut config = config();
        config.add_bar(1, BarWidth::Bits64, 0x1000).unwrap();
        for index in [1, 2, 6, 255] {
            let refused = config.add_bar(index, BarWidth::Bits32, 0x1000);
            assert_eq!(refused, Err(ConfigError::BarIndex(index)));
        }
        for index in [0, 5] {
            let refused = config.add_bar(index, BarWidth::Bits64, 0x1000);
            assert_eq!(refused, Err(ConfigError::BarIndex(index)));
        }
        for size in [0, 8, 0x1001] {
            let refused = config.add_bar(0, BarWidth::Bits32, size);
            assert_eq!(refused, Err(ConfigError::BarSize(size.into())));
        }
    }

    #[test]
    fn capabilities_are_chained_from_the_header() {
        let mut config = config();
        let first = config.add_capability(0x09, &[1, 2, 3], &[0, 0xff]).unwrap();
        let second = config.add_capability(0x11, &[4; 10], &[]).unwrap();
        assert_eq!(config.word(register::STATUS) & STATUS_CAPABILITIES, STATUS_CAPABILITIES);
        assert_eq!((config.dword(0x34), first, second), (0x40, 0x40, 0x48));
        assert_eq!(config.dword(0x40), 0x0201_4809);
        assert_eq!(config.word(0x48), 0x0011);
        config.write(0x42, &[0xaa, 0xbb]);
        assert_eq!(config.word(0x42), 0xbb01);
    }

    #[test]
    fn a_full_space_refuses_a_capability() {
        let mut config = config();
        config.add_capability(9, &[0; 170], &[]).unwrap();
        assert_eq!(config.add_capability(9, &[0; 30], &[]), Err(ConfigError::CapabilityRoom(9)));
    }

    #[test]
    fn accesses_past_the_end_are_harmless() {
        let mut config = config();
        config.write(0xfe, &[0xff; 4]);
        config.write(0xffff, &[0xff; 4]);
        assert_eq!((config.dword(0xfe), config.dword(0xffff)), (0, 0));
    }
}

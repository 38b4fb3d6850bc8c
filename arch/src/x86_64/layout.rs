//! Where everything is: guest physical addresses, ports and interrupt lines.
//!
//! Owns every address of the machine. RAM fills the space from 0 up to the 32-bit hole, and the
//! rest of it starts at 4 GiB; above RAM lies the 64-bit PCI window. Must not know what answers
//! at an address.

/// A range of guest physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First address.
    pub base: u64,
    /// Size in bytes.
    pub size: u64,
}

impl Region {
    /// The range from `base` up to, not including, `end`; empty if `end` is below `base`.
    pub const fn between(base: u64, end: u64) -> Self {
        Region { base, size: end.saturating_sub(base) }
    }

    /// The first address behind the range.
    pub const fn end(&self) -> u64 {
        self.base + self.size
    }

    /// Whether the two ranges share an address.
    pub const fn overlaps(&self, other: &Region) -> bool {
        self.base < other.end() && other.base < self.end()
    }
}

/// Size of a page in bytes.
pub const PAGE: u64 = 0x1000;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const FOUR_GIB: u64 = 4 * GIB;

/// The boot GDT.
pub const GDT: u64 = 0x500;
/// What a kernel that is entered by PVH is told.
pub const START_INFO: Region = Region { base: 0x6000, size: PAGE };
/// `struct boot_params`, the "zero page".
pub const BOOT_PARAMS: u64 = 0x7000;
/// Top of the boot stack.
pub const BOOT_STACK: u64 = 0x8ff0;
/// The boot page tables, from the PML4 upwards.
pub const PAGE_TABLES: u64 = 0x9000;
/// The kernel's command line.
pub const CMDLINE: Region = Region { base: 0x2_0000, size: 0x1_0000 };
/// The end of conventional memory.
pub const LOW_RAM_END: u64 = 0x9_fc00;
/// The ACPI tables; the RSDP is at the base, where Linux looks for one on a PC.
pub const ACPI: Region = Region { base: 0xe_0000, size: 0x2_0000 };
/// Where a processor starts after a reset, as real mode sees it: the last 16 bytes below 1 MiB.
pub const RESET_VECTOR: u64 = 0xf_fff0;
/// Start of extended memory; a bzImage is loaded here.
pub const HIGH_RAM: u64 = 0x10_0000;

/// The hole below 4 GiB that RAM leaves to devices.
pub const HOLE: Region = Region { base: 3 * GIB, size: GIB };
/// The 32-bit PCI memory window.
pub const PCI32: Region = Region { base: HOLE.base, size: 640 * MIB };
/// PCI configuration space by memory (ECAM), bus 0 alone.
pub const ECAM: Region = Region { base: 0xe800_0000, size: MIB };
/// The windows of virtio-mmio devices, one behind the other.
pub const VIRTIO_MMIO: Region =
    Region { base: 0xe900_0000, size: PAGE * VIRTIO_MMIO_IRQS.len() as u64 };
/// The I/O APIC.
pub const IOAPIC: u64 = 0xfec0_0000;
/// The local APICs.
pub const LAPIC: u64 = 0xfee0_0000;
/// A page that KVM needs on Intel hosts without unrestricted guests.
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages that KVM needs on the same hosts.
pub const KVM_TSS: u64 = 0xfffb_d000;

/// Interrupt pins of the I/O APIC; message-signalled interrupts take the numbers from here.
pub const IOAPIC_PINS: u32 = 24;
/// The first serial port: 8 ports.
pub const COM1: u16 = 0x3f8;
/// The line of the first serial port.
pub const COM1_IRQ: u32 = 4;
/// The line by which the power button tells that it was pressed: that of the SCI, which there is
/// none of in hardware-reduced ACPI.
pub const POWER_BUTTON_IRQ: u32 = 9;
/// The port by which a guest tells of its panic.
pub const PVPANIC: u16 = 0x505;
/// The lines of virtio-mmio devices. First those behind which there never was a PIC; then those
/// that a PC gives to whatever card has none of its own, to the floppy disk, the printer and the
/// IDE disks, none of which a guest will look for here. What a guest may take for a timer, a
/// keyboard, a cascade, a second serial port, a clock, the power management, a mouse or a
/// coprocessor stays free.
pub const VIRTIO_MMIO_IRQS: [u32; 14] = [16, 17, 18, 19, 20, 21, 22, 23, 10, 11, 6, 7, 14, 15];
/// The keyboard controller's first port; the last of its 5 is the command and status port.
pub const I8042: u16 = 0x60;
/// The ACPI sleep control register (ACPI 6.5, 4.8.3.7); the sleep status register follows it.
pub const SLEEP_CONTROL: u16 = 0x600;
/// The ACPI sleep status register.
pub const SLEEP_STATUS: u16 = SLEEP_CONTROL + 1;
/// The `SLP_TYP` that means soft off (`_S5`).
pub const SLEEP_TYPE_S5: u8 = 5;
/// The reset control register, named by the FADT too.
pub const RESET: u16 = 0xcf9;
/// What to write there.
pub const RESET_VALUE: u8 = 6;
/// PCI configuration space by ports: the address register, and the data register 4 above it.
pub const PCI_CONFIG: u16 = 0xcf8;

/// Where a virtio-mmio device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioSlot {
    /// Its registers.
    pub window: Region,
    /// Its interrupt line.
    pub irq: u32,
}

/// The places for virtio-mmio devices, in the order in which they are taken: as many as there
/// are lines.
pub fn virtio_mmio() -> impl Iterator<Item = MmioSlot> {
    let window = |index: u64| Region { base: VIRTIO_MMIO.base + index * PAGE, size: PAGE };
    (0..).zip(VIRTIO_MMIO_IRQS).map(move |(index, irq)| MmioSlot { window: window(index), irq })
}

/// The smallest amount of RAM.
const MIN_RAM: u64 = 16 * MIB;
const PCI64_ALIGN: u64 = GIB;
const PCI64_MAX: u64 = 256 * GIB;

/// A memory size that this machine cannot have.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Not whole pages.
    #[error("{0} bytes of guest memory are not a multiple of 4 KiB")]
    Unaligned(u64),
    /// Too little to boot anything.
    #[error("{0} bytes of guest memory are too few: give at least 16 MiB")]
    TooSmall(u64),
    /// RAM and the 64-bit PCI window exceed the physical address space.
    #[error(
        "{memory} bytes of guest memory do not fit in the {physical_bits} physical address bits \
         of this host's vCPUs: give less"
    )]
    TooLarge {
        /// Bytes asked for.
        memory: u64,
        /// Width of a guest physical address.
        physical_bits: u8,
    },
}

/// The part of the map that depends on the amount of RAM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    low: Region,
    high: Option<Region>,
    pci64: Region,
}

impl Layout {
    /// The map of a machine with `memory` bytes of RAM whose CPUs have `physical_bits` of
    /// physical address.
    ///
    /// # Errors
    /// [`LayoutError`] when no such machine can be made.
    pub fn new(memory: u64, physical_bits: u8) -> Result<Self, LayoutError> {
        if !memory.is_multiple_of(PAGE) {
            return Err(LayoutError::Unaligned(memory));
        }
        if memory < MIN_RAM {
            return Err(LayoutError::TooSmall(memory));
        }
        let too_large = LayoutError::TooLarge { memory, physical_bits };
        let low = Region { base: 0, size: memory.min(HOLE.base) };
        let above = memory - low.size;
        let high = (above > 0).then_some(Region { base: FOUR_GIB, size: above });
        let limit = 1u64.checked_shl(physical_bits.into()).unwrap_or(u64::MAX);
        let pci64 = FOUR_GIB
            .checked_add(above)
            .and_then(|end| end.checked_next_multiple_of(PCI64_ALIGN))
            .map(|base| Region::between(base, limit.min(base.saturating_add(PCI64_MAX))))
            .filter(|window| window.size >= PCI64_ALIGN)
            .ok_or(too_large)?;
        Ok(Layout { low, high, pci64 })
    }

    /// RAM, in ascending order.
    pub fn ram(&self) -> impl Iterator<Item = Region> {
        std::iter::once(self.low).chain(self.high)
    }

    /// RAM below the hole.
    pub fn low_ram(&self) -> Region {
        self.low
    }

    /// The 64-bit PCI memory window.
    pub fn pci64(&self) -> Region {
        self.pci64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_memory_is_one_piece_below_the_hole() {
        let layout = Layout::new(512 * MIB, 40).unwrap();
        assert!(layout.ram().eq([Region { base: 0, size: 512 * MIB }]));
        assert_eq!(layout.pci64().base, FOUR_GIB);
    }

    #[test]
    fn memory_up_to_the_hole_stays_below_it() {
        let layout = Layout::new(HOLE.base, 40).unwrap();
        assert!(layout.ram().eq([Region { base: 0, size: HOLE.base }]));
    }

    #[test]
    fn memory_beyond_the_hole_continues_at_four_gib() {
        let layout = Layout::new(HOLE.base + 512 * MIB, 40).unwrap();
        let high = Region { base: FOUR_GIB, size: 512 * MIB };
        assert!(layout.ram().eq([Region { base: 0, size: HOLE.base }, high]));
        assert_eq!(layout.pci64(), Region { base: 5 * GIB, size: PCI64_MAX });
    }

    #[test]
    fn the_64_bit_window_ends_with_the_address_space() {
        let layout = Layout::new(8 * GIB, 36).unwrap();
        assert_eq!(layout.pci64(), Region::between(9 * GIB, 64 * GIB));
    }

    #[test]
    fn impossible_sizes_are_refused() {
        assert_eq!(Layout::new(MIN_RAM + 1, 40), Err(LayoutError::Unaligned(MIN_RAM + 1)));
        assert_eq!(Layout::new(MIB, 40), Err(LayoutError::TooSmall(MIB)));
        for memory in [64 * GIB, u64::MAX - 0xfff] {
            let error = LayoutError::TooLarge { memory, physical_bits: 36 };
            assert_eq!(Layout::new(memory, 36), Err(error));
        }
    }

    #[test]
    fn each_virtio_mmio_device_has_a_window_and_a_line_of_its_own() {
        let slots: Vec<_> = virtio_mmio().collect();
        assert_eq!(slots.len(), 14);
        for (index, slot) in slots.iter().enumerate() {
            let before = &slots[..index];
            assert!(before.iter().all(|other| !slot.window.overlaps(&other.window)));
            assert!(before.iter().all(|other| slot.irq != other.irq));
            assert!(slot.window.base >= VIRTIO_MMIO.base && slot.window.end() <= VIRTIO_MMIO.end());
            assert!(slot.irq < IOAPIC_PINS && slot.irq != COM1_IRQ);
        }
    }

    #[test]
    fn nothing_in_the_hole_overlaps() {
        let all = [
            PCI32,
            ECAM,
            VIRTIO_MMIO,
            Region { base: IOAPIC, size: PAGE },
            Region { base: LAPIC, size: PAGE },
            Region { base: KVM_IDENTITY_MAP, size: PAGE },
            Region { base: KVM_TSS, size: 3 * PAGE },
        ];
        for (index, region) in all.iter().enumerate() {
            assert!(region.base >= HOLE.base && region.end() <= HOLE.end());
            assert!(all[..index].iter().all(|other| !region.overlaps(other)), "{region:x?}");
        }
    }
}

//! What a kernel must look like, and what it is told: the forms in which it comes, the memory map,
//! and the firmware, all nine bytes of it.
//!
//! A kernel is a bzImage ([`linux`]) or an ELF file ([`elf`]), told apart by their magic. An ELF
//! file that names a PVH entry point is entered there ([`pvh`]), and any other is taken for a
//! vmlinux and entered at its 64-bit entry point. PVH comes first because it is a documented
//! contract for ELF files, which the 64-bit entry of a vmlinux is not (boot.rst promises it for a
//! bzImage), and because QEMU, Firecracker and Cloud Hypervisor choose so too: kernels are tested
//! that way.
//!
//! Owns what the kernel is told; must not read files or write guest memory.

pub mod elf;
pub mod linux;
pub mod pvh;

use linux_loader::loader::bootparam::{boot_e820_entry, setup_header};

use super::layout::{self, Layout, Region};

/// Bytes at the start of a file that tell what kernel it is.
pub const HEAD: usize = linux::HEADER_END;

const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;

/// The longest command line of Linux on x86, in bytes without the NUL.
pub const CMDLINE_MAX: u64 = 2047;

/// The file is no kernel that this machine can boot.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotBootable {
    /// Neither of the forms.
    #[error("it is neither a bzImage nor an ELF file")]
    NoKernel,
    /// A boot protocol without the 64-bit entry.
    #[error("its boot protocol {}.{:02} is older than 2.12", .0 >> 8, .0 & 0xff)]
    TooOld(u16),
    /// A 32-bit kernel, or one loaded below 1 MiB.
    #[error("it has no 64-bit entry point")]
    Not64Bit,
    /// An ELF file for other machines.
    #[error("it is an ELF file, but not for x86-64")]
    OtherMachine,
    /// An ELF file that is no kernel.
    #[error("it is an ELF file, but no kernel: {0}")]
    OtherElf(&'static str),
}

/// What form of kernel a file is.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    /// A bzImage, with its setup header.
    BzImage(Box<setup_header>),
    /// An ELF file, with its header.
    Elf(elf::Header),
}

/// Tells by the first [`HEAD`] bytes of a file (all, if it has fewer) what form of kernel it is.
///
/// # Errors
/// [`NotBootable`] when it is none.
pub fn probe(head: &[u8]) -> Result<Form, NotBootable> {
    if head.starts_with(&elf::MAGIC) {
        return Ok(Form::Elf(elf::Header::parse(head)?));
    }
    Ok(Form::BzImage(Box::new(linux::parse_header(head)?)))
}

/// How the boot processor enters the kernel, by a guest physical address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// In long mode, with the zero page (the 64-bit boot protocol of Linux).
    Linux64(u64),
    /// In 32-bit protected mode without paging, with the start info (PVH).
    Pvh(u32),
}

impl Entry {
    /// The guest physical address.
    pub fn address(self) -> u64 {
        match self {
            Entry::Linux64(address) => address,
            Entry::Pvh(address) => address.into(),
        }
    }
}

/// An initramfs has no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoPlace {
    /// The memory that it would take, in bytes from address 0; `None` if the kernel could not
    /// reach it, whatever the memory.
    pub needed: Option<u64>,
}

/// Where an initramfs of `size` bytes goes: as high as RAM below the hole and the kernel allow,
/// which wants it below `limit` and itself lies below `kernel_end`.
///
/// # Errors
/// [`NoPlace`] if it would overlap the kernel.
pub fn place_initramfs(
    layout: &Layout,
    kernel_end: u64,
    limit: u64,
    size: u64,
) -> Result<Region, NoPlace> {
    let end = layout.low_ram().end().min(limit);
    let base = end.checked_sub(size).map(|base| base & !(layout::PAGE - 1));
    if let Some(base) = base.filter(|base| *base >= kernel_end) {
        return Ok(Region { base, size });
    }
    let needed = kernel_end.checked_next_multiple_of(layout::PAGE);
    let needed =
        needed.and_then(|end| end.checked_add(size.checked_next_multiple_of(layout::PAGE)?));
    Err(NoPlace { needed: needed.filter(|end| *end <= limit.min(layout::HOLE.base)) })
}

/// The memory map: RAM, and what Linux must not give away (ACPI tables, ECAM).
pub fn e820(layout: &Layout) -> Vec<boot_e820_entry> {
    let low = layout.low_ram().end();
    let fixed = [
        entry(Region::between(0, layout::LOW_RAM_END), E820_RAM),
        entry(layout::ACPI, E820_RESERVED),
        entry(Region::between(layout::HIGH_RAM, low), E820_RAM),
        entry(layout::ECAM, E820_RESERVED),
    ];
    let high = layout.ram().skip(1).map(|region| entry(region, E820_RAM));
    fixed.into_iter().chain(high).collect()
}

fn entry(region: Region, kind: u32) -> boot_e820_entry {
    boot_e820_entry { addr: region.base, size: region.size, r#type: kind }
}

/// The code for [`layout::RESET_VECTOR`], all the firmware that there is: it resets the machine.
///
/// On hardware-reduced ACPI Linux does not use the FADT's reset register. It asks EFI, and where
/// there is none it goes back to real mode and jumps to the reset vector.
pub fn reset_code() -> [u8; 9] {
    let [low, high] = layout::RESET.to_le_bytes();
    let [mov_al, mov_dx, out, hlt, jmp] = [0xb0, 0xba, 0xee, 0xf4, 0xeb];
    let back_to_hlt = 0xfd;
    [mov_al, layout::RESET_VALUE, mov_dx, low, high, out, hlt, jmp, back_to_hlt]
}

/// An address or size known to lie below 4 GiB.
fn low32(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn map(memory: u64) -> Vec<(u64, u64, u32)> {
        let layout = Layout::new(memory, 40).unwrap();
        e820(&layout).iter().map(|entry| (entry.addr, entry.size, entry.r#type)).collect()
    }

    #[test]
    fn the_map_of_a_small_machine() {
        let expected = [
            (0, 0x9_fc00, 1),
            (0xe_0000, 0x2_0000, 2),
            (0x10_0000, 511 * MIB, 1),
            (0xe800_0000, MIB, 2),
        ];
        assert_eq!(map(512 * MIB), expected);
    }

    #[test]
    fn the_map_of_a_machine_with_memory_above_the_hole() {
        let map = map(4096 * MIB);
        assert_eq!(map[2], (0x10_0000, 3071 * MIB, 1));
        assert_eq!(map[4], (4096 * MIB, 1024 * MIB, 1));
        assert_eq!(map.len(), 5);
    }

    #[test]
    fn the_reset_vector_is_all_the_firmware_and_fits() {
        let code = reset_code();
        assert_eq!(code, [0xb0, 6, 0xba, 0xf9, 0x0c, 0xee, 0xf4, 0xeb, 0xfd]);
        assert!(layout::RESET_VECTOR + code.len() as u64 <= layout::ACPI.end());
    }

    #[test]
    fn a_file_is_told_by_its_magic() {
        assert_eq!(probe(b""), Err(NotBootable::NoKernel));
        assert_eq!(probe(&[0; 4096]), Err(NotBootable::NoKernel));
        assert_eq!(probe(b"\x1f\x8b a compressed vmlinux"), Err(NotBootable::NoKernel));
        assert!(matches!(probe(b"\x7fELF\x02"), Err(NotBootable::OtherElf(_))));
    }

    #[test]
    fn the_initramfs_lies_as_high_as_it_may() {
        let layout = Layout::new(512 * MIB, 40).unwrap();
        let place = |layout: &Layout, size| place_initramfs(layout, 80 * MIB, 2048 * MIB, size);
        let region = Region { base: 512 * MIB - 0x2000, size: 5000 };
        assert_eq!(place(&layout, 5000), Ok(region));
        let large = Layout::new(8192 * MIB, 40).unwrap();
        assert_eq!(place(&large, 4096).unwrap().end(), 2048 * MIB);
    }

    #[test]
    fn an_initramfs_that_would_meet_the_kernel_has_no_place() {
        let layout = Layout::new(128 * MIB, 40).unwrap();
        let place = |size| place_initramfs(&layout, 80 * MIB, 2048 * MIB, size);
        let needed = |size| place(size).unwrap_err().needed;
        assert!(place(48 * MIB).is_ok());
        assert_eq!(needed(48 * MIB + 1), Some(128 * MIB + 0x1000));
        assert_eq!(needed(1968 * MIB), Some(2048 * MIB));
        assert_eq!(needed(1968 * MIB + 1), None);
        assert_eq!(needed(u64::MAX), None);
    }
}

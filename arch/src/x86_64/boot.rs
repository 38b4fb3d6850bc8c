//! The Linux boot protocol, 64-bit entry: the setup header, the e820 map and `boot_params`.
//!
//! Follows Documentation/arch/x86/boot.rst and zero-page.rst of Linux. Owns what the kernel is
//! told; must not read files or write guest memory.

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::ByteValued;

use super::layout::{self, Layout, Region};

/// Bytes at the start of a kernel that hold its whole setup header.
pub const HEADER_END: usize = HEADER + size_of::<setup_header>();
/// The 64-bit entry point, in bytes from where the kernel is loaded.
pub const ENTRY_64: u64 = 0x200;

const HEADER: usize = 0x1f1;
const JUMP_OFFSET: usize = 0x201;
const MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
/// Boot protocol 2.12, the first with `xloadflags`.
const MIN_VERSION: u16 = 0x20c;
const LOADED_HIGH: u8 = 1;
const XLF_KERNEL_64: u16 = 1;
const LOADER_UNDEFINED: u8 = 0xff;

const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;

/// The file is no kernel that this machine can boot.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotBootable {
    /// No setup header.
    #[error("it is not a bzImage: give the kernel as distributions install it (vmlinuz)")]
    NotBzImage,
    /// An ELF file.
    #[error("it is an ELF file, not a bzImage: give arch/x86/boot/bzImage (vmlinuz) instead")]
    Elf,
    /// A boot protocol without the 64-bit entry.
    #[error("its boot protocol {}.{:02} is older than 2.12: give a newer kernel", .0 >> 8, .0 & 0xff)]
    TooOld(u16),
    /// A 32-bit kernel, or one loaded below 1 MiB.
    #[error("it has no 64-bit entry point: give an x86-64 kernel")]
    Not64Bit,
}

/// The setup header of the kernel whose first [`HEADER_END`] bytes (or all, if fewer) are `image`.
///
/// # Errors
/// [`NotBootable`] when it is no 64-bit bzImage.
pub fn parse_header(image: &[u8]) -> Result<setup_header, NotBootable> {
    if image.starts_with(b"\x7fELF") {
        return Err(NotBootable::Elf);
    }
    let jump = usize::from(*image.get(JUMP_OFFSET).ok_or(NotBootable::NotBzImage)?);
    // What lies behind the end that the header itself gives is code.
    let end = (JUMP_OFFSET + 1 + jump).min(HEADER_END).min(image.len());
    let mut header = setup_header::default();
    let present = image.get(HEADER..end).ok_or(NotBootable::NotBzImage)?;
    header.as_mut_slice()[..present.len()].copy_from_slice(present);
    check(&header)?;
    Ok(header)
}

fn check(header: &setup_header) -> Result<(), NotBootable> {
    if header.header != MAGIC {
        return Err(NotBootable::NotBzImage);
    }
    if header.version < MIN_VERSION {
        return Err(NotBootable::TooOld(header.version));
    }
    if header.loadflags & LOADED_HIGH == 0 || header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(NotBootable::Not64Bit);
    }
    Ok(())
}

/// The memory that the kernel unpacks itself into before it looks at any map.
pub fn kernel_footprint(header: &setup_header) -> Region {
    let base = header.pref_address.max(layout::HIGH_RAM);
    Region::between(layout::HIGH_RAM, base.saturating_add(header.init_size.into()))
}

/// Where an initramfs of `size` bytes goes: as high as RAM below the hole and the kernel allow.
/// `None` if it would overlap the kernel.
pub fn place_initramfs(layout: &Layout, header: &setup_header, size: u64) -> Option<Region> {
    let limit = layout.low_ram().end().min(u64::from(header.initrd_addr_max) + 1);
    let base = limit.checked_sub(size)? & !(layout::PAGE - 1);
    (base >= kernel_footprint(header).end()).then_some(Region { base, size })
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

/// The zero page of a kernel whose command line lies at [`layout::CMDLINE`] and whose ACPI
/// tables lie at [`layout::ACPI`].
pub fn params(layout: &Layout, header: &setup_header, initramfs: Option<Region>) -> boot_params {
    let mut params = boot_params { hdr: *header, ..Default::default() };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.cmd_line_ptr = low32(layout::CMDLINE.base);
    params.acpi_rsdp_addr = layout::ACPI.base;
    if let Some(initramfs) = initramfs {
        params.hdr.ramdisk_image = low32(initramfs.base);
        params.hdr.ramdisk_size = low32(initramfs.size);
    }
    let map = e820(layout);
    for (slot, entry) in params.e820_table.iter_mut().zip(&map) {
        *slot = *entry;
        params.e820_entries += 1;
    }
    params
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

    fn header() -> setup_header {
        setup_header {
            header: MAGIC,
            version: 0x20f,
            loadflags: LOADED_HIGH,
            xloadflags: XLF_KERNEL_64,
            initrd_addr_max: 0x7fff_ffff,
            pref_address: 16 * MIB,
            init_size: 64 << 20,
            jump: 0x6aeb,
            ..Default::default()
        }
    }

    fn image(header: &setup_header) -> Vec<u8> {
        let mut image = vec![0; HEADER];
        image.extend_from_slice(header.as_slice());
        image
    }

    fn map(memory: u64) -> Vec<(u64, u64, u32)> {
        let layout = Layout::new(memory, 40).unwrap();
        e820(&layout).iter().map(|entry| (entry.addr, entry.size, entry.r#type)).collect()
    }

    #[test]
    fn the_header_is_taken_from_the_image() {
        assert_eq!(parse_header(&image(&header())), Ok(header()));
    }

    #[test]
    fn what_lies_behind_the_header_is_not_taken() {
        // This header ends before init_size.
        let short = setup_header { jump: 0x5eeb, ..header() };
        let parsed = parse_header(&image(&short)).unwrap();
        assert_eq!({ parsed.pref_address }, 16 * MIB);
        assert_eq!({ parsed.init_size }, 0);
    }

    #[test]
    fn other_files_are_refused_by_name() {
        let parse = |header| parse_header(&image(&header));
        assert_eq!(parse_header(b""), Err(NotBootable::NotBzImage));
        assert_eq!(parse_header(&[0; 4096]), Err(NotBootable::NotBzImage));
        assert_eq!(parse_header(b"\x7fELF\x02"), Err(NotBootable::Elf));
        let old = setup_header { version: 0x20a, ..header() };
        assert_eq!(parse(old), Err(NotBootable::TooOld(0x20a)));
        assert!(NotBootable::TooOld(0x20a).to_string().contains("2.10"));
        let narrow = setup_header { xloadflags: 0, ..header() };
        assert_eq!(parse(narrow), Err(NotBootable::Not64Bit));
        let low = setup_header { loadflags: 0, ..header() };
        assert_eq!(parse(low), Err(NotBootable::Not64Bit));
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
    fn the_initramfs_lies_as_high_as_it_may() {
        let layout = Layout::new(512 * MIB, 40).unwrap();
        let region = place_initramfs(&layout, &header(), 5000).unwrap();
        assert_eq!(region, Region { base: 512 * MIB - 0x2000, size: 5000 });
        let large = Layout::new(8192 * MIB, 40).unwrap();
        let region = place_initramfs(&large, &header(), 4096).unwrap();
        assert_eq!(region.end(), 2048 * MIB);
    }

    #[test]
    fn an_initramfs_that_would_meet_the_kernel_has_no_place() {
        let layout = Layout::new(128 * MIB, 40).unwrap();
        assert!(place_initramfs(&layout, &header(), 48 * MIB).is_some());
        assert!(place_initramfs(&layout, &header(), 48 * MIB + 1).is_none());
        assert!(place_initramfs(&layout, &header(), u64::MAX).is_none());
    }

    #[test]
    fn the_reset_vector_is_all_the_firmware_and_fits() {
        let code = reset_code();
        assert_eq!(code, [0xb0, 6, 0xba, 0xf9, 0x0c, 0xee, 0xf4, 0xeb, 0xfd]);
        assert!(layout::RESET_VECTOR + code.len() as u64 <= layout::ACPI.end());
    }

    #[test]
    fn the_zero_page_names_everything() {
        let layout = Layout::new(512 * MIB, 40).unwrap();
        let initramfs = Region { base: 0x1f00_0000, size: 77 };
        let params = params(&layout, &header(), Some(initramfs));
        assert_eq!({ params.hdr.type_of_loader }, 0xff);
        assert_eq!({ params.hdr.cmd_line_ptr }, 0x2_0000);
        assert_eq!(({ params.hdr.ramdisk_image }, { params.hdr.ramdisk_size }), (0x1f00_0000, 77));
        assert_eq!({ params.acpi_rsdp_addr }, 0xe_0000);
        assert_eq!(params.e820_entries, 4);
        assert_eq!({ params.e820_table[3].addr }, layout::ECAM.base);
    }
}

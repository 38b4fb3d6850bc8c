//! A bzImage: the setup header of the Linux boot protocol, and the zero page (`boot_params`) that
//! the 64-bit entry point takes, from a bzImage and from a vmlinux alike.
//!
//! Follows Documentation/arch/x86/boot.rst and zero-page.rst of Linux.

use linux_loader::loader::bootparam::{boot_params, setup_header};
use vm_memory::ByteValued;

use super::{NotBootable, e820, low32};
use crate::x86_64::layout::{self, Layout, Region};

/// Bytes at the start of a kernel that hold its whole setup header.
pub const HEADER_END: usize = HEADER + size_of::<setup_header>();
/// The 64-bit entry point, in bytes from where the kernel is loaded.
pub const ENTRY_64: u64 = 0x200;

const HEADER: usize = 0x1f1;
const JUMP_OFFSET: usize = 0x201;
const BOOT_FLAG: u16 = 0xaa55;
const MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
/// Boot protocol 2.12, the first with `xloadflags`.
const MIN_VERSION: u16 = 0x20c;
const LOADED_HIGH: u8 = 1;
const XLF_KERNEL_64: u16 = 1;
const LOADER_UNDEFINED: u8 = 0xff;

/// The setup header of the kernel whose first [`HEADER_END`] bytes (or all, if fewer) are `image`.
///
/// # Errors
/// [`NotBootable`] when it is no 64-bit bzImage.
pub fn parse_header(image: &[u8]) -> Result<setup_header, NotBootable> {
    let jump = usize::from(*image.get(JUMP_OFFSET).ok_or(NotBootable::NoKernel)?);
    // What lies behind the end that the header itself gives is code.
    let end = (JUMP_OFFSET + 1 + jump).min(HEADER_END).min(image.len());
    let mut header = setup_header::default();
    let present = image.get(HEADER..end).ok_or(NotBootable::NoKernel)?;
    header.as_mut_slice()[..present.len()].copy_from_slice(present);
    check(&header)?;
    Ok(header)
}

fn check(header: &setup_header) -> Result<(), NotBootable> {
    if header.header != MAGIC {
        return Err(NotBootable::NoKernel);
    }
    if header.version < MIN_VERSION {
        return Err(NotBootable::TooOld(header.version));
    }
    if header.loadflags & LOADED_HIGH == 0 || header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(NotBootable::Not64Bit);
    }
    Ok(())
}

/// The memory that a kernel takes before it looks at any map: what its file, of `len` bytes, is
/// loaded to, and what it unpacks itself into.
pub fn kernel_footprint(header: &setup_header, len: u64) -> Region {
    let setup_sectors = match header.setup_sects {
        0 => 4,
        sectors => u64::from(sectors),
    };
    let loaded = layout::HIGH_RAM.saturating_add(len.saturating_sub(512 * (setup_sectors + 1)));
    let base = header.pref_address.max(layout::HIGH_RAM);
    let unpacked = base.saturating_add(header.init_size.into());
    Region::between(layout::HIGH_RAM, unpacked.max(loaded))
}

/// The setup header that a vmlinux, which has none, would have.
pub fn header_of_vmlinux() -> setup_header {
    setup_header { boot_flag: BOOT_FLAG, header: MAGIC, version: MIN_VERSION, ..Default::default() }
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
        assert_eq!(parse_header(b""), Err(NotBootable::NoKernel));
        assert_eq!(parse_header(&[0; 4096]), Err(NotBootable::NoKernel));
        let old = setup_header { version: 0x20a, ..header() };
        assert_eq!(parse(old), Err(NotBootable::TooOld(0x20a)));
        assert!(NotBootable::TooOld(0x20a).to_string().contains("2.10"));
        let narrow = setup_header { xloadflags: 0, ..header() };
        assert_eq!(parse(narrow), Err(NotBootable::Not64Bit));
        let low = setup_header { loadflags: 0, ..header() };
        assert_eq!(parse(low), Err(NotBootable::Not64Bit));
    }

    #[test]
    fn a_kernel_takes_what_it_is_loaded_to_and_what_it_unpacks_itself_into() {
        let end = |setup_sects, len| {
            let large = u32::try_from(3 * MIB).unwrap();
            let header = setup_header { setup_sects, init_size: large, ..header() };
            kernel_footprint(&header, len).end()
        };
        let unpacked = header().pref_address.max(MIB) + 3 * MIB;
        assert_eq!(end(1, 4096), unpacked);
        assert_eq!(end(1, unpacked + 1024), MIB + unpacked);
        // None stands for four, as of old.
        assert_eq!(end(0, unpacked + 2560), MIB + unpacked);
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

    #[test]
    fn a_vmlinux_gets_a_header_that_linux_accepts() {
        let header = header_of_vmlinux();
        assert_eq!(({ header.header }, { header.boot_flag }), (MAGIC, 0xaa55));
        assert!({ header.version } >= MIN_VERSION);
    }
}

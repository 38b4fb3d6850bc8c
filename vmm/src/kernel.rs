//! What the guest boots: a bzImage, an initramfs and a command line, put in its memory.
//!
//! Owns reading the files and placing them; what a kernel must look like and be told is
//! `arch::boot`.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use arch::boot::{self, NotBootable};
use arch::layout::{self, Layout, MmioSlot, Region};
use arch::{acpi, regs};
use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::{BzImage, KernelLoader};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::spec::BootSpec;

/// The guest cannot be booted with what it was given.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    /// A file could not be read.
    #[error("{path}: cannot read the {what}: check the path and its permissions")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the file is.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The kernel is of the wrong kind.
    #[error("{path}: cannot boot this kernel")]
    Kernel {
        /// The file.
        path: PathBuf,
        /// Why, and what to do.
        source: NotBootable,
    },
    /// The kernel could not be put in memory.
    #[error("{path}: cannot load the kernel: give the machine more memory, or check the file")]
    Load {
        /// The file.
        path: PathBuf,
        /// Why.
        source: linux_loader::loader::Error,
    },
    /// Too little memory.
    #[error("{path}: {memory} bytes of memory are too few for it: give the machine more")]
    NoRoom {
        /// The kernel or initramfs.
        path: PathBuf,
        /// RAM below the hole in bytes.
        memory: u64,
    },
    /// The command line is too long or holds a NUL.
    #[error(
        "the kernel's command line has {len} bytes, and this kernel takes {max} at most, no NUL"
    )]
    Cmdline {
        /// Its length in bytes.
        len: usize,
        /// What the kernel takes.
        max: u64,
    },
    /// Guest memory could not be written.
    #[error("cannot write the boot structures to guest memory")]
    Memory(#[from] GuestMemoryError),
}

/// Puts kernel, initramfs, command line and the boot processor's tables in `memory`, and returns the guest physical address of the kernel's 64-bit entry point.
///
/// # Errors
/// [`BootError`]: the file, why, and what to do.
pub(crate) fn load(
    memory: &GuestMemoryMmap,
    layout: &Layout,
    spec: &BootSpec,
) -> Result<u64, BootError> {
    let (header, start) = load_kernel(memory, layout, &spec.kernel)?;
    let initramfs = match &spec.initramfs {
        Some(path) => Some(load_initramfs(memory, layout, &header, path)?),
        None => None,
    };
    load_cmdline(memory, &header, &spec.cmdline)?;
    let params = boot::params(layout, &header, initramfs);
    memory.write_obj(params, GuestAddress(layout::BOOT_PARAMS))?;
    memory.write_slice(&boot::reset_code(), GuestAddress(layout::RESET_VECTOR))?;
    memory.write_slice(&regs::gdt(), GuestAddress(layout::GDT))?;
    memory.write_slice(&regs::page_tables(), GuestAddress(layout::PAGE_TABLES))?;
    Ok(start + boot::ENTRY_64)
}

/// Puts ACPI tables in `memory` that name `vcpus` processors and a virtio-mmio device in each
/// place of `virtio_mmio`.
///
/// # Errors
/// [`BootError::Memory`]
pub(crate) fn describe(
    memory: &GuestMemoryMmap,
    layout: &Layout,
    vcpus: u8,
    virtio_mmio: &[MmioSlot],
) -> Result<(), BootError> {
    let tables = acpi::tables(layout, vcpus, virtio_mmio);
    Ok(memory.write_slice(&tables, GuestAddress(layout::ACPI.base))?)
}

fn load_kernel(
    memory: &GuestMemoryMmap,
    layout: &Layout,
    path: &Path,
) -> Result<(setup_header, u64), BootError> {
    let mut file = open(path, "kernel")?;
    let header = read_header(&mut file).map_err(|source| unreadable(path, "kernel", source))?;
    let header = boot::parse_header(&header)
        .map_err(|source| BootError::Kernel { path: path.to_owned(), source })?;
    if boot::kernel_footprint(&header).end() > layout.low_ram().end() {
        return Err(no_room(path, layout));
    }
    let start = GuestAddress(layout::HIGH_RAM);
    BzImage::load(memory, Some(start), &mut file, None)
        .map_err(|source| BootError::Load { path: path.to_owned(), source })?;
    Ok((header, start.0))
}

fn read_header(file: &mut File) -> io::Result<Vec<u8>> {
    let mut header = Vec::with_capacity(boot::HEADER_END);
    file.take(boot::HEADER_END as u64).read_to_end(&mut header)?;
    file.rewind()?;
    Ok(header)
}

fn load_initramfs(
    memory: &GuestMemoryMmap,
    layout: &Layout,
    header: &setup_header,
    path: &Path,
) -> Result<Region, BootError> {
    const WHAT: &str = "initramfs";
    let mut file = open(path, WHAT)?;
    let size = file.metadata().map_err(|source| unreadable(path, WHAT, source))?.len();
    let region =
        boot::place_initramfs(layout, header, size).ok_or_else(|| no_room(path, layout))?;
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    memory
        .read_exact_volatile_from(GuestAddress(region.base), &mut file, size)
        .map_err(|error| unreadable(path, WHAT, io::Error::other(error)))?;
    Ok(region)
}

fn load_cmdline(
    memory: &GuestMemoryMmap,
    header: &setup_header,
    cmdline: &str,
) -> Result<(), BootError> {
    let max = u64::from(header.cmdline_size).min(layout::CMDLINE.size - 1);
    if cmdline.len() as u64 > max || cmdline.contains('\0') {
        return Err(BootError::Cmdline { len: cmdline.len(), max });
    }
    let terminated = [cmdline.as_bytes(), &[0]].concat();
    Ok(memory.write_slice(&terminated, GuestAddress(layout::CMDLINE.base))?)
}

fn open(path: &Path, what: &'static str) -> Result<File, BootError> {
    File::open(path).map_err(|source| unreadable(path, what, source))
}

fn unreadable(path: &Path, what: &'static str, source: io::Error) -> BootError {
    BootError::Read { path: path.to_owned(), what, source }
}

fn no_room(path: &Path, layout: &Layout) -> BootError {
    BootError::NoRoom { path: path.to_owned(), memory: layout.low_ram().size }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::io::Write;
    use tempfile::NamedTempFile;

    const MIB: u64 = 1 << 20;

    /// A file that is a bzImage to a boot loader and runs `code` at its 64-bit entry point.
    pub(crate) fn bzimage(code: &[u8]) -> NamedTempFile {
        file(&::tests::tiny::bzimage(code))
    }

    pub(crate) fn file(bytes: &[u8]) -> NamedTempFile {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn spec(kernel: &NamedTempFile) -> BootSpec {
        BootSpec { kernel: kernel.path().into(), initramfs: None, cmdline: "console=ttyS0".into() }
    }

    fn machine(memory: u64) -> (Layout, GuestMemoryMmap) {
        let layout = Layout::new(memory, 40).unwrap();
        let memory = crate::memory::map(&layout).unwrap();
        (layout, memory)
    }

    fn try_load(spec: &BootSpec) -> Result<u64, BootError> {
        let (layout, memory) = machine(16 * MIB);
        load(&memory, &layout, spec)
    }

    #[test]
    fn everything_is_where_the_boot_protocol_says() {
        let (kernel, initramfs) = (bzimage(&[0xf4]), file(b"070701"));
        let spec = BootSpec { initramfs: Some(initramfs.path().into()), ..spec(&kernel) };
        let (layout, memory) = machine(16 * MIB);
        let entry = load(&memory, &layout, &spec).unwrap();
        let read = |address, bytes: &mut [u8]| memory.read_slice(bytes, GuestAddress(address));
        let mut code = [0];
        read(entry, &mut code).unwrap();
        assert_eq!(code, [0xf4]);
        let mut text = [0; 14];
        read(layout::CMDLINE.base, &mut text).unwrap();
        assert_eq!(&text, b"console=ttyS0\0");
        let mut cpio = [0; 6];
        read(16 * MIB - 0x1000, &mut cpio).unwrap();
        assert_eq!(&cpio, b"070701");
        describe(&memory, &layout, 1, &[]).unwrap();
        let mut rsdp = [0; 8];
        read(layout::ACPI.base, &mut rsdp).unwrap();
        assert_eq!(&rsdp, b"RSD PTR ");
    }

    #[test]
    fn a_file_that_is_no_kernel_is_named() {
        let other = file(&[0; 2048]);
        let error = try_load(&spec(&other)).unwrap_err();
        assert!(error.to_string().contains(&*other.path().to_string_lossy()));
        assert!(matches!(error, BootError::Kernel { source: NotBootable::NotBzImage, .. }));
    }

    #[test]
    fn a_missing_file_is_named() {
        let kernel = bzimage(&[]);
        let missing = BootSpec { initramfs: Some("/nonexistent".into()), ..spec(&kernel) };
        let error = try_load(&missing).unwrap_err().to_string();
        assert!(error.starts_with("/nonexistent: cannot read the initramfs"), "{error}");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (kernel, large) = (bzimage(&[]), file(&[]));
        large.as_file().set_len(16 * MIB).unwrap();
        let spec = BootSpec { initramfs: Some(large.path().into()), ..spec(&kernel) };
        assert!(matches!(try_load(&spec), Err(BootError::NoRoom { .. })));
        let long = BootSpec { initramfs: None, cmdline: "x".repeat(2048), ..spec };
        assert!(matches!(try_load(&long), Err(BootError::Cmdline { len: 2048, max: 2047 })));
    }
}

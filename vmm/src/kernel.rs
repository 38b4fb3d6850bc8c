//! What the guest boots: a bzImage, an initramfs and a command line, put in its memory.
//!
//! Owns reading the files and placing them; what a kernel must look like and be told is
//! `arch::boot`.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use arch::boot::{self, NotBootable};
use arch::layout::{self, Layout, Region};
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

/// Kernel and initramfs, open.
#[derive(Debug)]
pub(crate) struct BootFiles {
    kernel: BootFile,
    initramfs: Option<BootFile>,
    cmdline: String,
}

/// One of them.
#[derive(Debug)]
struct BootFile {
    path: PathBuf,
    what: &'static str,
    file: File,
}

impl BootFiles {
    /// Opens what `spec` names.
    ///
    /// # Errors
    /// [`BootError::Read`]
    pub(crate) fn open(spec: &BootSpec) -> Result<Self, BootError> {
        let initramfs = spec.initramfs.as_deref();
        Ok(BootFiles {
            kernel: BootFile::open(&spec.kernel, "kernel")?,
            initramfs: initramfs.map(|path| BootFile::open(path, "initramfs")).transpose()?,
            cmdline: spec.cmdline.clone(),
        })
    }
}

impl BootFile {
    fn open(path: &Path, what: &'static str) -> Result<Self, BootError> {
        let file = File::open(path).map_err(|source| unreadable(path, what, source))?;
        Ok(BootFile { path: path.to_owned(), what, file })
    }

    /// The file, from its beginning.
    fn rewound(&self) -> Result<&File, BootError> {
        (&self.file).rewind().map_err(|source| self.unreadable(source))?;
        Ok(&self.file)
    }

    fn unreadable(&self, source: io::Error) -> BootError {
        unreadable(&self.path, self.what, source)
    }

    fn no_room(&self, layout: &Layout) -> BootError {
        BootError::NoRoom { path: self.path.clone(), memory: layout.low_ram().size }
    }
}

/// Puts kernel, initramfs, command line, ACPI tables and the boot processor's tables in
/// `memory`, and returns the guest physical address of the kernel's 64-bit entry point.
///
/// # Errors
/// [`BootError`]: the file, why, and what to do.
pub(crate) fn load(
    memory: &GuestMemoryMmap,
    layout: &Layout,
    vcpus: u8,
    files: &BootFiles,
) -> Result<u64, BootError> {
    let (header, start) = load_kernel(memory, layout, &files.kernel)?;
    let initramfs = match &files.initramfs {
        Some(file) => Some(load_initramfs(memory, layout, &header, file)?),
        None => None,
    };
    load_cmdline(memory, &header, &files.cmdline)?;
    let params = boot::params(layout, &header, initramfs);
    memory.write_obj(params, GuestAddress(layout::BOOT_PARAMS))?;
    memory.write_slice(&acpi::tables(layout, vcpus), GuestAddress(layout::ACPI.base))?;
    memory.write_slice(&boot::reset_code(), GuestAddress(layout::RESET_VECTOR))?;
    memory.write_slice(&regs::gdt(), GuestAddress(layout::GDT))?;
    memory.write_slice(&regs::page_tables(), GuestAddress(layout::PAGE_TABLES))?;
    Ok(start + boot::ENTRY_64)
}

fn load_kernel(
    memory: &GuestMemoryMmap,
    layout: &Layout,
    kernel: &BootFile,
) -> Result<(setup_header, u64), BootError> {
    let mut file = kernel.rewound()?;
    let header = read_header(file).map_err(|source| kernel.unreadable(source))?;
    let header = boot::parse_header(&header)
        .map_err(|source| BootError::Kernel { path: kernel.path.clone(), source })?;
    if boot::kernel_footprint(&header).end() > layout.low_ram().end() {
        return Err(kernel.no_room(layout));
    }
    let start = GuestAddress(layout::HIGH_RAM);
    BzImage::load(memory, Some(start), &mut file, None)
        .map_err(|source| BootError::Load { path: kernel.path.clone(), source })?;
    Ok((header, start.0))
}

fn read_header(file: &File) -> io::Result<Vec<u8>> {
    let mut header = Vec::with_capacity(boot::HEADER_END);
    file.take(boot::HEADER_END as u64).read_to_end(&mut header)?;
    Ok(header)
}

fn load_initramfs(
    memory: &GuestMemoryMmap,
    layout: &Layout,
    header: &setup_header,
    initramfs: &BootFile,
) -> Result<Region, BootError> {
    let mut file = initramfs.rewound()?;
    let size = file.metadata().map_err(|source| initramfs.unreadable(source))?.len();
    let region =
        boot::place_initramfs(layout, header, size).ok_or_else(|| initramfs.no_room(layout))?;
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    memory
        .read_exact_volatile_from(GuestAddress(region.base), &mut file, size)
        .map_err(|error| initramfs.unreadable(io::Error::other(error)))?;
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

fn unreadable(path: &Path, what: &'static str, source: io::Error) -> BootError {
    BootError::Read { path: path.to_owned(), what, source }
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
        load(&memory, &layout, 1, &BootFiles::open(spec)?)
    }

    #[test]
    fn everything_is_where_the_boot_protocol_says() {
        let (kernel, initramfs) = (bzimage(&[0xf4]), file(b"070701"));
        let spec = BootSpec { initramfs: Some(initramfs.path().into()), ..spec(&kernel) };
        let (layout, memory) = machine(16 * MIB);
        let entry = load(&memory, &layout, 1, &BootFiles::open(&spec).unwrap()).unwrap();
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

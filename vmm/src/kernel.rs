//! What the guest boots: a kernel, an initramfs and a command line, put in its memory.
//!
//! Owns reading the files and placing them; what a kernel must look like and be told is
//! `arch::boot`. The files are opened once and read at each start of the guest. Nothing keeps
//! others from changing them meanwhile: then the guest starts with what is there, or it does not
//! start.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use arch::boot::{self, Entry, Form, NoPlace, NotBootable, elf, linux, pvh};
use arch::layout::{self, Layout, MmioSlot, Region};
use arch::{acpi, regs};
use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::{BzImage, KernelLoader};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::spec::BootSpec;

const MIB: u64 = 1 << 20;
/// What to do about a kernel that is none.
pub(crate) const NAME_A_KERNEL: &str =
    "name a bzImage or an ELF vmlinux for x86-64, not compressed";

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
    /// A file is a folder, a pipe or something else that is not read twice.
    #[error("{path}: the {what} is no regular file: give the path of one")]
    NoFile {
        /// The file.
        path: PathBuf,
        /// What it was to be.
        what: &'static str,
    },
    /// The kernel is of the wrong kind.
    #[error("{path}: cannot boot this kernel: {why}; {NAME_A_KERNEL}")]
    Kernel {
        /// The file.
        path: PathBuf,
        /// Why.
        why: NotBootable,
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
    #[error(
        "{path}: the machine's {memory} MiB of memory have no room for this {what}: give it {} MiB \
         at least, and what the guest needs to run", .needed.div_ceil(MIB)
    )]
    NoRoom {
        /// The file.
        path: PathBuf,
        /// What the file is.
        what: &'static str,
        /// The machine's memory in MiB.
        memory: u64,
        /// The memory that it would take, in bytes.
        needed: u64,
    },
    /// Too large for any amount of memory.
    #[error("{path}: this {what} is too large for the kernel to reach: give a smaller one")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// What the file is.
        what: &'static str,
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

impl BootFiles {
    /// Opens what `spec` names.
    ///
    /// # Errors
    /// [`BootError`] when a file cannot be read, or the kernel is none.
    pub(crate) fn open(spec: &BootSpec) -> Result<Self, BootError> {
        let initramfs = spec.initramfs.as_deref();
        let files = BootFiles {
            kernel: BootFile::open(&spec.kernel, "kernel")?,
            initramfs: initramfs.map(|path| BootFile::open(path, "initramfs")).transpose()?,
            cmdline: spec.cmdline.clone(),
        };
        files.kernel.look()?;
        Ok(files)
    }
}

/// One of the files.
#[derive(Debug)]
struct BootFile {
    path: PathBuf,
    what: &'static str,
    file: File,
}

impl BootFile {
    fn open(path: &Path, what: &'static str) -> Result<Self, BootError> {
        let unreadable = |source| BootError::Read { path: path.to_owned(), what, source };
        // Who opened a FIFO would wait for a writer.
        let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let file = opened.map_err(unreadable)?;
        if !file.metadata().map_err(unreadable)?.is_file() {
            return Err(BootError::NoFile { path: path.to_owned(), what });
        }
        Ok(BootFile { path: path.to_owned(), what, file })
    }

    /// Bytes of the file.
    fn len(&self) -> Result<u64, BootError> {
        Ok(self.file.metadata().map_err(|source| self.unreadable(source))?.len())
    }

    /// The kernel in the file, and what it takes.
    fn look(&self) -> Result<Kernel, BootError> {
        let mut head = Vec::with_capacity(boot::HEAD);
        let read = self.at(0)?.take(boot::HEAD as u64).read_to_end(&mut head);
        read.map_err(|source| self.unreadable(source))?;
        match boot::probe(&head).map_err(|why| self.not_bootable(why))? {
            Form::BzImage(header) => Ok(Kernel::bzimage(*header, self.len()?)),
            Form::Elf(header) => self.look_at_elf(header),
        }
    }

    fn look_at_elf(&self, header: elf::Header) -> Result<Kernel, BootError> {
        let not_bootable = |why| self.not_bootable(why);
        let contents = elf::Contents::parse(&self.read(header.table)?).map_err(not_bootable)?;
        let mut entry = Entry::Linux64(header.entry);
        for notes in &contents.notes {
            if let Some(address) = notes.pvh_entry(&self.read(notes.file)?) {
                entry = Entry::Pvh(address);
            }
        }
        contents.check_entry(entry.address()).map_err(not_bootable)?;
        Ok(Kernel::elf(entry, contents.segments))
    }

    /// The file, to be read from `offset`.
    fn at(&self, offset: u64) -> Result<&File, BootError> {
        let sought = (&self.file).seek(SeekFrom::Start(offset));
        sought.map_err(|source| self.unreadable(source))?;
        Ok(&self.file)
    }

    /// A part of the file.
    fn read(&self, part: Region) -> Result<Vec<u8>, BootError> {
        let mut bytes = vec![0; usize::try_from(part.size).unwrap_or(usize::MAX)];
        let read = self.at(part.base)?.read_exact(&mut bytes);
        read.map_err(|source| self.unreadable(source))?;
        Ok(bytes)
    }

    /// Puts the part of the file from `offset` into `region` of guest memory.
    fn load(&self, memory: &GuestMemoryMmap, offset: u64, region: Region) -> Result<(), BootError> {
        let size = usize::try_from(region.size).unwrap_or(usize::MAX);
        let mut file = self.at(offset)?;
        memory
            .read_exact_volatile_from(GuestAddress(region.base), &mut file, size)
            .map_err(|error| self.unreadable(io::Error::other(error)))
    }

    fn unreadable(&self, source: io::Error) -> BootError {
        BootError::Read { path: self.path.clone(), what: self.what, source }
    }

    fn not_bootable(&self, why: NotBootable) -> BootError {
        BootError::Kernel { path: self.path.clone(), why }
    }

    /// It takes the memory up to `needed`, or more than there can be.
    fn no_room(&self, layout: &Layout, needed: Option<u64>) -> BootError {
        let (path, what) = (self.path.clone(), self.what);
        let memory = layout.ram().map(|region| region.size).sum::<u64>() / MIB;
        match needed {
            Some(needed) => BootError::NoRoom { path, what, memory, needed },
            None => BootError::TooLarge { path, what },
        }
    }
}

/// What a kernel takes of the machine, and what it takes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Where the memory ends that it takes at first.
    pub(crate) end: u64,
    /// Where the memory ends in which it looks for an initramfs.
    pub(crate) initramfs_limit: u64,
    /// Bytes of the longest command line, without its NUL.
    pub(crate) cmdline_max: u64,
}

/// What the kernel in `file` takes, which was opened at `path`.
///
/// # Errors
/// [`BootError`] when it is none.
pub(crate) fn needs(path: &Path, file: File) -> Result<Needs, BootError> {
    Ok(BootFile { path: path.to_owned(), what: "kernel", file }.look()?.needs)
}

/// A kernel, as its file says.
struct Kernel {
    entry: Entry,
    needs: Needs,
    /// Of its own, or what stands for it.
    header: setup_header,
    /// What is to be loaded of an ELF file; nothing for a bzImage.
    segments: Vec<elf::Segment>,
}

impl Kernel {
    /// One whose file has `len` bytes.
    fn bzimage(header: setup_header, len: u64) -> Kernel {
        let needs = Needs {
            end: linux::kernel_footprint(&header, len).end(),
            initramfs_limit: u64::from(header.initrd_addr_max) + 1,
            cmdline_max: u64::from(header.cmdline_size).min(layout::CMDLINE.size - 1),
        };
        let entry = Entry::Linux64(layout::HIGH_RAM + linux::ENTRY_64);
        Kernel { entry, needs, header, segments: Vec::new() }
    }

    fn elf(entry: Entry, segments: Vec<elf::Segment>) -> Kernel {
        let ends = segments.iter().map(|segment| segment.memory.end());
        let needs = Needs {
            end: ends.max().unwrap_or(0),
            initramfs_limit: layout::HOLE.base,
            cmdline_max: boot::CMDLINE_MAX,
        };
        Kernel { entry, needs, header: linux::header_of_vmlinux(), segments }
    }
}

/// Puts kernel, initramfs, command line and the boot processor's tables in `memory`, and returns
/// where the kernel is entered.
///
/// # Errors
/// [`BootError`]: the file, why, and what to do.
pub(crate) fn load(
    memory: &GuestMemoryMmap,
    layout: &Layout,
    files: &BootFiles,
) -> Result<Entry, BootError> {
    let kernel = files.kernel.look()?;
    load_kernel(memory, layout, &files.kernel, &kernel)?;
    let initramfs = match &files.initramfs {
        Some(file) => Some(load_initramfs(memory, layout, kernel.needs, file)?),
        None => None,
    };
    load_cmdline(memory, kernel.needs.cmdline_max, &files.cmdline)?;
    match kernel.entry {
        Entry::Linux64(_) => {
            let params = linux::params(layout, &kernel.header, initramfs);
            memory.write_obj(params, GuestAddress(layout::BOOT_PARAMS))?;
        }
        Entry::Pvh(_) => {
            let info = pvh::start_info(layout, initramfs);
            memory.write_slice(&info, GuestAddress(layout::START_INFO.base))?;
        }
    }
    memory.write_slice(&boot::reset_code(), GuestAddress(layout::RESET_VECTOR))?;
    memory.write_slice(&regs::gdt(), GuestAddress(layout::GDT))?;
    memory.write_slice(&regs::page_tables(), GuestAddress(layout::PAGE_TABLES))?;
    Ok(kernel.entry)
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
    file: &BootFile,
    kernel: &Kernel,
) -> Result<(), BootError> {
    let end = kernel.needs.end;
    if end > layout.low_ram().end() {
        return Err(file.no_room(layout, Some(end).filter(|end| *end <= layout::HOLE.base)));
    }
    for segment in &kernel.segments {
        let region = Region { size: segment.file.size, ..segment.memory };
        file.load(memory, segment.file.base, region)?;
    }
    if kernel.segments.is_empty() {
        BzImage::load(memory, Some(GuestAddress(layout::HIGH_RAM)), &mut file.at(0)?, None)
            .map_err(|source| BootError::Load { path: file.path.clone(), source })?;
    }
    Ok(())
}

fn load_initramfs(
    memory: &GuestMemoryMmap,
    layout: &Layout,
    kernel: Needs,
    file: &BootFile,
) -> Result<Region, BootError> {
    let region = boot::place_initramfs(layout, kernel.end, kernel.initramfs_limit, file.len()?)
        .map_err(|NoPlace { needed }| file.no_room(layout, needed))?;
    file.load(memory, 0, region)?;
    Ok(region)
}

fn load_cmdline(memory: &GuestMemoryMmap, max: u64, cmdline: &str) -> Result<(), BootError> {
    if cmdline.len() as u64 > max || cmdline.contains('\0') {
        return Err(BootError::Cmdline { len: cmdline.len(), max });
    }
    let terminated = [cmdline.as_bytes(), &[0]].concat();
    Ok(memory.write_slice(&terminated, GuestAddress(layout::CMDLINE.base))?)
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
        let size = usize::try_from(memory).unwrap();
        (layout, GuestMemoryMmap::from_ranges(&[(GuestAddress(0), size)]).unwrap())
    }

    fn try_load(spec: &BootSpec) -> Result<Entry, BootError> {
        let (layout, memory) = machine(16 * MIB);
        load(&memory, &layout, &BootFiles::open(spec)?)
    }

    #[test]
    fn everything_is_where_the_boot_protocol_says() {
        let (kernel, initramfs) = (bzimage(&[0xf4]), file(b"070701"));
        let spec = BootSpec { initramfs: Some(initramfs.path().into()), ..spec(&kernel) };
        let (layout, memory) = machine(16 * MIB);
        let entry = load(&memory, &layout, &BootFiles::open(&spec).unwrap()).unwrap();
        let read = |address, bytes: &mut [u8]| memory.read_slice(bytes, GuestAddress(address));
        let mut code = [0];
        read(entry.address(), &mut code).unwrap();
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
    fn a_kernel_takes_the_memory_that_its_file_is_loaded_to() {
        let kernel = bzimage(&[0xf4]);
        kernel.as_file().set_len(20 * MIB).unwrap();
        let error = try_load(&spec(&kernel)).unwrap_err().to_string();
        assert!(error.contains("no room for this kernel: give it 21 MiB"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_kernel_is_named() {
        let other = file(&[0; 2048]);
        let error = try_load(&spec(&other)).unwrap_err();
        assert!(error.to_string().contains(&*other.path().to_string_lossy()));
        assert!(matches!(error, BootError::Kernel { why: NotBootable::NoKernel, .. }));
    }

    #[test]
    fn an_elf_file_that_is_no_kernel_is_refused() {
        let program = Path::new("/proc/self/exe");
        let error = needs(program, File::open(program).unwrap()).unwrap_err();
        assert!(matches!(error, BootError::Kernel { why: NotBootable::OtherElf(_), .. }));
    }

    #[test]
    fn a_vmlinux_beyond_the_memory_or_cut_off_is_refused() {
        let whole = ::tests::tiny::vmlinux(&[0xf4; 64]);
        let cut_off = file(&whole[..whole.len() - 1]);
        assert!(matches!(try_load(&spec(&cut_off)), Err(BootError::Read { .. })));
        let mut far = whole;
        // The physical address of the segment, and the entry point.
        far[64 + 24..][..8].copy_from_slice(&(64 * MIB).to_le_bytes());
        far[24..][..8].copy_from_slice(&(64 * MIB).to_le_bytes());
        let error = try_load(&spec(&file(&far))).unwrap_err().to_string();
        assert!(error.contains("no room for this kernel: give it 65 MiB"), "{error}");
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let folder = BootSpec { kernel: "/".into(), initramfs: None, cmdline: String::new() };
        assert!(matches!(BootFiles::open(&folder), Err(BootError::NoFile { .. })));
    }

    #[test]
    fn the_kernel_is_read_from_the_file_that_was_opened() {
        let kernel = bzimage(&[0xf4]);
        let files = BootFiles::open(&spec(&kernel)).unwrap();
        // As package managers replace it.
        let other = file(&[0; 4096]);
        std::fs::rename(other.path(), kernel.path()).unwrap();
        let (layout, memory) = machine(16 * MIB);
        assert!(load(&memory, &layout, &files).is_ok());
        // As nobody should: the next start fails, and nothing else.
        let kernel = bzimage(&[0xf4]);
        let files = BootFiles::open(&spec(&kernel)).unwrap();
        kernel.as_file().set_len(0).unwrap();
        assert!(matches!(load(&memory, &layout, &files), Err(BootError::Kernel { .. })));
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
        let error = try_load(&spec).unwrap_err().to_string();
        assert!(error.contains("16 MiB of memory have no room for this initramfs"), "{error}");
        assert!(error.contains("give it 18 MiB"), "{error}");
        let long = BootSpec { initramfs: None, cmdline: "x".repeat(2048), ..spec };
        assert!(matches!(try_load(&long), Err(BootError::Cmdline { len: 2048, max: 2047 })));
    }
}

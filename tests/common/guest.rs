//! A guest for one test: a folder with its configuration and images, to be run by `vmm`.
//!
//! This file must not know what a guest does, nor how it is watched.

use std::fmt::{self, Display, Formatter};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::cpio;
use crate::image::Image;
use crate::running::{Outcome, Running};

/// The built `vmm`.
#[must_use]
pub fn vmm() -> PathBuf {
    env_path("VMM_BINARY", "target/release/vmm")
}

/// A file that `scripts/guest` made.
#[must_use]
pub fn guest_file(kernel: &str, name: &str) -> PathBuf {
    env_path("VMM_GUEST", "target/guest").join(kernel).join(name)
}

/// A path from the environment, or one in the repository.
fn env_path(variable: &str, default: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"));
    root.join(std::env::var_os(variable).unwrap_or_else(|| default.into()))
}

/// Whether the tests may take their time: `scripts/test --long`.
#[must_use]
pub fn long() -> bool {
    std::env::var_os("VMM_LONG").is_some()
}

/// How a guest reaches its controllers, as the configuration says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// `transport = "pci"`
    Pci,
    /// `transport = "mmio"`
    Mmio,
}

impl Display for Transport {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Transport::Pci => "pci",
            Transport::Mmio => "mmio",
        })
    }
}

/// One cell of the matrix: what everything is to work with.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    /// Between the guest and its controllers.
    pub transport: Transport,
    /// A version that `scripts/guest` knows.
    pub kernel: &'static str,
    /// How many vCPUs.
    pub vcpus: u8,
}

/// The cell of tests for which any would do.
pub const ANY: Cell = Cell { transport: Transport::Pci, kernel: "6.1", vcpus: 1 };

/// Makes a test for each cell of the matrix from a function of a [`Cell`]. Four cells hold every
/// pair of values; the others are for those who take their time.
#[macro_export]
macro_rules! matrix {
    ($check:path) => {
        $crate::matrix!(@test $check, pci_with_6_1_and_one_vcpu, Pci, "6.1", 1);
        $crate::matrix!(@test $check, pci_with_6_12_and_two_vcpus, Pci, "6.12", 2);
        $crate::matrix!(@test $check, mmio_with_6_1_and_two_vcpus, Mmio, "6.1", 2);
        $crate::matrix!(@test $check, mmio_with_6_12_and_one_vcpu, Mmio, "6.12", 1);
        $crate::matrix!(@long $check, pci_with_6_1_and_two_vcpus, Pci, "6.1", 2);
        $crate::matrix!(@long $check, pci_with_6_12_and_one_vcpu, Pci, "6.12", 1);
        $crate::matrix!(@long $check, mmio_with_6_1_and_one_vcpu, Mmio, "6.1", 1);
        $crate::matrix!(@long $check, mmio_with_6_12_and_two_vcpus, Mmio, "6.12", 2);
    };
    (@long $($cell:tt)*) => {
        $crate::matrix!(@test #[ignore = "only with --long"] $($cell)*);
    };
    (@test $(#[$ignore:meta])? $check:path, $name:ident, $transport:ident, $kernel:literal, $vcpus:literal) => {
        #[test]
        $(#[$ignore])?
        fn $name() -> std::io::Result<()> {
            $check($crate::guest::Cell {
                transport: $crate::guest::Transport::$transport,
                kernel: $kernel,
                vcpus: $vcpus,
            })
        }
    };
}

/// A guest to be: files in a folder of its own, which goes with it.
#[derive(Debug)]
pub struct Guest {
    folder: TempDir,
    cell: Cell,
    image: &'static str,
    memory: u64,
    machine: String,
    cmdline: String,
    controllers: String,
    carried: Vec<u8>,
}

impl Guest {
    /// A guest with one controller, by the cell's transport, and no logical unit yet.
    ///
    /// # Errors
    /// When the host has no room for its folder.
    pub fn new(cell: Cell) -> io::Result<Guest> {
        let mut guest = Guest {
            folder: TempDir::new()?,
            cell,
            image: "vmlinux",
            memory: 384,
            machine: String::new(),
            cmdline: "console=ttyS0 quiet".into(),
            controllers: String::new(),
            carried: Vec::new(),
        };
        guest.controller(cell.transport, "");
        Ok(guest)
    }

    /// Boots the bzImage instead of the ELF file, which saves an emulated machine the seconds that
    /// unpacking takes.
    pub fn boot_bzimage(&mut self) {
        self.image = "vmlinuz";
    }

    /// Gives the guest `mib` of memory instead of the usual 384.
    pub fn memory(&mut self, mib: u64) {
        self.memory = mib;
    }

    /// Adds lines to `[machine]`.
    pub fn machine(&mut self, lines: &str) {
        self.machine += &format!("{lines}\n");
    }

    /// Adds words to the kernel's command line.
    pub fn cmdline(&mut self, words: &str) {
        self.cmdline += &format!(" {words}");
    }

    /// Begins another controller, with these lines; what is attached from now on is its.
    pub fn controller(&mut self, transport: Transport, lines: &str) {
        self.controllers += &format!("[[controller]]\ntransport = \"{transport}\"\n{lines}\n");
    }

    /// A new image, and a logical unit with these lines of configuration on it.
    ///
    /// # Errors
    /// When the image cannot be made.
    pub fn lun(&mut self, image: &str, size: u64, lines: &str) -> io::Result<Image> {
        self.medium("image", Path::new(image), lines);
        Image::create(&self.file(image), size)
    }

    /// A logical unit on something that is there, named by a key of `[[controller.lun]]`.
    pub fn medium(&mut self, key: &str, path: &Path, lines: &str) {
        self.controllers += &format!("[[controller.lun]]\n{key} = {path:?}\n{lines}\n");
    }

    /// Puts a file into the guest's root folder.
    pub fn carry(&mut self, name: &str, contents: &[u8]) {
        self.carried.extend(cpio::archive(name, contents));
    }

    /// A file in the guest's folder.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The guest's memory in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.memory << 20
    }

    /// Writes the guest's files, and returns the command that runs it: `script`, then a power-off;
    /// without a script it gives a shell.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn command(&self, script: Option<&str>) -> io::Result<Command> {
        self.write_initramfs(script)?;
        let config = self.file("guest.toml");
        fs::write(&config, self.config())?;
        let mut command = Command::new(vmm());
        command.arg("--config").arg(config);
        Ok(command)
    }

    /// Writes what the guest boots into: the tools, what it carries, and `script` to execute.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_initramfs(&self, script: Option<&str>) -> io::Result<PathBuf> {
        let mut archive = fs::read(guest_file(self.cell.kernel, "initramfs.cpio"))?;
        archive.extend(&self.carried);
        if let Some(script) = script {
            archive.extend(cpio::archive("cmd", format!("{PRELUDE}\n{script}").as_bytes()));
        }
        let file = self.file("initramfs.cpio");
        fs::write(&file, archive)?;
        Ok(file)
    }

    fn config(&self) -> String {
        let Guest { cell, memory, machine, cmdline, controllers, .. } = self;
        let (vcpus, kernel) = (cell.vcpus, guest_file(cell.kernel, self.image));
        format!(
            "[machine]\nname = \"guest\"\nvcpus = {vcpus}\nmemory = \"{memory}MiB\"\n{machine}\n\
             [boot]\nkernel = {kernel:?}\ninitramfs = \"initramfs.cpio\"\ncmdline = \"{cmdline}\"\n\
             \n{controllers}"
        )
    }

    /// Starts the guest with `script` to execute.
    ///
    /// # Errors
    /// When its files cannot be written, or `vmm` cannot be started.
    pub fn start(&self, script: &str) -> io::Result<Running> {
        Running::start(&mut self.command(Some(script))?)
    }

    /// Boots, executes `script` in the guest, and waits for the power-off.
    ///
    /// # Errors
    /// As [`Guest::start`], and when the guest is still running at the deadline.
    pub fn run(&self, script: &str) -> io::Result<Outcome> {
        self.start(script)?.finish()
    }
}

/// Shell functions that every script may use; what `section` prints, [`Outcome::section`] finds.
const PRELUDE: &str = include_str!("../guest/prelude.sh");

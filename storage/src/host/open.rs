//! How a SCSI device of the host is opened: which of its nodes, who may have it beside, and why it
//! cannot be.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::in_use::{self, User};
use super::sys;
use super::sysfs::{BlockNode, Found, Number, ScsiDevice, Sysfs};
use crate::backend::lock::{self, Holder, Refused};
use crate::backend::{self, sys::may_write};
use crate::scsi::designator::Designator;

/// How a device is to be opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// For reading alone: the kernel then refuses what it takes for writing, if this process has
    /// no CAP_SYS_RAWIO.
    pub read_only: bool,
    /// Others may use the device by the same I_T nexus.
    pub shared_nexus: bool,
    /// Even though the host itself uses it.
    pub force: bool,
}

/// Why a SCSI device of the host cannot be used: the predicate of a sentence about it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The host does not open it.
    #[error("cannot be opened: {}", reason(.0))]
    Open(io::Error),
    /// The host does not say what it has to.
    #[error("cannot be examined: {0}")]
    Examine(io::Error),
    /// It is something else.
    #[error("is not a SCSI device")]
    NotScsi,
    /// It does not say what it is.
    #[error("does not say what it is: {0}")]
    Unidentified(String),
    /// It is another logical unit.
    #[error("is not {expected} but {found}")]
    Mismatch {
        /// What it should be.
        expected: Designator,
        /// What it says it is.
        found: String,
    },
    /// It is a part of a disk.
    #[error("is a partition of {disk}, and SCSI commands reach the whole disk")]
    Partition {
        /// The name of the disk.
        disk: String,
    },
    /// It is a volume of the device mapper other than a multipath map.
    #[error("is {name:?}, a volume of the device mapper, which takes no SCSI commands of its own")]
    Volume {
        /// Its name there.
        name: String,
    },
    /// The kernel has no node that takes its commands.
    #[error("has no sg node")]
    NoSg,
    /// The kernel's interface is older than any that is supported.
    #[error("has an SG interface of version {0}, and 30000 is needed")]
    Version(i32),
    /// The device takes no writes.
    #[error("is write-protected")]
    ReadOnly,
    /// The host itself uses it.
    #[error("{0}")]
    Host(User),
    /// Another program has it for itself.
    #[error("is in use{}", by(.0.as_ref()))]
    InUse(Option<Holder>),
    /// There is nothing by which its changes could be heard of.
    #[error("cannot be watched: {0}")]
    Watch(io::Error),
    /// There are no locks where its node is.
    #[error("cannot be locked: {0}")]
    NoLocks(io::Error),
}

impl OpenError {
    /// What to do about the device at `path`, as a clause of its own.
    #[must_use]
    pub fn remedy(&self, path: &Path) -> String {
        let path = path.display();
        match self {
            OpenError::Open(error) => match error.kind() {
                ErrorKind::NotFound => "attach the device, or correct the path".into(),
                ErrorKind::PermissionDenied => format!(
                    "give this user access, as with a udev rule or setfacl -m u:USER:rw {path}"
                ),
                _ => "see the host's log".into(),
            },
            OpenError::Examine(_) => "use another device, or see the host's log".into(),
            OpenError::NotScsi => {
                "name a /dev/sg or /dev/sd node, or emulate a disk on it by block".into()
            }
            OpenError::Unidentified(_) => "look after the device and the path to it".into(),
            OpenError::Mismatch { .. } => {
                "name the device that was meant, or correct `expect`".into()
            }
            OpenError::Partition { disk } => {
                format!("name /dev/{disk}, or emulate a disk on the partition by block")
            }
            OpenError::Volume { .. } => "emulate a disk on it by block".into(),
            OpenError::NoSg => "load the sg module, as with modprobe sg".into(),
            OpenError::Version(_) => "use Linux 5.15 or later".into(),
            OpenError::ReadOnly => "set read_only = true, or remove the protection".into(),
            OpenError::Host(user) => user.remedy(),
            OpenError::InUse(_) => {
                "end that use, or set shared_nexus = true for each of its users".into()
            }
            OpenError::Watch(_) => "raise the limits of this user's threads and files".into(),
            OpenError::NoLocks(_) => {
                "use a node on a file system with locks, or set shared_nexus = true".into()
            }
        }
    }
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "no such file".into(),
        ErrorKind::PermissionDenied => "permission denied".into(),
        _ => error.to_string(),
    }
}

fn by(holder: Option<&Holder>) -> String {
    holder.map_or_else(String::new, |holder| format!(" by {holder}"))
}

/// What a path leads to.
#[derive(Clone, Debug)]
pub(super) enum Device {
    /// A SCSI device.
    Scsi(ScsiDevice),
    /// A multipath map over SCSI devices.
    Multipath(BlockNode),
}

impl Device {
    /// Its block node, where it has one.
    pub(super) fn block(&self) -> Option<BlockNode> {
        match self {
            Device::Scsi(device) => device.block(),
            Device::Multipath(map) => Some(map.clone()),
        }
    }
}

/// An open node.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) node: PathBuf,
    pub(super) device: Device,
    /// Where it is the block node that carries commands.
    pub(super) block: Option<BlockNode>,
    pub(super) writable: bool,
}

/// What a device is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// It is taken until it is closed.
    Use,
    /// It is looked at: nothing is changed, and nothing kept.
    Check,
    /// Commands that change nothing are sent to it, whoever has it.
    Watch,
}

pub(super) fn open(path: &Path, options: &Options) -> Result<Opened, OpenError> {
    look(path, options, Purpose::Use)
}

pub(super) fn check(path: &Path, options: &Options) -> Result<(), OpenError> {
    look(path, options, Purpose::Check).map(drop)
}

/// Opens the device for reading, without a claim to it.
pub(super) fn watch(path: &Path) -> Result<Opened, OpenError> {
    let options = Options { read_only: true, shared_nexus: true, force: true };
    look(path, &options, Purpose::Watch)
}

fn look(path: &Path, options: &Options, purpose: Purpose) -> Result<Opened, OpenError> {
    let metadata = fs::metadata(path).map_err(OpenError::Open)?;
    let number = Number::of(&metadata).ok_or(OpenError::NotScsi)?;
    let device = resolve(number, &Sysfs::default())?;
    let block = device.block();
    if let Some(block) = block.as_ref().filter(|_| !options.force) {
        in_use::look(block).map_err(OpenError::Host)?;
    }
    let opened = match block {
        Some(block) if matches!(number, Number::Block { .. }) => {
            let node = if names(&block.path(), number) { block.path() } else { path.into() };
            open_block(device, block, node, options, purpose)
        }
        Some(block) => {
            let node = block.path();
            open_block(device.clone(), block, node, options, purpose).or_else(|error| match error {
                OpenError::Open(_) => open_sg(device, options, purpose).map_err(|_| error),
                _ => Err(error),
            })
        }
        None => open_sg(device, options, purpose),
    }?;
    claim(&opened.file, options, purpose)?;
    if let Device::Scsi(_) = opened.device {
        expect_version(&opened.file)?;
    }
    Ok(opened)
}

/// A multipath map is not asked: without a path it would not answer.
fn expect_version(file: &File) -> Result<(), OpenError> {
    match sys::sg_version(file) {
        Ok(version) if version < 30_000 => Err(OpenError::Version(version)),
        Ok(_) => Ok(()),
        Err(error) => Err(OpenError::Examine(error)),
    }
}

/// Whether the node at `path` has `number`.
fn names(path: &Path, number: Number) -> bool {
    fs::metadata(path).is_ok_and(|metadata| Number::of(&metadata) == Some(number))
}

fn resolve(number: Number, sysfs: &Sysfs) -> Result<Device, OpenError> {
    match sysfs.node(number).map_err(not_there)? {
        Found::Device(device) => Ok(Device::Scsi(device)),
        Found::Partition { disk } => Err(OpenError::Partition { disk }),
        Found::Foreign => Err(OpenError::NotScsi),
        Found::Block(block) => match (block.mapped(), block.device()) {
            (Some(map), _) if map.is_multipath() => Ok(Device::Multipath(block)),
            (Some(map), _) => Err(OpenError::Volume { name: map.name }),
            (None, Some(device)) => Ok(Device::Scsi(device)),
            (None, None) => Err(OpenError::NotScsi),
        },
    }
}

/// A node that sysfs does not know has no device.
fn not_there(error: io::Error) -> OpenError {
    match error.kind() {
        ErrorKind::NotFound => OpenError::Open(io::Error::from_raw_os_error(libc::ENXIO)),
        _ => OpenError::Examine(error),
    }
}

fn open_block(
    device: Device,
    block: BlockNode,
    node: PathBuf,
    options: &Options,
    purpose: Purpose,
) -> Result<Opened, OpenError> {
    if !options.read_only && is_protected(&device, &block) {
        return Err(OpenError::ReadOnly);
    }
    let alone = !options.force && !options.shared_nexus;
    let flags = if alone { libc::O_EXCL } else { 0 };
    let file =
        open_node(&node, flags, options, purpose).map_err(|error| match error.raw_os_error() {
            Some(libc::EBUSY) => OpenError::InUse(in_use::who_has(&node)),
            Some(libc::EROFS) => OpenError::ReadOnly,
            _ => OpenError::Open(error),
        })?;
    Ok(Opened { file, node, device, block: Some(block), writable: !options.read_only })
}

/// Whether the node of a disk does not open for writing. That of a CD-ROM does.
fn is_protected(device: &Device, block: &BlockNode) -> bool {
    const CD_DVD: u8 = 5;
    let disk = !matches!(device, Device::Scsi(device) if device.device_type() == Some(CD_DVD));
    disk && block.is_read_only()
}

fn open_sg(device: Device, options: &Options, purpose: Purpose) -> Result<Opened, OpenError> {
    let Device::Scsi(scsi) = &device else { return Err(OpenError::NoSg) };
    let node = Path::new("/dev").join(scsi.sg().ok_or(OpenError::NoSg)?);
    let file = open_node(&node, 0, options, purpose).map_err(OpenError::Open)?;
    Ok(Opened { file, node, device, block: None, writable: !options.read_only })
}

/// Opens a node without waiting for a medium, or for the end of its error recovery.
fn open_node(node: &Path, flags: i32, options: &Options, purpose: Purpose) -> io::Result<File> {
    let writable = !options.read_only;
    if writable && purpose == Purpose::Check {
        may_write(node)?;
    }
    let file = OpenOptions::new()
        .read(true)
        .write(writable && purpose == Purpose::Use)
        .custom_flags(flags | libc::O_NONBLOCK)
        .open(node)?;
    sys::let_wait(&file)?;
    Ok(file)
}

/// Takes the node, or looks whether it could be taken. Who may only read sends commands all the
/// same, so that all who open a device are against each other.
fn claim(file: &File, options: &Options, purpose: Purpose) -> Result<(), OpenError> {
    let options = backend::Options { shared: options.shared_nexus, ..backend::Options::default() };
    let claimed = match purpose {
        Purpose::Use => lock::take(file, &options),
        Purpose::Check => lock::test(file, &options),
        Purpose::Watch => Ok(()),
    };
    claimed.map_err(|refused| match refused {
        Refused::InUse(holder) => OpenError::InUse(holder),
        Refused::NoLocks(error) => OpenError::NoLocks(error),
    })
}

#[cfg(test)]
mod tests {
    use super::super::sysfs::testing::Tree;
    use super::*;

    fn block(major: u32, minor: u32) -> Number {
        Number::Block { major, minor }
    }

    fn char(major: u32, minor: u32) -> Number {
        Number::Char { major, minor }
    }

    fn address(found: Result<Device, OpenError>) -> String {
        match found {
            Ok(Device::Scsi(device)) => device.address().to_string(),
            other => format!("{other:?}"),
        }
    }

    fn refusal(tree: &Tree, number: Number) -> String {
        resolve(number, &tree.sysfs()).unwrap_err().to_string()
    }

    #[test]
    fn every_node_leads_to_its_device() {
        let tree = Tree::new();
        let disk = tree.device("pci0/host2", "2:0:0:0");
        tree.disk(&disk, "sdb", "8:16");
        tree.char(&disk, "scsi_generic", "sg1", "21:1");
        tree.char(&disk, "bsg", "2:0:0:0", "247:1");
        let tape = tree.device("pci0/host2", "2:0:1:0");
        tree.char(&tape, "scsi_tape", "nst0", "9:128");
        for (number, expected) in [
            (block(8, 16), "2:0:0:0"),
            (char(21, 1), "2:0:0:0"),
            (char(247, 1), "2:0:0:0"),
            (char(9, 128), "2:0:1:0"),
        ] {
            assert_eq!(address(resolve(number, &tree.sysfs())), expected);
        }
    }

    #[test]
    fn what_is_no_scsi_device_is_refused() {
        let tree = Tree::new();
        // virtio-blk, nvme, loop, and the bsg node of an adapter.
        let virtio = tree.block("devices/pci0/virtio1/block/vda", "254:0");
        tree.file("devices/pci0/virtio1/uevent", "");
        tree.link(&format!("{virtio}/device"), "devices/pci0/virtio1");
        let nvme = tree.block("devices/pci0/nvme0/nvme0n1", "259:0");
        tree.link(&format!("{nvme}/device"), "devices/pci0/nvme0");
        tree.block("devices/virtual/block/loop0", "7:0");
        tree.file("devices/pci0/host2/uevent", "");
        tree.char("devices/pci0/host2", "bsg", "fc_host2", "247:0");
        // Whose name alone looks like one.
        let odd = tree.block("devices/odd/1:2:3:4/block/odd", "252:0");
        tree.link(&format!("{odd}/device"), "devices/odd/1:2:3:4");
        tree.file("bus/odd/uevent", "");
        tree.link("devices/odd/1:2:3:4/subsystem", "bus/odd");
        for number in [block(254, 0), block(259, 0), block(7, 0), block(252, 0), char(247, 0)] {
            assert_eq!(refusal(&tree, number), "is not a SCSI device", "{number}");
        }
        assert!(refusal(&tree, block(8, 0)).starts_with("cannot be opened: No such device or "));
    }

    #[test]
    fn a_part_of_a_disk_is_refused() {
        let tree = Tree::new();
        let device = tree.device("pci0/host2", "2:0:0:0");
        let disk = tree.disk(&device, "sdb", "8:16");
        let part = tree.block(&format!("{disk}/sdb1"), "8:17");
        tree.file(&format!("{part}/partition"), "1");
        let error = resolve(block(8, 17), &tree.sysfs()).unwrap_err();
        assert_eq!(
            format!("{error}; {}", error.remedy(Path::new("/dev/sdb1"))),
            "is a partition of sdb, and SCSI commands reach the whole disk; \
             name /dev/sdb, or emulate a disk on the partition by block"
        );
    }

    #[test]
    fn of_mapped_volumes_only_multipath_maps_are_devices() {
        let tree = Tree::new();
        let device = tree.device("pci0/host2", "2:0:0:0");
        let disk = tree.disk(&device, "sdb", "8:16");
        let folder = tree.volume("mpath-3600140", &[&disk]);
        let found = resolve(block(253, 0), &tree.sysfs()).unwrap();
        assert!(matches!(&found, Device::Multipath(map) if map.name() == "dm-0"));
        for uuid in ["LVM-abc", "part1-mpath-3600140", "CRYPT-LUKS2", ""] {
            tree.file(&format!("{folder}/dm/uuid"), uuid);
            let error = refusal(&tree, block(253, 0));
            assert!(error.starts_with("is \"mpatha\", a volume"), "{uuid}: {error}");
        }
    }

    #[test]
    fn what_has_no_node_of_its_own_cannot_be_opened() {
        for (path, why) in [
            ("/nowhere", "cannot be opened: no such file"),
            ("/dev/null", "is not a SCSI device"),
            ("/proc/version", "is not a SCSI device"),
            ("/", "is not a SCSI device"),
        ] {
            let error = check(Path::new(path), &Options::default()).unwrap_err();
            assert_eq!(error.to_string(), why, "{path}");
        }
    }
}

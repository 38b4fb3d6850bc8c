//! What sysfs says about the SCSI devices of the host: which there are, what nodes they have, what
//! they carry, and by which ports they are reached.
//!
//! It opens no device and sends no command.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

mod block;
mod ports;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use block::BlockNode;
pub use ports::Ports;

/// The address of a device among those of the host: host, channel, target, LUN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hctl {
    /// Number of the `Scsi_Host`.
    pub host: u32,
    /// Number of its channel.
    pub channel: u32,
    /// Number of the target there.
    pub target: u32,
    /// Number of the logical unit, as the kernel has it.
    pub lun: u64,
}

/// A text is no `host:channel:target:lun`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be four numbers, as 0:0:0:0")]
pub struct HctlError;

impl FromStr for Hctl {
    type Err = HctlError;

    fn from_str(text: &str) -> Result<Hctl, HctlError> {
        let parts: Vec<&str> = text.split(':').collect();
        let [host, channel, target, lun] = parts.as_slice() else { return Err(HctlError) };
        let number = |text: &str| text.parse().map_err(|_| HctlError);
        Ok(Hctl {
            host: number(host)?,
            channel: number(channel)?,
            target: number(target)?,
            lun: lun.parse().map_err(|_| HctlError)?,
        })
    }
}

impl fmt::Display for Hctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}:{}", self.host, self.channel, self.target, self.lun)
    }
}

/// A mounted sysfs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sysfs {
    root: PathBuf,
}

impl Default for Sysfs {
    fn default() -> Sysfs {
        Sysfs::at(Path::new("/sys"))
    }
}

impl Sysfs {
    /// The one that is mounted at `root`.
    #[must_use]
    pub fn at(root: &Path) -> Sysfs {
        Sysfs { root: root.into() }
    }

    fn folder(&self, path: &str) -> Folder {
        Folder(self.root.join(path))
    }

    /// All SCSI devices, by their addresses.
    ///
    /// # Errors
    /// Where there is no sysfs, or no SCSI in it.
    pub fn devices(&self) -> io::Result<Vec<ScsiDevice>> {
        let all = fs::read_dir(self.root.join("bus/scsi/devices"))?;
        let names = all.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let mut devices: Vec<ScsiDevice> =
            names.filter_map(|address| self.device(address)).collect();
        devices.sort_by_key(|device| device.address);
        Ok(devices)
    }

    /// The device that is at `address` now.
    #[must_use]
    pub fn device(&self, address: Hctl) -> Option<ScsiDevice> {
        let folder = self.folder(&format!("bus/scsi/devices/{address}")).resolved().ok()?;
        Some(ScsiDevice { address, folder, sysfs: self.clone() })
    }

    /// How many paths the multipath map at `path` has; none where it is something else.
    #[must_use]
    pub fn paths_of(&self, path: &Path) -> usize {
        let number = fs::metadata(path).ok().and_then(|metadata| Number::of(&metadata));
        match number.map(|number| self.node(number)) {
            Some(Ok(Found::Block(block))) => block.legs().len(),
            _ => 0,
        }
    }

    /// What the node with `number` belongs to.
    pub(super) fn node(&self, number: Number) -> io::Result<Found> {
        let folder = self.folder(&number.to_string()).resolved()?;
        if let Number::Block { .. } = number {
            return Ok(self.block_node(folder));
        }
        Ok(self.device_of(&folder).map_or(Found::Foreign, Found::Device))
    }

    fn block_node(&self, folder: Folder) -> Found {
        let node = BlockNode::new(self.clone(), folder);
        match node.disk() {
            Some(disk) => Found::Partition { disk },
            None => Found::Block(node),
        }
    }

    /// The SCSI device to which `folder`, that of a block or character node, belongs.
    fn device_of(&self, folder: &Folder) -> Option<ScsiDevice> {
        let device = folder.below("device").resolved().ok()?;
        let address = device.name()?.parse().ok()?;
        let bus = device.below("subsystem").resolved().ok()?;
        (bus.name()? == "scsi").then(|| ScsiDevice { address, folder: device, sysfs: self.clone() })
    }
}

/// What a node belongs to.
#[derive(Debug)]
pub(super) enum Found {
    /// It is that of a whole block device.
    Block(BlockNode),
    /// It is that of a part of `disk`.
    Partition { disk: String },
    /// It is a character node of a SCSI device.
    Device(ScsiDevice),
    /// Something that is no SCSI device.
    Foreign,
}

/// The number of a device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
    Block { major: u32, minor: u32 },
    Char { major: u32, minor: u32 },
}

impl Number {
    /// That of the node that `metadata` is about, if it is a device node.
    pub(super) fn of(metadata: &fs::Metadata) -> Option<Number> {
        let number = metadata.rdev();
        let (major, minor) = (libc::major(number), libc::minor(number));
        match metadata.file_type() {
            kind if kind.is_block_device() => Some(Number::Block { major, minor }),
            kind if kind.is_char_device() => Some(Number::Char { major, minor }),
            _ => None,
        }
    }
}

/// Where sysfs has it.
impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Number::Block { major, minor } => write!(f, "dev/block/{major}:{minor}"),
            Number::Char { major, minor } => write!(f, "dev/char/{major}:{minor}"),
        }
    }
}

/// A SCSI device, as sysfs knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScsiDevice {
    address: Hctl,
    folder: Folder,
    sysfs: Sysfs,
}

impl ScsiDevice {
    /// Where it is.
    #[must_use]
    pub fn address(&self) -> Hctl {
        self.address
    }

    /// Its block node, where its driver makes one.
    #[must_use]
    pub fn block(&self) -> Option<BlockNode> {
        let all = self.folder.below("block");
        let name = all.names().into_iter().next()?;
        Some(BlockNode::new(self.sysfs.clone(), all.below(&name)))
    }

    /// Its sg node, below `/dev`; the sg driver makes one for each device.
    #[must_use]
    pub fn sg(&self) -> Option<String> {
        let all = self.folder.below("scsi_generic");
        let name = all.names().into_iter().next()?;
        all.below(&name).device_name().or(Some(name))
    }

    /// What the kernel thinks of it: `running`, `blocked`, `offline`, `transport-offline`, …
    ///
    /// # Errors
    /// ENODEV when it is gone.
    pub fn state(&self) -> io::Result<String> {
        self.folder.text("state").map_err(gone)
    }

    /// PERIPHERAL DEVICE TYPE (SPC-6, INQUIRY command), as it was found.
    #[must_use]
    pub fn device_type(&self) -> Option<u8> {
        self.folder.number("type")
    }

    /// Vendor, product and revision, as they were found.
    #[must_use]
    pub fn names(&self) -> [String; 3] {
        ["vendor", "model", "rev"].map(|name| self.folder.text(name).unwrap_or_default())
    }

    /// Commands that it takes at a time.
    ///
    /// # Errors
    /// ENODEV when it is gone.
    pub fn queue_depth(&self) -> io::Result<u16> {
        match self.state()?.as_str() {
            "cancel" | "deleted" => Err(io::Error::from_raw_os_error(libc::ENODEV)),
            _ => self.folder.required("queue_depth"),
        }
    }
}

/// A folder of attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Folder(PathBuf);

impl Folder {
    fn below(&self, path: &str) -> Folder {
        Folder(self.0.join(path))
    }

    /// Itself, with no link on the way.
    fn resolved(&self) -> io::Result<Folder> {
        self.0.canonicalize().map(Folder)
    }

    fn name(&self) -> Option<&str> {
        self.0.file_name()?.to_str()
    }

    fn exists(&self, attribute: &str) -> bool {
        self.0.join(attribute).exists()
    }

    fn text(&self, attribute: &str) -> io::Result<String> {
        let text = fs::read(self.0.join(attribute))?;
        Ok(String::from_utf8_lossy(&text).trim().to_owned())
    }

    fn number<T: FromStr>(&self, attribute: &str) -> Option<T> {
        self.text(attribute).ok()?.parse().ok()
    }

    fn required<T: FromStr>(&self, attribute: &str) -> io::Result<T> {
        let text = self.text(attribute).map_err(gone)?;
        text.parse().map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{attribute} is {text:?}"))
        })
    }

    /// What is in it, sorted.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// The node below `/dev` that udev or devtmpfs makes (`DEVNAME` of the uevent).
    fn device_name(&self) -> Option<String> {
        let uevent = self.text("uevent").ok()?;
        uevent.lines().find_map(|line| line.strip_prefix("DEVNAME=").map(str::to_owned))
    }
}

/// An attribute that is missing is one of a device that is gone.
fn gone(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
            io::Error::from_raw_os_error(libc::ENODEV)
        }
        _ => error,
    }
}

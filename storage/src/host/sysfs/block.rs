//! Block nodes in sysfs: the queues of disks, their parts, who is built on them, and of what a
//! device mapper volume is made.

use std::io;
use std::path::PathBuf;

use super::super::HostLimits;
use super::{Folder, Hctl, ScsiDevice, Sysfs, gone};

/// A block device as sysfs knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockNode {
    sysfs: Sysfs,
    folder: Folder,
}

/// What the kernel aligns data of SCSI devices to where it does not say (before Linux 6.0).
const DMA_ALIGNMENT: u32 = 4;

impl BlockNode {
    pub(super) fn new(sysfs: Sysfs, folder: Folder) -> BlockNode {
        BlockNode { sysfs, folder }
    }

    /// Its name, `sda`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.folder.name().unwrap_or_default()
    }

    /// Its node below `/dev`.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        let name = self.folder.device_name().unwrap_or_else(|| self.name().to_owned());
        PathBuf::from("/dev").join(name)
    }

    /// The name of the disk that it is a part of.
    pub(super) fn disk(&self) -> Option<String> {
        if !self.folder.exists("partition") {
            return None;
        }
        let disk = Folder(self.folder.0.parent()?.into());
        disk.name().map(str::to_owned)
    }

    /// Its number, `8:0`.
    pub(in super::super) fn number(&self) -> io::Result<String> {
        self.folder.text("dev").map_err(gone)
    }

    /// The SCSI device that it is the node of.
    #[must_use]
    pub fn device(&self) -> Option<ScsiDevice> {
        self.sysfs.device_of(&self.folder)
    }

    /// Its size in units of 512 bytes.
    ///
    /// # Errors
    /// ENODEV when it is gone.
    pub fn sectors(&self) -> io::Result<u64> {
        self.folder.required("size")
    }

    /// Bytes of a logical block, as the kernel took it from READ CAPACITY.
    ///
    /// # Errors
    /// ENODEV when it is gone.
    pub fn logical_block_size(&self) -> io::Result<u32> {
        self.folder.required("queue/logical_block_size")
    }

    pub(in super::super) fn is_read_only(&self) -> bool {
        self.folder.number("ro") == Some(1)
    }

    /// What the device mapper calls it and identifies it by, where it is a volume of its.
    #[must_use]
    pub fn mapped(&self) -> Option<Mapped> {
        let uuid = self.folder.text("dm/uuid").ok()?;
        let name = self.folder.text("dm/name").unwrap_or_default();
        Some(Mapped { name, uuid })
    }

    /// The parts of a disk.
    #[must_use]
    pub(in super::super) fn partitions(&self) -> Vec<BlockNode> {
        let below = self.folder.names().into_iter().map(|name| self.folder.below(&name));
        let parts = below.filter(|folder| folder.exists("partition"));
        parts.map(|folder| BlockNode::new(self.sysfs.clone(), folder)).collect()
    }

    /// The block devices that are built on it.
    #[must_use]
    pub(in super::super) fn holders(&self) -> Vec<BlockNode> {
        self.linked("holders")
    }

    /// The block devices that it is built on: the legs of a multipath map.
    #[must_use]
    pub fn legs(&self) -> Vec<BlockNode> {
        self.linked("slaves")
    }

    fn linked(&self, folder: &str) -> Vec<BlockNode> {
        let all = self.folder.below(folder);
        let folders = all.names().into_iter().filter_map(|name| all.below(&name).resolved().ok());
        folders.map(|folder| BlockNode::new(self.sysfs.clone(), folder)).collect()
    }

    /// What its queue carries, and its device takes; of a multipath map the least of its legs.
    ///
    /// # Errors
    /// ENODEV when it is gone, or has no leg left.
    pub(in super::super) fn limits(&self) -> io::Result<HostLimits> {
        if let Some(device) = self.device() {
            return Ok(HostLimits { queue_depth: device.queue_depth()?, ..self.queue()? });
        }
        let own = self.queue()?;
        let legs = self.legs().into_iter().filter_map(|leg| leg.limits().ok());
        let least = legs.reduce(HostLimits::least);
        least.map(|legs| own.least(legs)).ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
    }

    fn queue(&self) -> io::Result<HostLimits> {
        let queue = self.folder.below("queue");
        let bytes = |attribute| -> io::Result<u64> {
            Ok(queue.required::<u64>(attribute)?.saturating_mul(1024))
        };
        let segments: u32 = queue.required("max_segments")?;
        let segment_size: u64 = queue.required("max_segment_size")?;
        let max_hw_bytes =
            bytes("max_hw_sectors_kb")?.min(segment_size.saturating_mul(segments.into()));
        Ok(HostLimits {
            max_bytes: bytes("max_sectors_kb")?.min(max_hw_bytes),
            max_hw_bytes,
            max_segments: segments,
            alignment: queue.number("dma_alignment").map_or(DMA_ALIGNMENT, alignment_of),
            queue_depth: u16::MAX,
        })
    }

    /// The addresses of the SCSI devices that it is made of.
    #[must_use]
    pub fn addresses(&self) -> Vec<Hctl> {
        let devices = match self.device() {
            Some(device) => vec![device],
            None => self.legs().iter().filter_map(BlockNode::device).collect(),
        };
        devices.iter().map(ScsiDevice::address).collect()
    }
}

/// The kernel gives the mask of the bits that must be zero.
fn alignment_of(mask: u32) -> u32 {
    mask.checked_add(1).filter(|bytes| bytes.is_power_of_two()).unwrap_or(DMA_ALIGNMENT)
}

impl HostLimits {
    fn least(self, other: HostLimits) -> HostLimits {
        HostLimits {
            max_bytes: self.max_bytes.min(other.max_bytes),
            max_hw_bytes: self.max_hw_bytes.min(other.max_hw_bytes),
            max_segments: self.max_segments.min(other.max_segments),
            alignment: self.alignment.max(other.alignment),
            queue_depth: self.queue_depth.min(other.queue_depth),
        }
    }
}

/// A volume of the device mapper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Its name below `/dev/mapper`.
    pub name: String,
    /// What it is identified by, which begins with who made it.
    pub uuid: String,
}

impl Mapped {
    /// Whether it is several paths to one disk.
    #[must_use]
    pub fn is_multipath(&self) -> bool {
        self.uuid.starts_with("mpath-")
    }
}

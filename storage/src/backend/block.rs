//! A block device of the host: a disk, a partition, a volume, a loop device.
//!
//! A partition is as good as a disk: the host's kernel keeps it within its bounds, and claims it
//! apart from its neighbours.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::descriptor::Descriptor;
use super::open::{self, Kind, OpenError, Options, Purpose};
use super::queue::Queue;
use super::{Alignment, Backend, Geometry, Provisioning, Topology, direct, sys};
use crate::buffer::DataBuf;

/// The logical blocks that initiators take, in bytes.
const BLOCK_SIZES: std::ops::RangeInclusive<u32> = 512..=4096;

/// A block device.
#[derive(Debug)]
pub struct BlockDevice {
    descriptor: Descriptor,
    geometry: Geometry,
    topology: Topology,
    provisioning: Provisioning,
}

impl BlockDevice {
    /// Opens the device at `path` and takes it.
    ///
    /// # Errors
    /// [`OpenError`] says why it cannot be used.
    pub fn open(path: &Path, options: &Options) -> Result<BlockDevice, OpenError> {
        let (descriptor, geometry, queue) = look(path, options, Purpose::Use)?;
        Ok(BlockDevice {
            topology: topology(&descriptor, geometry)?,
            provisioning: provisioning(&queue, geometry, options),
            descriptor,
            geometry,
        })
    }

    /// Finds out whether [`BlockDevice::open`] would succeed, and changes nothing. Whether the
    /// host claims the device can only be told by claiming it, for this moment.
    ///
    /// # Errors
    /// [`OpenError`] says why it would not.
    pub fn check(path: &Path, options: &Options) -> Result<Geometry, OpenError> {
        look(path, options, Purpose::Check).map(|(_, geometry, _)| geometry)
    }
}

fn look(
    path: &Path,
    options: &Options,
    purpose: Purpose,
) -> Result<(Descriptor, Geometry, Queue), OpenError> {
    let file = open::open(path, Kind::BlockDevice, options, purpose)?;
    open::claim(&file, options, purpose)?;
    let queue = Queue::of(file.metadata().map_err(OpenError::Examine)?.rdev());
    if queue.is_host_managed() {
        return Err(OpenError::HostManaged);
    }
    if !options.read_only && sys::is_read_only(&file).map_err(OpenError::Examine)? {
        return Err(OpenError::ReadOnly);
    }
    let device_block = sys::logical_block_size(&file).map_err(OpenError::Examine)?;
    let block_size = block_size(options.block_size, device_block)?;
    let size = sys::device_size(&file).map_err(OpenError::Examine)?;
    let blocks = open::whole_blocks(Kind::BlockDevice, size, block_size)?;
    let alignment = direct::alignment(&file, options, block_size)?;
    Ok((Descriptor { file, alignment }, Geometry { blocks, block_size }, queue))
}

fn block_size(wanted: Option<u32>, device: u32) -> Result<u32, OpenError> {
    if !BLOCK_SIZES.contains(&device) {
        return Err(OpenError::UnusableBlock(device));
    }
    match wanted {
        None => Ok(device),
        Some(wanted) if wanted.is_multiple_of(device) => Ok(wanted),
        Some(wanted) => Err(OpenError::DeviceBlock { device, wanted }),
    }
}

fn topology(descriptor: &Descriptor, geometry: Geometry) -> Result<Topology, OpenError> {
    let physical = sys::physical_block_size(&descriptor.file).map_err(OpenError::Examine)?;
    let offset = sys::alignment_offset(&descriptor.file).map_err(OpenError::Examine)?;
    Ok(Topology {
        physical_block_size: physical.max(geometry.block_size),
        alignment_offset: offset.unwrap_or(0),
    })
}

/// A discarded block holds anything. Where zeroing unmaps, unmapping is done by zeroing, and then
/// holds zeros.
fn provisioning(queue: &Queue, geometry: Geometry, options: &Options) -> Provisioning {
    if !options.discard {
        return Provisioning::default();
    }
    Provisioning {
        unmap_granularity: queue
            .discard_granularity()
            .map(|granularity| granularity.next_multiple_of(geometry.block_size)),
        unmapped_reads_zero: queue.zeroing_unmaps(),
    }
}

impl Backend for BlockDevice {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn topology(&self) -> Topology {
        self.topology
    }

    fn read(&self, offset: u64, data: &mut DataBuf) -> io::Result<()> {
        self.descriptor.read(offset, data)
    }

    fn write(&self, offset: u64, data: &mut DataBuf) -> io::Result<()> {
        self.descriptor.write(offset, data)
    }

    fn flush(&self) -> io::Result<()> {
        self.descriptor.flush()
    }

    fn drop_cached(&self, offset: u64, len: u64) {
        self.descriptor.drop_cached(offset, len);
    }

    fn provisioning(&self) -> Provisioning {
        self.provisioning
    }

    fn unmap(&self, offset: u64, len: u64) -> io::Result<()> {
        let file = &self.descriptor.file;
        match self.provisioning {
            Provisioning { unmap_granularity: None, .. } => Err(io::ErrorKind::Unsupported.into()),
            Provisioning { unmapped_reads_zero: true, .. } => sys::punch_hole(file, offset, len),
            _ => sys::discard(file, offset, len),
        }
    }

    fn zero(&self, offset: u64, len: u64, may_unmap: bool) -> io::Result<()> {
        let file = &self.descriptor.file;
        if may_unmap && self.provisioning.unmap_granularity.is_some() {
            match sys::punch_hole(file, offset, len) {
                // It has no command for that.
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
                result => return result,
            }
        }
        sys::zero_out(file, offset, len)
    }

    fn alignment(&self) -> Alignment {
        self.descriptor.alignment
    }

    fn raw_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.descriptor.fd())
    }
}

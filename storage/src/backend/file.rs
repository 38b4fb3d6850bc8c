//! A raw image in a regular file.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::descriptor::Descriptor;
use super::open::{self, Kind, OpenError, Options, Purpose};
use super::{Alignment, Backend, Geometry, Provisioning, Topology, direct, sys};
use crate::buffer::DataBuf;

/// Bytes of a block where nobody says otherwise.
const BLOCK_SIZE: u32 = 512;

/// The largest physical block that a file has, in bytes: some file systems name the size of their
/// network transfers.
const PHYSICAL_MAX: u32 = 4096;

/// A raw image: block N is at N × block size.
#[derive(Debug)]
pub struct RawFile {
    descriptor: Descriptor,
    geometry: Geometry,
    topology: Topology,
    provisioning: Provisioning,
}

impl RawFile {
    /// Opens the image at `path` and takes it.
    ///
    /// # Errors
    /// [`OpenError`] says why it cannot be used.
    pub fn open(path: &Path, options: &Options) -> Result<RawFile, OpenError> {
        let (descriptor, geometry) = look(path, options, Purpose::Use)?;
        let metadata = descriptor.file.metadata().map_err(OpenError::Examine)?;
        let unit = unit_of(metadata.blksize(), geometry.block_size);
        Ok(RawFile {
            provisioning: provisioning(&descriptor.file, metadata.len(), unit, options),
            topology: Topology {
                physical_block_size: unit.min(PHYSICAL_MAX).max(geometry.block_size),
                alignment_offset: 0,
            },
            descriptor,
            geometry,
        })
    }

    /// Finds out whether [`RawFile::open`] would succeed, and takes and changes nothing.
    ///
    /// # Errors
    /// [`OpenError`] says why it would not.
    pub fn check(path: &Path, options: &Options) -> Result<Geometry, OpenError> {
        look(path, options, Purpose::Check).map(|(_, geometry)| geometry)
    }
}

fn look(
    path: &Path,
    options: &Options,
    purpose: Purpose,
) -> Result<(Descriptor, Geometry), OpenError> {
    let file = open::open(path, Kind::File, options, purpose)?;
    open::claim(&file, options, purpose)?;
    let block_size = options.block_size.unwrap_or(BLOCK_SIZE);
    let size = file.metadata().map_err(OpenError::Examine)?.len();
    let blocks = open::whole_blocks(Kind::File, size, block_size)?;
    let alignment = direct::alignment(&file, options, block_size)?;
    Ok((Descriptor { file, alignment }, Geometry { blocks, block_size }))
}

/// The file system's block, where that is one of whole logical blocks.
fn unit_of(file_system: u64, block_size: u32) -> u32 {
    let unit = u32::try_from(file_system).unwrap_or(0);
    if unit.is_power_of_two() && unit > block_size { unit } else { block_size }
}

/// Tries whether holes can be punched, behind the end of the file, where there is nothing to
/// lose: what is advertised has to hold from the first INQUIRY on. For reading alone it cannot be
/// tried, and makes no difference but to how an UNMAP is refused.
fn provisioning(file: &File, size: u64, unit: u32, options: &Options) -> Provisioning {
    let behind = size.next_multiple_of(unit.into());
    let punches = options.discard
        && (options.read_only || sys::punch_hole(file, behind, unit.into()).is_ok());
    Provisioning { unmap_granularity: punches.then_some(unit), unmapped_reads_zero: punches }
}

impl Backend for RawFile {
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
        match self.provisioning.unmap_granularity {
            Some(_) => sys::punch_hole(&self.descriptor.file, offset, len),
            None => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn zero(&self, offset: u64, len: u64, may_unmap: bool) -> io::Result<()> {
        if may_unmap && self.provisioning.unmap_granularity.is_some() {
            return sys::punch_hole(&self.descriptor.file, offset, len);
        }
        sys::zero_range(&self.descriptor.file, offset, len)
    }

    fn alignment(&self) -> Alignment {
        self.descriptor.alignment
    }

    fn raw_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.descriptor.fd())
    }
}

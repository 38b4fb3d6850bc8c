//! The device behind a descriptor that a client has sent.
//!
//! It owns what may be done to a descriptor, and whose it is. It must not know who may do it.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use storage::host::lent::LentDevice;
use storage::host::{ScsiHost, whole};
use storage::scsi::designator::{self, Association, Designator};
use storage::scsi::status::Status;
use storage::scsi::wire::u16_at;

use crate::policy::Refused;
use crate::sys;

/// How long a device may take to tell its names.
const IDENTIFY: Duration = Duration::from_secs(10);

/// What a client has sent.
#[derive(Debug)]
pub struct Device {
    /// The way to it.
    pub host: Box<dyn ScsiHost>,
    /// Whether the client has opened it for writing.
    pub writable: bool,
    /// The device's number, by which it is told apart from others.
    pub number: u64,
}

/// Makes devices of descriptors.
pub trait Devices: fmt::Debug + Send + Sync {
    /// The device that is open as `fd`.
    ///
    /// # Errors
    /// Why it is none.
    fn open(&self, fd: OwnedFd) -> Result<Device, Refused>;
}

/// The SCSI devices of this host, by their nodes: sg nodes and whole block devices.
#[derive(Clone, Debug)]
pub struct Nodes {
    sysfs: PathBuf,
}

impl Nodes {
    /// Those that `sysfs` knows: `/sys`, but for tests.
    #[must_use]
    pub fn new(sysfs: &Path) -> Nodes {
        Nodes { sysfs: sysfs.into() }
    }

    /// Whether the node with this number is one of a SCSI device.
    fn is_scsi(&self, is_block: bool, rdev: u64) -> bool {
        let kind = if is_block { "block" } else { "char" };
        let name = format!("{}:{}", libc::major(rdev), libc::minor(rdev));
        let node = self.sysfs.join("dev").join(kind).join(name);
        let subsystem =
            if is_block { node.join("device/subsystem") } else { node.join("subsystem") };
        let wanted = if is_block { "scsi" } else { "scsi_generic" };
        let found = fs::canonicalize(subsystem);
        let found = found.is_ok_and(|found| found.file_name().is_some_and(|name| name == wanted));
        found && !node.join("partition").exists()
    }
}

impl Devices for Nodes {
    fn open(&self, fd: OwnedFd) -> Result<Device, Refused> {
        let flags = sys::flags(&fd).map_err(|error| Refused::because(&error.to_string()))?;
        if flags & libc::O_PATH != 0 {
            return Err(Refused::because("the descriptor is not open for reading"));
        }
        let file = File::from(fd);
        let metadata = file.metadata().map_err(|error| Refused::because(&error.to_string()))?;
        let kind = metadata.file_type();
        let is_node = kind.is_block_device() || kind.is_char_device();
        if !is_node || !self.is_scsi(kind.is_block_device(), metadata.rdev()) {
            return Err(Refused::because("the descriptor is no node of a whole SCSI device"));
        }
        let host = LentDevice::new(file).map_err(|error| Refused::because(&error.to_string()))?;
        Ok(Device {
            host: Box::new(host),
            writable: flags & libc::O_ACCMODE != libc::O_RDONLY,
            number: metadata.rdev(),
        })
    }
}

/// The designators of the logical unit itself, as it tells them now (SPC-6, Device Identification
/// VPD page).
///
/// # Errors
/// The host's own, or that the device refuses the page.
pub fn names(host: &dyn ScsiHost) -> io::Result<Vec<Designator>> {
    const USUAL: u16 = 252;
    let mut page = device_identification(host, USUAL)?;
    let len = u16_at(&page, 2).saturating_add(4);
    if len > USUAL {
        page = device_identification(host, len)?;
    }
    let of_unit = |(association, name)| (association == Association::LogicalUnit).then_some(name);
    Ok(designator::in_page(&page).into_iter().filter_map(of_unit).collect())
}

fn device_identification(host: &dyn ScsiHost, len: u16) -> io::Result<Vec<u8>> {
    const PAGE: u8 = 0x83;
    let [high, low] = len.to_be_bytes();
    let cdb = [0x12, 0x01, PAGE, high, low, 0];
    let (completion, page) = whole::receive(host, &cdb, len.into(), IDENTIFY)?;
    let good = completion.status == Status::GOOD && completion.host_status.0 == 0;
    if !good || page.get(1) != Some(&PAGE) {
        return Err(io::Error::other("it refuses the Device Identification VPD page"));
    }
    Ok(page)
}

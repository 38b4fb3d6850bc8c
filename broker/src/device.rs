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
    /// The names that the kernel itself has read of it, where the client might alter what comes
    /// by its descriptor.
    pub vouched: Option<Vec<Designator>>,
}

impl Device {
    /// The designators of the logical unit itself, as it tells them now, and the kernel vouches for
    /// them where that matters.
    ///
    /// # Errors
    /// The host's own, or that the device refuses the page.
    pub fn names(&self) -> io::Result<Vec<Designator>> {
        let mut names = names(&*self.host)?;
        if let Some(vouched) = &self.vouched {
            names.retain(|name| vouched.contains(name));
        }
        Ok(names)
    }
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

    /// What the kernel has read of the device behind an sg node. Data of a command by an sg node
    /// passes through memory that whoever has the node open can map and write (mmap of its reserved
    /// buffer), before this process sees it.
    fn vouched(&self, rdev: u64) -> Vec<Designator> {
        let number = format!("{}:{}", libc::major(rdev), libc::minor(rdev));
        let page = self.sysfs.join("dev/char").join(number).join("device/vpd_pg83");
        fs::read(page).map(|page| of_unit(&page)).unwrap_or_default()
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
            vouched: kind.is_char_device().then(|| self.vouched(metadata.rdev())),
        })
    }
}

/// As it tells them now (SPC-6, Device Identification VPD page).
fn names(host: &dyn ScsiHost) -> io::Result<Vec<Designator>> {
    const USUAL: u16 = 252;
    let mut page = device_identification(host, USUAL)?;
    let len = u16_at(&page, 2).saturating_add(4);
    if len > USUAL {
        page = device_identification(host, len)?;
    }
    Ok(of_unit(&page))
}

fn of_unit(page: &[u8]) -> Vec<Designator> {
    let of_unit = |(association, name)| (association == Association::LogicalUnit).then_some(name);
    designator::in_page(page).into_iter().filter_map(of_unit).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use storage::host::{Completion, Data, HostLimits, Request};

    /// Of whose name the client can make what it likes.
    #[derive(Debug)]
    struct Altered;

    const NAME: &str = "naa.5001405000000001";
    const OTHER: &str = "naa.5001405000000002";

    fn page(last: u8) -> Vec<u8> {
        vec![0, 0x83, 0, 12, 1, 3, 0, 8, 0x50, 0x01, 0x40, 0x50, 0, 0, 0, last]
    }

    impl ScsiHost for Altered {
        fn carries(&self, _: &[u8]) -> bool {
            true
        }

        fn execute(&self, request: Request<'_>) -> io::Result<Completion> {
            if let Data::In(buf) = request.data {
                buf.write(&page(1));
            }
            Ok(Completion::default())
        }

        fn reset_logical_unit(&self) -> io::Result<()> {
            Ok(())
        }

        fn limits(&self) -> io::Result<HostLimits> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    #[test]
    fn by_an_sg_node_only_names_count_that_the_kernel_has_read_too() {
        let sysfs = tempfile::tempdir().unwrap();
        let nodes = Nodes::new(sysfs.path());
        let device = sysfs.path().join("dev/char/21:3/device");
        fs::create_dir_all(&device).unwrap();
        let names = |nodes: &Nodes| {
            let vouched = Some(nodes.vouched(libc::makedev(21, 3)));
            let host = Box::new(Altered);
            Device { host, writable: true, number: 0, vouched }.names().unwrap()
        };
        assert_eq!(names(&nodes), []);
        fs::write(device.join("vpd_pg83"), page(2)).unwrap();
        assert_eq!(nodes.vouched(libc::makedev(21, 3)), [OTHER.parse().unwrap()]);
        assert_eq!(names(&nodes), []);
        fs::write(device.join("vpd_pg83"), page(1)).unwrap();
        assert_eq!(names(&nodes), [NAME.parse().unwrap()]);
    }
}

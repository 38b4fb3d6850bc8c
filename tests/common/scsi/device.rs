//! A SCSI device as sysfs shows it.

use std::fs;
use std::io::Result;
use std::path::{Path, PathBuf};

use crate::host;

/// A logical unit that the machine has found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device {
    folder: PathBuf,
}

impl Device {
    /// The devices below a folder of sysfs that stands for a SCSI host, in the order of their
    /// addresses, once there are `count`, each with the nodes that the kernel gives to its type.
    ///
    /// # Errors
    /// When there are not for too long.
    pub fn await_below(host: &Path, count: usize) -> Result<Vec<Device>> {
        let what = format!("{count} devices below {}", host.display());
        host::await_some(&what, || {
            let devices = Device::below(host);
            Ok((devices.len() == count && devices.iter().all(Device::has_nodes)).then_some(devices))
        })
    }

    /// The devices that are there now below a folder of sysfs that stands for a SCSI host.
    #[must_use]
    pub fn below(host: &Path) -> Vec<Device> {
        let targets = children(host).into_iter().filter(|path| is_named(path, "target"));
        let mut devices: Vec<Device> = targets
            .flat_map(|target| children(&target))
            .filter(|path| path.join("vendor").exists())
            .map(|folder| Device { folder })
            .collect();
        devices.sort_by_key(Device::numbers);
        devices
    }

    fn numbers(&self) -> Vec<u64> {
        self.address().split(':').filter_map(|number| number.parse().ok()).collect()
    }

    /// Whether it has an sg node and, if it is a disk, a zoned disk or a CD-ROM, a block node.
    fn has_nodes(&self) -> bool {
        let block = matches!(self.attribute("type").as_deref(), Ok("0" | "5" | "20"));
        self.node("scsi_generic").is_some() && (!block || self.node("block").is_some())
    }

    fn node(&self, class: &str) -> Option<PathBuf> {
        let [entry, ..] = &children(&self.folder.join(class))[..] else { return None };
        Some(Path::new("/dev").join(entry.file_name()?)).filter(|node| node.exists())
    }

    /// Its sg node.
    ///
    /// # Panics
    /// When it has gone.
    #[must_use]
    pub fn generic(&self) -> PathBuf {
        self.node("scsi_generic").unwrap_or_else(|| panic!("no sg node of {self:?}"))
    }

    /// Its block node.
    ///
    /// # Panics
    /// When it has gone, or is of a type that has none.
    #[must_use]
    pub fn block(&self) -> PathBuf {
        self.node("block").unwrap_or_else(|| panic!("no block node of {self:?}"))
    }

    /// Host, channel, target and LUN.
    #[must_use]
    pub fn address(&self) -> String {
        self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// What sysfs says of it.
    ///
    /// # Errors
    /// What the host says.
    pub fn attribute(&self, name: &str) -> Result<String> {
        host::read(&self.folder.join(name))
    }

    /// Whether the kernel has read this VPD page of it.
    #[must_use]
    pub fn has_page(&self, name: &str) -> bool {
        self.folder.join(format!("vpd_{name}")).exists()
    }

    /// Changes what sysfs says of it.
    ///
    /// # Errors
    /// What the host says.
    pub fn set(&self, name: &str, value: &str) -> Result<()> {
        host::write(&self.folder.join(name), value)
    }

    /// An attribute of its block node's queue.
    ///
    /// # Errors
    /// What the host says.
    pub fn queue(&self, name: &str) -> Result<String> {
        host::read(&self.queue_attribute(name))
    }

    /// Changes an attribute of its block node's queue.
    ///
    /// # Errors
    /// What the host says.
    pub fn set_queue(&self, name: &str, value: &str) -> Result<()> {
        host::write(&self.queue_attribute(name), value)
    }

    fn queue_attribute(&self, name: &str) -> PathBuf {
        let block = self.block();
        Path::new("/sys/block").join(block.file_name().unwrap_or_default()).join("queue").join(name)
    }

    /// Takes it away, as when it is pulled out; a scan of its host finds it again.
    ///
    /// # Errors
    /// What the host says.
    pub fn delete(&self) -> Result<()> {
        self.set("delete", "1")
    }
}

/// Has the SCSI host of this folder look for devices.
///
/// # Errors
/// What the host says.
pub fn scan(host: &Path) -> Result<()> {
    let name = host.file_name().unwrap_or_default();
    host::write(&host.join("scsi_host").join(name).join("scan"), "- - -")
}

/// What a folder holds; nothing if it is not there.
pub(super) fn children(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// Whether the last part of a path begins with `prefix`.
pub(super) fn is_named(path: &Path, prefix: &str) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
}

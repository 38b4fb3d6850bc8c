//! LIO, the kernel's SCSI target, by configfs: what it stores blocks in, and the ports that lead
//! to it.

use std::fs;
use std::io::Result;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::device::{Device, children, is_named};
use crate::host;

const TARGET: &str = "/sys/kernel/config/target";

/// A logical unit of LIO. What leads to it must be dropped before.
#[derive(Debug)]
pub struct Storage {
    folder: PathBuf,
}

impl Storage {
    /// One of `size` bytes in memory.
    ///
    /// # Errors
    /// When LIO refuses.
    pub fn memory(name: &str, size: u64) -> Result<Storage> {
        load(&[])?;
        Storage::new("rd_mcp_0", name, &format!("rd_pages={}", size / 4096), None)
    }

    /// One of `size` bytes in a file, past the page cache where the file system can.
    ///
    /// # Errors
    /// When LIO refuses.
    pub fn file(name: &str, file: &Path, size: u64) -> Result<Storage> {
        load(&["target_core_file"])?;
        let parameters = format!("fd_dev_name={},fd_dev_size={size}", file.display());
        Storage::new("fileio_0", name, &parameters, None)
    }

    /// A SCSI device, whose commands go to it unchanged.
    ///
    /// # Errors
    /// When LIO refuses.
    pub fn device(name: &str, device: &Device) -> Result<Storage> {
        load(&["target_core_pscsi"])?;
        let address = device.address();
        let numbers: Vec<&str> = address.split(':').collect();
        let [host, channel, target, lun] = numbers[..] else { panic!("an address: {address}") };
        let parameters =
            format!("scsi_channel_id={channel},scsi_target_id={target},scsi_lun_id={lun}");
        Storage::new(&format!("pscsi_{host}"), name, &parameters, Some(&device.block()))
    }

    /// One of `size` bytes, as LIO is told, whose commands go to a UIO device of the name
    /// [`Storage::user_name`].
    pub(super) fn user(name: &str, size: u64) -> Result<Storage> {
        load(&["target_core_user"])?;
        Storage::new("user_0", name, &format!("dev_config=vmm,dev_size={size}"), None)
    }

    /// The name of the UIO device of a logical unit for programs.
    pub(super) fn user_name(name: &str) -> String {
        format!("tcm-user/0/{name}/vmm")
    }

    fn new(kind: &str, name: &str, parameters: &str, path: Option<&Path>) -> Result<Storage> {
        let folder = Path::new(TARGET).join("core").join(kind).join(name);
        fs::create_dir_all(&folder)?;
        let storage = Storage { folder };
        storage.set("control", parameters)?;
        if let Some(path) = path {
            storage.set("udev_path", &path.display().to_string())?;
        } else {
            // From it LIO makes the NAA designator, by which its devices are told apart.
            storage.set("wwn/vpd_unit_serial", &format!("serial-of-{name}"))?;
        }
        storage.set("enable", "1")?;
        Ok(storage)
    }

    /// Changes an attribute below its folder.
    ///
    /// # Errors
    /// When LIO refuses.
    pub fn set(&self, attribute: &str, value: &str) -> Result<()> {
        host::write(&self.folder.join(attribute), value)
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        remove(&self.folder);
        let _ = fs::remove_dir(self.folder.parent().unwrap_or(Path::new("/"))); // if it was the last
    }
}

/// A target port of LIO, and the initiator port that it is reached from: an I_T nexus.
#[derive(Debug)]
pub struct Port {
    folder: PathBuf,
    luns: usize,
}

impl Port {
    /// One that ends in this machine: its logical units are SCSI devices here.
    ///
    /// # Errors
    /// When LIO refuses.
    pub fn loopback(target: &str, initiator: &str, luns: &[&Storage]) -> Result<Port> {
        load(&["tcm_loop"])?;
        Port::new("loopback", target, "tpgt_0", initiator, luns)
    }

    /// One for the virtio-scsi controller of a guest, past its VMM.
    ///
    /// # Errors
    /// When LIO refuses.
    pub fn vhost(target: &str, initiator: &str, luns: &[&Storage]) -> Result<Port> {
        load(&["vhost_scsi"])?;
        Port::new("vhost", target, "tpgt_1", initiator, luns)
    }

    fn new(fabric: &str, target: &str, tpg: &str, nexus: &str, luns: &[&Storage]) -> Result<Port> {
        let folder = Path::new(TARGET).join(fabric).join(target).join(tpg);
        fs::create_dir_all(&folder)?;
        let port = Port { folder, luns: luns.len() };
        host::write(&port.folder.join("nexus"), nexus)?;
        for (number, storage) in luns.iter().enumerate() {
            port.attach(number, storage)?;
        }
        Ok(port)
    }

    /// Gives it a logical unit of this number.
    ///
    /// # Errors
    /// When LIO refuses.
    pub fn attach(&self, number: usize, storage: &Storage) -> Result<()> {
        let lun = self.folder.join(format!("lun/lun_{number}"));
        fs::create_dir(&lun)?;
        symlink(&storage.folder, lun.join("storage"))
    }

    /// Takes the logical unit of this number away.
    ///
    /// # Errors
    /// When LIO refuses.
    pub fn detach(&self, number: usize) -> Result<()> {
        let lun = self.folder.join(format!("lun/lun_{number}"));
        fs::remove_file(lun.join("storage"))?;
        fs::remove_dir(lun)
    }

    /// The SCSI devices of a loopback port, in the order of their LUNs.
    ///
    /// # Errors
    /// When they do not appear.
    pub fn devices(&self) -> Result<Vec<Device>> {
        Device::await_below(&self.scsi_host()?, self.luns)
    }

    /// The folder of the SCSI host that a loopback port is here.
    ///
    /// # Errors
    /// What the host says.
    pub fn scsi_host(&self) -> Result<PathBuf> {
        let address = host::read(&self.folder.join("address"))?;
        let number = address.split(':').next().unwrap_or_default();
        fs::canonicalize(format!("/sys/class/scsi_host/host{number}/device"))
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        for lun in children(&self.folder.join("lun")) {
            if is_named(&lun, "lun_") {
                let _ = fs::remove_file(lun.join("storage"));
                remove(&lun);
            }
        }
        remove(&self.folder);
        let _ = fs::remove_dir(self.folder.parent().unwrap_or(Path::new("/"))); // if it was the last
    }
}

/// The target, these of its modules, and the folders where it keeps reservations.
fn load(modules: &[&str]) -> Result<()> {
    fs::create_dir_all("/var/target/pr")?;
    fs::create_dir_all("/var/target/alua")?;
    host::load(&[&["target_core_mod"], modules].concat())
}

fn remove(folder: &Path) {
    if let Err(error) = fs::remove_dir(folder) {
        eprintln!("{} stays: {error}", folder.display());
    }
}

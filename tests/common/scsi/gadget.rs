//! A USB mass-storage device that this machine is itself: SCSI as cheap devices speak it, with an
//! old INQUIRY version, without any VPD page, behind a host that carries little.

use std::fs;
use std::io::Result;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::device::{Device, children, is_named};
use crate::host;

/// What one of its logical units is.
#[derive(Clone, Copy, Debug)]
pub enum Medium<'a> {
    /// A disk, with the logical blocks of the block device that it is on, or 512 bytes.
    Disk(&'a Path),
    /// A CD-ROM.
    Cdrom(&'a Path),
}

/// The device, plugged in until it is dropped.
#[derive(Debug)]
pub struct Gadget {
    folder: PathBuf,
    devices: Vec<Device>,
}

const FOLDER: &str = "/sys/kernel/config/usb_gadget/storage";
const FUNCTION: &str = "functions/mass_storage.0";
const CONTROLLER: &str = "dummy_udc.0";
const BUS: &str = "/sys/devices/platform/dummy_hcd.0";

impl Gadget {
    /// Plugs one in with these logical units. There can be one at a time.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new(media: &[Medium]) -> Result<Gadget> {
        host::load(&["libcomposite", "dummy_hcd", "usb_f_mass_storage", "usb-storage", "sr_mod"])?;
        fs::create_dir(FOLDER)?;
        let mut gadget = Gadget { folder: FOLDER.into(), devices: Vec::new() };
        gadget.describe()?;
        for (number, medium) in media.iter().enumerate() {
            gadget.insert(number, medium)?;
        }
        symlink(gadget.path(FUNCTION), gadget.path("configs/c.1/storage"))?;
        gadget.set("UDC", CONTROLLER)?;
        gadget.devices = Device::await_below(&scsi_host()?, media.len())?;
        Ok(gadget)
    }

    fn describe(&self) -> Result<()> {
        self.set("idVendor", "0x1d6b")?; // Linux Foundation
        self.set("idProduct", "0x0104")?; // Multifunction Composite Gadget
        for folder in ["strings/0x409", "configs/c.1", FUNCTION] {
            fs::create_dir(self.path(folder))?;
        }
        self.set("strings/0x409/serialnumber", "0123456789ab")?;
        // Dummy_hcd does not stall reliably, says the function's own documentation of others.
        self.set(&format!("{FUNCTION}/stall"), "0")
    }

    fn insert(&self, number: usize, medium: &Medium) -> Result<()> {
        let lun = format!("{FUNCTION}/lun.{number}");
        if number > 0 {
            fs::create_dir(self.path(&lun))?; // the first is there from the beginning
        }
        let file = match medium {
            Medium::Disk(file) => file,
            Medium::Cdrom(file) => {
                self.set(&format!("{lun}/cdrom"), "1")?;
                file
            }
        };
        self.set(&format!("{lun}/file"), &file.display().to_string())
    }

    /// Its logical units.
    #[must_use]
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn set(&self, name: &str, value: &str) -> Result<()> {
        host::write(&self.path(name), value)
    }
}

/// The folder of the SCSI host that stands for it: `usbN/N-1/N-1:1.0/hostM`.
fn scsi_host() -> Result<PathBuf> {
    host::await_some("a SCSI host on the USB", || {
        let mut folders = vec![PathBuf::from(BUS)];
        for level in ["usb", "", "", "host"] {
            let below = folders.iter().flat_map(|folder| children(folder));
            folders = below.filter(|path| is_named(path, level) && path.is_dir()).collect();
        }
        Ok(folders.pop())
    })
}

impl Drop for Gadget {
    fn drop(&mut self) {
        let _ = self.set("UDC", "\n");
        let _ = fs::remove_file(self.path("configs/c.1/storage"));
        let luns = children(&self.path(FUNCTION));
        for lun in luns.iter().filter(|path| is_named(path, "lun.") && !is_named(path, "lun.0")) {
            let _ = fs::remove_dir(lun);
        }
        for folder in [FUNCTION, "configs/c.1", "strings/0x409", ""] {
            let _ = fs::remove_dir(self.path(folder));
        }
    }
}

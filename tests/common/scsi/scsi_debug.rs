//! Disks, tapes and zoned disks of Linux's scsi_debug: memory behind a SCSI host.

use std::io::Result;
use std::path::{Path, PathBuf};

use super::device::{self, Device};
use crate::host;

/// scsi_debug, loaded; its devices share their parameters and their memory.
#[derive(Debug)]
pub struct ScsiDebug {
    devices: Vec<Device>,
}

const DRIVER: &str = "/sys/bus/pseudo/drivers/scsi_debug";
const HOST: &str = "/sys/bus/pseudo/drivers/scsi_debug/adapter0";

impl ScsiDebug {
    /// Loads it with these parameters (`modinfo scsi_debug`), which must make `count` devices.
    ///
    /// # Errors
    /// When it cannot be loaded, as when it is already.
    pub fn new(count: usize, parameters: &[&str]) -> Result<ScsiDebug> {
        // A busy disk answers at once unless a test wants otherwise.
        host::run("modprobe", &[&["scsi_debug", "delay=0"], parameters].concat())?;
        let mut loaded = ScsiDebug { devices: Vec::new() };
        loaded.await_devices(count)?;
        Ok(loaded)
    }

    /// Waits until it has `count` devices.
    ///
    /// # Errors
    /// When it has not for too long.
    pub fn await_devices(&mut self, count: usize) -> Result<()> {
        self.devices = Device::await_below(&scsi_host()?, count)?;
        Ok(())
    }

    /// Its devices, in the order of their LUNs.
    #[must_use]
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// Its first device.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.devices[0]
    }

    /// Changes a parameter of all its devices.
    ///
    /// # Errors
    /// When it cannot be changed while loaded.
    pub fn set(&self, parameter: &str, value: &str) -> Result<()> {
        host::write(&Path::new(DRIVER).join(parameter), value)
    }

    /// Looks for devices that were taken away, or have changed.
    ///
    /// # Errors
    /// What the host says.
    pub fn scan(&self) -> Result<()> {
        device::scan(&scsi_host()?)
    }
}

/// The folder of its SCSI host.
fn scsi_host() -> Result<PathBuf> {
    host::await_some("scsi_debug's host", || {
        Ok(device::children(Path::new(HOST))
            .into_iter()
            .find(|path| device::is_named(path, "host")))
    })
}

impl Drop for ScsiDebug {
    fn drop(&mut self) {
        if let Err(error) = host::unload("scsi_debug") {
            eprintln!("scsi_debug stays: {error}");
        }
    }
}

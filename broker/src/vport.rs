//! Virtual ports of Fibre Channel host adapters, which the kernel creates and deletes on a word in
//! sysfs (drivers/scsi/scsi_transport_fc.c).

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use storage::host::broker::protocol::Vport;

/// The Fibre Channel host adapters of this host.
#[derive(Clone, Debug)]
pub struct Adapters {
    sysfs: PathBuf,
}

impl Adapters {
    /// Those that `sysfs` knows: `/sys`, but for tests.
    #[must_use]
    pub fn new(sysfs: &Path) -> Adapters {
        Adapters { sysfs: sysfs.into() }
    }

    fn adapter(&self, number: u32) -> PathBuf {
        self.sysfs.join("class/fc_host").join(format!("host{number}"))
    }

    /// The port name of an adapter.
    ///
    /// # Errors
    /// ENODEV where there is no such adapter; the host's own.
    pub fn port_name(&self, number: u32) -> io::Result<u64> {
        let text = fs::read_to_string(self.adapter(number).join("port_name"));
        let text = text.map_err(|error| match error.kind() {
            ErrorKind::NotFound => io::Error::from_raw_os_error(libc::ENODEV),
            _ => error,
        })?;
        let digits = text.trim().strip_prefix("0x").unwrap_or(text.trim());
        u64::from_str_radix(digits, 16).map_err(io::Error::other)
    }

    /// Creates a virtual port, and waits for that.
    ///
    /// # Errors
    /// The kernel's, and EOPNOTSUPP where the adapter has no virtual ports.
    pub fn create(&self, vport: &Vport) -> io::Result<()> {
        self.tell(vport, "vport_create")
    }

    /// Deletes a virtual port, and waits for that.
    ///
    /// # Errors
    /// As those of [`Adapters::create`].
    pub fn delete(&self, vport: &Vport) -> io::Result<()> {
        self.tell(vport, "vport_delete")
    }

    fn tell(&self, vport: &Vport, attribute: &str) -> io::Result<()> {
        let path = self.adapter(vport.host).join(attribute);
        let file = OpenOptions::new().write(true).open(path);
        let mut file = file.map_err(|error| match error.kind() {
            ErrorKind::NotFound => io::Error::from_raw_os_error(libc::EOPNOTSUPP),
            _ => error,
        })?;
        // In one write: each is a whole request.
        file.write_all(vport.names().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VPORT: Vport =
        Vport { host: 5, wwpn: 0x2100_0000_0000_0001, wwnn: 0x2000_0000_0000_0001 };

    #[test]
    fn the_names_are_written_as_the_kernel_wants_them() {
        let sysfs = tempfile::tempdir().unwrap();
        let adapter = sysfs.path().join("class/fc_host/host5");
        fs::create_dir_all(&adapter).unwrap();
        fs::write(adapter.join("port_name"), "0x5001438012345678\n").unwrap();
        let adapters = Adapters::new(sysfs.path());
        assert_eq!(adapters.port_name(5).unwrap(), 0x5001_4380_1234_5678);
        let none = adapters.create(&VPORT).unwrap_err();
        assert_eq!(none.raw_os_error(), Some(libc::EOPNOTSUPP));
        for attribute in ["vport_create", "vport_delete"] {
            fs::write(adapter.join(attribute), "").unwrap();
        }
        adapters.create(&VPORT).unwrap();
        adapters.delete(&VPORT).unwrap();
        for attribute in ["vport_create", "vport_delete"] {
            let written = fs::read_to_string(adapter.join(attribute)).unwrap();
            assert_eq!(written, "2100000000000001:2000000000000001");
        }
    }

    #[test]
    fn an_adapter_that_is_not_there_is_no_device() {
        let sysfs = tempfile::tempdir().unwrap();
        let error = Adapters::new(sysfs.path()).port_name(0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }
}

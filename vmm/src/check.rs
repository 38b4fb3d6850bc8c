//! `vmm --check`: what is said about a configuration in which nothing is wrong.
//!
//! Owns the text. What is checked is the configuration's business.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use storage::lun::spec::{DiskSpec, LunSpec};

use crate::host::Host;
use crate::limits;
use crate::printable::printable;
use crate::spec::GuestSpec;

/// Tells on standard output that `guest`, which `file` describes, can be started, with the
/// identities that storage needs to know before that.
pub(crate) fn tell(file: &Path, guest: &GuestSpec, host: &Host) -> ExitCode {
    let text = format!("{}: OK: {}", printable(&file.to_string_lossy()), Summary { guest, host });
    // The status tells all the same.
    let _ = io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

struct Summary<'a> {
    guest: &'a GuestSpec,
    host: &'a Host,
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = &self.guest.machine;
        writeln!(
            f,
            "guest {}, uuid {}, {} vCPU{}, {} MiB, up to {} of {} file descriptors",
            machine.name,
            machine.uuid,
            machine.vcpus,
            if machine.vcpus == 1 { "" } else { "s" },
            machine.memory >> 20,
            self.host.descriptors.open + limits::descriptors(self.guest),
            self.host.descriptors.limit,
        )?;
        for controller in &self.guest.controllers {
            for at in &controller.luns {
                write!(f, "{} target {} lun {}: ", controller.id, at.target, at.lun)?;
                if let LunSpec::Disk(DiskSpec { identity, .. }) = &at.spec {
                    write!(f, "wwn {}, serial {:?}, ", identity.wwn, identity.serial)?;
                }
                writeln!(f, "{}", printable(&at.spec.path().to_string_lossy()))?;
            }
        }
        Ok(())
    }
}

//! `vmm --check`: what is said about a configuration in which nothing is wrong.
//!
//! Owns the text. What is checked is the configuration's business.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use storage::lun::passthrough::policy::Preset;
use storage::lun::spec::{DiskSpec, LunSpec, PassthroughSpec};

use crate::host::Host;
use crate::limits;
use crate::printable::printable;
use crate::probe;
use crate::spec::{GuestSpec, PRESETS};

/// Tells on standard output that `guest`, which `file` describes, can be started, with the
/// identities that storage needs to know before that.
pub(crate) fn tell(file: &Path, guest: &GuestSpec, host: &Host) -> ExitCode {
    let text = format!("{}: OK: {}", printable(&file.to_string_lossy()), Summary { guest, host });
    // The status tells all the same.
    let _ = io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

/// What there is to say of a device of the host, each with a comma behind it.
struct Words<'a>(&'a PassthroughSpec);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = self.0;
        if let Some(summary) = probe::summary(device) {
            write!(f, "{summary}, ")?;
        }
        let preset = PRESETS.iter().find(|(_, preset)| *preset == device.policy.preset);
        write!(f, "policy {}, ", preset.map_or("", |(name, _)| *name))?;
        if device.shared_nexus && device.policy.preset >= Preset::Cluster {
            write!(f, "but no PERSISTENT RESERVE OUT by a shared nexus, ")?;
        }
        Ok(())
    }
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
                match &at.spec {
                    LunSpec::Disk(DiskSpec { identity, .. }) => {
                        write!(f, "wwn {}, serial {:?}, ", identity.wwn, identity.serial)?;
                    }
                    LunSpec::Passthrough(device) => {
                        write!(f, "{}", Words(device))?;
                    }
                }
                writeln!(f, "{}", printable(&at.spec.path().to_string_lossy()))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_told_with_its_policy() {
        let mut device = PassthroughSpec::new("/nonexistent".as_ref());
        assert_eq!(Words(&device).to_string(), "policy disk-rw, ");
        (device.policy.preset, device.shared_nexus) = (Preset::Full, true);
        let told = "policy full, but no PERSISTENT RESERVE OUT by a shared nexus, ";
        assert_eq!(Words(&device).to_string(), told);
    }
}

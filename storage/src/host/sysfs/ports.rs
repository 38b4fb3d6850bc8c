//! By which ports a SCSI device is reached: the two ends of the host's I_T nexus.

use super::{Folder, ScsiDevice};

/// The names of the ports at both ends of an I_T nexus, as far as the transport has names:
/// `naa.` and hex digits of FC, SAS and LIO's loopback, iSCSI names as `iqn…,i,0x…`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ports {
    /// That of the host.
    pub initiator: Option<String>,
    /// That of the device.
    pub target: Option<String>,
}

impl ScsiDevice {
    /// The ports that lead to it.
    #[must_use]
    pub fn ports(&self) -> Ports {
        self.transported().1
    }

    /// How it is attached: `fc`, `iscsi`, `sas`, `tcm_loop`, or else its adapter's driver.
    #[must_use]
    pub fn transport(&self) -> String {
        self.transported().0
    }

    fn transported(&self) -> (String, Ports) {
        let all = [("fc", self.fc()), ("iscsi", self.iscsi()), ("sas", self.sas())];
        let named = all.into_iter().find_map(|(name, ports)| Some((name, ports?)));
        if let Some((name, ports)) = named {
            return (name.into(), ports);
        }
        match self.driver() {
            driver if driver == "tcm_loopback" => ("tcm_loop".into(), self.loopback()),
            driver => (driver, Ports::default()),
        }
    }

    fn class(&self, path: &str) -> Folder {
        self.sysfs.folder("class").below(path)
    }

    fn scsi_host(&self) -> Folder {
        self.class(&format!("scsi_host/host{}", self.address.host))
    }

    fn driver(&self) -> String {
        self.scsi_host().text("proc_name").unwrap_or_default()
    }

    fn fc(&self) -> Option<Ports> {
        let address = self.address;
        let host = self.class(&format!("fc_host/host{}", address.host));
        let target = self.class(&format!(
            "fc_transport/target{}:{}:{}",
            address.host, address.channel, address.target
        ));
        let initiator = Some(naa(&host.text("port_name").ok()?));
        Some(Ports { initiator, target: target.text("port_name").ok().as_deref().map(naa) })
    }

    fn sas(&self) -> Option<Ports> {
        let device = self.ancestor("end_device-")?;
        let device = self.class(&format!("sas_device/{device}"));
        let host = self.scsi_host().text("host_sas_address").ok();
        let initiator = host.or_else(|| {
            let phys = self.class("sas_phy");
            let own = format!("phy-{}:", self.address.host);
            let phy = phys.names().into_iter().find(|name| {
                // phy-0:1 is the host's; phy-0:0:1 is an expander's.
                name.strip_prefix(&own).is_some_and(|rest| !rest.contains(':'))
            })?;
            phys.below(&phy).text("sas_address").ok()
        });
        Some(Ports {
            initiator: initiator.as_deref().map(naa),
            target: device.text("sas_address").ok().as_deref().map(naa),
        })
    }

    /// iSCSI names of ports (RFC 7143, iSCSI port names).
    fn iscsi(&self) -> Option<Ports> {
        let session = self.class(&format!("iscsi_session/{}", self.ancestor("session")?));
        let text = |attribute| session.text(attribute).ok().filter(|text| usable(text));
        let initiator = text("initiatorname").map(|name| match text("isid") {
            Some(isid) => format!("{name},i,0x{isid}"),
            None => name,
        });
        let target = text("targetname").map(|name| match session.number::<u16>("tpgt") {
            Some(group) => format!("{name},t,0x{group:04x}"),
            None => name,
        });
        Some(Ports { initiator, target })
    }

    /// LIO names the ports of its loopback in configfs.
    fn loopback(&self) -> Ports {
        let fabric = self.sysfs.folder("kernel/config/target/loopback");
        let wanted = format!("{}:0:{}", self.address.host, self.address.target);
        for name in fabric.names() {
            let groups = fabric.below(&name);
            for group in groups.names().into_iter().map(|group| groups.below(&group)) {
                if group.text("address").is_ok_and(|address| address == wanted) {
                    let number = group.name().and_then(|name| name.strip_prefix("tpgt_"));
                    return Ports {
                        initiator: group.text("nexus").ok().filter(|nexus| usable(nexus)),
                        target: number.map(|number| format!("{name},t,{number}")),
                    };
                }
            }
        }
        Ports::default()
    }

    /// The first folder above it whose name begins with `prefix` and goes on with a number.
    fn ancestor(&self, prefix: &str) -> Option<&str> {
        let names = self.folder.0.iter().filter_map(|name| name.to_str());
        let mut matching = names.filter(|name| {
            let rest = name.strip_prefix(prefix).and_then(|rest| rest.chars().next());
            rest.is_some_and(|first| first.is_ascii_digit())
        });
        matching.next()
    }
}

/// `0x2100…` as `naa.2100…`.
fn naa(text: &str) -> String {
    format!("naa.{}", text.strip_prefix("0x").unwrap_or(text))
}

fn usable(text: &str) -> bool {
    !text.is_empty() && !text.starts_with('<') && text != "(null)"
}

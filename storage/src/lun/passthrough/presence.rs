//! Where the host has a logical unit, and whether it is still there.
//!
//! Reads sysfs and the kernel's events, and sends no command: what is there is for the pin to say.

use std::io;
use std::path::PathBuf;

use crate::host::sg::SgDevice;
use crate::host::sysfs::{BlockNode, Hctl, Ports, ScsiDevice};
use crate::host::uevent::Uevent;
use crate::host::{Completion, HostLimits, HostStatus, Request, ScsiHost};

/// Where the host has a logical unit.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// The SCSI device, where it is one; a multipath map is several.
    pub device: Option<ScsiDevice>,
    /// Its block node, where it has one.
    pub block: Option<BlockNode>,
    /// The ports of its nexus, as far as they have names.
    pub ports: Ports,
}

/// What a look at the place shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// Commands reach it. With the blocks of 512 bytes that the host knows of, where it counts them.
    Running(Option<u64>),
    /// The host holds commands back: the transport may come back by itself.
    Blocked,
    /// The host fails commands.
    Offline,
    /// The host has it no more; who has it open still has a name for nothing.
    Gone,
}

impl Sight {
    /// The blocks of 512 bytes, where they are known.
    #[must_use]
    pub fn sectors(self) -> Option<u64> {
        if let Sight::Running(sectors) = self { sectors } else { None }
    }
}

impl Place {
    /// That of an open device.
    #[must_use]
    pub fn of(device: &SgDevice) -> Place {
        Place {
            device: device.device().cloned(),
            block: device.block().cloned(),
            ports: device.ports(),
        }
    }

    /// Looks.
    #[must_use]
    pub fn look(&self) -> Sight {
        let sectors = match self.block.as_ref().map(BlockNode::sectors).transpose() {
            Ok(sectors) => sectors,
            Err(error) if is_gone(&error) => return Sight::Gone,
            Err(_) => None,
        };
        match &self.device {
            Some(device) => state_of(device, sectors),
            None => self.look_at_legs(sectors),
        }
    }

    /// A map is as well as the best of its paths.
    fn look_at_legs(&self, sectors: Option<u64>) -> Sight {
        let Some(map) = &self.block else { return Sight::Running(None) };
        let legs = map.legs();
        let mut sights =
            legs.iter().filter_map(BlockNode::device).map(|device| state_of(&device, sectors));
        sights.find(|sight| matches!(sight, Sight::Running(_))).unwrap_or(Sight::Offline)
    }

    /// The paths of a map, as of now: their names, and whether commands get through.
    #[must_use]
    pub fn paths(&self) -> Vec<(String, bool)> {
        let legs = match (&self.device, &self.block) {
            (None, Some(map)) => map.legs(),
            _ => return Vec::new(),
        };
        let runs = |device| matches!(state_of(&device, None), Sight::Running(_));
        let path = |leg: BlockNode| (leg.name().to_owned(), leg.device().is_some_and(runs));
        legs.into_iter().map(path).collect()
    }

    /// The SCSI devices that it is made of, as of now.
    #[must_use]
    pub fn addresses(&self) -> Vec<Hctl> {
        match (&self.device, &self.block) {
            (Some(device), _) => vec![device.address()],
            (None, Some(map)) => map.addresses(),
            (None, None) => Vec::new(),
        }
    }

    /// Whether `event` happened to its own block node, be it that of a map.
    #[must_use]
    pub fn is_node_of(&self, event: &Uevent) -> bool {
        let name = event.devpath().rsplit('/').next();
        event.subsystem() == "block"
            && self.block.as_ref().is_some_and(|block| Some(block.name()) == name)
    }

    /// The node that leads there now, which may have another name than before.
    #[must_use]
    pub fn node(&self) -> Option<PathBuf> {
        let Some(device) = &self.device else { return self.block.as_ref().map(BlockNode::path) };
        let block = device.block().map(|block| block.path());
        block.or_else(|| device.sg().map(|name| PathBuf::from("/dev").join(name)))
    }

    /// Whether both are reached by one I_T nexus: by the ports' names where they have them, and
    /// otherwise by the host's numbers for them. A map is every path to its disk.
    #[must_use]
    pub fn shares_nexus_with(&self, other: &Place) -> bool {
        let named = |ports: &Ports| ports.initiator.is_some() && ports.target.is_some();
        if named(&self.ports) && named(&other.ports) {
            return self.ports == other.ports;
        }
        let nexus = |place: &Place| {
            let address = place.device.as_ref().map(ScsiDevice::address);
            address.map(|address| (address.host, address.channel, address.target))
        };
        nexus(self) == nexus(other)
    }
}

fn state_of(device: &ScsiDevice, sectors: Option<u64>) -> Sight {
    let Ok(state) = device.state() else { return Sight::Gone };
    match state.as_str() {
        "cancel" | "deleted" => Sight::Gone,
        "offline" | "transport-offline" => Sight::Offline,
        "blocked" | "created-blocked" | "quiesce" => Sight::Blocked,
        _ => Sight::Running(sectors),
    }
}

/// Whether the error says that there is no device. A device that is offline gives ENODEV by its
/// block node and ENXIO by its sg node, one that was removed ENODEV by both.
#[must_use]
pub fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO))
}

/// The way to a device that is gone. Nothing of the host's is held on its behalf, so that the host
/// may use its names again.
#[derive(Clone, Copy, Debug)]
pub struct Absent;

impl ScsiHost for Absent {
    fn execute(&self, _: Request<'_>) -> io::Result<Completion> {
        Ok(Completion { host_status: HostStatus::NO_CONNECT, ..Completion::default() })
    }

    fn carries(&self, _: &[u8]) -> bool {
        true
    }

    fn reset_logical_unit(&self) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(libc::ENODEV))
    }

    fn limits(&self) -> io::Result<HostLimits> {
        Err(io::Error::from_raw_os_error(libc::ENODEV))
    }
}

//! Who has an I_T nexus to a logical unit for itself: initiators that fence each other by
//! reservations must not have one together, whatever nodes and numbers of the host lead there.
//!
//! What is locked is a name, as an address in the abstract namespace of Unix sockets: it needs no
//! file and no privilege, holds for all users of a network namespace, and goes with its process.

use std::io::{self, ErrorKind};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use super::OpenError;
use super::sysfs::Ports;
use crate::scsi::designator::Designator;

/// A nexus to a logical unit, taken until it is dropped.
#[derive(Debug)]
pub struct Nexus {
    _name: UnixDatagram,
}

impl Nexus {
    /// Takes the nexus between `ports` to `unit`; `None` where the ports have no names.
    ///
    /// # Errors
    /// [`OpenError::InUse`] when somebody has it.
    pub fn take(unit: &Designator, ports: &Ports) -> Result<Option<Nexus>, OpenError> {
        let Ports { initiator: Some(initiator), target: Some(target) } = ports else {
            return Ok(None);
        };
        let name = digest(&format!("{unit} {initiator} {target}"));
        let bound = SocketAddr::from_abstract_name(format!("vmm-nexus-{name:032x}"))
            .and_then(|address| UnixDatagram::bind_addr(&address));
        bound.map(|name| Some(Nexus { _name: name })).map_err(refused)
    }
}

fn refused(error: io::Error) -> OpenError {
    match error.kind() {
        ErrorKind::AddrInUse => OpenError::InUse(None),
        _ => OpenError::NoLocks(error),
    }
}

/// FNV-1a of 128 bits: names are longer than an address may be.
fn digest(text: &str) -> u128 {
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    text.bytes().fold(BASIS, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(initiator: &str) -> Ports {
        Ports { initiator: Some(initiator.into()), target: Some("naa.5001405000000001".into()) }
    }

    #[test]
    fn a_nexus_has_one_user_for_each_logical_unit() {
        let unit = |text: &str| text.parse::<Designator>().unwrap();
        let (one, other) = (unit("naa.500140500000f001"), unit("naa.500140500000f002"));
        let taken = Nexus::take(&one, &ports("naa.50014050000000a1")).unwrap();
        let again = Nexus::take(&one, &ports("naa.50014050000000a1"));
        assert!(matches!(again, Err(OpenError::InUse(None))), "{again:?}");
        assert!(Nexus::take(&one, &ports("naa.50014050000000a2")).unwrap().is_some());
        assert!(Nexus::take(&other, &ports("naa.50014050000000a1")).unwrap().is_some());
        drop(taken);
        assert!(Nexus::take(&one, &ports("naa.50014050000000a1")).unwrap().is_some());
    }

    #[test]
    fn ports_without_names_are_nobodys() {
        let unit: Designator = "naa.500140500000f003".parse().unwrap();
        assert!(Nexus::take(&unit, &Ports::default()).unwrap().is_none());
    }

    #[test]
    fn a_digest_is_that_of_fnv() {
        assert_eq!(digest(""), 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d);
        assert_eq!(digest("a"), 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
    }
}

//! Who may do what to which logical unit. What no rule allows is refused.
//!
//! This file must not know where rules come from, or how a device is asked for its names.

use std::io;
use std::ops::RangeInclusive;
use std::time::Duration;

use storage::host::broker::protocol::{PERSISTENT_RESERVE_IN, PERSISTENT_RESERVE_OUT, Vport};
use storage::scsi::cdb::Cdb;
use storage::scsi::command::service_action;
use storage::scsi::designator::Designator;
use storage::scsi::sense::{Sense, SenseCode};

use crate::peer::Peer;

pub mod file;

/// The policy of a broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// What is allowed.
    pub rules: Vec<Rule>,
    /// How much at a time.
    pub limits: Limits,
}

/// What some peers may do to some logical units.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// To whom it applies: all that is given holds of the peer.
    pub who: Who,
    /// To which logical units.
    pub units: Among<Designator>,
    /// What may be sent to them.
    pub allow: Allow,
    /// Which virtual ports may be created and deleted: port name and node name.
    pub vports: Among<(u64, u64)>,
    /// On host adapters with which port names.
    pub parents: Among<u64>,
}

/// Some, or all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Among<T> {
    /// Whichever.
    Any,
    /// These.
    These(Vec<T>),
}

impl<T> Default for Among<T> {
    fn default() -> Among<T> {
        Among::These(Vec::new())
    }
}

impl<T: PartialEq> Among<T> {
    fn has(&self, one: &T) -> bool {
        match self {
            Among::Any => true,
            Among::These(those) => those.contains(one),
        }
    }
}

/// What holds of a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Who {
    /// Its user.
    pub uid: Option<u32>,
    /// A group of its own or a supplementary one.
    pub gid: Option<u32>,
    /// A control group that it is in, or below.
    pub cgroup: Option<String>,
}

impl Who {
    fn is(&self, peer: &Peer) -> bool {
        self.uid.is_none_or(|uid| uid == peer.uid)
            && self.gid.is_none_or(|gid| peer.gids.contains(&gid))
            && self.cgroup.as_ref().is_none_or(|above| is_below(peer.cgroup.as_deref(), above))
    }
}

fn is_below(cgroup: Option<&str>, above: &str) -> bool {
    let rest = cgroup.and_then(|cgroup| cgroup.strip_prefix(above.trim_end_matches('/')));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What may be sent to a logical unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allow {
    /// PERSISTENT RESERVE IN and OUT, but for what registers other initiators: REGISTER AND MOVE
    /// and SPEC_I_PT.
    pub reservations: bool,
    /// LOGICAL UNIT RESET.
    pub reset: bool,
    /// Commands, whatever they ask for.
    pub commands: Vec<Codes>,
}

/// Some commands, whatever the device's type makes of them: of one operation code or of several,
/// with one service action or with any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Codes {
    /// OPERATION CODE
    pub opcodes: RangeInclusive<u8>,
    /// SERVICE ACTION
    pub service_action: Option<u16>,
}

impl Allow {
    fn verdict(&self, cdb: &[u8], parameters: Option<&[u8]>) -> Result<(), Sense> {
        let opcode = cdb.first().copied().unwrap_or(0);
        let named = || self.commands.iter().filter(|pattern| pattern.opcodes.contains(&opcode));
        let action = service_action(&Cdb::new(cdb));
        if named().any(|pattern| pattern.service_action.is_none_or(|named| named == action)) {
            return Ok(());
        }
        match opcode {
            PERSISTENT_RESERVE_IN if self.reservations => Ok(()),
            PERSISTENT_RESERVE_OUT if self.reservations => own_registration(cdb, parameters),
            _ if named().next().is_some() => Err(Sense::invalid_field(1, Some(4))),
            _ => Err(SenseCode::INVALID_COMMAND_OPERATION_CODE.into()),
        }
    }
}

/// Whether a PERSISTENT RESERVE OUT registers nobody but who sends it.
fn own_registration(cdb: &[u8], parameters: Option<&[u8]>) -> Result<(), Sense> {
    const REGISTER_AND_MOVE: u16 = 0x07;
    const SPEC_I_PT: u8 = 0x08;
    const PARAMETER_LIST_LENGTH: usize = 5;
    let cdb = Cdb::new(cdb);
    if service_action(&cdb) == REGISTER_AND_MOVE {
        return Err(Sense::invalid_field(1, Some(4)));
    }
    let Some(list) = parameters else { return Ok(()) };
    // Of a list that is shorter than the CDB says, a device may make up the rest.
    if usize::try_from(cdb.u32(PARAMETER_LIST_LENGTH)) != Ok(list.len()) {
        return Err(SenseCode::PARAMETER_LIST_LENGTH_ERROR.into());
    }
    if list.get(20).is_some_and(|flags| flags & SPEC_I_PT != 0) {
        return Err(Sense::invalid_parameter(20, Some(3)));
    }
    Ok(())
}

/// How much clients may ask for at a time. A client is whoever the first rule that applies to it
/// knows by its control group, or else a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections of all clients.
    pub connections: usize,
    /// Connections of one client.
    pub connections_per_client: usize,
    /// Requests of one client each second; what exceeds them waits.
    pub requests_per_second: u32,
    /// Commands at one device; what exceeds them is BUSY.
    pub commands_per_device: usize,
    /// How long a command may take at most.
    pub timeout: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 512,
            connections_per_client: 64,
            requests_per_second: 500,
            commands_per_device: 8,
            timeout: Duration::from_secs(3600),
        }
    }
}

impl Policy {
    /// By what the first rule that applies to a peer knows it.
    #[must_use]
    pub fn known(&self, peer: &Peer) -> Option<&Who> {
        self.rules_of(peer).next().map(|rule| &rule.who)
    }

    /// Whether a peer may send a command with this parameter list to a logical unit; `None` asks
    /// about the command alone.
    ///
    /// # Errors
    /// What the command ends with where it may not, or where the device does not tell who it is.
    pub fn command(
        &self,
        peer: &Peer,
        cdb: &[u8],
        parameters: Option<&[u8]>,
        names: impl FnOnce() -> io::Result<Vec<Designator>>,
    ) -> Result<(), Refused> {
        self.unit(peer, names, |allow| allow.verdict(cdb, parameters))
    }

    /// Whether a peer may reset a logical unit.
    ///
    /// # Errors
    /// As those of [`Policy::command`].
    pub fn reset(
        &self,
        peer: &Peer,
        names: impl FnOnce() -> io::Result<Vec<Designator>>,
    ) -> Result<(), Refused> {
        let refused = || Sense::from(SenseCode::INVALID_COMMAND_OPERATION_CODE);
        self.unit(peer, names, |allow| allow.reset.then_some(()).ok_or_else(refused))
    }

    /// Whether a peer may create or delete a virtual port on a host adapter with this port name.
    #[must_use]
    pub fn vport(&self, peer: &Peer, vport: &Vport, parent: u64) -> bool {
        let names = (vport.wwpn, vport.wwnn);
        self.rules_of(peer).any(|rule| rule.vports.has(&names) && rule.parents.has(&parent))
    }

    fn rules_of(&self, peer: &Peer) -> impl Iterator<Item = &Rule> {
        self.rules.iter().filter(|rule| rule.who.is(peer))
    }

    /// The first rule for this peer and logical unit that allows it decides, or else the most
    /// telling refusal. The device is asked for its names only if that matters.
    fn unit(
        &self,
        peer: &Peer,
        names: impl FnOnce() -> io::Result<Vec<Designator>>,
        verdict: impl Fn(&Allow) -> Result<(), Sense>,
    ) -> Result<(), Refused> {
        let names = std::cell::LazyCell::new(names);
        let mut refused = Refused::because("no rule allows it");
        for rule in self.rules_of(peer) {
            let applies = match &rule.units {
                Among::Any => true,
                Among::These(units) if units.is_empty() => false,
                Among::These(units) => match &*names {
                    Ok(names) => names.iter().any(|name| units.contains(name)),
                    Err(error) => {
                        refused.why = format!("the device does not tell who it is: {error}");
                        false
                    }
                },
            };
            match verdict(&rule.allow) {
                Ok(()) if applies => return Ok(()),
                Err(sense) if applies && sense.code != refused.sense.code => refused.sense = sense,
                _ => {}
            }
        }
        Err(refused)
    }
}

/// Why something is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What the command ends with.
    pub sense: Sense,
    /// For the log.
    pub why: String,
}

impl Refused {
    /// An operation code that is not supported here.
    #[must_use]
    pub fn because(why: &str) -> Refused {
        let sense = SenseCode::INVALID_COMMAND_OPERATION_CODE.into();
        Refused { sense, why: why.into() }
    }
}

#[cfg(test)]
mod tests;

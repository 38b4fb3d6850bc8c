//! The policy for a person: what becomes of each command that is known.

use std::fmt;

use super::rules::{Rule, Ruling};
use super::{Policy, Virtual};
use crate::scsi::command::Command;

/// What becomes of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explained {
    /// Which.
    pub command: &'static Command,
    /// What becomes of it.
    pub standing: Standing,
}

/// What becomes of the CDBs of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// They go to the device.
    Forwarded,
    /// Those go to the device of which this clause holds; the others are refused.
    Limited(&'static str),
    /// They are answered in the device's place.
    Virtual(Virtual),
    /// They are refused because they modify what is write-protected.
    WriteProtected,
    /// They are refused as not supported.
    Refused,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Standing::Forwarded => f.write_str("forwarded"),
            Standing::Limited(limit) => write!(f, "forwarded {limit}"),
            Standing::Virtual(_) => f.write_str("answered by the VMM"),
            Standing::WriteProtected => f.write_str("refused, write-protected"),
            Standing::Refused => f.write_str("refused"),
        }
    }
}

impl Policy {
    /// What becomes of each command that is known of the device's type, in order of opcode and
    /// service action.
    pub fn explain(&self) -> impl Iterator<Item = Explained> {
        Command::of_type(self.device_type).map(|command| {
            let rule = self.slot(command.opcode).rule(command.service_action.unwrap_or(0));
            Explained { command, standing: rule.standing() }
        })
    }
}

impl Rule {
    fn standing(self) -> Standing {
        match self.ruling {
            Ruling::Refuse => Standing::Refused,
            Ruling::Virtual(answer) => Standing::Virtual(answer),
            Ruling::Forward(_) if self.protected => Standing::WriteProtected,
            Ruling::Forward(fields) => {
                fields.limit().map_or(Standing::Forwarded, Standing::Limited)
            }
        }
    }
}

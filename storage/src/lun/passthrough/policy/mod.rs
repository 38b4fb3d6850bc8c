//! What an initiator may ask of a device.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// What is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicySpec {
    /// To begin with.
    pub preset: Preset,
    /// Besides that.
    pub allow: Vec<CommandPattern>,
    /// Not even then.
    pub deny: Vec<CommandPattern>,
}

/// A set of commands for each device type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Preset {
    /// What changes nothing.
    ReadOnly,
    /// And what a disk, a tape or another device is there for.
    #[default]
    DiskRw,
    /// And persistent reservations and COMPARE AND WRITE, by a nexus of one's own.
    Cluster,
    /// Everything, by a nexus of one's own.
    Full,
}

/// Some commands: of one operation code or of several, with one service action or with any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandPattern {
    /// OPERATION CODE
    pub opcodes: RangeInclusive<u8>,
    /// SERVICE ACTION
    pub service_action: Option<u16>,
}

/// A text names no command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a command's name, or hex: an opcode, opcode/service action, or opcode-opcode")]
pub struct PatternError;

impl FromStr for CommandPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<CommandPattern, PatternError> {
        let byte = |text: &str| u8::from_str_radix(text, 16).map_err(|_| PatternError);
        if let Some((opcode, action)) = text.split_once('/') {
            let service_action = u16::from_str_radix(action, 16).map_err(|_| PatternError)?;
            let opcode = byte(opcode)?;
            return Ok(CommandPattern {
                opcodes: opcode..=opcode,
                service_action: Some(service_action),
            });
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let opcodes = byte(first)?..=byte(last)?;
        if opcodes.is_empty() {
            Err(PatternError)
        } else {
            Ok(CommandPattern { opcodes, service_action: None })
        }
    }
}

impl fmt::Display for CommandPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.opcodes.start(), self.opcodes.end());
        match self.service_action {
            Some(action) => write!(f, "{first:02x}/{action:02x}"),
            None if first == last => write!(f, "{first:02x}"),
            None => write!(f, "{first:02x}-{last:02x}"),
        }
    }
}

//! How a command is named in a list of what to allow or deny.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::Virtual;
use crate::scsi::command::{Command, Effect, Purpose, commands};

/// Some commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandPattern {
    /// Those of a name, which may have several opcodes and service actions.
    Name(&'static str),
    /// Those of one operation code or of several, known or not, with one service action or with
    /// any. Of an opcode that has none, the service action is what stands in its place, as the
    /// MODE of READ BUFFER.
    Code {
        /// OPERATION CODE
        opcodes: RangeInclusive<u8>,
        /// SERVICE ACTION
        service_action: Option<u16>,
    },
}

/// A text names no command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a command's name, or hex: an opcode, opcode/service action, or opcode-opcode")]
pub struct PatternError;

impl CommandPattern {
    /// Why it is of no use to allow it: nothing that it names can be forwarded to a device of any
    /// type. Nobody minds such commands in a range.
    #[must_use]
    pub fn never_forwarded(&self) -> Option<&'static str> {
        if matches!(self, CommandPattern::Code { opcodes, .. } if opcodes.len() > 1) {
            return None;
        }
        let named: Vec<_> = commands().filter(|command| self.names(command)).collect();
        let all = |which: fn(&Command) -> bool| {
            !named.is_empty() && named.iter().all(|command| which(command))
        };
        if all(|command| command.purpose == Purpose::Never) {
            return Some("no host can forward it");
        }
        all(Virtual::answers_always).then_some("the VMM answers it itself")
    }

    /// Whether all that it names makes or breaks reservations, which a nexus that others share
    /// would do for them too.
    #[must_use]
    pub fn reserves(&self) -> bool {
        let mut named = commands().filter(|command| self.names(command)).peekable();
        named.peek().is_some() && named.all(|command| command.effect == Effect::Reservations)
    }

    fn names(&self, command: &Command) -> bool {
        match self {
            CommandPattern::Name(name) => command.is_named(name),
            CommandPattern::Code { opcodes, service_action } => {
                let apart = command.service_action.is_some() && service_action.is_some();
                opcodes.contains(&command.opcode)
                    && (!apart || command.service_action == *service_action)
            }
        }
    }

    /// Whether it names the `command` with these codes, as far as there is one.
    pub(super) fn matches(
        &self,
        opcode: u8,
        service_action: Option<u16>,
        command: Option<&Command>,
    ) -> bool {
        match self {
            CommandPattern::Name(name) => command.is_some_and(|command| command.is_named(name)),
            CommandPattern::Code { opcodes, service_action: wanted } => {
                opcodes.contains(&opcode) && (wanted.is_none() || *wanted == service_action)
            }
        }
    }

    /// The service action that it singles out of `opcode`'s.
    pub(super) fn service_action_of(&self, opcode: u8) -> Option<u16> {
        match self {
            CommandPattern::Code { opcodes, service_action } if opcodes.contains(&opcode) => {
                *service_action
            }
            _ => None,
        }
    }
}

impl FromStr for CommandPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<CommandPattern, PatternError> {
        let text = text.trim();
        // `ab` is no name, and no name is made of hex digits alone.
        match named(text) {
            Some(name) => Ok(CommandPattern::Name(name)),
            None => codes(text),
        }
    }
}

/// The table's spelling of `text`.
fn named(text: &str) -> Option<&'static str> {
    let command = commands().find(|command| command.is_named(text))?;
    command.name.get(..text.len())
}

fn codes(text: &str) -> Result<CommandPattern, PatternError> {
    let (opcodes, action) = match text.split_once('/') {
        Some((opcode, action)) => (opcode, Some(hex(action, 4)?)),
        None => (text, None),
    };
    let (first, last) = match opcodes.split_once('-') {
        Some(_) if action.is_some() => return Err(PatternError),
        Some(ends) => ends,
        None => (opcodes, opcodes),
    };
    let opcodes = opcode(first)?..=opcode(last)?;
    if opcodes.is_empty() {
        return Err(PatternError);
    }
    Ok(CommandPattern::Code { opcodes, service_action: action })
}

fn opcode(text: &str) -> Result<u8, PatternError> {
    u8::try_from(hex(text, 2)?).map_err(|_| PatternError)
}

/// A number of at most `digits` hex digits, with or without `0x`.
fn hex(text: &str, digits: usize) -> Result<u16, PatternError> {
    let text = text.strip_prefix("0x").unwrap_or(text);
    if text.len() > digits || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(PatternError);
    }
    u16::from_str_radix(text, 16).map_err(|_| PatternError)
}

impl fmt::Display for CommandPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CommandPattern::Name(name) => f.write_str(name),
            CommandPattern::Code { opcodes, service_action } => {
                let (first, last) = (opcodes.start(), opcodes.end());
                match service_action {
                    Some(action) => write!(f, "{first:02x}/{action:02x}"),
                    None if first == last => write!(f, "{first:02x}"),
                    None => write!(f, "{first:02x}-{last:02x}"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> CommandPattern {
        text.parse().unwrap_or_else(|_| panic!("{text}"))
    }

    #[test]
    fn codes_are_read_and_written_alike() {
        for text in ["3b", "a4/0a", "c0-ff", "7f/1ff0", "00"] {
            assert_eq!(parse(text).to_string(), text);
        }
        assert_eq!(parse("0x3B"), parse("3b"));
        assert_eq!(parse("a4/a").to_string(), "a4/0a");
    }

    #[test]
    fn names_are_read_in_any_case_and_mean_all_that_have_them() {
        assert_eq!(parse("write buffer").to_string(), "WRITE BUFFER");
        assert_eq!(parse("Sanitize").to_string(), "SANITIZE");
        let sanitize = commands().filter(|command| parse("sanitize").names(command)).count();
        assert_eq!(sanitize, 4);
        let overwrite = parse("SANITIZE - overwrite");
        assert_eq!(commands().filter(|command| overwrite.names(command)).count(), 1);
        let format = parse("FORMAT UNIT");
        assert_eq!(commands().filter(|command| format.names(command)).count(), 2);
    }

    #[test]
    fn a_name_is_not_its_opcode() {
        let unmap = parse("UNMAP");
        let named: Vec<_> = commands().filter(|command| unmap.names(command)).collect();
        assert!(named.iter().all(|command| command.name == "UNMAP"));
        let code = parse("42");
        let coded: Vec<_> = commands().filter(|command| code.names(command)).collect();
        assert!(coded.iter().any(|command| command.name == "READ SUB-CHANNEL"));
    }

    #[test]
    fn what_names_nothing_is_an_error() {
        for text in [
            "",
            " ",
            "/",
            "-",
            "3b/",
            "/0a",
            "100",
            "3b-",
            "-3b",
            "ff-c0",
            "3b/10000",
            "c0-ff/01",
            "WRITE",
            "WRITE BUFFER(10)",
            "SANITIZE -",
            "PERSISTENT",
            "+3b",
            "é",
            "3b/+1",
            "0x",
        ] {
            assert_eq!(text.parse::<CommandPattern>(), Err(PatternError), "{text}");
        }
    }

    #[test]
    fn what_can_never_be_forwarded_says_why() {
        for text in [
            "REPORT LUNS",
            "a0",
            "9d",
            "9d/03",
            "7e",
            "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS",
            "EXTENDED CDB",
            "XDWRITEREAD(10)",
        ] {
            assert!(parse(text).never_forwarded().is_some(), "{text}");
        }
        // Of these something is left.
        for text in ["53", "a0-a2", "00-ff", "7f", "READ(10)", "START STOP UNIT", "c1", "c0-ff"] {
            assert_eq!(parse(text).never_forwarded(), None, "{text}");
        }
    }
}

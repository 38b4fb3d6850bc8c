//! The commands that a device supports, and how long they take (SPC-6, REPORT SUPPORTED OPERATION
//! CODES command).

use std::time::Duration;

use super::probe::Probe;
use super::{ExamineError, Facts};
use crate::scsi::cdb::Cdb;
use crate::scsi::wire::{u16_at, u32_at};

/// The commands that a device supports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commands(Vec<Command>);

/// A command that a device supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// OPERATION CODE
    pub opcode: u8,
    /// SERVICE ACTION, where the operation code has some.
    pub service_action: Option<u16>,
    /// CDB LENGTH, in bytes.
    pub cdb_len: u16,
    /// How long it takes, where the device says.
    pub timeouts: Option<Timeouts>,
}

/// How long a command takes; `None` where the device does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// NOMINAL COMMAND PROCESSING TIMEOUT: longer means asking the device how it goes.
    pub nominal: Option<Duration>,
    /// RECOMMENDED COMMAND TIMEOUT: longer means that it is lost.
    pub recommended: Option<Duration>,
}

impl Commands {
    /// What the all_commands parameter data lists, as far as it goes.
    #[must_use]
    pub fn parse(data: &[u8]) -> Commands {
        let len = usize::try_from(u32_at(data, 0)).unwrap_or(usize::MAX);
        let list = data.get(4..).unwrap_or(&[]);
        let mut rest = list.get(..len).unwrap_or(list);
        let mut commands = Vec::new();
        while let Some((command, len)) = Command::parse(rest) {
            commands.push(command);
            rest = rest.get(len..).unwrap_or(&[]);
        }
        Commands(commands)
    }

    /// Whether, and how, it supports the command of `cdb`.
    #[must_use]
    pub fn find(&self, cdb: &Cdb) -> Option<&Command> {
        self.0.iter().find(|it| it.opcode == cdb.opcode() && it.has_service_action_of(cdb))
    }

    /// All of them, in the device's order.
    #[must_use]
    pub fn all(&self) -> &[Command] {
        &self.0
    }
}

impl Command {
    /// One descriptor, and how long it is.
    fn parse(bytes: &[u8]) -> Option<(Command, usize)> {
        const LEN: usize = 8;
        const TIMEOUTS_LEN: usize = 12;
        const SERVACTV: u8 = 0x01;
        const CTDP: u8 = 0x02;
        let descriptor = bytes.get(..LEN)?;
        let flags = *descriptor.get(5)?;
        let command = Command {
            opcode: *descriptor.first()?,
            service_action: (flags & SERVACTV != 0).then(|| u16_at(descriptor, 2)),
            cdb_len: u16_at(descriptor, 6),
            timeouts: None,
        };
        if flags & CTDP == 0 {
            return Some((command, LEN));
        }
        let timeouts = bytes.get(LEN..LEN + TIMEOUTS_LEN).map(Timeouts::parse);
        Some((Command { timeouts, ..command }, LEN + TIMEOUTS_LEN))
    }

    fn has_service_action_of(&self, cdb: &Cdb) -> bool {
        const VARIABLE_LENGTH: u8 = 0x7f;
        match self.service_action {
            None => true,
            Some(action) if self.opcode == VARIABLE_LENGTH => action == cdb.u16(8),
            Some(action) => action == u16::from(cdb.u8(1) & 0x1f),
        }
    }
}

impl Timeouts {
    fn parse(descriptor: &[u8]) -> Timeouts {
        let seconds = |offset| match u32_at(descriptor, offset) {
            0 => None,
            seconds => Some(Duration::from_secs(seconds.into())),
        };
        Timeouts { nominal: seconds(4), recommended: seconds(8) }
    }
}

/// Asks a device of SPC-3 or later, others may not survive the question; first with its time-outs
/// (RCTD).
pub(super) fn read(probe: &mut Probe<'_>, facts: &Facts) -> Result<Option<Commands>, ExamineError> {
    const VERSION_SPC_3: u8 = 5;
    const RCTD: u8 = 0x80;
    if facts.version() < VERSION_SPC_3 {
        return Ok(None);
    }
    let data = match all_commands(probe, RCTD)? {
        Some(data) => Some(data),
        None => all_commands(probe, 0)?,
    };
    let commands = data.map(|data| Commands::parse(&data));
    Ok(commands.filter(|commands| !commands.all().is_empty()))
}

fn all_commands(probe: &mut Probe<'_>, options: u8) -> Result<Option<Vec<u8>>, ExamineError> {
    /// More than all operation codes with a time-out each.
    const ENOUGH: u16 = 8192;
    let [high, low] = ENOUGH.to_be_bytes();
    let cdb = [0xa3, 0x0c, options, 0, 0, 0, 0, 0, high, low, 0, 0];
    probe.ask(&cdb, ENOUGH.into())
}

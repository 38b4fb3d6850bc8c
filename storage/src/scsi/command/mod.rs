//! Commands of all device types: what an opcode means to which of them, how long its CDB is and
//! how much data goes which way, what it does, and how long that may take.
//!
//! The numbers are those of T10's list of operation codes, the fields those of SPC-6, SBC-4,
//! ZBC-2, SSC-4, MMC-6, SMC-3, SES-4 and SCC-2. [`super::opcode`] is the smaller table of what
//! emulated disks do. Nothing here knows who may send what.

use std::sync::LazyLock;
use std::time::Duration;

use super::cdb::Cdb;

mod build;
mod table;
mod transfer;
mod types;

pub use table::commands;
pub use transfer::{BlockFormat, Transfer};
pub use types::{DeviceTypes, device_type};

/// One command of some device types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// To which devices the opcode means this.
    pub types: DeviceTypes,
    /// OPERATION CODE
    pub opcode: u8,
    /// SERVICE ACTION, for an opcode that has them.
    pub service_action: Option<u16>,
    /// The standard's name; where that is one for several service actions, theirs follows behind
    /// a dash.
    pub name: &'static str,
    /// Length of its CDB in bytes.
    pub cdb_len: u8,
    /// Which way its data goes, if it has any.
    pub direction: Direction,
    /// How its CDB says how much that is.
    pub transfer: Transfer,
    /// What it does.
    pub effect: Effect,
    /// What it is for.
    pub purpose: Purpose,
    /// Whether it may be sent once more when nobody knows what became of it.
    pub repeat: Repeat,
    /// How long it takes.
    pub time: TimeClass,
}

/// Which way data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// There is none.
    None,
    /// From the device.
    In,
    /// To the device.
    Out,
    /// One of the two, as the buffers say.
    Either,
    /// Both at once.
    Bidirectional,
}

/// What a command does to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Tells something, without the medium.
    Nothing,
    /// Reads the medium, moves along it, or makes it stable.
    Reads,
    /// Changes what passes: a tray's or a motor's state, a buffer, a test under way.
    Condition,
    /// Changes what the medium holds, or which medium is where, or may do so.
    Medium,
    /// Changes settings or firmware, which stay, and which others see.
    Settings,
    /// Changes who may do what.
    Reservations,
}

impl Effect {
    /// Whether a write-protected logical unit refuses it.
    #[must_use]
    pub fn modifies(self) -> bool {
        matches!(self, Effect::Medium | Effect::Settings)
    }
}

/// What a command is for, and so how far an initiator that sends it must be trusted: each value
/// more than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// To read, and to find out what can be read.
    Reading,
    /// To do what the device is there for; all that it changes is the initiator's own.
    Using,
    /// To share the logical unit with other initiators.
    Sharing,
    /// To administer it, or what lies beyond it; or it is obsolete.
    Administering,
    /// No host can carry it, or nobody can tell what it does.
    Never,
}

/// Whether a command may be sent once more when nobody knows what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// Nothing is different the second time.
    Always,
    /// Only on a disk whose blocks may be written at any time and any number of times: not on a
    /// host managed zoned block device, nor on one that writes once.
    Conventional,
    /// It may be done twice, or fail because it was done.
    Never,
}

/// How long a command takes that goes well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeClass {
    /// It needs no medium.
    Short,
    /// It reaches the medium.
    Access,
    /// Something moves, or much of the medium is gone through.
    Slow,
    /// A tape is gone through, or a test.
    Long,
    /// All of a medium is written.
    Whole,
}

impl TimeClass {
    /// After how long such a command has failed where nobody knows better: what Linux's sd, sr and
    /// st allow, and more where they know no such command.
    #[must_use]
    pub const fn timeout(self) -> Duration {
        Duration::from_secs(match self {
            TimeClass::Short => 30,
            TimeClass::Access => 60,
            TimeClass::Slow => 15 * 60,
            TimeClass::Long => 4 * 60 * 60,
            TimeClass::Whole => 72 * 60 * 60,
        })
    }
}

/// All commands by opcode.
static BY_OPCODE: LazyLock<Vec<Vec<&'static Command>>> = LazyLock::new(|| {
    let of = |opcode: u8| {
        let mut rows: Vec<_> = commands().filter(|row| row.opcode == opcode).collect();
        rows.sort_by_key(|row| row.service_action);
        rows
    };
    (0..=u8::MAX).map(of).collect()
});

impl Command {
    /// What `cdb` means to a device of `device_type` (PERIPHERAL DEVICE TYPE); `None` where the
    /// standards do not say.
    #[must_use]
    pub fn find(device_type: u8, cdb: &Cdb) -> Option<&'static Command> {
        let action = service_action(cdb);
        Command::of_opcode(device_type, cdb.opcode())
            .find(|row| row.service_action.is_none_or(|wanted| wanted == action))
    }

    /// What an opcode means to a device of `device_type`, with each of its service actions.
    pub fn of_opcode(device_type: u8, opcode: u8) -> impl Iterator<Item = &'static Command> {
        let rows = BY_OPCODE.get(usize::from(opcode)).into_iter().flatten().copied();
        rows.filter(move |row| row.types.contains(device_type))
    }

    /// Every command of a device of `device_type`, in order of opcode and service action.
    pub fn of_type(device_type: u8) -> impl Iterator<Item = &'static Command> {
        (0..=u8::MAX).flat_map(move |opcode| Command::of_opcode(device_type, opcode))
    }

    /// Whether `name` is its own, or the one that it shares with other service actions, in
    /// capitals or not.
    #[must_use]
    pub fn is_named(&self, name: &str) -> bool {
        let shared = self.name.split_once(SHARED_NAME).map(|(shared, _)| shared);
        self.name.eq_ignore_ascii_case(name)
            || shared.is_some_and(|shared| shared.eq_ignore_ascii_case(name))
    }

    /// Whether it may be sent to a device of `device_type` once more when nobody knows what became
    /// of it.
    #[must_use]
    pub fn idempotent(&self, device_type: u8) -> bool {
        match self.repeat {
            Repeat::Always => true,
            Repeat::Conventional => device_type & 0x1f == device_type::DISK,
            Repeat::Never => false,
        }
    }
}

/// What stands between a name that service actions share and their own.
const SHARED_NAME: &str = " - ";

/// VARIABLE LENGTH CDB
pub(crate) const VARIABLE_LENGTH: u8 = 0x7f;

/// SERVICE ACTION of a CDB, or what stands in its place if its opcode has none.
#[must_use]
pub fn service_action(cdb: &Cdb) -> u16 {
    if cdb.opcode() == VARIABLE_LENGTH { cdb.u16(8) } else { u16::from(cdb.u8(1) & 0x1f) }
}

/// Length of a CDB in bytes, as far as its group code tells (SPC-6, OPERATION CODE): those of
/// vendor specific groups are as long as they can be without a length of their own.
#[must_use]
pub const fn cdb_len(opcode: u8) -> u8 {
    match opcode {
        0x00..=0x1f => 6,
        0x20..=0x5f => 10,
        0xa0..=0xbf => 12,
        VARIABLE_LENGTH => 32,
        0x60..=0x7e | 0x80..=0x9f | 0xc0..=0xff => 16,
    }
}

/// Offset of CONTROL in a CDB (SAM-6, CONTROL byte), if it is known to have one.
#[must_use]
pub const fn control_offset(opcode: u8) -> Option<u8> {
    match opcode {
        VARIABLE_LENGTH => Some(1),
        0x60..=0x7e | 0xc0..=0xff => None,
        _ => Some(cdb_len(opcode) - 1),
    }
}

#[cfg(test)]
mod tests;

//! Commands that SPC-6 and its forerunners have for all device types, by opcodes without service
//! actions.

use super::super::build::{acts, asks, bytes, sets, writes};
use super::super::transfer::Field;
use super::super::{Command, DeviceTypes, Direction, Effect, Transfer};
use super::{ALL, CD, CHANGER, DISK, ENCLOSURE, OPTICAL, PRINTER, RAID, TAPE};

/// Devices whose mode parameters are their one user's: the block length of a tape, how a disc is
/// to be written.
const OWN_MODES: DeviceTypes = TAPE.and(CD);
/// Those for which SCSI-2 has the copy commands.
const COPIES: DeviceTypes = DISK.and(TAPE).and(PRINTER).and(CD).and(OPTICAL);
/// A medium that its initiator takes out.
const REMOVABLE: DeviceTypes = TAPE.and(CD).and(OPTICAL).and(CHANGER);

const SECURITY: Transfer = Transfer::Increments(Field { offset: 6, width: 4 });

pub(super) static COMMANDS: &[Command] = &[
    asks(ALL, 0x00, "TEST UNIT READY", Transfer::None),
    asks(ALL, 0x03, "REQUEST SENSE", bytes(4, 1)).once(),
    asks(ALL, 0x12, "INQUIRY", bytes(3, 2)),
    sets(ALL.but(OWN_MODES), 0x15, "MODE SELECT(6)", bytes(4, 1)),
    sets(OWN_MODES, 0x15, "MODE SELECT(6)", bytes(4, 1)).using(),
    reserves(ALL.but(CHANGER), 0x16, "RESERVE(6)", Transfer::None),
    reserves(ALL.but(CHANGER), 0x17, "RELEASE(6)", Transfer::None),
    copies(0x18, "COPY", bytes(2, 3)),
    asks(ALL, 0x1a, "MODE SENSE(6)", bytes(4, 1)),
    asks(ALL, 0x1c, "RECEIVE DIAGNOSTIC RESULTS", bytes(3, 2)).once(),
    sets(ALL, 0x1d, "SEND DIAGNOSTIC", bytes(3, 2)).using().long(),
    acts(REMOVABLE, 0x1e, "PREVENT ALLOW MEDIUM REMOVAL"),
    acts(ALL.but(REMOVABLE), 0x1e, "PREVENT ALLOW MEDIUM REMOVAL").administering(),
    copies(0x39, "COMPARE", bytes(3, 3)),
    copies(0x3a, "COPY AND VERIFY", bytes(3, 3)),
    sets(ALL, 0x3b, "WRITE BUFFER", bytes(6, 3)).using().slow(),
    asks(ALL, 0x3c, "READ BUFFER(10)", bytes(6, 3)),
    sets(ALL, 0x40, "CHANGE DEFINITION", bytes(8, 1)),
    sets(ALL, 0x4c, "LOG SELECT", bytes(7, 2)),
    asks(ALL, 0x4d, "LOG SENSE", bytes(7, 2)),
    sets(ALL.but(OWN_MODES), 0x55, "MODE SELECT(10)", bytes(7, 2)),
    sets(OWN_MODES, 0x55, "MODE SELECT(10)", bytes(7, 2)).using(),
    reserves(ALL.but(CHANGER), 0x56, "RESERVE(10)", bytes(7, 2)),
    reserves(ALL.but(CHANGER), 0x57, "RELEASE(10)", bytes(7, 2)),
    asks(ALL, 0x5a, "MODE SENSE(10)", bytes(7, 2)),
    // It wraps another command, which nobody here would look at.
    writes(ALL, 0x7e, "EXTENDED CDB", Transfer::Buffers).toward(Direction::Either).never(),
    passes(DISK.and(CD), 0x85, "ATA PASS-THROUGH(16)"),
    asks(ALL, 0x86, "ACCESS CONTROL IN", bytes(10, 4)).administering(),
    sets(ALL, 0x87, "ACCESS CONTROL OUT", bytes(10, 4)),
    asks(TAPE.and(CHANGER), 0x8c, "READ ATTRIBUTE", bytes(10, 4)),
    asks(ALL.but(TAPE.and(CHANGER)), 0x8c, "READ ATTRIBUTE", bytes(10, 4)).administering(),
    writes(TAPE.and(CHANGER), 0x8d, "WRITE ATTRIBUTE", bytes(10, 4)),
    writes(ALL.but(TAPE.and(CHANGER)), 0x8d, "WRITE ATTRIBUTE", bytes(10, 4)).administering(),
    asks(ALL, 0x9b, "READ BUFFER(16)", bytes(10, 4)),
    writes(ALL, 0x9d, "SERVICE ACTION BIDIRECTIONAL", Transfer::Buffers)
        .toward(Direction::Bidirectional)
        .never(),
    asks(ALL, 0xa0, "REPORT LUNS", bytes(6, 4)),
    passes(DISK, 0xa1, "ATA PASS-THROUGH(12)"),
    asks(ALL, 0xa2, "SECURITY PROTOCOL IN", SECURITY).administering().once(),
    moves_attached(0xa7, "MOVE MEDIUM ATTACHED"),
    asks(DISK.and(TAPE).and(OPTICAL), 0xb4, "READ ELEMENT STATUS ATTACHED", bytes(7, 3))
        .administering(),
    writes(ALL.but(CHANGER), 0xb5, "SECURITY PROTOCOL OUT", SECURITY).administering().long(),
    group(0xba, "REDUNDANCY GROUP IN"),
    group_out(0xbb, "REDUNDANCY GROUP OUT"),
    group(0xbc, "SPARE IN"),
    group_out(0xbd, "SPARE OUT"),
    group(0xbe, "VOLUME SET IN"),
    group_out(0xbf, "VOLUME SET OUT"),
];

/// Whatever else than an array controller may manage an array (SCC-2); on a CD device the opcodes
/// mean something else.
const GROUPED: DeviceTypes = DISK.and(OPTICAL).and(CHANGER).and(ENCLOSURE);

const fn group(opcode: u8, name: &'static str) -> Command {
    asks(GROUPED, opcode, name, bytes(6, 4)).administering()
}

const fn group_out(opcode: u8, name: &'static str) -> Command {
    sets(GROUPED, opcode, name, bytes(6, 4)).with(Effect::Medium)
}

const fn moves_attached(opcode: u8, name: &'static str) -> Command {
    acts(DISK.and(TAPE).and(OPTICAL), opcode, name).with(Effect::Medium).administering().slow()
}

const fn reserves(
    types: DeviceTypes,
    opcode: u8,
    name: &'static str,
    transfer: Transfer,
) -> Command {
    sets(types, opcode, name, transfer).with(Effect::Reservations)
}

const fn copies(opcode: u8, name: &'static str, transfer: Transfer) -> Command {
    writes(COPIES, opcode, name, transfer).administering().long()
}

/// A command of another set, which may do anything.
const fn passes(types: DeviceTypes, opcode: u8, name: &'static str) -> Command {
    writes(types, opcode, name, Transfer::Buffers).toward(Direction::Either).administering().long()
}

// Array controllers have rows of their own.
const _: () = assert!(!GROUPED.overlaps(RAID));

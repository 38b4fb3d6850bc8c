//! Commands of SSC-4.

use super::super::build::{acts, asks, bytes, reads, sets, writes};
use super::super::transfer::Field;
use super::super::{Command, Direction, Effect, Transfer};
use super::{OPTICAL, TAPE};

/// TRANSFER LENGTH of a 6-byte CDB.
const SHORT: Field = Field { offset: 2, width: 3 };
/// TRANSFER LENGTH of a 16-byte CDB.
const LONG: Field = Field { offset: 12, width: 3 };

pub(super) static COMMANDS: &[Command] = &[
    winds(0x01, "REWIND"),
    writes(TAPE, 0x04, "FORMAT MEDIUM", bytes(3, 2)).administering().long(),
    asks(TAPE, 0x05, "READ BLOCK LIMITS", Transfer::Buffers),
    transfers_in(0x08, "READ(6)", SHORT),
    transfers_out(0x0a, "WRITE(6)", SHORT),
    writes(TAPE, 0x0b, "SET CAPACITY", Transfer::None).administering().long(),
    transfers_in(0x0f, "READ REVERSE(6)", SHORT),
    writes(TAPE, 0x10, "WRITE FILEMARKS(6)", Transfer::None).slow(),
    winds(0x11, "SPACE(6)"),
    verifies(0x13, "VERIFY(6)", SHORT),
    // What is read from the buffer will not be written.
    transfers_in(0x14, "RECOVER BUFFERED DATA", SHORT).using(),
    writes(TAPE, 0x19, "ERASE(6)", Transfer::None).long(),
    acts(TAPE, 0x1b, "LOAD UNLOAD").long(),
    winds(0x2b, "LOCATE(10)"),
    position(0x00, "READ POSITION - SHORT FORM", Transfer::Exactly(20)),
    position(0x01, "READ POSITION - VENDOR SPECIFIC SHORT FORM", Transfer::Exactly(20)),
    position(0x06, "READ POSITION - LONG FORM", Transfer::Exactly(32)),
    position(0x08, "READ POSITION - EXTENDED FORM", bytes(7, 2)),
    asks(TAPE, 0x44, "REPORT DENSITY SUPPORT", bytes(7, 2)),
    writes(TAPE, 0x80, "WRITE FILEMARKS(16)", Transfer::None).slow(),
    transfers_in(0x81, "READ REVERSE(16)", LONG),
    acts(TAPE, 0x82, "ALLOW OVERWRITE"),
    transfers_in(0x88, "READ(16)", LONG),
    transfers_out(0x8a, "WRITE(16)", LONG),
    verifies(0x8f, "VERIFY(16)", LONG),
    winds(0x91, "SPACE(16)"),
    winds(0x92, "LOCATE(16)"),
    writes(TAPE, 0x93, "ERASE(16)", Transfer::None).long(),
    asks(TAPE, 0xa3, "RECEIVE RECOMMENDED ACCESS ORDER", bytes(6, 4)).action(0x1d),
    asks(TAPE, 0xa3, "READ DYNAMIC RUNTIME ATTRIBUTE", bytes(6, 4)).action(0x1e),
    sets(TAPE, 0xa4, "GENERATE RECOMMENDED ACCESS ORDER", bytes(6, 4))
        .action(0x1d)
        .with(Effect::Condition)
        .using()
        .slow(),
    sets(TAPE, 0xa4, "WRITE DYNAMIC RUNTIME ATTRIBUTE", bytes(6, 4)).action(0x1e),
    // Of a changer that is one device with the drive.
    acts(TAPE.and(OPTICAL), 0xa5, "MOVE MEDIUM").with(Effect::Medium).administering().slow(),
    asks(TAPE.and(OPTICAL), 0xb8, "READ ELEMENT STATUS", bytes(7, 3)).administering().slow(),
];

/// A command that changes the position, and so may not be repeated.
const fn winds(opcode: u8, name: &'static str) -> Command {
    reads(TAPE, opcode, name, Transfer::None).once().long()
}

const fn transfers_in(opcode: u8, name: &'static str, length: Field) -> Command {
    reads(TAPE, opcode, name, Transfer::Sequential(length)).once().slow()
}

const fn transfers_out(opcode: u8, name: &'static str, length: Field) -> Command {
    writes(TAPE, opcode, name, Transfer::Sequential(length)).slow()
}

const fn verifies(opcode: u8, name: &'static str, length: Field) -> Command {
    let sent = Transfer::SequentialVerification(length);
    reads(TAPE, opcode, name, sent).toward(Direction::Out).once().long()
}

const fn position(action: u16, name: &'static str, transfer: Transfer) -> Command {
    asks(TAPE, 0x34, name, transfer).action(action)
}

//! Commands of SMC-3.

use super::super::build::{acts, asks, bytes, sets};
use super::super::{Command, Effect, Transfer};
use super::CHANGER;

pub(super) static COMMANDS: &[Command] = &[
    takes_stock(0x07, "INITIALIZE ELEMENT STATUS"),
    reserves(0x16, "RESERVE ELEMENT(6)", bytes(3, 2)),
    reserves(0x17, "RELEASE ELEMENT(6)", Transfer::None),
    acts(CHANGER, 0x1b, "OPEN/CLOSE IMPORT/EXPORT ELEMENT").slow(),
    acts(CHANGER, 0x2b, "POSITION TO ELEMENT").slow(),
    takes_stock(0x37, "INITIALIZE ELEMENT STATUS WITH RANGE"),
    asks(CHANGER, 0x44, "REPORT VOLUME TYPES SUPPORTED", bytes(7, 2)),
    reserves(0x56, "RESERVE ELEMENT(10)", bytes(7, 2)),
    reserves(0x57, "RELEASE ELEMENT(10)", bytes(7, 2)),
    moves(0xa5, "MOVE MEDIUM"),
    moves(0xa6, "EXCHANGE MEDIUM"),
    asks(CHANGER, 0xb5, "REQUEST VOLUME ELEMENT ADDRESS", bytes(7, 3)),
    sets(CHANGER, 0xb6, "SEND VOLUME TAG", bytes(8, 2)).with(Effect::Medium).using(),
    asks(CHANGER, 0xb8, "READ ELEMENT STATUS", bytes(7, 3)).slow(),
];

/// A command that has the device look what is in its elements.
const fn takes_stock(opcode: u8, name: &'static str) -> Command {
    acts(CHANGER, opcode, name).with(Effect::Reads).reading().repeatable().long()
}

const fn moves(opcode: u8, name: &'static str) -> Command {
    acts(CHANGER, opcode, name).with(Effect::Medium).slow()
}

const fn reserves(opcode: u8, name: &'static str, transfer: Transfer) -> Command {
    sets(CHANGER, opcode, name, transfer).with(Effect::Reservations)
}

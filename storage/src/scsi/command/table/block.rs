//! Commands of SBC-4 and ZBC-2, and those of its forerunners for optical memory.

use super::super::build::{acts, asks, blocks, bytes, reads, sets, writes};
use super::super::transfer::Field;
use super::super::{Command, DeviceTypes, Direction, Effect, Transfer, VARIABLE_LENGTH};
use super::{BLOCK, CD, DISK, OPTICAL};

/// What has the whole of SBC.
const DIRECT: DeviceTypes = BLOCK.but(CD);

pub(super) static COMMANDS: &[Command] = &[
    acts(BLOCK, 0x01, "REZERO UNIT").administering(),
    writes(DIRECT, 0x04, "FORMAT UNIT", Transfer::Buffers).administering().whole(),
    writes(DIRECT, 0x07, "REASSIGN BLOCKS", Transfer::Buffers).administering().slow(),
    reads(DIRECT, 0x08, "READ(6)", Transfer::Blocks6),
    writes(DIRECT, 0x0a, "WRITE(6)", Transfer::Blocks6).conventional(),
    seeks(BLOCK, 0x0b, "SEEK(6)").administering(),
    acts(BLOCK, 0x1b, "START STOP UNIT").slow(),
    reads(DIRECT, 0x25, "READ CAPACITY(10)", Transfer::Exactly(8)).with(Effect::Nothing),
    reads(BLOCK, 0x28, "READ(10)", blocks(7, 2)),
    asks(OPTICAL, 0x29, "READ GENERATION", bytes(8, 1)),
    writes(BLOCK, 0x2a, "WRITE(10)", blocks(7, 2)).conventional(),
    seeks(DIRECT, 0x2b, "SEEK(10)").administering(),
    writes(OPTICAL, 0x2c, "ERASE(10)", Transfer::None).long(),
    reads(OPTICAL, 0x2d, "READ UPDATED BLOCK(10)", Transfer::OneBlock),
    writes(BLOCK, 0x2e, "WRITE AND VERIFY(10)", blocks(7, 2)).conventional(),
    verifies(BLOCK, 0x2f, "VERIFY(10)", 7, 2),
    searches(0x30, "SEARCH DATA HIGH(10)"),
    searches(0x31, "SEARCH DATA EQUAL(10)"),
    searches(0x32, "SEARCH DATA LOW(10)"),
    acts(BLOCK, 0x33, "SET LIMITS(10)").administering(),
    seeks(DIRECT, 0x34, "PRE-FETCH(10)"),
    stabilises(BLOCK, 0x35, "SYNCHRONIZE CACHE(10)"),
    acts(DIRECT, 0x36, "LOCK UNLOCK CACHE(10)").administering(),
    asks(DIRECT, 0x37, "READ DEFECT DATA(10)", bytes(7, 2)).slow(),
    searches(0x38, "MEDIUM SCAN"),
    writes(OPTICAL, 0x3d, "UPDATE BLOCK", Transfer::OneBlock),
    reads(DIRECT, 0x3e, "READ LONG(10)", bytes(7, 2)).administering(),
    writes(DIRECT, 0x3f, "WRITE LONG(10)", bytes(7, 2)).administering(),
    writes(DISK, 0x41, "WRITE SAME(10)", Transfer::OneBlock).conventional().slow(),
    writes(DISK, 0x42, "UNMAP", bytes(7, 2)).conventional().slow(),
    sanitizes(0x01, "SANITIZE - OVERWRITE"),
    sanitizes(0x02, "SANITIZE - BLOCK ERASE"),
    sanitizes(0x03, "SANITIZE - CRYPTOGRAPHIC ERASE"),
    sanitizes(0x1f, "SANITIZE - EXIT FAILURE MODE"),
    exclusive_or(0x50, "XDWRITE(10)", blocks(7, 2)),
    exclusive_or(0x51, "XPWRITE(10)", blocks(7, 2)),
    reads(DISK, 0x52, "XDREAD(10)", blocks(7, 2)).administering().once(),
    exclusive_or(0x53, "XDWRITEREAD(10)", Transfer::Buffers)
        .toward(Direction::Bidirectional)
        .never(),
    exclusive_or(0x80, "XDWRITE EXTENDED(16)", Transfer::Buffers),
    exclusive_or(0x81, "REBUILD(16)", Transfer::Buffers),
    exclusive_or(0x82, "REGENERATE(16)", Transfer::Buffers),
    reads(DIRECT, 0x88, "READ(16)", blocks(10, 4)),
    writes(DISK, 0x89, "COMPARE AND WRITE", Transfer::BlocksTwice(Field { offset: 13, width: 1 }))
        .sharing(),
    writes(DIRECT, 0x8a, "WRITE(16)", blocks(10, 4)).conventional(),
    writes(DISK, 0x8b, "ORWRITE(16)", blocks(10, 4)),
    writes(DIRECT, 0x8e, "WRITE AND VERIFY(16)", blocks(10, 4)).conventional(),
    verifies(DIRECT, 0x8f, "VERIFY(16)", 10, 4),
    seeks(DIRECT, 0x90, "PRE-FETCH(16)"),
    stabilises(DIRECT, 0x91, "SYNCHRONIZE CACHE(16)"),
    acts(DIRECT, 0x92, "LOCK UNLOCK CACHE(16)").administering(),
    writes(DISK, 0x93, "WRITE SAME(16)", Transfer::OneBlock).conventional().slow(),
    zones(0x01, "CLOSE ZONE"),
    zones(0x02, "FINISH ZONE"),
    zones(0x03, "OPEN ZONE"),
    zones(0x04, "RESET WRITE POINTER"),
    zones(0x10, "SEQUENTIALIZE ZONE"),
    asks(DISK, 0x95, "REPORT ZONES", bytes(10, 4)).action(0x00),
    asks(DISK, 0x95, "REPORT REALMS", bytes(10, 4)).action(0x06),
    asks(DISK, 0x95, "REPORT ZONE DOMAINS", bytes(10, 4)).action(0x07),
    // It makes other zones of some, and what they held is gone.
    writes(DISK, 0x95, "ZONE ACTIVATE", bytes(12, 2))
        .action(0x08)
        .toward(Direction::In)
        .administering()
        .slow(),
    asks(DISK, 0x95, "ZONE QUERY", bytes(12, 2)).action(0x09),
    writes(DISK, 0x9a, "WRITE STREAM(16)", blocks(12, 2)),
    writes(DISK, 0x9c, "WRITE ATOMIC(16)", blocks(12, 2)),
    reads(DIRECT, 0x9e, "READ CAPACITY(16)", bytes(10, 4)).with(Effect::Nothing).action(0x10),
    reads(DIRECT, 0x9e, "READ LONG(16)", bytes(12, 2)).action(0x11).administering(),
    asks(DISK, 0x9e, "GET LBA STATUS(16)", bytes(10, 4)).action(0x12),
    asks(DISK, 0x9e, "REPORT REFERRALS", bytes(10, 4)).action(0x13),
    sets(DISK, 0x9e, "STREAM CONTROL", bytes(10, 4)).toward(Direction::In).action(0x14),
    sets(DISK, 0x9e, "BACKGROUND CONTROL", Transfer::None).action(0x15),
    asks(DISK, 0x9e, "GET STREAM STATUS", bytes(10, 4)).action(0x16),
    asks(DISK, 0x9e, "GET PHYSICAL ELEMENT STATUS", bytes(10, 4)).action(0x17),
    depopulates(0x18, "REMOVE ELEMENT AND TRUNCATE"),
    depopulates(0x19, "RESTORE ELEMENTS AND REBUILD"),
    depopulates(0x1a, "REMOVE ELEMENT AND MODIFY ZONES"),
    writes(DIRECT, 0x9f, "WRITE LONG(16)", bytes(12, 2)).action(0x11).administering(),
    writes(DISK, 0x9f, "WRITE SCATTERED(16)", Transfer::Buffers).action(0x12),
    asks(DISK, 0xa3, "REPORT PROVISIONING INITIALIZATION PATTERN", bytes(6, 4)).action(0x1d),
    reads(BLOCK, 0xa8, "READ(12)", blocks(6, 4)),
    writes(BLOCK, 0xaa, "WRITE(12)", blocks(6, 4)).conventional(),
    writes(OPTICAL, 0xac, "ERASE(12)", Transfer::None).long(),
    writes(DIRECT, 0xae, "WRITE AND VERIFY(12)", blocks(6, 4)).conventional(),
    verifies(BLOCK, 0xaf, "VERIFY(12)", 6, 4),
    searches(0xb0, "SEARCH DATA HIGH(12)"),
    searches(0xb1, "SEARCH DATA EQUAL(12)"),
    searches(0xb2, "SEARCH DATA LOW(12)"),
    acts(BLOCK, 0xb3, "SET LIMITS(12)").administering(),
    asks(DIRECT, 0xb7, "READ DEFECT DATA(12)", bytes(6, 4)).slow(),
    long_form(0x0001, exclusive_or(VARIABLE_LENGTH, "REBUILD(32)", Transfer::Buffers)),
    long_form(0x0002, exclusive_or(VARIABLE_LENGTH, "REGENERATE(32)", Transfer::Buffers)),
    long_form(0x0003, reads(DISK, VARIABLE_LENGTH, "XDREAD(32)", blocks(28, 4))).administering(),
    long_form(0x0004, exclusive_or(VARIABLE_LENGTH, "XDWRITE(32)", blocks(28, 4))),
    long_form(0x0005, exclusive_or(VARIABLE_LENGTH, "XDWRITE EXTENDED(32)", Transfer::Buffers)),
    long_form(0x0006, exclusive_or(VARIABLE_LENGTH, "XPWRITE(32)", blocks(28, 4))),
    long_form(0x0007, exclusive_or(VARIABLE_LENGTH, "XDWRITEREAD(32)", Transfer::Buffers))
        .toward(Direction::Bidirectional)
        .never(),
    long_form(0x0009, reads(DISK, VARIABLE_LENGTH, "READ(32)", blocks(28, 4))),
    long_form(0x000a, verifies(DISK, VARIABLE_LENGTH, "VERIFY(32)", 28, 4)),
    long_form(0x000b, writes(DISK, VARIABLE_LENGTH, "WRITE(32)", blocks(28, 4))),
    long_form(0x000c, writes(DISK, VARIABLE_LENGTH, "WRITE AND VERIFY(32)", blocks(28, 4))),
    long_form(0x000d, writes(DISK, VARIABLE_LENGTH, "WRITE SAME(32)", Transfer::OneBlock)).slow(),
    long_form(0x000e, writes(DISK, VARIABLE_LENGTH, "ORWRITE(32)", blocks(28, 4))),
    long_form(0x000f, writes(DISK, VARIABLE_LENGTH, "WRITE ATOMIC(32)", blocks(28, 4))),
    long_form(0x0010, writes(DISK, VARIABLE_LENGTH, "WRITE STREAM(32)", blocks(28, 4))),
    long_form(0x0011, writes(DISK, VARIABLE_LENGTH, "WRITE SCATTERED(32)", Transfer::Buffers)),
    long_form(0x0012, asks(DISK, VARIABLE_LENGTH, "GET LBA STATUS(32)", bytes(28, 4))),
    long_form(0x1ff0, writes(DISK, VARIABLE_LENGTH, "ATA PASS-THROUGH(32)", Transfer::Buffers))
        .toward(Direction::Either)
        .administering()
        .long(),
];

/// A command with a CDB of 32 bytes, which has its service action elsewhere.
const fn long_form(action: u16, row: Command) -> Command {
    row.action(action)
}

/// A command that brings the medium nearer, and moves no data.
const fn seeks(types: DeviceTypes, opcode: u8, name: &'static str) -> Command {
    reads(types, opcode, name, Transfer::None)
}

const fn verifies(
    types: DeviceTypes,
    opcode: u8,
    name: &'static str,
    offset: u8,
    width: u8,
) -> Command {
    let sent = Transfer::Verification(Field { offset, width });
    reads(types, opcode, name, sent).toward(Direction::Out).slow()
}

/// What it has not made stable when the way to the device breaks may be lost with the device's
/// power, and a second one would not tell.
const fn stabilises(types: DeviceTypes, opcode: u8, name: &'static str) -> Command {
    reads(types, opcode, name, Transfer::None).using().once().slow()
}

/// Obsolete; what they look for goes to the device.
const fn searches(opcode: u8, name: &'static str) -> Command {
    let types = match opcode {
        // The changer's and the optical memory's are others.
        0x38 => OPTICAL,
        _ => BLOCK,
    };
    reads(types, opcode, name, Transfer::Buffers).toward(Direction::Out).administering().slow()
}

const fn sanitizes(action: u16, name: &'static str) -> Command {
    writes(DISK, 0x48, name, bytes(7, 2)).action(action).administering().whole()
}

/// Obsolete; some have the device write to others.
const fn exclusive_or(opcode: u8, name: &'static str, transfer: Transfer) -> Command {
    writes(DISK, opcode, name, transfer).administering()
}

/// On a zone, or on all.
const fn zones(action: u16, name: &'static str) -> Command {
    writes(DISK, 0x94, name, Transfer::None).action(action).slow()
}

const fn depopulates(action: u16, name: &'static str) -> Command {
    writes(DISK, 0x9e, name, Transfer::None).action(action).administering().whole()
}

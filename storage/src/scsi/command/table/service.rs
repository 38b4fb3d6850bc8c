//! Commands that SPC-6 has for all device types, by opcodes with service actions.

use super::super::build::{asks, bytes, sets, writes};
use super::super::{Command, DeviceTypes, Effect, Transfer};
use super::{ALL, CD, TAPE};

/// The opcodes of MAINTENANCE IN and OUT mean something else to CD devices.
const MAINTAINED: DeviceTypes = ALL.but(CD);

pub(super) static COMMANDS: &[Command] = &[
    reservation_in(0x00, "PERSISTENT RESERVE IN - READ KEYS"),
    reservation_in(0x01, "PERSISTENT RESERVE IN - READ RESERVATION"),
    reservation_in(0x02, "PERSISTENT RESERVE IN - REPORT CAPABILITIES"),
    reservation_in(0x03, "PERSISTENT RESERVE IN - READ FULL STATUS"),
    reservation_out(0x00, "PERSISTENT RESERVE OUT - REGISTER"),
    reservation_out(0x01, "PERSISTENT RESERVE OUT - RESERVE"),
    reservation_out(0x02, "PERSISTENT RESERVE OUT - RELEASE"),
    reservation_out(0x03, "PERSISTENT RESERVE OUT - CLEAR"),
    reservation_out(0x04, "PERSISTENT RESERVE OUT - PREEMPT"),
    reservation_out(0x05, "PERSISTENT RESERVE OUT - PREEMPT AND ABORT"),
    reservation_out(0x06, "PERSISTENT RESERVE OUT - REGISTER AND IGNORE EXISTING KEY"),
    // It gives the reservation to a nexus that another initiator has.
    reservation_out(0x07, "PERSISTENT RESERVE OUT - REGISTER AND MOVE").administering(),
    reservation_out(0x08, "PERSISTENT RESERVE OUT - REPLACE LOST RESERVATION"),
    copy_out(0x00, "EXTENDED COPY(LID1)"),
    copy_out(0x01, "EXTENDED COPY"),
    copy_out(0x10, "POPULATE TOKEN"),
    copy_out(0x11, "WRITE USING TOKEN"),
    copy_out(0x16, "SET TAPE STREAM MIRRORING"),
    copy_out(0x1c, "COPY OPERATION ABORT"),
    copy_in(0x00, "RECEIVE COPY STATUS(LID1)"),
    copy_in(0x01, "RECEIVE COPY DATA(LID1)"),
    copy_in(0x03, "RECEIVE COPY OPERATING PARAMETERS"),
    copy_in(0x04, "RECEIVE COPY FAILURE DETAILS(LID1)"),
    copy_in(0x05, "RECEIVE COPY STATUS"),
    copy_in(0x06, "RECEIVE COPY DATA"),
    copy_in(0x07, "RECEIVE ROD TOKEN INFORMATION"),
    copy_in(0x08, "REPORT ALL ROD TOKENS"),
    copy_in(0x16, "REPORT TAPE STREAM MIRRORING"),
    asks(ALL, 0x9e, "RECEIVE BINDING REPORT", bytes(10, 4)).action(0x0f).administering(),
    binding(0x0b, "TEST BIND"),
    binding(0x0c, "PREPARE BIND REPORT"),
    binding(0x0d, "SET AFFILIATION"),
    binding(0x0e, "BIND"),
    binding(0x0f, "UNBIND"),
    maintenance_in(0x05, "REPORT IDENTIFYING INFORMATION").administering(),
    maintenance_in(0x0a, "REPORT TARGET PORT GROUPS"),
    maintenance_in(0x0b, "REPORT ALIASES").administering(),
    maintenance_in(0x0c, "REPORT SUPPORTED OPERATION CODES"),
    maintenance_in(0x0d, "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS"),
    maintenance_in(0x0e, "REPORT PRIORITY").administering(),
    maintenance_in(0x0f, "REPORT TIMESTAMP").administering(),
    maintenance_in(0x10, "MANAGEMENT PROTOCOL IN").administering().once(),
    maintenance_out(0x06, "SET IDENTIFYING INFORMATION"),
    maintenance_out(0x0a, "SET TARGET PORT GROUPS"),
    maintenance_out(0x0b, "CHANGE ALIASES"),
    maintenance_out(0x0c, "REMOVE I_T NEXUS"),
    maintenance_out(0x0e, "SET PRIORITY"),
    maintenance_out(0x0f, "SET TIMESTAMP"),
    maintenance_out(0x10, "MANAGEMENT PROTOCOL OUT"),
    asks(CD, 0xab, "READ MEDIA SERIAL NUMBER", bytes(6, 4)).action(0x01),
    asks(ALL.but(CD), 0xab, "READ MEDIA SERIAL NUMBER", bytes(6, 4)).action(0x01).administering(),
];

const fn reservation_in(action: u16, name: &'static str) -> Command {
    asks(ALL, 0x5e, name, bytes(7, 2)).action(action).sharing()
}

const fn reservation_out(action: u16, name: &'static str) -> Command {
    sets(ALL, 0x5f, name, bytes(5, 4)).with(Effect::Reservations).action(action).sharing()
}

/// Its descriptors name any logical unit that the device can reach.
const fn copy_out(action: u16, name: &'static str) -> Command {
    let types = if action == 0x16 { TAPE } else { ALL };
    writes(types, 0x83, name, bytes(10, 4)).action(action).administering().long()
}

const fn copy_in(action: u16, name: &'static str) -> Command {
    let types = if action == 0x16 { TAPE } else { ALL };
    asks(types, 0x84, name, bytes(10, 4)).action(action).administering().once()
}

const fn binding(action: u16, name: &'static str) -> Command {
    sets(ALL, 0x9f, name, Transfer::Buffers).action(action)
}

const fn maintenance_in(action: u16, name: &'static str) -> Command {
    asks(MAINTAINED, 0xa3, name, bytes(6, 4)).action(action)
}

const fn maintenance_out(action: u16, name: &'static str) -> Command {
    sets(MAINTAINED, 0xa4, name, bytes(6, 4)).action(action)
}

//! Commands of SCC-2: what an array controller tells, and how it is told to build another array.

use super::super::build::{asks, bytes, sets};
use super::super::{Command, Effect};
use super::RAID;

pub(super) static COMMANDS: &[Command] = &[
    maintenance_in(0x00, "REPORT ASSIGNED/UNASSIGNED P_EXTENT"),
    maintenance_in(0x01, "REPORT COMPONENT DEVICE"),
    maintenance_in(0x02, "REPORT COMPONENT DEVICE ATTACHMENTS"),
    maintenance_in(0x03, "REPORT PERIPHERAL DEVICE"),
    maintenance_in(0x04, "REPORT PERIPHERAL DEVICE ASSOCIATIONS"),
    maintenance_in(0x06, "REPORT STATES"),
    maintenance_in(0x07, "REPORT DEVICE IDENTIFICATION"),
    maintenance_in(0x08, "REPORT UNCONFIGURED CAPACITY"),
    maintenance_in(0x09, "REPORT SUPPORTED CONFIGURATION METHOD"),
    maintenance_out(0x00, "ADD PERIPHERAL DEVICE/COMPONENT DEVICE"),
    maintenance_out(0x01, "ATTACH TO COMPONENT DEVICE"),
    maintenance_out(0x02, "EXCHANGE P_EXTENT"),
    maintenance_out(0x03, "EXCHANGE PERIPHERAL DEVICE/COMPONENT DEVICE"),
    maintenance_out(0x04, "INSTRUCT COMPONENT DEVICE"),
    maintenance_out(0x05, "REMOVE PERIPHERAL DEVICE/COMPONENT DEVICE"),
    maintenance_out(0x07, "BREAK PERIPHERAL DEVICE/COMPONENT DEVICE"),
    asks(RAID, 0xba, "REDUNDANCY GROUP IN", bytes(6, 4)),
    rebuilds(0xbb, "REDUNDANCY GROUP OUT"),
    asks(RAID, 0xbc, "SPARE IN", bytes(6, 4)),
    rebuilds(0xbd, "SPARE OUT"),
    asks(RAID, 0xbe, "VOLUME SET IN", bytes(6, 4)),
    rebuilds(0xbf, "VOLUME SET OUT"),
];

const fn maintenance_in(action: u16, name: &'static str) -> Command {
    asks(RAID, 0xa3, name, bytes(6, 4)).action(action)
}

const fn maintenance_out(action: u16, name: &'static str) -> Command {
    rebuilds(0xa4, name).action(action)
}

const fn rebuilds(opcode: u8, name: &'static str) -> Command {
    sets(RAID, opcode, name, bytes(6, 4)).with(Effect::Medium).slow()
}

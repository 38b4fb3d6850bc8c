//! The rows, by the standard that has them.

use super::{Command, DeviceTypes, device_type as pdt};

mod array;
mod block;
mod changer;
mod multimedia;
mod primary;
mod printer;
mod service;
mod tape;

const ALL: DeviceTypes = DeviceTypes::ALL;
/// Disks, and what SBC-4 and ZBC-2 say of them.
const DISK: DeviceTypes = DeviceTypes::of(&[pdt::DISK, pdt::ZONED]);
const TAPE: DeviceTypes = DeviceTypes::of(&[pdt::TAPE]);
const PRINTER: DeviceTypes = DeviceTypes::of(&[pdt::PRINTER]);
const CD: DeviceTypes = DeviceTypes::of(&[pdt::CD]);
const OPTICAL: DeviceTypes = DeviceTypes::of(&[pdt::WRITE_ONCE, pdt::OPTICAL]);
const CHANGER: DeviceTypes = DeviceTypes::of(&[pdt::CHANGER]);
const RAID: DeviceTypes = DeviceTypes::of(&[pdt::RAID]);
const ENCLOSURE: DeviceTypes = DeviceTypes::of(&[pdt::ENCLOSURE]);
/// Whatever has random access to logical blocks.
const BLOCK: DeviceTypes = DISK.and(OPTICAL).and(CD);

/// Every command that is known, in no order.
pub fn commands() -> impl Iterator<Item = &'static Command> {
    let tables: [&'static [Command]; 8] = [
        primary::COMMANDS,
        service::COMMANDS,
        block::COMMANDS,
        tape::COMMANDS,
        multimedia::COMMANDS,
        changer::COMMANDS,
        array::COMMANDS,
        printer::COMMANDS,
    ];
    tables.into_iter().flatten()
}

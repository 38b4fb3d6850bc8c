//! How rows of the table are written: what most commands of a kind have in common, and what one
//! of them has otherwise.

use super::transfer::Field;
use super::{Command, DeviceTypes, Direction, Effect, Purpose, Repeat, TimeClass, Transfer};

/// Bytes that a field of `width` bytes at `offset` counts.
pub(super) const fn bytes(offset: u8, width: u8) -> Transfer {
    Transfer::Bytes(Field { offset, width })
}

/// Logical blocks that a field of `width` bytes at `offset` counts.
pub(super) const fn blocks(offset: u8, width: u8) -> Transfer {
    Transfer::Blocks(Field { offset, width })
}

/// A question about the device.
pub(super) const fn asks(
    types: DeviceTypes,
    opcode: u8,
    name: &'static str,
    transfer: Transfer,
) -> Command {
    let direction = match transfer {
        Transfer::None => Direction::None,
        _ => Direction::In,
    };
    Command {
        types,
        opcode,
        service_action: None,
        name,
        cdb_len: super::cdb_len(opcode),
        direction,
        transfer,
        effect: Effect::Nothing,
        purpose: Purpose::Reading,
        repeat: Repeat::Always,
        time: TimeClass::Short,
    }
}

/// A command that reads the medium.
pub(super) const fn reads(
    types: DeviceTypes,
    opcode: u8,
    name: &'static str,
    transfer: Transfer,
) -> Command {
    let time = TimeClass::Access;
    Command { effect: Effect::Reads, time, ..asks(types, opcode, name, transfer) }
}

/// A command that sends data.
const fn sends(types: DeviceTypes, opcode: u8, name: &'static str, transfer: Transfer) -> Command {
    let direction = match transfer {
        Transfer::None => Direction::None,
        _ => Direction::Out,
    };
    Command { direction, repeat: Repeat::Never, ..asks(types, opcode, name, transfer) }
}

/// A command that changes the medium, as the initiator's own.
pub(super) const fn writes(
    types: DeviceTypes,
    opcode: u8,
    name: &'static str,
    transfer: Transfer,
) -> Command {
    Command {
        effect: Effect::Medium,
        purpose: Purpose::Using,
        time: TimeClass::Access,
        ..sends(types, opcode, name, transfer)
    }
}

/// A command without data that makes the device do something.
pub(super) const fn acts(types: DeviceTypes, opcode: u8, name: &'static str) -> Command {
    Command {
        effect: Effect::Condition,
        purpose: Purpose::Using,
        ..sends(types, opcode, name, Transfer::None)
    }
}

/// A command that changes settings.
pub(super) const fn sets(
    types: DeviceTypes,
    opcode: u8,
    name: &'static str,
    transfer: Transfer,
) -> Command {
    Command {
        effect: Effect::Settings,
        purpose: Purpose::Administering,
        ..sends(types, opcode, name, transfer)
    }
}

impl Command {
    /// The row with a service action.
    pub(super) const fn action(self, service_action: u16) -> Command {
        Command { service_action: Some(service_action), ..self }
    }

    pub(super) const fn with(self, effect: Effect) -> Command {
        Command { effect, ..self }
    }

    pub(super) const fn toward(self, direction: Direction) -> Command {
        Command { direction, ..self }
    }

    pub(super) const fn reading(self) -> Command {
        Command { purpose: Purpose::Reading, ..self }
    }

    pub(super) const fn using(self) -> Command {
        Command { purpose: Purpose::Using, ..self }
    }

    pub(super) const fn sharing(self) -> Command {
        Command { purpose: Purpose::Sharing, ..self }
    }

    pub(super) const fn administering(self) -> Command {
        Command { purpose: Purpose::Administering, ..self }
    }

    pub(super) const fn never(self) -> Command {
        Command { purpose: Purpose::Never, ..self }
    }

    pub(super) const fn repeatable(self) -> Command {
        Command { repeat: Repeat::Always, ..self }
    }

    /// May be repeated where there are no write pointers.
    pub(super) const fn conventional(self) -> Command {
        Command { repeat: Repeat::Conventional, ..self }
    }

    pub(super) const fn once(self) -> Command {
        Command { repeat: Repeat::Never, ..self }
    }

    pub(super) const fn slow(self) -> Command {
        Command { time: TimeClass::Slow, ..self }
    }

    pub(super) const fn long(self) -> Command {
        Command { time: TimeClass::Long, ..self }
    }

    pub(super) const fn whole(self) -> Command {
        Command { time: TimeClass::Whole, ..self }
    }
}

//! Commands of printers (SCSI-2, Printer devices).

use super::super::build::{acts, bytes, sets, writes};
use super::super::{Command, Direction, Effect, Transfer};
use super::PRINTER;

pub(super) static COMMANDS: &[Command] = &[
    sets(PRINTER, 0x04, "FORMAT", bytes(2, 3)).using(),
    writes(PRINTER, 0x0a, "PRINT", bytes(2, 3)).slow(),
    writes(PRINTER, 0x0b, "SLEW AND PRINT", bytes(2, 3)).slow(),
    writes(PRINTER, 0x10, "SYNCHRONIZE BUFFER", Transfer::None).slow(),
    writes(PRINTER, 0x14, "RECOVER BUFFERED DATA", bytes(2, 3))
        .with(Effect::Condition)
        .toward(Direction::In),
    acts(PRINTER, 0x1b, "STOP PRINT"),
];

//! Commands of MMC-6 and its forerunners.

use super::super::build::{acts, asks, bytes, reads, sets, writes};
use super::super::{Command, Effect, Transfer};
use super::CD;

pub(super) static COMMANDS: &[Command] = &[
    writes(CD, 0x04, "FORMAT UNIT", Transfer::Buffers).long(),
    asks(CD, 0x23, "READ FORMAT CAPACITIES", bytes(7, 2)),
    reads(CD, 0x25, "READ CAPACITY", Transfer::Exactly(8)).with(Effect::Nothing),
    reads(CD, 0x2b, "SEEK(10)", Transfer::None),
    writes(CD, 0x2c, "ERASE(10)", Transfer::None).long(),
    asks(CD, 0x42, "READ SUB-CHANNEL", bytes(7, 2)),
    reads(CD, 0x43, "READ TOC/PMA/ATIP", bytes(7, 2)),
    reads(CD, 0x44, "READ HEADER", bytes(7, 2)),
    acts(CD, 0x45, "PLAY AUDIO(10)"),
    asks(CD, 0x46, "GET CONFIGURATION", bytes(7, 2)),
    acts(CD, 0x47, "PLAY AUDIO MSF"),
    acts(CD, 0x48, "PLAY AUDIO TRACK INDEX"),
    acts(CD, 0x49, "PLAY TRACK RELATIVE(10)"),
    // An event is told once.
    asks(CD, 0x4a, "GET EVENT STATUS NOTIFICATION", bytes(7, 2)).once(),
    acts(CD, 0x4b, "PAUSE/RESUME"),
    acts(CD, 0x4e, "STOP PLAY/SCAN"),
    reads(CD, 0x51, "READ DISC INFORMATION", bytes(7, 2)),
    reads(CD, 0x52, "READ TRACK INFORMATION", bytes(7, 2)),
    writes(CD, 0x53, "RESERVE TRACK", Transfer::None).slow(),
    writes(CD, 0x54, "SEND OPC INFORMATION", bytes(7, 2)).slow(),
    writes(CD, 0x58, "REPAIR TRACK", Transfer::None).slow(),
    writes(CD, 0x5b, "CLOSE TRACK/SESSION", Transfer::None).long(),
    asks(CD, 0x5c, "READ BUFFER CAPACITY", bytes(7, 2)),
    sends(0x5d, "SEND CUE SHEET", bytes(6, 3)),
    writes(CD, 0xa1, "BLANK", Transfer::None).long(),
    sets(CD, 0xa3, "SEND KEY", bytes(8, 2)).using(),
    // A grant of authentication is given out once.
    asks(CD, 0xa4, "REPORT KEY", bytes(8, 2)).using().once(),
    acts(CD, 0xa5, "PLAY AUDIO(12)"),
    acts(CD, 0xa6, "LOAD/UNLOAD MEDIUM").slow(),
    acts(CD, 0xa7, "SET READ AHEAD"),
    acts(CD, 0xa9, "PLAY TRACK RELATIVE(12)"),
    asks(CD, 0xac, "GET PERFORMANCE", Transfer::Buffers),
    reads(CD, 0xad, "READ DISC STRUCTURE", bytes(8, 2)),
    sends(0xb6, "SET STREAMING", bytes(9, 2)),
    reads(CD, 0xb9, "READ CD MSF", Transfer::Buffers),
    acts(CD, 0xba, "SCAN"),
    acts(CD, 0xbb, "SET CD SPEED"),
    asks(CD, 0xbd, "MECHANISM STATUS", bytes(8, 2)),
    reads(CD, 0xbe, "READ CD", Transfer::Buffers),
    writes(CD, 0xbf, "SEND DISC STRUCTURE", bytes(8, 2)),
];

/// Something to be used later.
const fn sends(opcode: u8, name: &'static str, transfer: Transfer) -> Command {
    sets(CD, opcode, name, transfer).with(Effect::Condition).using()
}

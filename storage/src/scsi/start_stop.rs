//! START STOP UNIT (SBC-4, START STOP UNIT command), as far as any logical unit here goes: no power
//! conditions, no ejecting.

use super::cdb::Cdb;
use super::sense::Sense;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartStop {
    /// START: make ready; otherwise stop.
    pub start: bool,
    /// NO_FLUSH is 0: before a stop, make stable what was written.
    pub flush: bool,
}

impl StartStop {
    /// Reads a START STOP UNIT.
    ///
    /// # Errors
    /// INVALID FIELD IN CDB at POWER CONDITION, POWER CONDITION MODIFIER or LOEJ.
    pub fn read(cdb: &Cdb) -> Result<StartStop, Sense> {
        const NO_FLUSH: u8 = 2;
        const LOEJ: u8 = 1;
        const START: u8 = 0;
        if cdb.u8(4) >> 4 != 0 {
            return Err(Sense::invalid_field(4, Some(7)));
        }
        if cdb.u8(3) & 0x0f != 0 {
            return Err(Sense::invalid_field(3, Some(3)));
        }
        if cdb.bit(4, LOEJ) {
            return Err(Sense::invalid_field(4, Some(LOEJ)));
        }
        Ok(StartStop { start: cdb.bit(4, START), flush: !cdb.bit(4, NO_FLUSH) })
    }
}

//! The opcode table: one row per command, for the parser, the unit attention rules, write-protected
//! and stopped logical units, and REPORT SUPPORTED OPERATION CODES.

use super::cdb::Cdb;
use super::sense::{Sense, SenseCode};

mod table;

pub use table::OPCODES;

/// What a row of the table asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// SPC-6, TEST UNIT READY
    TestUnitReady,
    /// SPC-6, REQUEST SENSE
    RequestSense,
    /// SPC-6, INQUIRY
    Inquiry,
    /// SPC-6, MODE SELECT(6) and MODE SELECT(10)
    ModeSelect,
    /// SPC-6, MODE SENSE(6) and MODE SENSE(10)
    ModeSense,
    /// SPC-6, REPORT LUNS
    ReportLuns,
    /// SPC-6, REPORT SUPPORTED OPERATION CODES
    ReportSupportedOperationCodes,
    /// SPC-6, REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS
    ReportSupportedTaskManagementFunctions,
    /// SBC-4, READ CAPACITY(10)
    ReadCapacity10,
    /// SBC-4, READ CAPACITY(16)
    ReadCapacity16,
    /// SBC-4, START STOP UNIT
    StartStopUnit,
    /// SBC-4, SYNCHRONIZE CACHE(10) and SYNCHRONIZE CACHE(16)
    SynchronizeCache,
    /// SBC-4, READ(6), READ(10), READ(12) and READ(16)
    Read,
    /// SBC-4, WRITE(6), WRITE(10), WRITE(12) and WRITE(16)
    Write,
    /// SBC-4, VERIFY(10), VERIFY(12) and VERIFY(16)
    Verify,
    /// SBC-4, WRITE SAME(10) and WRITE SAME(16)
    WriteSame,
    /// SBC-4, UNMAP
    Unmap,
}

/// One command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opcode {
    /// OPERATION CODE
    pub opcode: u8,
    /// SERVICE ACTION, for an opcode that has them: bits 4 to 0 of byte 1.
    pub service_action: Option<u8>,
    /// The standard's name.
    pub name: &'static str,
    /// What it asks for.
    pub operation: Operation,
    /// CDB USAGE DATA (SPC-6, REPORT SUPPORTED OPERATION CODES): a 1 for each bit that is looked
    /// at. Its length is the CDB's. The service action stands in it as a value.
    pub usage: &'static [u8],
    /// What the command does to the medium.
    pub medium: Medium,
    /// Whether a pending unit attention lets it pass (SAM-6, Unit attention conditions).
    pub attention_exempt: bool,
}

/// What a command does to the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// Leaves it alone, so that it need not be ready.
    Untouched,
    /// Reads it, or makes it stable.
    Accessed,
    /// Changes it, so that a write-protected logical unit refuses the command.
    Modified,
}

const NONE: u8 = u8::MAX;

/// The first row of each opcode, or [`NONE`].
static FIRST: [u8; 256] = {
    let mut first = [NONE; 256];
    let mut index = OPCODES.len();
    while index > 0 {
        index -= 1;
        #[expect(clippy::cast_possible_truncation, reason = "the table is shorter than 255 rows")]
        {
            first[OPCODES[index].opcode as usize] = index as u8;
        }
    }
    first
};

impl Opcode {
    /// The row of `cdb`.
    ///
    /// # Errors
    /// INVALID COMMAND OPERATION CODE, or INVALID FIELD IN CDB at a service action that is not
    /// supported or at NACA.
    pub fn find(cdb: &Cdb) -> Result<&'static Opcode, Sense> {
        let rows = OPCODES.get(usize::from(FIRST[usize::from(cdb.opcode())])..).unwrap_or(&[]);
        let mut rows = rows.iter().take_while(|row| row.opcode == cdb.opcode()).peekable();
        if rows.peek().is_none() {
            return Err(SenseCode::INVALID_COMMAND_OPERATION_CODE.into());
        }
        let service_action = cdb.u8(1) & 0x1f;
        let row = rows
            .find(|row| row.service_action.is_none_or(|wanted| wanted == service_action))
            .ok_or(Sense::invalid_field(1, Some(4)))?;
        let control = row.control_offset();
        if cdb.bit(usize::from(control), 2) {
            return Err(Sense::invalid_field(control, Some(2)));
        }
        Ok(row)
    }

    /// Offset of the CONTROL byte: the last of a CDB of fixed length.
    fn control_offset(&self) -> u16 {
        u16::try_from(self.usage.len().saturating_sub(1)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_ascend_and_lengths_follow_the_group_code() {
        let key = |row: &Opcode| (row.opcode, row.service_action);
        assert!(OPCODES.is_sorted_by(|a, b| key(a) < key(b)));
        for row in OPCODES {
            let len = match row.opcode >> 5 {
                0 => 6,
                1 | 2 => 10,
                4 => 16,
                5 => 12,
                group => panic!("group {group} has no fixed length"),
            };
            assert_eq!(row.usage.len(), len, "{}", row.name);
        }
    }

    #[test]
    fn a_row_is_found_by_opcode_and_service_action() {
        assert_eq!(Opcode::find(&Cdb::new(&[0x28])).unwrap().name, "READ(10)");
        assert_eq!(Opcode::find(&Cdb::new(&[0x9e, 0x10])).unwrap().name, "READ CAPACITY(16)");
    }

    #[test]
    fn what_is_not_there_is_refused() {
        let unknown = Opcode::find(&Cdb::new(&[0xff])).unwrap_err();
        assert_eq!(unknown.code, SenseCode::INVALID_COMMAND_OPERATION_CODE);
        let action = Opcode::find(&Cdb::new(&[0x9e, 0x1f])).unwrap_err();
        assert_eq!(action, Sense::invalid_field(1, Some(4)));
    }

    #[test]
    fn naca_is_refused_wherever_the_control_byte_is() {
        for row in OPCODES {
            let mut cdb = Cdb::new(&[row.opcode, row.service_action.unwrap_or(0)]);
            let control = row.usage.len() - 1;
            cdb.0[control] = 0x04;
            let at = Sense::invalid_field(u16::try_from(control).unwrap(), Some(2));
            assert_eq!(Opcode::find(&cdb), Err(at), "{}", row.name);
        }
    }
}

//! The opcode table: one row per command, for the parser, the unit attention rules, read-only
//! logical units, and whoever lists what is supported.

use super::cdb::Cdb;
use super::sense::{Sense, SenseCode};

/// What a row of the table asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// SPC-6, TEST UNIT READY
    TestUnitReady,
    /// SPC-6, REQUEST SENSE
    RequestSense,
    /// SPC-6, INQUIRY
    Inquiry,
    /// SPC-6, MODE SENSE(6)
    ModeSense6,
    /// SBC-4, READ CAPACITY(10)
    ReadCapacity10,
    /// SBC-4, READ(10) and READ(16)
    Read,
    /// SBC-4, WRITE(10) and WRITE(16)
    Write,
    /// SBC-4, SYNCHRONIZE CACHE(10)
    SynchronizeCache,
    /// SBC-4, READ CAPACITY(16)
    ReadCapacity16,
    /// SPC-6, REPORT LUNS
    ReportLuns,
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
    /// Leaves it alone, or reads it.
    Reads,
    /// Changes it, so that a read-only logical unit refuses the command.
    Modifies,
}

/// The CONTROL byte: of its bits NACA is looked at, to be refused (SAM-6, CONTROL byte).
const CONTROL: u8 = 0x04;

const fn row(opcode: u8, name: &'static str, operation: Operation, usage: &'static [u8]) -> Opcode {
    Opcode {
        opcode,
        service_action: None,
        name,
        operation,
        usage,
        medium: Medium::Reads,
        attention_exempt: false,
    }
}

const fn modifies(row: Opcode) -> Opcode {
    Opcode { medium: Medium::Modifies, ..row }
}

const fn exempt(row: Opcode) -> Opcode {
    Opcode { attention_exempt: true, ..row }
}

const fn action(service_action: u8, row: Opcode) -> Opcode {
    Opcode { service_action: Some(service_action), ..row }
}

/// RDPROTECT or WRPROTECT, DPO, FUA; LBA; GROUP NUMBER; TRANSFER LENGTH.
const TRANSFER_10: &[u8] = &[0, 0xf8, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, CONTROL];
const TRANSFER_16: &[u8] =
    &[0, 0xf8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, CONTROL];
const SYNC_10: &[u8] = &[0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, CONTROL];
const CAPACITY_16: &[u8] = &[0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, CONTROL];
const LUNS: &[u8] = &[0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, CONTROL];

/// Every command there is, in ascending order of opcode and service action.
pub static OPCODES: &[Opcode] = &[
    row(0x00, "TEST UNIT READY", Operation::TestUnitReady, &[0, 0, 0, 0, 0, CONTROL]),
    exempt(row(0x03, "REQUEST SENSE", Operation::RequestSense, &[0, 1, 0, 0, 0xff, CONTROL])),
    exempt(row(0x12, "INQUIRY", Operation::Inquiry, &[0, 1, 0xff, 0xff, 0xff, CONTROL])),
    row(0x1a, "MODE SENSE(6)", Operation::ModeSense6, &[0, 8, 0xff, 0xff, 0xff, CONTROL]),
    row(
        0x25,
        "READ CAPACITY(10)",
        Operation::ReadCapacity10,
        &[0, 0, 0, 0, 0, 0, 0, 0, 0, CONTROL],
    ),
    row(0x28, "READ(10)", Operation::Read, TRANSFER_10),
    modifies(row(0x2a, "WRITE(10)", Operation::Write, TRANSFER_10)),
    row(0x35, "SYNCHRONIZE CACHE(10)", Operation::SynchronizeCache, SYNC_10),
    row(0x88, "READ(16)", Operation::Read, TRANSFER_16),
    modifies(row(0x8a, "WRITE(16)", Operation::Write, TRANSFER_16)),
    action(0x10, row(0x9e, "READ CAPACITY(16)", Operation::ReadCapacity16, CAPACITY_16)),
    exempt(row(0xa0, "REPORT LUNS", Operation::ReportLuns, LUNS)),
];

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

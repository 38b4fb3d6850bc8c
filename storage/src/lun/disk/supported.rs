//! What can be asked of the disk: REPORT SUPPORTED OPERATION CODES and REPORT SUPPORTED TASK
//! MANAGEMENT FUNCTIONS (SPC-6). Both tell what the opcode table and the target do.

use super::{Disk, Plan};
use crate::scsi::cdb::Cdb;
use crate::scsi::opcode::{OPCODES, Opcode, Operation};
use crate::scsi::sense::{Sense, SenseCode};
use crate::scsi::supported;

impl Disk {
    /// The row of `cdb`.
    pub(super) fn find(&self, cdb: &Cdb) -> Result<&'static Opcode, Sense> {
        match Opcode::find(cdb)? {
            row if self.supports(row) => Ok(row),
            _ => Err(SenseCode::INVALID_COMMAND_OPERATION_CODE.into()),
        }
    }

    fn supports(&self, row: &Opcode) -> bool {
        row.operation != Operation::Unmap || self.thin.is_some()
    }

    fn rows(&self) -> impl Iterator<Item = &'static Opcode> {
        OPCODES.iter().filter(|row| self.supports(row))
    }

    fn row(&self, opcode: u8, service_action: Option<u16>) -> Option<&'static Opcode> {
        let key = (opcode, service_action);
        self.rows().find(|row| (row.opcode, row.service_action.map(u16::from)) == key)
    }

    pub(super) fn report_supported_operation_codes(&self, cdb: &Cdb) -> Result<Plan, Sense> {
        const WRONG_OPTION: Sense = Sense::invalid_field(2, Some(2));
        const RCTD: u8 = 7;
        let timeouts = cdb.bit(2, RCTD);
        let (opcode, service_action) = (cdb.u8(3), cdb.u16(4));
        let plain = self.row(opcode, None);
        let with_action = self.row(opcode, Some(service_action));
        let has_actions = plain.is_none() && self.rows().any(|row| row.opcode == opcode);
        let bytes = match cdb.u8(2) & 0x07 {
            0b000 => supported::all_commands(self.rows(), timeouts),
            0b001 if !has_actions => supported::one_command(plain, timeouts),
            0b010 if plain.is_none() => supported::one_command(with_action, timeouts),
            0b011 => {
                let plain = plain.filter(|_| service_action == 0);
                supported::one_command(plain.or(with_action), timeouts)
            }
            _ => return Err(WRONG_OPTION),
        };
        Ok(Plan::Data { bytes, allocation_length: allocation_length(cdb) })
    }
}

pub(super) fn report_supported_task_management_functions(cdb: &Cdb) -> Plan {
    const REPD: u8 = 7;
    let bytes = supported::task_management_functions(cdb.bit(2, REPD));
    Plan::Data { bytes, allocation_length: allocation_length(cdb) }
}

fn allocation_length(cdb: &Cdb) -> usize {
    usize::try_from(cdb.u32(6)).unwrap_or(usize::MAX)
}

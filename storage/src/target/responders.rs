//! Answers that a target gives itself, without or instead of a logical unit.

use super::address::{Lun, WELL_KNOWN, single_level};
use super::bus::Target;
use crate::scsi::inquiry::{self, NO_LOGICAL_UNIT};
use crate::scsi::opcode::{Opcode, Operation};
use crate::scsi::sense::{Sense, SenseCode};
use crate::scsi::status::Status;
use crate::scsi::wire::put_u32;
use crate::task::{Answer, Response, ServiceResponse, Task};

/// Nothing answers at the target's address.
pub(super) fn no_target(task: Task) -> Answer {
    task.answer(Response::Failed(ServiceResponse::BadTarget))
}

/// The logical unit takes no commands for now.
pub(super) fn busy(task: Task) -> Answer {
    let resid = task.buffer_len();
    task.answer(Response::Status { status: Status::BUSY, sense: None, resid })
}

/// The target has no such logical unit (SPC-6, INQUIRY command; SAM-6, Incorrect logical unit
/// numbers): INQUIRY and REQUEST SENSE say so as data, LUN 0 reports the others, and everything
/// else is refused.
pub(super) fn no_unit(target: &Target, lun: Lun, task: Task) -> Answer {
    let operation = match Opcode::find(&task.cdb) {
        Ok(row) => row.operation,
        Err(_) => return task.answer_sense(SenseCode::LOGICAL_UNIT_NOT_SUPPORTED),
    };
    match operation {
        Operation::Inquiry => no_unit_inquiry(task),
        Operation::RequestSense => request_sense(task, SenseCode::LOGICAL_UNIT_NOT_SUPPORTED),
        Operation::ReportLuns if lun == Lun::Unit(0) => report_luns(target, task),
        _ => task.answer_sense(SenseCode::LOGICAL_UNIT_NOT_SUPPORTED),
    }
}

fn no_unit_inquiry(task: Task) -> Answer {
    let (evpd, page) = (task.cdb.bit(1, 0), task.cdb.u8(2));
    if evpd || page != 0 {
        return task.answer_sense(Sense::invalid_field(if evpd { 1 } else { 2 }, None));
    }
    let allocation_length = task.cdb.u16(3).into();
    let data = inquiry::standard(NO_LOGICAL_UNIT, &[b' '; 8], &[b' '; 16], &[b' '; 4]);
    task.answer_data(&data, allocation_length)
}

/// Whether the data of a REQUEST SENSE fits its data-in buffer.
pub(super) fn has_room_for_sense(task: &Task) -> bool {
    let len = Sense::from(SenseCode::NO_SENSE).to_bytes(task.cdb.bit(1, 0)).len();
    task.data_in.len() >= len.min(task.cdb.u8(4).into())
}

/// REQUEST SENSE that returns `code`.
pub(super) fn request_sense(task: Task, code: SenseCode) -> Answer {
    let allocation_length = task.cdb.u8(4).into();
    let data = Sense::from(code).to_bytes(task.cdb.bit(1, 0));
    task.answer_data(&data, allocation_length)
}

/// A command to the REPORT LUNS well-known logical unit.
pub(super) fn well_known(target: &Target, task: Task) -> Answer {
    match Opcode::find(&task.cdb).map(|row| row.operation) {
        Ok(Operation::ReportLuns) => report_luns(target, task),
        Ok(Operation::TestUnitReady) => {
            let resid = task.buffer_len();
            task.answer(Response::good(resid))
        }
        Ok(Operation::RequestSense) => request_sense(task, SenseCode::NO_SENSE),
        Ok(Operation::Inquiry) => well_known_inquiry(task),
        _ => task.answer_sense(SenseCode::INVALID_COMMAND_OPERATION_CODE),
    }
}

fn well_known_inquiry(task: Task) -> Answer {
    const WELL_KNOWN_LOGICAL_UNIT: u8 = 0x1e;
    if task.cdb.bit(1, 0) || task.cdb.u8(2) != 0 {
        return task.answer_sense(Sense::invalid_field(2, None));
    }
    let allocation_length = task.cdb.u16(3).into();
    let (vendor, product) = (b"VMM     ", b"REPORT LUNS     ");
    let data = inquiry::standard(WELL_KNOWN_LOGICAL_UNIT, vendor, product, b"0001");
    task.answer_data(&data, allocation_length)
}

/// REPORT LUNS (SPC-6, REPORT LUNS command): what the target has, whichever logical unit is
/// asked. The initiator then knows of every change, so that condition is cleared.
pub(super) fn report_luns(target: &Target, task: Task) -> Answer {
    let units = || target.numbers().map(single_level).collect::<Vec<_>>();
    let mut luns = match task.cdb.u8(2) {
        0x00 => units(),
        0x01 => vec![WELL_KNOWN],
        0x02 => [units(), vec![WELL_KNOWN]].concat(),
        _ => return task.answer_sense(Sense::invalid_field(2, None)),
    };
    luns.insert(0, [0; 8]);
    let mut data = luns.concat();
    let list_len = u32::try_from(data.len() - 8).unwrap_or(u32::MAX);
    put_u32(&mut data, 0, list_len);
    for unit in target.units() {
        unit.attention.clear(SenseCode::REPORTED_LUNS_DATA_HAS_CHANGED);
    }
    let allocation_length = usize::try_from(task.cdb.u32(6)).unwrap_or(usize::MAX);
    task.answer_data(&data, allocation_length)
}

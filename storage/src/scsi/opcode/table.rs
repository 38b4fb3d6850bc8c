//! The rows themselves.

use super::{Medium, Opcode, Operation};

/// The CONTROL byte: of its bits NACA is looked at, to be refused (SAM-6, CONTROL byte).
const CONTROL: u8 = 0x04;

/// A byte whose every bit is looked at.
const ALL: u8 = 0xff;

/// Every command there is, in ascending order of opcode and service action. A logical unit need
/// not support each.
pub static OPCODES: &[Opcode] = &[
    row(0x00, "TEST UNIT READY", Operation::TestUnitReady, &[0, 0, 0, 0, 0, CONTROL]),
    exempt(row(0x03, "REQUEST SENSE", Operation::RequestSense, &[0, 1, 0, 0, ALL, CONTROL])),
    accesses(row(0x08, "READ(6)", Operation::Read, TRANSFER_6)),
    modifies(row(0x0a, "WRITE(6)", Operation::Write, TRANSFER_6)),
    exempt(row(0x12, "INQUIRY", Operation::Inquiry, &[0, 1, ALL, ALL, ALL, CONTROL])),
    alone(row(0x15, "MODE SELECT(6)", Operation::ModeSelect, &[0, 0x13, 0, 0, ALL, CONTROL])),
    row(0x1a, "MODE SENSE(6)", Operation::ModeSense, &[0, 0x08, ALL, ALL, ALL, CONTROL]),
    alone(row(0x1b, "START STOP UNIT", Operation::StartStopUnit, &[0, 0, 0, 0x0f, 0xf7, CONTROL])),
    row(
        0x25,
        "READ CAPACITY(10)",
        Operation::ReadCapacity10,
        &[0, 0, 0, 0, 0, 0, 0, 0, 0, CONTROL],
    ),
    accesses(row(0x28, "READ(10)", Operation::Read, TRANSFER_10)),
    modifies(row(0x2a, "WRITE(10)", Operation::Write, TRANSFER_10)),
    accesses(row(0x2f, "VERIFY(10)", Operation::Verify, VERIFY_10)),
    accesses(row(0x35, "SYNCHRONIZE CACHE(10)", Operation::SynchronizeCache, SYNC_10)),
    modifies(row(0x41, "WRITE SAME(10)", Operation::WriteSame, WRITE_SAME_10)),
    modifies(row(0x42, "UNMAP", Operation::Unmap, &[0, 1, 0, 0, 0, 0, 0, ALL, ALL, CONTROL])),
    alone(row(0x55, "MODE SELECT(10)", Operation::ModeSelect, MODE_SELECT_10)),
    row(0x5a, "MODE SENSE(10)", Operation::ModeSense, MODE_SENSE_10),
    accesses(row(0x88, "READ(16)", Operation::Read, TRANSFER_16)),
    modifies(row(0x8a, "WRITE(16)", Operation::Write, TRANSFER_16)),
    accesses(row(0x8f, "VERIFY(16)", Operation::Verify, VERIFY_16)),
    accesses(row(0x91, "SYNCHRONIZE CACHE(16)", Operation::SynchronizeCache, SYNC_16)),
    modifies(row(0x93, "WRITE SAME(16)", Operation::WriteSame, WRITE_SAME_16)),
    action(0x10, row(0x9e, "READ CAPACITY(16)", Operation::ReadCapacity16, CAPACITY_16)),
    exempt(row(0xa0, "REPORT LUNS", Operation::ReportLuns, LUNS)),
    action(
        0x0c,
        row(
            0xa3,
            "REPORT SUPPORTED OPERATION CODES",
            Operation::ReportSupportedOperationCodes,
            &[0, 0x0c, 0x87, ALL, ALL, ALL, ALL, ALL, ALL, ALL, 0, CONTROL],
        ),
    ),
    action(
        0x0d,
        row(
            0xa3,
            "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS",
            Operation::ReportSupportedTaskManagementFunctions,
            &[0, 0x0d, 0x80, 0, 0, 0, ALL, ALL, ALL, ALL, 0, CONTROL],
        ),
    ),
    accesses(row(0xa8, "READ(12)", Operation::Read, TRANSFER_12)),
    modifies(row(0xaa, "WRITE(12)", Operation::Write, TRANSFER_12)),
    accesses(row(0xaf, "VERIFY(12)", Operation::Verify, VERIFY_12)),
];

const TRANSFER_6: &[u8] = &[0, 0x1f, ALL, ALL, ALL, CONTROL];

/// RDPROTECT or WRPROTECT, DPO, FUA.
const TRANSFER: u8 = 0xf8;
const TRANSFER_10: &[u8] = &ten(TRANSFER);
const TRANSFER_12: &[u8] = &twelve(TRANSFER);
const TRANSFER_16: &[u8] = &sixteen(TRANSFER);

/// WRPROTECT, ANCHOR, UNMAP, PBDATA, LBDATA; and NDOB.
const WRITE_SAME_10: &[u8] = &ten(0xfe);
const WRITE_SAME_16: &[u8] = &sixteen(0xff);

/// VRPROTECT, DPO, BYTCHK.
const VERIFY: u8 = 0xf6;
const VERIFY_10: &[u8] = &ten(VERIFY);
const VERIFY_12: &[u8] = &twelve(VERIFY);
const VERIFY_16: &[u8] = &sixteen(VERIFY);

const SYNC_10: &[u8] = &ten(0);
const SYNC_16: &[u8] = &sixteen(0);

/// PF, RTD, SP.
const MODE_SELECT_10: &[u8] = &[0, 0x13, 0, 0, 0, 0, 0, ALL, ALL, CONTROL];
/// LLBAA, DBD.
const MODE_SENSE_10: &[u8] = &[0, 0x18, ALL, ALL, 0, 0, 0, ALL, ALL, CONTROL];
const CAPACITY_16: &[u8] = &[0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, ALL, ALL, ALL, ALL, 0, CONTROL];
const LUNS: &[u8] = &[0, 0, ALL, 0, 0, 0, ALL, ALL, ALL, ALL, 0, CONTROL];

/// Options in byte 1, a four-byte LBA, and a two-byte length behind a GROUP NUMBER that is not
/// looked at.
const fn ten(options: u8) -> [u8; 10] {
    [0, options, ALL, ALL, ALL, ALL, 0, ALL, ALL, CONTROL]
}

/// The same with a four-byte length before the GROUP NUMBER.
const fn twelve(options: u8) -> [u8; 12] {
    [0, options, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, 0, CONTROL]
}

/// The same with an eight-byte LBA.
const fn sixteen(options: u8) -> [u8; 16] {
    let [opcode, group_number, lba, len] = [0, 0, ALL, ALL];
    [
        opcode,
        options,
        lba,
        lba,
        lba,
        lba,
        lba,
        lba,
        lba,
        lba,
        len,
        len,
        len,
        len,
        group_number,
        CONTROL,
    ]
}

const fn row(opcode: u8, name: &'static str, operation: Operation, usage: &'static [u8]) -> Opcode {
    Opcode {
        opcode,
        service_action: None,
        name,
        operation,
        usage,
        medium: Medium::Untouched,
        attention_exempt: false,
        alone: false,
    }
}

const fn accesses(row: Opcode) -> Opcode {
    Opcode { medium: Medium::Accessed, ..row }
}

const fn modifies(row: Opcode) -> Opcode {
    Opcode { medium: Medium::Modified, ..row }
}

const fn exempt(row: Opcode) -> Opcode {
    Opcode { attention_exempt: true, ..row }
}

const fn alone(row: Opcode) -> Opcode {
    Opcode { alone: true, ..row }
}

const fn action(service_action: u8, row: Opcode) -> Opcode {
    Opcode { service_action: Some(service_action), ..row }
}

use super::*;
use crate::scsi::opcode::OPCODES;

const UNSUPPORTED: SenseCode = SenseCode::INVALID_COMMAND_OPERATION_CODE;

/// REPORT SUPPORTED OPERATION CODES with these options.
fn report(disk: &Disk, options: u8, opcode: u8, service_action: u8) -> Result<Plan, Sense> {
    plan_of(disk, &[0xa3, 0x0c, options, opcode, 0, service_action, 0, 0, 16, 0, 0, 0])
}

fn one(disk: &Disk, opcode: u8, service_action: u8) -> Vec<u8> {
    match report(disk, 3, opcode, service_action) {
        Ok(Plan::Data { bytes, .. }) => bytes,
        other => panic!("{other:?}"),
    }
}

/// Opcodes and service actions that REPORT SUPPORTED OPERATION CODES lists.
fn listed(disk: &Disk) -> Vec<(u8, Option<u8>)> {
    let list = data_of(disk, &[0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0]);
    let action = |row: &[u8]| (row[5] & 1 != 0).then_some(row[3]);
    list[4..].chunks(8).map(|row| (row[0], action(row))).collect()
}

fn answer(disk: &Disk, opcode: u8, service_action: u8) -> Option<SenseCode> {
    let mut cdb = [0; 32];
    (cdb[0], cdb[1]) = (opcode, service_action);
    plan_of(disk, &cdb).err().map(|sense| sense.code)
}

#[test]
fn what_is_listed_is_what_is_executed() {
    for disk in [disk_of(8), thin_disk_of(8)] {
        let listed = listed(&disk);
        assert_eq!(listed.contains(&(0x42, None)), disk.thin.is_some());
        for opcode in 0..=255 {
            let rows = || listed.iter().filter(|row| row.0 == opcode);
            for service_action in 0..32 {
                let answer = answer(&disk, opcode, service_action);
                let code = match rows().next() {
                    // The target answers it.
                    _ if opcode == 0xa0 => continue,
                    None => UNSUPPORTED,
                    Some((_, None)) => {
                        assert_ne!(answer, Some(UNSUPPORTED), "{opcode:#x}");
                        continue;
                    }
                    Some(_) if rows().any(|row| row.1 == Some(service_action)) => {
                        assert_eq!(answer, None, "{opcode:#x} {service_action:#x}");
                        continue;
                    }
                    Some(_) => SenseCode::INVALID_FIELD_IN_CDB,
                };
                assert_eq!(answer, Some(code), "{opcode:#x} {service_action:#x}");
            }
        }
    }
}

#[test]
fn a_write_protected_disk_lists_the_same() {
    let protected = Disk { read_only: true, ..thin_disk_of(8) };
    assert_eq!(listed(&protected), listed(&thin_disk_of(8)));
}

#[test]
fn each_command_is_reported_by_each_option_that_fits_it() {
    let disk = thin_disk_of(8);
    for row in OPCODES {
        let action = row.service_action.unwrap_or(0);
        let expected = one(&disk, row.opcode, action);
        assert_eq!((expected[1], usize::from(expected[3])), (3, row.usage.len()), "{}", row.name);
        assert_eq!(expected[4], row.opcode);
        let wrong = invalid_field(2, Some(2));
        let reported = |options| report(&disk, options, row.opcode, action);
        let (fits, other) = if row.service_action.is_some() { (2, 1) } else { (1, 2) };
        assert_eq!(reported(other), wrong, "{}", row.name);
        assert!(matches!(reported(fits), Ok(Plan::Data { bytes, .. }) if bytes == expected));
        let with_timeouts = reported(0x83);
        let Ok(Plan::Data { bytes, .. }) = with_timeouts else { panic!() };
        assert_eq!((bytes[1], bytes.len()), (0x83, expected.len() + 12));
    }
}

#[test]
fn other_commands_are_reported_as_not_supported() {
    let disk = disk_of(8);
    for (opcode, action) in [(0x42, 0), (0x5e, 0), (0x9e, 0x12), (0xff, 0), (0x28, 1)] {
        assert_eq!(one(&disk, opcode, action)[..2], [0, 1], "{opcode:#x} {action:#x}");
    }
    for options in [1, 2] {
        let Ok(Plan::Data { bytes, .. }) = report(&disk, options, 0xff, 0) else { panic!() };
        assert_eq!(bytes, [0, 1, 0, 0]);
    }
    for options in 4..8 {
        assert_eq!(report(&disk, options, 0x28, 0), invalid_field(2, Some(2)));
    }
}

#[test]
fn a_service_action_of_two_bytes_is_no_other() {
    let cdb = [0xa3, 0x0c, 3, 0x9e, 1, 0x10, 0, 0, 16, 0, 0, 0];
    assert_eq!(data_of(&disk_of(8), &cdb)[..2], [0, 1]);
}

/// What sd of Linux asks before it zeroes blocks.
#[test]
fn linux_finds_write_same() {
    let disk = disk_of(8);
    assert_eq!(one(&disk, 0x93, 0)[1] & 3, 3);
    assert_eq!(one(&disk, 0x41, 0)[1] & 3, 3);
}

#[test]
fn task_management_functions_are_reported() {
    let report = |options| data(&[0xa3, 0x0d, options, 0, 0, 0, 0, 0, 0, 16, 0, 0]);
    assert_eq!(report(0), [0xdc, 3, 0, 0]);
    assert_eq!(report(0x80).len(), 16);
}

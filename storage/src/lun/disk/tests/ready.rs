use super::*;

const STOPPED: SenseCode = SenseCode::INITIALIZING_COMMAND_REQUIRED;

/// Plans START STOP UNIT with these bytes 3 and 4, and applies what it changes.
fn start_stop(disk: &Disk, modifier: u8, options: u8) -> Result<Plan, Sense> {
    let plan = plan_of(disk, &[0x1b, 0, 0, modifier, options, 0]);
    if let Ok(Plan::Change { change, .. }) = plan {
        disk.state.apply(change);
    }
    plan
}

#[test]
fn a_stopped_disk_refuses_its_medium_and_nothing_else() {
    let disk = thin_disk_of(1000);
    assert!(matches!(start_stop(&disk, 0, 0), Ok(Plan::Change { flush: true, .. })));
    for opcode in [0x00, 0x08, 0x28, 0x2a, 0x2f, 0x35, 0x41, 0x42, 0x88, 0x8a, 0x91, 0x93, 0xa8] {
        assert_eq!(plan_of(&disk, &[opcode]), refused(STOPPED), "{opcode:#x}");
    }
    for cdb in [[0x12, 0], [0x15, 0x10], [0x1a, 0], [0x25, 0], [0x9e, 0x10], [0xa3, 0x0c]] {
        assert_ne!(plan_of(&disk, &cdb), refused(STOPPED), "{cdb:02x?}");
    }
    assert_eq!(data_of(&disk, &[3, 1, 0, 0, 252, 0])[..4], [0x72, 2, 4, 2]);
    assert!(matches!(start_stop(&disk, 0, 1), Ok(Plan::Change { flush: false, .. })));
    assert_eq!(plan_of(&disk, &[0]), Ok(Plan::Good));
}

#[test]
fn a_disk_stops_without_a_flush_if_told_so() {
    let disk = disk_of(8);
    assert!(matches!(start_stop(&disk, 0, 4), Ok(Plan::Change { flush: false, .. })));
    assert_eq!(plan_of(&disk, &[0]), refused(STOPPED));
}

#[test]
fn a_reset_starts_the_disk() {
    let disk = disk_of(8);
    start_stop(&disk, 0, 0).unwrap();
    disk.reset();
    assert_eq!(plan_of(&disk, &[0]), Ok(Plan::Good));
}

#[test]
fn there_are_no_other_power_conditions_and_nothing_to_eject() {
    let disk = disk_of(8);
    for condition in [0x10, 0x20, 0x30, 0x71, 0xa0, 0xb0] {
        assert_eq!(start_stop(&disk, 0, condition), invalid_field(4, Some(7)));
    }
    assert_eq!(start_stop(&disk, 1, 1), invalid_field(3, Some(3)));
    assert_eq!(start_stop(&disk, 0, 2), invalid_field(4, Some(1)));
    assert_eq!(start_stop(&disk, 0, 3), invalid_field(4, Some(1)));
    assert_eq!(plan_of(&disk, &[0]), Ok(Plan::Good));
}

#[test]
fn request_sense_has_both_formats() {
    assert_eq!(data(&[3, 0, 0, 0, 252, 0])[0], 0x70);
    assert_eq!(data(&[3, 1, 0, 0, 252, 0]), [0x72, 0, 0, 0, 0, 0, 0, 0]);
}

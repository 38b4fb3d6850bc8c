//! The policy as a whole.

use super::*;

fn disk(preset: Preset) -> Policy {
    let spec = PolicySpec { preset, ..PolicySpec::default() };
    Policy::new(&spec, false, false, 0)
}

#[test]
fn a_disk_is_read_and_written_and_not_formatted() {
    let policy = disk(Preset::DiskRw);
    assert_eq!(policy.judge(&Cdb::new(&[0x28])), Verdict::Forward);
    assert_eq!(policy.judge(&Cdb::new(&[0x2a])), Verdict::Forward);
    let refused = Verdict::Refuse(SenseCode::INVALID_COMMAND_OPERATION_CODE.into());
    assert_eq!(policy.judge(&Cdb::new(&[0x04])), refused);
}

//! What lists add to a preset and take from it, and what the host takes.

use super::*;

fn with(preset: Preset, allow: &[&str], deny: &[&str], device_type: u8) -> Policy {
    let spec = PolicySpec { preset, allow: patterns(allow), deny: patterns(deny) };
    Policy::new(&spec, false, false, device_type)
}

#[test]
fn what_is_allowed_by_name_is_allowed_whole() {
    let policy = with(Preset::DiskRw, &["write buffer", "Log Sense", "start stop unit"], &[], 0);
    // MODE: download microcode, save and activate.
    assert_eq!(judge(&policy, &[0x3b, 0x05]), Verdict::Forward);
    assert_eq!(judge(&policy, &[0x4d, 0x01]), Verdict::Forward);
    assert_eq!(judge(&policy, &[0x1b]), Verdict::Forward);
    assert_eq!(judge(&policy, &[0x04]), OPCODE);
}

#[test]
fn a_name_allows_its_commands_and_not_its_opcode() {
    assert_eq!(judge(&with(Preset::ReadOnly, &["UNMAP"], &[], 0), &[0x42]), Verdict::Forward);
    let allowing = ["READ SUB-CHANNEL"];
    assert_eq!(judge(&with(Preset::ReadOnly, &allowing, &[], 0), &[0x42]), PROTECTED);
    assert_eq!(judge(&with(Preset::DiskRw, &[], &["UNMAP"], 5), &[0x42]), Verdict::Forward);
    assert_eq!(judge(&with(Preset::DiskRw, &[], &["UNMAP"], 0), &[0x42]), OPCODE);
    assert_eq!(judge(&with(Preset::DiskRw, &[], &["42"], 5), &[0x42]), OPCODE);
}

#[test]
fn service_actions_are_allowed_one_by_one() {
    let policy = with(Preset::DiskRw, &["a4/0a"], &["a3/0a"], 0);
    assert_eq!(judge(&policy, &[0xa4, 0x0a]), Verdict::Forward);
    assert_eq!(judge(&policy, &[0xa4, 0x06]), ACTION);
    assert_eq!(judge(&policy, &[0xa3, 0x0a]), ACTION);
    assert_eq!(judge(&policy, &[0xa3, 0x0c]), Verdict::Forward);
    let unknown = with(Preset::DiskRw, &["a4/1f", "c1/02", "7f/8801"], &[], 0);
    assert_eq!(judge(&unknown, &[0xa4, 0x1f]), Verdict::Forward);
    assert_eq!(judge(&unknown, &[0xa4, 0x0a]), ACTION);
    assert_eq!(judge(&unknown, &[0xc1, 0x02]), Verdict::Forward);
    assert_eq!(judge(&unknown, &[0xc1, 0x03]), ACTION);
    assert_eq!(judge(&unknown, &[0xc2, 0x02]), OPCODE);
    assert_eq!(unknown.judge(&bare(0x7f, Some(0x8801))), Verdict::Forward);
    let modes = with(Preset::DiskRw, &["3c/1c"], &["3c/0a"], 0);
    assert_eq!(judge(&modes, &[0x3c, 0x1c]), Verdict::Forward);
    assert_eq!(judge(&modes, &[0x3c, 0x0a]), ACTION);
    assert_eq!(judge(&modes, &[0x3c, 0x0b]), Verdict::Forward);
}

#[test]
fn ranges_allow_what_nobody_knows() {
    let policy = with(Preset::DiskRw, &["c0-cf"], &[], 0);
    assert_eq!(judge(&policy, &[0xc0]), Verdict::Forward);
    assert_eq!(judge(&policy, &[0xcf]), Verdict::Forward);
    assert_eq!(judge(&policy, &[0xd0]), OPCODE);
}

#[test]
fn denial_wins() {
    let policy = with(Preset::Full, &["c0-ff", "WRITE BUFFER"], &["c8", "3b", "SANITIZE"], 0);
    assert_eq!(judge(&policy, &[0xc8]), OPCODE);
    assert_eq!(judge(&policy, &[0xc9]), Verdict::Forward);
    assert_eq!(judge(&policy, &[0x3b, 0x0a]), OPCODE);
    for action in [1, 2, 3, 0x1f] {
        assert!(matches!(judge(&policy, &[0x48, action]), Verdict::Refuse(_)));
    }
    // What no standard has is not called SANITIZE.
    assert_eq!(judge(&policy, &[0x48, 0x10]), Verdict::Forward);
    assert_eq!(judge(&with(Preset::Full, &[], &["48"], 0), &[0x48, 0x10]), OPCODE);
    assert_eq!(judge(&with(Preset::DiskRw, &[], &["START STOP UNIT"], 0), &[0x1b]), OPCODE);
}

#[test]
fn what_is_always_answered_cannot_be_denied() {
    let policy = with(Preset::Full, &[], &["00-ff"], 0);
    assert_eq!(judge(&policy, &[0xa0]), Verdict::Virtual(Virtual::ReportLuns));
    assert!(matches!(judge(&policy, &[0xa3, 0x0d]), Verdict::Virtual(_)));
    assert_eq!(judge(&policy, &[0xa3, 0x0c]), ACTION);
    assert_eq!(judge(&policy, &[0x12]), OPCODE);
    assert_eq!(judge(&policy, &[0x1b]), OPCODE);
}

#[test]
fn a_write_that_is_allowed_by_name_passes_a_read_only_preset_and_no_read_only_unit() {
    let spec = PolicySpec { allow: patterns(&["UNMAP"]), ..spec(Preset::ReadOnly) };
    let preset = Policy::new(&spec, false, false, 0);
    assert_eq!(judge(&preset, &[0x42]), Verdict::Forward);
    assert!(!preset.write_protected());
    let unit = Policy::new(&spec, true, false, 0);
    assert_eq!(judge(&unit, &[0x42]), PROTECTED);
    assert!(unit.write_protected());
}

#[test]
fn what_the_host_does_not_carry_is_refused() {
    let mut policy = policy(Preset::Cluster, 0);
    policy.withhold(|cdb| {
        ![0x5e, 0x5f, 0x89, 0x1b, 0xa0].contains(&cdb.opcode()) && *cdb != bare(0x95, Some(0x06))
    });
    assert_eq!(judge(&policy, &[0x5f, 0x01]), OPCODE);
    assert_eq!(judge(&policy, &[0x89]), OPCODE);
    assert_eq!(judge(&policy, &[0x95, 0x06]), ACTION);
    assert_eq!(judge(&policy, &[0x95, 0x00]), Verdict::Forward);
    assert_eq!(judge(&policy, &[0x28]), Verdict::Forward);
    // These are not the host's to carry.
    assert_eq!(judge(&policy, &[0x1b]), Verdict::Virtual(Virtual::StartStopUnit));
    assert_eq!(judge(&policy, &[0xa0]), Verdict::Virtual(Virtual::ReportLuns));
}

#[test]
fn a_person_reads_what_becomes_of_each_command() {
    let policy = policy(Preset::DiskRw, 0);
    let standing = |name: &str| {
        let found = policy.explain().find(|explained| explained.command.name == name);
        found.map(|explained| explained.standing.to_string()).unwrap()
    };
    assert_eq!(standing("READ(10)"), "forwarded");
    assert_eq!(standing("LOG SENSE"), "forwarded without SP and PPC");
    assert_eq!(standing("START STOP UNIT"), "answered by the VMM");
    assert_eq!(standing("FORMAT UNIT"), "refused");
    let protected = super::policy(Preset::ReadOnly, 0);
    let write = protected.explain().find(|explained| explained.command.opcode == 0x2a).unwrap();
    assert_eq!(write.standing.to_string(), "refused, write-protected");
}

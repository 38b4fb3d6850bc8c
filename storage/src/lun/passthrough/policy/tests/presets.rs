//! What disks' presets allow, as the contract says it, and what no preset may do.

use super::*;
use crate::scsi::command::{Command, Effect, Purpose};

const DISKS: [u8; 2] = [0x00, 0x14];

/// An opcode without service actions, and one with.
type Code = (u8, Option<u16>);

const fn plain(opcode: u8) -> Code {
    (opcode, None)
}

const fn action(opcode: u8, action: u16) -> Code {
    (opcode, Some(action))
}

/// What `read-only` forwards to a disk as a bare CDB.
const READING: [Code; 39] = [
    plain(0x00), // TEST UNIT READY
    plain(0x03), // REQUEST SENSE
    plain(0x12), // INQUIRY
    plain(0x1a), // MODE SENSE
    plain(0x5a),
    plain(0x4d), // LOG SENSE
    plain(0x25), // READ CAPACITY
    action(0x9e, 0x10),
    plain(0x08), // READ
    plain(0x28),
    plain(0xa8),
    plain(0x88),
    action(0x7f, 0x09),
    plain(0x2f), // VERIFY
    plain(0xaf),
    plain(0x8f),
    action(0x7f, 0x0a),
    plain(0x34), // PRE-FETCH
    plain(0x90),
    plain(0x37), // READ DEFECT DATA
    plain(0xb7),
    action(0x9e, 0x12), // GET LBA STATUS
    action(0x7f, 0x12),
    action(0x9e, 0x13), // REPORT REFERRALS
    action(0x9e, 0x16), // GET STREAM STATUS
    action(0x9e, 0x17), // GET PHYSICAL ELEMENT STATUS
    action(0x95, 0x00), // REPORT ZONES, REALMS, ZONE DOMAINS, and ZONE QUERY
    action(0x95, 0x06),
    action(0x95, 0x07),
    action(0x95, 0x09),
    action(0xa3, 0x0a), // REPORT TARGET PORT GROUPS
    action(0xa3, 0x0c), // REPORT SUPPORTED OPERATION CODES
    action(0xa3, 0x1d), // REPORT PROVISIONING INITIALIZATION PATTERN
    action(0x3c, 0x03), // READ BUFFER of descriptors and the echo buffer
    action(0x3c, 0x0a),
    action(0x3c, 0x0b),
    action(0x9b, 0x03),
    action(0x9b, 0x0a),
    action(0x9b, 0x0b),
];

/// What `disk-rw` forwards besides that, and modifies the medium.
const WRITING: [Code; 27] = [
    plain(0x0a), // WRITE
    plain(0x2a),
    plain(0xaa),
    plain(0x8a),
    action(0x7f, 0x0b),
    plain(0x2e), // WRITE AND VERIFY
    plain(0xae),
    plain(0x8e),
    action(0x7f, 0x0c),
    plain(0x41), // WRITE SAME
    plain(0x93),
    action(0x7f, 0x0d),
    plain(0x42), // UNMAP
    plain(0x8b), // ORWRITE
    action(0x7f, 0x0e),
    plain(0x9c), // WRITE ATOMIC
    action(0x7f, 0x0f),
    plain(0x9a), // WRITE STREAM
    action(0x7f, 0x10),
    action(0x9f, 0x12), // WRITE SCATTERED
    action(0x7f, 0x11),
    action(0x94, 0x01), // ZBC OUT
    action(0x94, 0x02),
    action(0x94, 0x03),
    action(0x94, 0x04),
    action(0x94, 0x10),
    action(0x3b, 0x0a), // WRITE BUFFER of the echo buffer
];

/// What `disk-rw` forwards besides that, and modifies nothing.
const FLUSHING: [Code; 2] = [plain(0x35), plain(0x91)];

/// What `cluster` forwards besides that.
const SHARING: [Code; 13] = [
    action(0x5e, 0x00),
    action(0x5e, 0x01),
    action(0x5e, 0x02),
    action(0x5e, 0x03),
    action(0x5f, 0x00),
    action(0x5f, 0x01),
    action(0x5f, 0x02),
    action(0x5f, 0x03),
    action(0x5f, 0x04),
    action(0x5f, 0x05),
    action(0x5f, 0x06),
    action(0x5f, 0x08),
    plain(0x89),
];

/// Every opcode of the disks with every service action that its opcode could have.
fn codes() -> impl Iterator<Item = Code> {
    let fixed = (0..=u8::MAX).filter(|opcode| *opcode != 0x7f);
    let fixed = fixed.flat_map(|opcode| (0..0x20).map(move |action| (opcode, Some(action))));
    let variable = (0..=0xffff).map(|action| (0x7f, Some(action)));
    fixed.chain(variable)
}

fn forwards(policy: &Policy, code: Code) -> bool {
    policy.judge(&bare(code.0, code.1)) == Verdict::Forward
}

/// Whether `codes` has this one; of an opcode without service actions, any.
fn has(codes: &[&[Code]], (opcode, action): Code) -> bool {
    codes
        .concat()
        .iter()
        .any(|(of, wanted)| *of == opcode && (wanted.is_none() || *wanted == action))
}

#[test]
fn disks_are_sent_what_the_contract_says_and_nothing_else() {
    // These have their own rules for what stands where others have a service action.
    let fielded = |(opcode, _): Code| [0x1c, 0x1d, 0x4d].contains(&opcode);
    let allowed: [(Preset, &[&[Code]]); 3] = [
        (Preset::ReadOnly, &[&READING]),
        (Preset::DiskRw, &[&READING, &WRITING, &FLUSHING]),
        (Preset::Cluster, &[&READING, &WRITING, &FLUSHING, &SHARING]),
    ];
    for device_type in DISKS {
        for (preset, allowed) in allowed {
            let policy = policy(preset, device_type);
            for code in codes().filter(|code| !fielded(*code)) {
                let wanted = has(allowed, code);
                assert_eq!(forwards(&policy, code), wanted, "{preset:?} {code:02x?}");
            }
        }
    }
}

#[test]
fn a_read_only_preset_refuses_writes_as_on_a_protected_medium() {
    for device_type in DISKS {
        let policy = policy(Preset::ReadOnly, device_type);
        for (opcode, action) in WRITING.into_iter().filter(|(opcode, _)| *opcode != 0x3b) {
            assert_eq!(policy.judge(&bare(opcode, action)), PROTECTED, "{opcode:02x}");
        }
        assert!(policy.write_protected());
        assert_eq!(judge(&policy, &[0x35]), OPCODE);
        assert_eq!(judge(&policy, &[0x89]), OPCODE);
    }
}

#[test]
fn what_only_full_allows_a_disk() {
    let named: [&[u8]; 17] = [
        &[0x83, 0x01],
        &[0x84, 0x05],
        &[0xa4, 0x0a],
        &[0x86],
        &[0x87],
        &[0x15],
        &[0x55],
        &[0x4c],
        &[0x04],
        &[0x48, 0x01],
        &[0xa2],
        &[0xb5],
        &[0x85],
        &[0xa1],
        &[0x16],
        &[0x56],
        &[0x07],
    ];
    for device_type in DISKS {
        let (cluster, full) =
            (policy(Preset::Cluster, device_type), policy(Preset::Full, device_type));
        for cdb in named {
            assert_eq!(judge(&cluster, cdb), OPCODE, "{cdb:02x?}");
            assert_eq!(judge(&full, cdb), Verdict::Forward, "{cdb:02x?}");
        }
        for opcode in 0xc0..=0xff {
            assert_eq!(judge(&cluster, &[opcode]), OPCODE);
            assert_eq!(judge(&full, &[opcode]), Verdict::Forward);
        }
        let ata = bare(0x7f, Some(0x1ff0));
        let refused = Verdict::Refuse(Sense::invalid_field(8, None));
        assert_eq!((cluster.judge(&ata), full.judge(&ata)), (refused, Verdict::Forward));
    }
}

#[test]
fn disks_are_stopped_and_started_in_appearance() {
    for device_type in DISKS {
        for preset in [Preset::DiskRw, Preset::Cluster] {
            let verdict = judge(&policy(preset, device_type), &[0x1b, 0, 0, 0, 1]);
            assert_eq!(verdict, Verdict::Virtual(Virtual::StartStopUnit));
        }
        assert_eq!(judge(&policy(Preset::ReadOnly, device_type), &[0x1b]), OPCODE);
        assert_eq!(judge(&policy(Preset::Full, device_type), &[0x1b]), Verdict::Forward);
    }
    // Whoever has a disc in a drive may take it out.
    assert_eq!(judge(&policy(Preset::DiskRw, 0x05), &[0x1b]), Verdict::Forward);
}

#[test]
fn logical_units_and_task_management_are_the_guests_own_everywhere() {
    for device_type in 0..0x20 {
        for preset in PRESETS {
            let policy = policy(preset, device_type);
            assert_eq!(judge(&policy, &[0xa0]), Verdict::Virtual(Virtual::ReportLuns));
            if device_type != 0x05 {
                let functions = Virtual::ReportSupportedTaskManagementFunctions;
                assert_eq!(judge(&policy, &[0xa3, 0x0d]), Verdict::Virtual(functions));
            }
        }
    }
}

#[test]
fn read_only_holds_for_every_modifying_command_of_every_type() {
    let every = patterns(&["00-ff"]);
    for device_type in 0..0x20 {
        for preset in PRESETS {
            let allowing = PolicySpec { allow: every.clone(), ..spec(preset) };
            let policy = Policy::new(&allowing, true, false, device_type);
            assert!(policy.write_protected());
            for command in Command::of_type(device_type).filter(|command| command.effect.modifies())
            {
                let wanted = if command.purpose == Purpose::Never { None } else { Some(PROTECTED) };
                let verdict = policy.judge(&bare(command.opcode, command.service_action));
                assert!(wanted.is_none_or(|wanted| verdict == wanted), "{}", command.name);
                assert!(matches!(verdict, Verdict::Refuse(_)), "{}", command.name);
            }
            // Nobody knows what an unknown command does.
            let unknown = (0..=u8::MAX)
                .filter(|opcode| Command::of_opcode(device_type, *opcode).next().is_none());
            for opcode in unknown.filter(|opcode| *opcode != 0x7f) {
                assert_eq!(judge(&policy, &[opcode]), PROTECTED, "{opcode:02x}");
            }
        }
    }
}

#[test]
fn reservations_do_not_modify_the_medium() {
    for (preset, wanted) in [(Preset::DiskRw, OPCODE), (Preset::Cluster, Verdict::Forward)] {
        let policy = Policy::new(&spec(preset), true, false, 0);
        assert_eq!(judge(&policy, &[0x5f, 0x01]), wanted);
    }
}

#[test]
fn a_read_only_unit_saves_no_parameters() {
    let allowing = PolicySpec { allow: patterns(&["LOG SENSE"]), ..spec(Preset::Full) };
    let policy = Policy::new(&allowing, true, false, 0);
    assert_eq!(judge(&policy, &[0x4d]), Verdict::Forward);
    let refused = Verdict::Refuse(Sense::invalid_field(1, Some(0)));
    assert_eq!(judge(&policy, &[0x4d, 0x01]), refused);
}

#[test]
fn a_shared_nexus_reserves_nothing() {
    let allow = patterns(&["PERSISTENT RESERVE OUT", "5f/07", "RESERVE(6)", "00-ff"]);
    for device_type in 0..0x20 {
        for preset in PRESETS {
            let spec = PolicySpec { allow: allow.clone(), ..spec(preset) };
            let policy = Policy::new(&spec, false, true, device_type);
            for action in 0..0x20 {
                assert_eq!(judge(&policy, &[0x5f, action]), OPCODE);
            }
            for command in Command::of_type(device_type) {
                if command.effect == Effect::Reservations {
                    let verdict = policy.judge(&bare(command.opcode, command.service_action));
                    assert_eq!(verdict, OPCODE, "{}", command.name);
                }
            }
            assert_eq!(judge(&policy, &[0x5e, 0x00]), Verdict::Forward);
        }
    }
}

#[test]
fn nothing_is_forwarded_that_no_host_carries_or_nobody_can_look_into() {
    for device_type in 0..0x20 {
        let allow = patterns(&["00-ff", "9d", "7e", "7f/07", "XDWRITEREAD(32)"]);
        let policy =
            Policy::new(&PolicySpec { allow, ..spec(Preset::Full) }, false, false, device_type);
        assert_eq!((judge(&policy, &[0x9d]), judge(&policy, &[0x7e])), (OPCODE, OPCODE));
    }
    let full = policy(Preset::Full, 0);
    assert_eq!(judge(&full, &[0x53]), OPCODE);
    let action = Verdict::Refuse(Sense::invalid_field(8, None));
    assert_eq!(full.judge(&bare(0x7f, Some(0x07))), action);
}

/// Byte 0 of INQUIRY data has a qualifier beside the type.
#[test]
fn the_peripheral_qualifier_is_not_part_of_the_type() {
    assert_eq!(
        judge(&policy(Preset::DiskRw, 0x25), &[0x42]),
        judge(&policy(Preset::DiskRw, 5), &[0x42])
    );
    let disk = judge(&policy(Preset::ReadOnly, 0x20), &[0x42]);
    assert_eq!(disk, PROTECTED);
}

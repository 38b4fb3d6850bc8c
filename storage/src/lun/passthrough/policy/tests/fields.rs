//! Fields that decide.

use super::*;
use crate::scsi::command::{Command, control_offset};
use proptest::prelude::*;

fn refused(byte: u16, bit: u8) -> Verdict {
    Verdict::Refuse(Sense::invalid_field(byte, Some(bit)))
}

fn refused_byte(byte: u16) -> Verdict {
    Verdict::Refuse(Sense::invalid_field(byte, None))
}

/// Each CDB below `full`, and what becomes of it; with `full` it is forwarded.
fn below_full(device_type: u8, cases: &[(&[u8], Verdict)]) {
    for (cdb, verdict) in cases {
        assert_eq!(judge(&policy(Preset::Cluster, device_type), cdb), *verdict, "{cdb:02x?}");
        assert_eq!(judge(&policy(Preset::Full, device_type), cdb), Verdict::Forward, "{cdb:02x?}");
    }
}

#[test]
fn logs_are_read_and_not_saved() {
    below_full(
        0,
        &[
            (&[0x4d, 0, 0x4d, 0xff, 0, 0, 0, 0xff, 0xff, 0], Verdict::Forward),
            (&[0x4d, 0x01], refused(1, 0)),
            (&[0x4d, 0x02], refused(1, 1)),
        ],
    );
}

#[test]
fn mode_pages_are_read_whether_current_or_saved() {
    for page_control in [0x00, 0x40, 0x80, 0xc0] {
        assert_eq!(
            judge(&policy(Preset::ReadOnly, 0), &[0x5a, 0x08, page_control | 0x3f]),
            Verdict::Forward
        );
    }
}

#[test]
fn modes_are_set_where_they_are_the_users_own_and_not_saved() {
    for device_type in [1, 5] {
        below_full(
            device_type,
            &[
                (&[0x15, 0x10], Verdict::Forward),
                (&[0x55, 0x10], Verdict::Forward),
                (&[0x15, 0x11], refused(1, 0)),
                (&[0x55, 0x11], refused(1, 0)),
            ],
        );
    }
}

#[test]
fn diagnostic_pages_are_listed_and_read_only_from_an_enclosure() {
    below_full(
        0,
        &[
            (&[0x1c, 0x01, 0, 0xff, 0xff], Verdict::Forward),
            (&[0x1c, 0x00], refused(1, 0)),
            (&[0x1c, 0x01, 0x02], refused_byte(2)),
        ],
    );
    let enclosure = policy(Preset::ReadOnly, 0x0d);
    assert_eq!(judge(&enclosure, &[0x1c, 0x01, 0x02]), Verdict::Forward);
}

#[test]
fn only_the_default_self_test_is_run() {
    for device_type in [0, 0x0d] {
        below_full(
            device_type,
            &[
                (&[0x1d, 0x04], Verdict::Forward),
                (&[0x1d, 0x14], Verdict::Forward),
                (&[0x1d, 0x00], refused(1, 2)),
                (&[0x1d, 0x24], refused(1, 7)),
                (&[0x1d, 0xc0], refused(1, 7)),
                (&[0x1d, 0x05], refused(1, 0)),
                (&[0x1d, 0x06], refused(1, 1)),
                (&[0x1d, 0x10, 0, 0, 4], refused(1, 2)),
                (&[0x1d, 0x04, 0, 0, 4], refused_byte(3)),
                (&[0x1d, 0x04, 0, 1, 0], refused_byte(3)),
            ],
        );
    }
    assert_eq!(judge(&policy(Preset::ReadOnly, 0), &[0x1d, 0x04]), OPCODE);
}

#[test]
fn buffers_are_the_echo_buffer() {
    for mode in 0..0x20 {
        let written = if mode == 0x0a { Verdict::Forward } else { refused(1, 4) };
        let read =
            if [0x03, 0x0a, 0x0b].contains(&mode) { Verdict::Forward } else { refused(1, 4) };
        below_full(0, &[(&[0x3b, mode], written), (&[0x3c, mode], read), (&[0x9b, mode], read)]);
    }
    // MODE SPECIFIC stands beside it.
    below_full(0, &[(&[0x3b, 0xea], Verdict::Forward)]);
}

#[test]
fn an_initiator_registers_itself() {
    let cluster = policy(Preset::Cluster, 0);
    assert_eq!(judge(&cluster, &[0x5f, 0x07]), ACTION);
    let register = Cdb::new(&[0x5f, 0x00, 0, 0, 0, 0, 0, 0, 24, 0]);
    assert!(cluster.judges_parameters(&register));
    let mut parameters = [0; 24];
    parameters[20] = 0x05;
    assert_eq!(cluster.judge_parameters(&register, &parameters), Ok(()));
    parameters[20] = 0x08;
    let refused = Err(Sense::invalid_parameter(20, Some(3)));
    assert_eq!(cluster.judge_parameters(&register, &parameters), refused);
    assert_eq!(cluster.judge_parameters(&register, &parameters[..20]), Ok(()));
    let full = policy(Preset::Full, 0);
    assert!(!full.judges_parameters(&register));
    assert_eq!(full.judge_parameters(&register, &parameters), Ok(()));
    // A REGISTER AND MOVE that is allowed has another parameter list.
    let spec = PolicySpec { allow: patterns(&["5f/07"]), ..spec(Preset::Cluster) };
    let moving = Policy::new(&spec, false, false, 0);
    let moves = Cdb::new(&[0x5f, 0x07]);
    assert_eq!(moving.judge(&moves), Verdict::Forward);
    assert_eq!(moving.judge_parameters(&moves, &parameters), Ok(()));
    assert_eq!(moving.judge_parameters(&register, &parameters), refused);
}

#[test]
fn only_gaps_are_erased() {
    for opcode in [0x19, 0x93] {
        below_full(1, &[(&[opcode], Verdict::Forward), (&[opcode, 0x02], Verdict::Forward)]);
        below_full(1, &[(&[opcode, 0x01], refused(1, 0))]);
    }
}

#[test]
fn a_drive_keeps_its_region() {
    let mut cdb = [0xa3, 0, 0, 0, 0, 0, 0, 0, 0, 12, 0xc6, 0];
    below_full(5, &[(&cdb, refused(10, 5))]);
    cdb[10] = 0xc1;
    below_full(5, &[(&cdb, Verdict::Forward)]);
}

#[test]
fn there_is_no_aca_and_no_link_wherever_the_control_byte_is() {
    for device_type in 0..0x20 {
        let policy = policy(Preset::Full, device_type);
        for command in Command::of_type(device_type) {
            let Some(control) = control_offset(command.opcode) else { continue };
            let bare = bare(command.opcode, command.service_action);
            if matches!(policy.judge(&bare), Verdict::Refuse(_)) {
                continue;
            }
            for bit in [0, 2] {
                let mut cdb = bare;
                cdb.0[usize::from(control)] |= 1 << bit;
                assert_eq!(policy.judge(&cdb), refused(control.into(), bit), "{}", command.name);
            }
            let mut cdb = bare;
            cdb.0[usize::from(control)] |= 0xfa & !0x02;
            assert_eq!(policy.judge(&cdb), policy.judge(&bare), "{}", command.name);
        }
    }
    assert_eq!(control_offset(0x7f), Some(1));
    assert_eq!(
        [0x12, 0x28, 0xa8, 0x88].map(control_offset),
        [Some(5), Some(9), Some(11), Some(15)]
    );
}

#[test]
fn protection_information_passes() {
    for cdb in [[0x28, 0xe0], [0x2a, 0x20], [0x88, 0x60], [0x2f, 0xa0]] {
        assert_eq!(judge(&policy(Preset::DiskRw, 0), &cdb), Verdict::Forward);
    }
}

#[test]
fn cdbs_of_variable_length_have_32_bytes() {
    for preset in [Preset::DiskRw, Preset::Full] {
        for (additional, wanted) in
            [(0x18, Verdict::Forward), (0x00, refused_byte(7)), (0xc0, refused_byte(7))]
        {
            let cdb = [0x7f, 0, 0, 0, 0, 0, 0, additional, 0, 0x09];
            assert_eq!(judge(&policy(preset, 0), &cdb), wanted);
        }
    }
    let unknown = Cdb::new(&[0x7f, 0, 0, 0, 0, 0, 0, 0x18, 0x88, 0x01]);
    assert_eq!(policy(Preset::Cluster, 0).judge(&unknown), refused_byte(8));
    assert_eq!(policy(Preset::Full, 0).judge(&unknown), Verdict::Forward);
}

/// A policy, whether it is for a read-only logical unit, and the device type.
fn any_policy() -> impl Strategy<Value = (Policy, bool, u8)> {
    let pattern = prop_oneof![
        any::<u8>().prop_map(|opcode| format!("{opcode:02x}")),
        (any::<u8>(), 0..0x20).prop_map(|(opcode, action)| format!("{opcode:02x}/{action:02x}")),
        (any::<u8>(), any::<u8>()).prop_map(|(a, b)| format!("{:02x}-{:02x}", a.min(b), a.max(b))),
        Just("LOG SENSE".to_string()),
        Just("PERSISTENT RESERVE OUT".to_string()),
    ];
    let list = prop::collection::vec(pattern, 0..3)
        .prop_map(|texts| texts.iter().map(|text| text.parse().unwrap()).collect());
    let preset = prop::sample::select(PRESETS.to_vec());
    (preset, list.clone(), list, any::<bool>(), any::<bool>(), 0..0x20_u8).prop_map(
        |(preset, allow, deny, read_only, shared_nexus, device_type)| {
            let spec = PolicySpec { preset, allow, deny };
            (Policy::new(&spec, read_only, shared_nexus, device_type), read_only, device_type)
        },
    )
}

/// Whether `cdb` leaves everything as it is.
fn is_harmless(device_type: u8, cdb: &Cdb) -> bool {
    const OF_THEIR_FIELDS: [u8; 3] = [0x1d, 0x3b, 0xa3];
    Command::find(device_type, cdb).is_some_and(|command| {
        !command.effect.modifies() || OF_THEIR_FIELDS.contains(&command.opcode)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn no_cdb_panics_and_none_passes_with_naca_or_modifies_what_is_read_only(
        (policy, read_only, device_type) in any_policy(),
        cdb in prop::array::uniform32(any::<u8>()),
        parameters in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let cdb = Cdb(cdb);
        let _ = policy.judge_parameters(&cdb, &parameters);
        if policy.judge(&cdb) == Verdict::Forward {
            let control = control_offset(cdb.opcode()).map_or(0, |offset| cdb.u8(offset.into()));
            prop_assert_eq!(control & 0x05, 0);
            prop_assert!(!read_only || is_harmless(device_type, &cdb));
        }
    }
}

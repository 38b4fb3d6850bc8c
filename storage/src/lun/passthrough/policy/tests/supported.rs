//! REPORT SUPPORTED OPERATION CODES.

use super::*;
use crate::scsi::command::Command;
use proptest::prelude::*;

const RCTD: u8 = 0x80;

fn ask(options: u8, opcode: u8, action: u16) -> Cdb {
    let [high, low] = action.to_be_bytes();
    Cdb::new(&[0xa3, 0x0c, options, opcode, high, low, 0, 0, 0xff, 0xff, 0, 0])
}

fn descriptor(opcode: u8, action: Option<u16>, timeouts: bool) -> Vec<u8> {
    let [high, low] = action.unwrap_or(0).to_be_bytes();
    let flags = u8::from(action.is_some()) | u8::from(timeouts) << 1;
    let mut bytes = vec![opcode, 0, high, low, 0, flags, 0, 10];
    if timeouts {
        bytes.extend([0, 10, 0, 0, 0, 0, 0, 7, 0, 0, 0, 9]);
    }
    bytes
}

fn list(descriptors: &[Vec<u8>]) -> Vec<u8> {
    let body = descriptors.concat();
    let len = u32::try_from(body.len()).unwrap();
    [len.to_be_bytes().to_vec(), body].concat()
}

fn filtered(policy: &Policy, cdb: &Cdb, data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    policy.filter_supported(cdb, &mut data);
    data
}

/// What a list lists.
fn codes(data: &[u8]) -> Vec<(u8, Option<u16>)> {
    let len = u32::from_be_bytes(data[..4].try_into().unwrap());
    assert_eq!(usize::try_from(len).unwrap(), data.len() - 4);
    let mut rest = &data[4..];
    let mut codes = Vec::new();
    while !rest.is_empty() {
        let action = u16::from_be_bytes([rest[2], rest[3]]);
        codes.push((rest[0], (rest[5] & 1 != 0).then_some(action)));
        rest = &rest[if rest[5] & 2 != 0 { 20 } else { 8 }..];
    }
    codes
}

/// What the VMM answers for a disk that it does not stop.
const OURS: [(u8, Option<u16>); 3] = [(0x1b, None), (0xa0, None), (0xa3, Some(0x0d))];

#[test]
fn what_is_refused_is_not_listed_and_what_is_answered_here_is() {
    let policy = policy(Preset::DiskRw, 0);
    for timeouts in [false, true] {
        let options = if timeouts { RCTD } else { 0 };
        let row = |opcode, action| descriptor(opcode, action, timeouts);
        let said = list(&[
            row(0x28, None),
            row(0x04, None),
            row(0xa0, None),
            row(0x5f, Some(0x01)),
            row(0x9e, Some(0x10)),
            row(0x9e, Some(0x18)),
            row(0xc1, None),
        ]);
        let told = filtered(&policy, &ask(options, 0, 0), &said);
        let wanted = [&[(0x28, None), (0x9e, Some(0x10))], &OURS[..]].concat();
        assert_eq!(codes(&told), wanted);
        let kept = [row(0x28, None), row(0x9e, Some(0x10))].concat();
        assert_eq!(told[4..4 + kept.len()], kept);
        let each = if timeouts { 20 } else { 8 };
        assert_eq!(told.len(), 4 + 5 * each);
    }
}

#[test]
fn what_is_only_protected_is_listed() {
    let policy = policy(Preset::ReadOnly, 0);
    let said = list(&[descriptor(0x2a, None, false), descriptor(0x42, None, false)]);
    let told = filtered(&policy, &ask(0, 0, 0), &said);
    let wanted = [(0x2a, None), (0x42, None), (0xa0, None), (0xa3, Some(0x0d))];
    assert_eq!(codes(&told), wanted);
}

#[test]
fn an_opcode_without_its_service_actions_is_listed_if_any_is_allowed() {
    let policy = policy(Preset::DiskRw, 0);
    let said = list(&[descriptor(0x9e, None, false), descriptor(0xa4, None, false)]);
    let told = filtered(&policy, &ask(0, 0, 0), &said);
    assert_eq!(codes(&told)[0], (0x9e, None));
    assert_eq!(codes(&told)[1..], OURS);
}

#[test]
fn modes_are_listed_as_they_are_allowed() {
    let policy = policy(Preset::DiskRw, 0);
    let modes = [0x02, 0x03, 0x0a, 0x1c].map(|mode| descriptor(0x3c, Some(mode), false));
    let told = filtered(&policy, &ask(0, 0, 0), &list(&modes));
    assert_eq!(codes(&told)[..2], [(0x3c, Some(0x03)), (0x3c, Some(0x0a))]);
    assert_eq!(codes(&told)[2..], OURS);
}

#[test]
fn one_command_is_told_as_it_is_judged() {
    let policy = policy(Preset::DiskRw, 0);
    let said = [0, 0x83, 0, 10, 0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let not_supported = [0, 1, 0, 0];
    for (options, opcode, action, kept) in [
        (0b001, 0x28, 0, true),
        (0b001, 0x04, 0, false),
        (0b001, 0xc1, 0, false),
        (0b010, 0x9e, 0x10, true),
        (0b010, 0x9e, 0x18, false),
        (0b010, 0xa4, 0x0a, false),
        (0b010, 0x7f, 0x000b, true),
        (0b010, 0x7f, 0x1ff0, false),
        (0b011, 0x28, 0, true),
        (0b011, 0x48, 0x01, false),
        (0b011, 0x3c, 0x1c, false),
    ] {
        let told = filtered(&policy, &ask(options, opcode, action), &said);
        let wanted = if kept { &said[..] } else { &not_supported };
        assert_eq!(told, wanted, "{options:03b} {opcode:02x}/{action:02x}");
    }
}

#[test]
fn what_is_answered_here_is_told_by_us() {
    let policy = policy(Preset::DiskRw, 0);
    let refused = [0, 1, 0, 0];
    for (cdb, opcode) in [
        (ask(0b001, 0x1b, 0), 0x1b),
        (ask(0b001, 0xa0, 0), 0xa0),
        (ask(0b010, 0xa3, 0x0d), 0xa3),
        (ask(0b011, 0xa3, 0x0d), 0xa3),
    ] {
        let told = filtered(&policy, &cdb, &refused);
        assert_eq!((told[1], told[4]), (3, opcode));
        assert_eq!(usize::from(told[3]), told.len() - 4);
    }
    let with_timeouts = filtered(&policy, &ask(RCTD | 0b001, 0x1b, 0), &refused);
    assert_eq!((with_timeouts[1], with_timeouts.len()), (0x83, 4 + 6 + 12));
}

#[test]
fn damaged_data_is_cut_to_what_is_whole() {
    let policy = policy(Preset::DiskRw, 0);
    let whole = list(&[descriptor(0x28, None, true), descriptor(0x2a, None, false)]);
    let ours = OURS.to_vec();
    for (len, wanted) in [
        (0, vec![]),
        (3, vec![]),
        (4, vec![]),
        (11, vec![]),
        (23, vec![]),
        (24, vec![(0x28, None)]),
        (31, vec![(0x28, None)]),
        (32, vec![(0x28, None), (0x2a, None)]),
    ] {
        let told = filtered(&policy, &ask(0, 0, 0), &whole[..len]);
        assert_eq!(codes(&told), [wanted, ours.clone()].concat(), "{len} bytes");
    }
    let mut lying = whole.clone();
    lying[..4].copy_from_slice(&u32::MAX.to_be_bytes());
    assert_eq!(codes(&filtered(&policy, &ask(0, 0, 0), &lying)).len(), 5);
    lying[..4].copy_from_slice(&20_u32.to_be_bytes());
    assert_eq!(codes(&filtered(&policy, &ask(0, 0, 0), &lying)).len(), 4);
}

#[test]
fn another_command_is_left_alone() {
    let data = list(&[descriptor(0x04, None, false)]);
    let policy = policy(Preset::DiskRw, 0);
    for cdb in [[0xa3, 0x0a], [0x12, 0x0c]] {
        assert_eq!(filtered(&policy, &Cdb::new(&cdb), &data), data);
    }
}

#[test]
fn whatever_a_device_lists_is_listed_as_it_is_judged() {
    for device_type in (0..0x20).filter(|device_type| *device_type != 0x05) {
        let every: Vec<_> = Command::of_type(device_type)
            .map(|command| descriptor(command.opcode, command.service_action, false))
            .collect();
        for preset in PRESETS {
            let policy = policy(preset, device_type);
            let told = codes(&filtered(&policy, &ask(0, 0, 0), &list(&every)));
            for command in Command::of_type(device_type) {
                let code = (command.opcode, command.service_action);
                let listed = told.iter().filter(|told| **told == code).count();
                let wanted = usize::from(is_supported(&policy, code));
                assert_eq!(listed, wanted, "{} {preset:?}", command.name);
            }
        }
    }
}

/// Whether some CDB of the command is not refused as unknown.
fn is_supported(policy: &Policy, (opcode, action): (u8, Option<u16>)) -> bool {
    let last = if opcode == 0x7f { 0x1fff } else { 0x1f };
    let actions = action.map_or(0..=last, |action| action..=action);
    let variable = Verdict::Refuse(Sense::invalid_field(8, None));
    actions
        .into_iter()
        .map(|action| policy.judge(&bare(opcode, Some(action))))
        .any(|verdict| verdict != OPCODE && verdict != ACTION && verdict != variable)
}

proptest! {
    #[test]
    fn no_data_panics_and_lists_stay_consistent(
        options in any::<u8>(),
        opcode in any::<u8>(),
        action in any::<u16>(),
        data in prop::collection::vec(any::<u8>(), 0..200),
        preset in prop::sample::select(PRESETS.to_vec()),
        device_type in 0..0x20_u8,
    ) {
        let policy = policy(preset, device_type);
        let told = filtered(&policy, &ask(options, opcode, action), &data);
        if options & 7 == 0 {
            for code in codes(&told) {
                prop_assert!(is_supported(&policy, code), "{:02x?}", code);
            }
        }
    }

    #[test]
    fn lists_agree_with_verdicts(
        said in prop::collection::vec((any::<u8>(), prop::option::of(0..0x20_u16), any::<bool>()), 0..40),
        preset in prop::sample::select(PRESETS.to_vec()),
        device_type in 0..0x20_u8,
    ) {
        let policy = policy(preset, device_type);
        let rows: Vec<_> =
            said.iter().map(|(opcode, action, timeouts)| descriptor(*opcode, *action, *timeouts)).collect();
        let told = codes(&filtered(&policy, &ask(0, 0, 0), &list(&rows)));
        for (opcode, action, _) in said.iter().filter(|(_, action, _)| action.is_some()) {
            let code = (*opcode, *action);
            // What is answered here is listed in our own way.
            let plain = (*opcode, None);
            let ours = OURS.contains(&plain) && told.contains(&plain);
            let listed = told.contains(&code) || ours;
            prop_assert_eq!(listed, is_supported(&policy, code), "{:02x?}", code);
        }
    }
}

//! Every opcode to every device type under every preset, as it is written down in `golden/`.
//!
//! `VMM_BLESS=1` writes what the policy does now; what that changes is to be read line by line.

use std::fmt::Write;
use std::path::Path;

use super::*;
use crate::scsi::command::{Command, VARIABLE_LENGTH};

/// Types, and the files that tell what is done for them.
const FILES: [(&str, &[u8]); 11] = [
    ("disk", &[0x00, 0x14]),
    ("tape", &[0x01]),
    ("printer", &[0x02]),
    ("cd", &[0x05]),
    ("optical", &[0x04, 0x07]),
    ("changer", &[0x08]),
    ("raid", &[0x0c]),
    ("enclosure", &[0x0d]),
    ("objects", &[0x11]),
    ("well-known", &[0x1e]),
    ("others", &[0x03, 0x06, 0x09, 0x0a, 0x0b, 0x0e, 0x0f, 0x10, 0x12, 0x13, 0x15, 0x1d, 0x1f]),
];

const LEGEND: &str = "\
# What becomes of a CDB with nothing but an opcode and a service action.
#
# f  forwarded            v  answered by the VMM        p  7/27/00, write-protected
# l  5/24/00 at a field   a  5/24/00 at SERVICE ACTION  -  5/20/00
#
# read-only
# | disk-rw
# | | cluster
# | | | full
# | | | |  full, read_only = true
# | | | |  | full, shared_nexus = true
";

#[test]
fn every_opcode_to_every_type_under_every_preset() {
    for (name, types) in FILES {
        for device_type in types {
            let path = format!("src/lun/passthrough/policy/tests/golden/{name}.txt");
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
            let now = table(*device_type);
            if std::env::var_os("VMM_BLESS").is_some() {
                std::fs::write(&path, &now).unwrap();
            }
            let golden = std::fs::read_to_string(&path).unwrap_or_default();
            for (now, golden) in now.lines().zip(golden.lines()) {
                assert_eq!(now, golden, "type {device_type:02x}h, {name}.txt");
            }
            assert_eq!(now.len(), golden.len(), "type {device_type:02x}h, {name}.txt");
        }
    }
}

fn table(device_type: u8) -> String {
    let policies = policies(device_type);
    let mut text = LEGEND.to_string();
    let mut lines: Vec<(u8, u8, String)> = Vec::new();
    for opcode in 0..=u8::MAX {
        for (action, name) in rows(device_type, opcode) {
            let verdicts = verdicts(&policies, opcode, action);
            let action = action.map_or(String::new(), |action| format!("/{action:02x}"));
            let line = format!("{verdicts}  {{}}{action}  {name}");
            match lines.last_mut() {
                // Neighbours that nobody knows are one line.
                Some((_, last, same)) if *same == line && name == UNKNOWN => *last = opcode,
                _ => lines.push((opcode, opcode, line)),
            }
        }
    }
    for (first, last, line) in lines {
        let last = if first == last { String::new() } else { format!("-{last:02x}") };
        writeln!(text, "{}", line.replace("{}", &format!("{first:02x}{last}"))).unwrap();
    }
    text
}

const UNKNOWN: &str = "?";

/// Each command of an opcode, and one that is none.
fn rows(device_type: u8, opcode: u8) -> Vec<(Option<u16>, &'static str)> {
    let known: Vec<_> = Command::of_opcode(device_type, opcode)
        .map(|command| (command.service_action, command.name))
        .collect();
    let has_actions = known.iter().any(|(action, _)| action.is_some());
    let unknown = match opcode {
        _ if !has_actions && !known.is_empty() => None,
        _ if !has_actions => Some((None, UNKNOWN)),
        VARIABLE_LENGTH => Some((Some(0xffff), UNKNOWN)),
        // 1Fh is somewhere known.
        _ => Some((Some(0x1b), UNKNOWN)),
    };
    known.into_iter().chain(unknown).collect()
}

fn policies(device_type: u8) -> Vec<Policy> {
    let full = spec(Preset::Full);
    let presets = PRESETS.map(|preset| policy(preset, device_type));
    let read_only = Policy::new(&full, true, false, device_type);
    let shared_nexus = Policy::new(&full, false, true, device_type);
    presets.into_iter().chain([read_only, shared_nexus]).collect()
}

fn verdicts(policies: &[Policy], opcode: u8, action: Option<u16>) -> String {
    let letters: Vec<_> = policies
        .iter()
        .map(|policy| letter(policy.judge(&bare(opcode, action)), opcode).to_string())
        .collect();
    format!("{}  {}", letters[..4].join(" "), letters[4..].join(" "))
}

fn letter(verdict: Verdict, opcode: u8) -> char {
    let variable = Verdict::Refuse(Sense::invalid_field(8, None));
    match verdict {
        Verdict::Forward => 'f',
        Verdict::Virtual(_) => 'v',
        OPCODE => '-',
        PROTECTED => 'p',
        // MODE stands where other commands have a service action.
        ACTION if ![0x3b, 0x3c, 0x9b].contains(&opcode) => 'a',
        refused if refused == variable && opcode == VARIABLE_LENGTH => 'a',
        Verdict::Refuse(sense) if sense.code == SenseCode::INVALID_FIELD_IN_CDB => 'l',
        Verdict::Refuse(sense) => panic!("{opcode:02x}: {sense:?}"),
    }
}

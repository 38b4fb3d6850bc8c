//! Texts that resemble a configuration more or less: nothing may panic, and whatever is refused
//! is told with its place, why, and what to do.

use proptest::prelude::*;
use proptest::sample::select;

use super::{BOOT, Fixture, LUN, plenty};
use crate::config::keys::{BOOT as BOOT_KEYS, CONSOLE, CONTROLLER, LUN as LUN_KEYS, MACHINE, ROOT};

/// Values that some key takes, or almost.
const VALUES: [&str; 40] = [
    "0",
    "1",
    "-1",
    "65",
    "512",
    "4096",
    "99999999999999999999",
    "1.5",
    "nan",
    "true",
    "false",
    "1979-05-27",
    "''",
    "\"\\u0000\"",
    "'é'",
    "'a b'",
    "'1GiB'",
    "'60s'",
    "'16777216T'",
    "'stdio'",
    "'null'",
    "'mmio'",
    "'restart'",
    "'hugepages'",
    "'raw'",
    "'through'",
    "'this-host-only'",
    "'vmlinuz'",
    "'a.raw'",
    "'b.raw'",
    "'hard.raw'",
    "'odd.raw'",
    "'.'",
    "'none/none'",
    "'5001438012345678'",
    "{ file = 'log' }",
    "{ socket = 's', x = 1 }",
    "[]",
    "[{}]",
    "[{ image = 'a.raw' }, 7]",
];

const HEADERS: [&str; 12] = [
    "[machine]",
    "[boot]",
    "[console]",
    "[[controller]]",
    "[[controller.lun]]",
    "[controller]",
    "[controller.lun]",
    "[controller.initiator]",
    "[[boot]]",
    "[net]",
    "[machine.x]",
    "[[machine]",
];

fn keys() -> Vec<&'static str> {
    let sections = [&ROOT, &MACHINE, &BOOT_KEYS, &CONSOLE, &CONTROLLER, &LUN_KEYS];
    let mut keys: Vec<_> =
        sections.iter().flat_map(|section| section.keys.iter().map(|(key, _)| *key)).collect();
    keys.extend(["kernle", "x", "machine.memory", "controller.lun", "'quo ted'", "\"\""]);
    keys
}

fn line() -> impl Strategy<Value = String> {
    let assignment = (select(keys()), select(&VALUES[..]));
    prop_oneof![
        2 => select(&HEADERS[..]).prop_map(str::to_owned),
        6 => assignment.prop_map(|(key, value)| format!("{key} = {value}")),
        1 => (select(keys()), any::<String>()).prop_map(|(key, text)| format!("{key} = {text:?}")),
        1 => ".*",
    ]
}

/// Sections without fault with lines put into them.
fn text() -> impl Strategy<Value = String> {
    let start = select(vec![String::new(), BOOT.to_owned(), format!("{BOOT}{LUN}")]);
    (start, prop::collection::vec((any::<prop::sample::Index>(), line()), 0..12)).prop_map(
        |(start, inserted)| {
            let mut lines: Vec<String> = start.lines().map(str::to_owned).collect();
            for (at, line) in inserted {
                lines.insert(at.index(lines.len() + 1), line);
            }
            lines.join("\n")
        },
    )
}

/// Whether `line` tells a place in a file of `lines` lines (or whom it is about), why, and what
/// to do.
fn is_well_formed(line: &str, lines: usize) -> bool {
    let place = |line: &str| {
        let mut parts = line.strip_prefix("guest1.toml:")?.splitn(3, ':');
        let row: usize = parts.next()?.parse().ok()?;
        let column: usize = parts.next()?.parse().ok()?;
        let problem = parts.next()?.strip_prefix(' ')?;
        ((1..=lines + 1).contains(&row) && column > 0).then(|| problem.to_owned())
    };
    let complete = |problem: &str| {
        let told =
            problem.rsplit_once("; ").filter(|(why, remedy)| !why.is_empty() && !remedy.is_empty());
        told.is_some_and(|(why, _)| why.contains(": "))
    };
    place(line).is_some_and(|problem| complete(&problem)) && !line.contains(char::is_control)
}

proptest! {
    #[test]
    fn whatever_is_refused_has_a_place_and_a_remedy(text in text()) {
        let fixture = Fixture::new();
        if fixture.load(&text, &plenty()).is_err() {
            let problems = fixture.problems(&text);
            prop_assert!(!problems.is_empty());
            for line in problems {
                prop_assert!(is_well_formed(&line, text.split('\n').count()), "{line:?}");
            }
        }
    }

    #[test]
    fn bytes_of_any_kind_are_refused_or_read(bytes: Vec<u8>) {
        let _ = Fixture::new().load(bytes, &plenty());
    }
}

//! The keys of the configuration, as data: which exist, and which of them are served.
//!
//! This file owns the names of keys and how far each is served. It must not know how a value is
//! read or what it means.

use self::Support::{NotYet, Only, Served};

/// How far a key is served.
#[derive(Clone, Copy, Debug)]
pub(super) enum Support {
    /// Its value is read.
    Served,
    /// It may only have one value.
    Only {
        /// The string that is served.
        served: &'static str,
        /// Strings that are known and refused.
        later: &'static [&'static str],
    },
    /// The key is known, and refused.
    NotYet,
}

/// A table of the file: its names and its keys.
#[derive(Debug)]
pub(super) struct Section {
    /// The dotted path to it; empty for the file itself.
    pub(super) path: &'static str,
    /// How its header is written; empty for the file itself.
    pub(super) header: &'static str,
    /// Its keys.
    pub(super) keys: &'static [(&'static str, Support)],
}

/// The file itself.
pub(super) static ROOT: Section = Section {
    path: "",
    header: "",
    keys: &[
        ("machine", Served),
        ("boot", Served),
        ("console", Served),
        ("controller", Served),
        ("control", NotYet),
        ("sandbox", NotYet),
        ("net", NotYet),
        ("vfio", NotYet),
    ],
};

/// `[machine]`
pub(super) static MACHINE: Section = Section {
    path: "machine",
    header: "[machine]",
    keys: &[
        ("name", Served),
        ("uuid", Served),
        ("vcpus", Served),
        ("memory", Served),
        ("memory_backing", Served),
        ("on_reboot", Served),
        ("on_crash", Served),
        ("stop_timeout", Served),
    ],
};

/// `[boot]`
pub(super) static BOOT: Section = Section {
    path: "boot",
    header: "[boot]",
    keys: &[("kernel", Served), ("initramfs", Served), ("cmdline", Served)],
};

/// `[console]`
pub(super) static CONSOLE: Section =
    Section { path: "console", header: "[console]", keys: &[("serial", Served)] };

/// `[[controller]]`
pub(super) static CONTROLLER: Section = Section {
    path: "controller",
    header: "[[controller]]",
    keys: &[
        ("id", Served),
        ("transport", Served),
        ("request_queues", Served),
        ("queue_size", Served),
        ("lun", Served),
        ("tmf_timeout", Served),
        ("initiator", NotYet),
        ("vhost", NotYet),
    ],
};

/// `[[controller.lun]]`
pub(super) static LUN: Section = Section {
    path: "controller.lun",
    header: "[[controller.lun]]",
    keys: &[
        ("target", Served),
        ("lun", Served),
        ("image", Served),
        ("block", Served),
        ("format", Only { served: "raw", later: &["qcow2"] }),
        ("read_only", Served),
        ("shared", Served),
        ("direct", Served),
        ("write_cache", Served),
        ("discard", Served),
        ("block_size", Served),
        ("physical_block_size", Served),
        ("rotational", Served),
        ("serial", Served),
        ("wwn", Served),
        ("vendor", Served),
        ("product", Served),
        ("revision", Served),
        ("passthrough", NotYet),
        ("iscsi", NotYet),
        ("cdrom", NotYet),
        ("expect", NotYet),
        ("policy", NotYet),
        ("allow", NotYet),
        ("deny", NotYet),
        ("timeout", NotYet),
        ("path_timeout", NotYet),
        ("queue_depth", NotYet),
        ("shared_nexus", NotYet),
        ("force", NotYet),
        ("broker", NotYet),
    ],
};

/// The keys of a LUN that say what holds its data; a LUN has exactly one of them.
pub(super) const BACKINGS: [&str; 5] = ["image", "block", "passthrough", "iscsi", "cdrom"];

impl Section {
    /// How far `key` is served, if it exists.
    pub(super) fn support(&self, key: &str) -> Option<&'static Support> {
        self.keys.iter().find(|(name, _)| *name == key).map(|(_, support)| support)
    }

    /// The dotted path to one of its keys.
    pub(super) fn path_to(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The key that was probably meant by `typo`.
    pub(super) fn nearest(&self, typo: &str) -> Option<&'static str> {
        let near = self.keys.iter().map(|(name, _)| (edit_distance(typo, name), *name));
        let (distance, name) = near.min_by_key(|(distance, _)| *distance)?;
        (distance <= (name.len() / 3).clamp(1, 3)).then_some(name)
    }

    /// The keys that are not refused, for a message.
    pub(super) fn served(&self) -> String {
        let served = self.keys.iter().filter(|(_, support)| !matches!(support, NotYet));
        served.map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }
}

/// How many insertions, deletions, replacements and swaps of neighbours turn `a` into `b`
/// (optimal string alignment).
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let replaced = last[j] + usize::from(a[i] != b[j]);
            let mut best = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distances() {
        for (a, b, distance) in [
            ("", "", 0),
            ("", "lun", 3),
            ("vcpu", "vcpus", 1),
            ("kernle", "kernel", 1),
            ("memroy", "memory", 1),
            ("kitten", "sitting", 3),
            ("größe", "grösse", 2),
        ] {
            assert_eq!(edit_distance(a, b), distance, "{a} {b}");
            assert_eq!(edit_distance(b, a), distance, "{b} {a}");
        }
    }

    #[test]
    fn only_near_keys_are_suggested() {
        assert_eq!(MACHINE.nearest("vcpu"), Some("vcpus"));
        assert_eq!(MACHINE.nearest("on-crash"), Some("on_crash"));
        assert_eq!(LUN.nearest("readonly"), Some("read_only"));
        assert_eq!(MACHINE.nearest("cores"), None);
        assert_eq!(MACHINE.nearest(""), None);
    }

    #[test]
    fn each_key_is_listed_once() {
        for section in [&ROOT, &MACHINE, &BOOT, &CONSOLE, &CONTROLLER, &LUN] {
            for (at, (name, _)) in section.keys.iter().enumerate() {
                assert!(section.keys.iter().skip(at + 1).all(|(other, _)| other != name), "{name}");
            }
        }
        assert!(BACKINGS.iter().all(|key| LUN.support(key).is_some()));
    }
}

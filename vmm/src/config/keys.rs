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
        ("passthrough", Served),
        ("iscsi", NotYet),
        ("cdrom", NotYet),
        ("expect", Served),
        ("policy", Served),
        ("allow", Served),
        ("deny", Served),
        ("timeout", Served),
        ("path_timeout", Served),
        ("queue_depth", Served),
        ("shared_nexus", Served),
        ("force", Served),
        ("broker", Served),
    ],
};

/// The keys of a LUN that say what holds its data; a LUN has exactly one of them.
pub(super) const BACKINGS: [&str; 5] = ["image", "block", "passthrough", "iscsi", "cdrom"];

/// A key that does not go with what holds a LUN's data: its name, why, and what to do.
pub(super) type Foreign = (&'static str, &'static str, &'static str);

/// Keys of emulated disks, and why a passthrough LUN has them not.
pub(super) const OF_DISKS: [Foreign; 11] = [
    ("format", "a device is passed through as it is", "remove it"),
    (
        "shared",
        "whether others use a device is a matter of its nexus",
        "remove it; shared_nexus \
      lets others use the nexus too",
    ),
    ("direct", "commands never go through the host's page cache", "remove it"),
    ("write_cache", "the device has its own", "remove it, and set it on the host"),
    ("discard", "the device itself answers UNMAP", "remove it; deny = [\"UNMAP\"] refuses it"),
    ("block_size", "the device has its own", "remove it"),
    ("physical_block_size", "the device has its own", "remove it"),
    ("rotational", "the device says it itself", "remove it"),
    ("vendor", "the device's own is shown", "remove it; serial and wwn can be replaced"),
    ("product", "the device's own is shown", "remove it; serial and wwn can be replaced"),
    ("revision", "the device's own is shown", "remove it; serial and wwn can be replaced"),
];

/// Keys of passthrough LUNs, and why an emulated disk has them not.
pub(super) const OF_PASSTHROUGH: [Foreign; 10] = [
    ("expect", "an emulated disk has the designator that it is given", "write wwn instead"),
    ("policy", "no command reaches a device of the host", "remove it, or set read_only = true"),
    ("allow", "no command reaches a device of the host", "remove it"),
    ("deny", "no command reaches a device of the host", "remove it, or set read_only = true"),
    ("timeout", "no command reaches a device of the host", "remove it"),
    ("path_timeout", "no command reaches a device of the host", "remove it"),
    ("queue_depth", "no command reaches a device of the host", "remove it"),
    ("shared_nexus", "no nexus of the host is used", "remove it, or write shared"),
    ("force", "a medium that is in use is always refused", "remove it, and end that use"),
    ("broker", "nothing that an emulated disk does needs privilege", "remove it"),
];

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
        let foreign = OF_DISKS.iter().chain(&OF_PASSTHROUGH);
        assert!(foreign.into_iter().all(|(key, ..)| LUN.support(key).is_some()));
    }
}

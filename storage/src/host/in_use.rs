//! Who on the host uses a disk.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use super::sysfs::{BlockNode, Number};
use crate::backend::lock::{self, Holder};

/// What of the host uses a disk, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    part: Option<String>,
    what: Use,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Use {
    Mounted { at: String },
    Swap,
    Leg { map: String },
    Held { by: String },
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(part) = &self.part {
            write!(f, "has the partition {part}, which ")?;
        }
        match &self.what {
            Use::Mounted { at } => write!(f, "is mounted at {at}"),
            Use::Swap => write!(f, "is swap space of the host"),
            Use::Leg { map } => write!(f, "is a path of the multipath map {map}"),
            Use::Held { by } => write!(f, "is a part of {by}"),
        }
    }
}

impl User {
    /// What to do about it, as a clause of its own.
    pub(super) fn remedy(&self) -> String {
        match &self.what {
            Use::Mounted { at } => format!("umount {at}, or set force = true"),
            Use::Swap => "end that with swapoff, or set force = true".into(),
            Use::Leg { map } => format!("name /dev/mapper/{map}, or set force = true"),
            Use::Held { by } => format!("take {by} down, or set force = true"),
        }
    }
}

/// Looks for a use of `disk` by the host.
pub(super) fn look(disk: &BlockNode) -> Result<(), User> {
    let uses = Uses::now();
    for node in std::iter::once(disk.clone()).chain(disk.partitions()) {
        if let Some(what) = uses.of(&node) {
            let part = (node != *disk).then(|| node.name().to_owned());
            return Err(User { part, what });
        }
    }
    Ok(())
}

/// Where block devices are mounted, and which are swap space, by number.
#[derive(Debug, Default)]
struct Uses {
    mounts: BTreeMap<String, String>,
    swaps: Vec<String>,
}

impl Uses {
    fn now() -> Uses {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        let swaps = text("/proc/swaps");
        let number = |path: PathBuf| match Number::of(&fs::metadata(path).ok()?)? {
            Number::Block { major, minor } => Some(format!("{major}:{minor}")),
            Number::Char { .. } => None,
        };
        Uses {
            mounts: mounts(&text("/proc/self/mountinfo")),
            swaps: swap_paths(&swaps).into_iter().filter_map(number).collect(),
        }
    }

    fn of(&self, node: &BlockNode) -> Option<Use> {
        let number = node.number().ok()?;
        if let Some(at) = self.mounts.get(&number) {
            return Some(Use::Mounted { at: at.clone() });
        }
        if self.swaps.contains(&number) {
            return Some(Use::Swap);
        }
        node.holders().first().map(held)
    }
}

fn held(holder: &BlockNode) -> Use {
    match holder.mapped() {
        Some(map) if map.is_multipath() => Use::Leg { map: map.name },
        Some(map) => Use::Held { by: format!("/dev/mapper/{}", map.name) },
        None => Use::Held { by: holder.path().display().to_string() },
    }
}

/// Mount points by device (proc(5), mountinfo: the third field and the fifth).
fn mounts(mountinfo: &str) -> BTreeMap<String, String> {
    let entry = |line: &str| {
        let mut fields = line.split_ascii_whitespace().skip(2);
        let number = fields.next()?.to_owned();
        Some((number, unescaped(fields.nth(1)?)))
    };
    mountinfo.lines().filter_map(entry).collect()
}

/// The devices and files in `/proc/swaps`, which begins with a line of headings.
fn swap_paths(swaps: &str) -> Vec<PathBuf> {
    let paths = swaps.lines().skip(1).filter_map(|line| line.split_ascii_whitespace().next());
    paths.map(|path| PathBuf::from(unescaped(path))).collect()
}

/// The kernel writes blanks and backslashes as octal numbers.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, later @ ..] = rest {
        let octal = later.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = later.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = later;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A program that has the device at `node`: by its locks, or else by its open files, as far as
/// this user may see them.
pub(super) fn who_has(node: &Path) -> Option<Holder> {
    lock::holder_of(node).or_else(|| {
        let number = Number::of(&fs::metadata(node).ok()?)?;
        let pid = lock::numbers("/proc").find(|pid| has_open(*pid, number))?;
        Holder::running(pid)
    })
}

fn has_open(pid: u32, number: Number) -> bool {
    let descriptors = format!("/proc/{pid}/fd");
    lock::numbers(&descriptors).any(|fd| {
        let link = Path::new(&descriptors).join(fd.to_string());
        // What is no device is not looked at: its file system may not answer.
        fs::read_link(&link).is_ok_and(|target| target.starts_with("/dev"))
            && fs::metadata(link).is_ok_and(|metadata| Number::of(&metadata) == Some(number))
    })
}

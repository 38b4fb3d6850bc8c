//! Who on the host uses a disk.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::iter;
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
    Uses::now().look(disk)
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

    fn look(&self, disk: &BlockNode) -> Result<(), User> {
        for node in iter::once(disk.clone()).chain(disk.partitions()) {
            if let Some(what) = self.of(&node) {
                let part = (node != *disk).then(|| node.name().to_owned());
                return Err(User { part, what });
            }
        }
        Ok(())
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
    // Of several the first.
    mountinfo.lines().rev().filter_map(entry).collect()
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

#[cfg(test)]
mod tests {
    use super::super::sysfs::testing::Tree;
    use super::super::sysfs::{Found, Sysfs};
    use super::*;

    fn disk(sysfs: &Sysfs) -> BlockNode {
        match sysfs.node(Number::Block { major: 8, minor: 16 }).unwrap() {
            Found::Block(block) => block,
            other => panic!("{other:?}"),
        }
    }

    /// A disk with a part, and the folders of both.
    fn tree() -> (Tree, String, String) {
        let tree = Tree::new();
        let device = tree.device("pci0/host2", "2:0:0:0");
        let disk = tree.disk(&device, "sdb", "8:16");
        let part = tree.block(&format!("{disk}/sdb1"), "8:17");
        tree.file(&format!("{part}/partition"), "1");
        (tree, disk, part)
    }

    fn refusal(uses: &Uses, tree: &Tree) -> String {
        match uses.look(&disk(&tree.sysfs())) {
            Ok(()) => "free".into(),
            Err(user) => format!("{user}; {}", user.remedy()),
        }
    }

    fn mounted(number: &str) -> Uses {
        let mounts = BTreeMap::from([(number.to_owned(), "/srv".to_owned())]);
        Uses { mounts, swaps: Vec::new() }
    }

    #[test]
    fn a_disk_that_nobody_uses_is_free() {
        assert_eq!(refusal(&mounted("8:1"), &tree().0), "free");
    }

    #[test]
    fn what_is_mounted_is_in_use_and_so_is_its_disk() {
        let (tree, ..) = tree();
        assert_eq!(
            refusal(&mounted("8:16"), &tree),
            "is mounted at /srv; umount /srv, or set force = true"
        );
        assert_eq!(
            refusal(&mounted("8:17"), &tree),
            "has the partition sdb1, which is mounted at /srv; umount /srv, or set force = true"
        );
    }

    #[test]
    fn swap_space_is_in_use() {
        let uses = Uses { swaps: vec!["8:17".into()], ..Uses::default() };
        assert_eq!(
            refusal(&uses, &tree().0),
            "has the partition sdb1, which is swap space of the host; \
             end that with swapoff, or set force = true"
        );
    }

    #[test]
    fn a_leg_of_a_multipath_map_is_in_use() {
        let (tree, disk, _) = tree();
        tree.volume("mpath-3600140", &[&disk]);
        assert_eq!(
            refusal(&Uses::default(), &tree),
            "is a path of the multipath map mpatha; \
             name /dev/mapper/mpatha, or set force = true"
        );
    }

    #[test]
    fn a_part_of_a_volume_is_in_use() {
        let (tree, _, part) = tree();
        tree.volume("LVM-abc", &[&part]);
        assert_eq!(
            refusal(&Uses::default(), &tree),
            "has the partition sdb1, which is a part of /dev/mapper/mpatha; \
             take /dev/mapper/mpatha down, or set force = true"
        );
    }

    #[test]
    fn a_part_of_an_array_is_in_use() {
        let (tree, disk, _) = tree();
        let array = tree.block("devices/virtual/block/md127", "9:127");
        tree.link(&format!("{disk}/holders/md127"), &array);
        assert_eq!(
            refusal(&Uses::default(), &tree),
            "is a part of /dev/md127; take /dev/md127 down, or set force = true"
        );
    }

    #[test]
    fn mounts_and_swaps_are_read_as_the_kernel_writes_them() {
        let mountinfo = "22 1 8:17 / / rw,relatime shared:1 - ext4 /dev/root rw\n\
            36 22 8:17 /sub /mnt/a\\040b rw - ext4 /dev/root rw\n\
            40 22 0:5 / /proc rw - proc proc rw\nshort 1\n";
        let mounts = mounts(mountinfo);
        assert_eq!(mounts.get("8:17").map(String::as_str), Some("/"));
        assert_eq!(mounts.get("0:5").map(String::as_str), Some("/proc"));
        assert_eq!(mounts.len(), 2);
        let swaps = "Filename\tType\tSize\tUsed\tPriority\n\
            /dev/sdb2   partition\t1\t0\t-2\n/swap\\040file file 1 0 -3\n";
        assert_eq!(swap_paths(swaps), ["/dev/sdb2", "/swap file"].map(PathBuf::from));
    }

    #[test]
    fn only_octal_numbers_are_escapes() {
        for (text, plain) in [
            ("a\\040b", "a b"),
            ("\\134", "\\"),
            ("\\04", "\\04"),
            ("\\999", "\\999"),
            ("040", "040"),
        ] {
            assert_eq!(unescaped(text), plain);
        }
    }

    #[test]
    fn who_has_a_device_open_is_found() {
        let file = fs::File::open("/dev/zero").unwrap();
        let number = Number::of(&file.metadata().unwrap()).unwrap();
        assert!(has_open(std::process::id(), number));
        drop(file);
    }
}

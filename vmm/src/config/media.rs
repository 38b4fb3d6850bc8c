//! What can be told of a medium without opening it: which it is, who else reaches it, and whether
//! it takes space back.
//!
//! What guests of this host share is kept by this host alone, so a medium that others reach needs
//! somebody to vouch for them. This file must not know what sharing means.

use std::ffi::CString;
use std::fs;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// What makes two paths one medium, also through links and bind mounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum MediumId {
    /// A file, by the device that it is on and its inode.
    File(u64, u64),
    /// A block device, by its number.
    Device(u64),
}

impl MediumId {
    /// That of what `metadata` tells of.
    pub(super) fn of(metadata: &fs::Metadata) -> MediumId {
        match metadata.file_type().is_block_device() {
            true => MediumId::Device(metadata.rdev()),
            false => MediumId::File(metadata.dev(), metadata.ino()),
        }
    }

    /// That of what is at `path`, if it can be told.
    pub(super) fn at(path: &Path) -> Option<MediumId> {
        fs::metadata(path).ok().as_ref().map(MediumId::of)
    }

    /// That of the SCSI device of which a node is at `path`, the same for all its nodes.
    pub(super) fn of_device(path: &Path) -> Option<MediumId> {
        let metadata = fs::metadata(path).ok()?;
        let number = format!("{}:{}", libc::major(metadata.rdev()), libc::minor(metadata.rdev()));
        let device = Path::new("/sys/dev/char").join(number).join("device");
        match metadata.file_type().is_char_device() {
            true => behind(&device).or(Some(MediumId::of(&metadata))),
            false => Some(MediumId::of(&metadata)),
        }
    }
}

/// File systems of networks and clusters by their magic numbers (linux/magic.h,
/// linux/gfs2_ondisk.h; the last three are in no header of Linux). FUSE may be anything.
const FILE_SYSTEMS: [(u32, &str); 15] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x00c3_6400, "Ceph"),
    (0x7461_636f, "OCFS2"),
    (0x0116_1970, "GFS2"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x7375_7245, "Coda"),
    (0x0102_1997, "9P"),
    (0x6573_5546, "FUSE"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x1983_0326, "BeeGFS"),
];
/// Parts of a device's path in sysfs that tell its transport.
const TRANSPORTS: [(&str, &str); 6] = [
    ("/rport-", "Fibre Channel"),
    ("/session", "iSCSI"),
    ("/nvme-fabrics/", "NVMe over Fabrics"),
    ("/block/nbd", "NBD"),
    ("/block/rbd", "Ceph"),
    ("/block/drbd", "DRBD"),
];
/// How deep device-mapper and md devices are followed.
const DEPTH: usize = 8;

/// What other hosts may reach the medium at `path` by, if there is such a thing.
pub(super) fn reach(path: &Path, id: MediumId) -> Option<&'static str> {
    match id {
        MediumId::File(..) => {
            let magic = file_system(path)?;
            FILE_SYSTEMS.iter().find(|(number, _)| *number == magic).map(|(_, name)| *name)
        }
        MediumId::Device(number) => transport(&in_sysfs(number), DEPTH),
    }
}

/// Whether a block device cannot take space back; nothing is told of files.
pub(super) fn cannot_discard(id: MediumId) -> bool {
    match id {
        MediumId::File(..) => false,
        MediumId::Device(number) => lacks_discard(&in_sysfs(number)),
    }
}

/// The SCSI device at `device` in sysfs: its block device, where it has one.
fn behind(device: &Path) -> Option<MediumId> {
    let block = fs::read_dir(device.join("block")).ok().and_then(|mut disks| disks.next()?.ok());
    let Some(block) = block else { return MediumId::at(device) };
    let number = fs::read_to_string(block.path().join("dev")).ok()?;
    let (major, minor) = number.trim().split_once(':')?;
    Some(MediumId::Device(libc::makedev(major.parse().ok()?, minor.parse().ok()?)))
}

/// Whether the block device at `device` in sysfs, or the disk that it is a partition of, says that
/// it has no discard.
fn lacks_discard(device: &Path) -> bool {
    let limit = ["queue", "../queue"].iter().find_map(|queue| {
        // Not by text alone: the path of a device is a link.
        let queue = fs::canonicalize(device).ok()?.join(queue);
        fs::read_to_string(queue.join("discard_max_bytes")).ok()
    });
    limit.is_some_and(|limit| limit.trim() == "0")
}

fn in_sysfs(number: u64) -> PathBuf {
    let number = format!("{}:{}", libc::major(number), libc::minor(number));
    Path::new("/sys/dev/block").join(number)
}

/// The magic number of the file system that `path` is on.
#[expect(unsafe_code, reason = "statfs")]
pub(super) fn file_system(path: &Path) -> Option<u32> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let mut answer = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `path` ends with a NUL, and `answer` is a statfs to fill in.
    if unsafe { libc::statfs(path.as_ptr(), answer.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: the kernel filled it in.
    let answer = unsafe { answer.assume_init() };
    // The numbers are 32-bit wide, and some architectures sign-extend them.
    u32::try_from(answer.f_type & 0xffff_ffff).ok()
}

/// The transport to other hosts of the block device at `device` in sysfs, or of one that it is
/// made of.
fn transport(device: &Path, depth: usize) -> Option<&'static str> {
    let device = fs::canonicalize(device).ok()?;
    let path = device.to_string_lossy();
    let own = TRANSPORTS.iter().find(|(part, _)| path.contains(part)).map(|(_, name)| *name);
    own.or_else(|| {
        let slaves = fs::read_dir(device.join("slaves")).ok()?;
        let deeper = depth.checked_sub(1)?;
        slaves.flatten().find_map(|slave| transport(&slave.path(), deeper))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn the_file_system_of_proc_is_known_and_local() {
        const PROC_SUPER_MAGIC: u32 = 0x9fa0;
        assert_eq!(file_system(Path::new("/proc/self/stat")), Some(PROC_SUPER_MAGIC));
        assert_eq!(reach(Path::new("/proc/self/stat"), MediumId::File(0, 0)), None);
        assert_eq!(file_system(Path::new("/nonexistent")), None);
    }

    #[test]
    fn a_device_without_discard_says_so() {
        let sys = TempDir::new().unwrap();
        for (disk, limit) in [("sda", "0\n"), ("sdb", "4096\n")] {
            fs::create_dir_all(sys.path().join(disk).join("queue")).unwrap();
            fs::create_dir_all(sys.path().join(disk).join("part")).unwrap();
            fs::write(sys.path().join(disk).join("queue/discard_max_bytes"), limit).unwrap();
        }
        for (device, lacks) in
            [("sda", true), ("sda/part", true), ("sdb", false), ("sdb/part", false), ("sdc", false)]
        {
            assert_eq!(lacks_discard(&sys.path().join(device)), lacks, "{device}");
        }
    }

    #[test]
    fn a_scsi_device_is_its_block_device_where_it_has_one() {
        let sys = TempDir::new().unwrap();
        let (disk, tape) = (sys.path().join("0:0:0:0"), sys.path().join("0:0:1:0"));
        fs::create_dir_all(disk.join("block/sda")).unwrap();
        fs::write(disk.join("block/sda/dev"), "8:16\n").unwrap();
        fs::create_dir(&tape).unwrap();
        symlink(&tape, sys.path().join("link")).unwrap();
        assert_eq!(behind(&disk), Some(MediumId::Device(libc::makedev(8, 16))));
        assert!(behind(&tape).is_some());
        assert_eq!(behind(&tape), behind(&sys.path().join("link")));
        assert_eq!(behind(&sys.path().join("none")), None);
    }

    #[test]
    fn a_device_is_remote_by_its_transport_or_by_what_it_is_made_of() {
        let sys = TempDir::new().unwrap();
        let device = |path: &str, slaves: &[&str]| {
            let path = sys.path().join(path);
            fs::create_dir_all(path.join("slaves")).unwrap();
            for slave in slaves {
                let name = Path::new(slave).file_name().unwrap();
                symlink(sys.path().join(slave), path.join("slaves").join(name)).unwrap();
            }
        };
        device("platform/host3/session1/target3:0:0/3:0:0:0/block/sda", &[]);
        device("pci/host5/rport-5:0-2/target5:0:0/5:0:0:1/block/sdb", &[]);
        device("pci/ata1/host0/target0:0:0/0:0:0:0/block/sdc", &[]);
        device("virtual/nvme-fabrics/ctl/nvme0/nvme0n1", &[]);
        device("virtual/block/dm-0", &["pci/ata1/host0/target0:0:0/0:0:0:0/block/sdc"]);
        device("virtual/block/dm-1", &["pci/host5/rport-5:0-2/target5:0:0/5:0:0:1/block/sdb"]);
        device("virtual/block/dm-2", &["virtual/block/dm-0", "virtual/block/dm-1"]);
        device("virtual/block/dm-3", &["virtual/block/dm-3"]);
        for (path, expected) in [
            ("platform/host3/session1/target3:0:0/3:0:0:0/block/sda", Some("iSCSI")),
            ("pci/host5/rport-5:0-2/target5:0:0/5:0:0:1/block/sdb", Some("Fibre Channel")),
            ("pci/ata1/host0/target0:0:0/0:0:0:0/block/sdc", None),
            ("virtual/nvme-fabrics/ctl/nvme0/nvme0n1", Some("NVMe over Fabrics")),
            ("virtual/block/dm-0", None),
            ("virtual/block/dm-2", Some("Fibre Channel")),
            ("virtual/block/dm-3", None),
            ("virtual/block/none", None),
        ] {
            assert_eq!(transport(&sys.path().join(path), DEPTH), expected, "{path}");
        }
    }
}

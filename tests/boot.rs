//! A stock Debian kernel finds its disks on virtio-scsi, and they do what disks do.

use std::io::Result;

use tests::guest::{Guest, Outcome, SECTION};
use tests::image::{pattern, sha256};
use tests::seccomp::forbid_io_uring;

const KERNEL: &str = "6.1";
const MIB: u64 = 1 << 20;

/// Boots a guest with three disks, and checks what its tools say of them.
fn the_guest_sees_its_configuration(vcpus: u8) -> Result<()> {
    let mut guest = Guest::new(vcpus)?;
    guest.lun(
        "system.img",
        64 * MIB,
        "serial = \"SYSTEM-0001\"\nwwn = \"naa.3000000000000001\"\nvendor = \"ACME\"\nproduct = \"ROCKET DISK\"\nrevision = \"2.5\"",
    )?;
    guest.lun("locked.img", 8 * MIB, "lun = 3\nread_only = true\nrotational = true")?;
    guest.lun("far.img", 4 * MIB, "target = 7\nlun = 300")?;
    // Linux numbers a logical unit by its two address bytes: 300 is 412Ch, flat space addressing.
    let script = format!(
        "{SECTION}
        system=$(disk 0:0:0:0) locked=$(disk 0:0:0:3) far=$(disk 0:0:7:16684)
        section nproc nproc
        section clock cat /sys/devices/system/clocksource/clocksource0/current_clocksource
        section lsscsi lsscsi -s
        section queues ls /sys/block/${{system#/dev/}}/mq
        section inquiry sg_inq $system
        for page in 0x00 0x80 0x83 0xb0 0xb1 0xb2; do section vpd-$page sg_vpd -p $page $system; done
        section rotation sg_vpd -p 0xb1 $locked
        section luns-0 sg_luns $system
        section luns-7 sg_luns $far
        section capacity sg_readcap -l $system
        section ready sg_turs $system
        section sense sg_requests $system
        section modes sg_modes -6 $system
        section unsupported sg_raw $system 5e 00 00 00 00 00 00 00 08 00
        section beyond sg_raw -r 512 $system 28 00 00 02 00 00 00 00 01 00
        section read-only blockdev --getro $locked
        section protected sg_raw -s 512 -i /dev/zero $(generic 0:0:0:3) 2a 00 00 00 00 00 00 00 01 00
        section dmesg dmesg
        "
    );
    let seen = guest.run(KERNEL, &script)?;
    assert_eq!(seen.status.code(), Some(0), "power-off is exit 0");
    check_disks(&seen, vcpus);
    check_refusals(&seen);
    for line in seen.section("dmesg").unwrap().lines() {
        assert!(!complains(line), "the kernel complains: {line}");
    }
    Ok(())
}

/// Whether a line of the kernel's log says that the machine is not as it should be. An emulated L1
/// processor draws one about its XSAVE area, in L1 too.
fn complains(line: &str) -> bool {
    let complaints = ["not using ECAM", "Firmware Bug", "BUG:", "WARNING:", "nobody cared"];
    complaints.iter().any(|complaint| line.contains(complaint)) && !line.contains("xstate.c")
}

fn assert_has(seen: &Outcome, section: &str, wanted: &[&str]) {
    let text = seen.section(section).unwrap_or_else(|| panic!("no section {section}"));
    for wanted in wanted {
        assert!(text.contains(wanted), "{section} lacks {wanted:?}:\n{text}");
    }
}

fn check_disks(seen: &Outcome, vcpus: u8) {
    assert_has(seen, "nproc", &[&format!("{vcpus}\n")]);
    assert_has(seen, "clock", &["kvm-clock"]);
    let lines = seen.section("lsscsi").unwrap().lines().filter(|line| line.contains("disk"));
    assert_eq!(lines.count(), 3);
    assert_has(
        seen,
        "lsscsi",
        &[
            "[0:0:0:0]    disk    ACME     ROCKET DISK      2.5",
            "[0:0:0:3]",
            "[0:0:7:16684]",
            "67.1MB",
            "8.38MB",
            "4.19MB",
        ],
    );
    let queues = seen.section("queues").unwrap().split_whitespace();
    assert_eq!(queues.take_while(|word| *word != "status").count(), usize::from(vcpus));
    assert_has(
        seen,
        "inquiry",
        &["Vendor identification: ACME", "SPC-4", "Unit serial number: SYSTEM-0001"],
    );
    let pages = ["[sv]", "[sn]", "[di]", "[bl]", "[bdc]", "[lbpv]"];
    assert_has(seen, "vpd-0x00", &pages);
    assert_has(seen, "vpd-0x80", &["SYSTEM-0001"]);
    assert_has(seen, "vpd-0x83", &["0x3000000000000001"]);
    assert_has(seen, "vpd-0xb0", &["Maximum transfer length: 32768 blocks"]);
    assert_has(seen, "vpd-0xb1", &["Non-rotating medium"]);
    assert_has(seen, "vpd-0xb2", &["status 0"]);
    assert_has(seen, "rotation", &["not reported"]);
    assert_has(
        seen,
        "luns-0",
        &["    0000000000000000\n", "    0003000000000000\n", "2 lun entries"],
    );
    assert_has(seen, "luns-7", &["    412c000000000000\n"]);
    assert_has(
        seen,
        "capacity",
        &["Last LBA=131071 (0x1ffff), Number of logical blocks=131072", "Logical block length=512"],
    );
    assert_has(seen, "ready", &["status 0"]);
    assert_has(seen, "sense", &["status 0"]);
    assert_has(seen, "modes", &["Caching", "Control"]);
}

fn check_refusals(seen: &Outcome) {
    assert_has(seen, "unsupported", &["Invalid command operation code"]);
    assert_has(seen, "beyond", &["Logical block address out of range"]);
    assert_has(seen, "read-only", &["1\n"]);
    assert_has(seen, "protected", &["Data Protect", "Write protected"]);
}

#[test]
fn one_vcpu_sees_its_configuration() -> Result<()> {
    the_guest_sees_its_configuration(1)
}

#[test]
fn two_vcpus_see_their_configuration() -> Result<()> {
    the_guest_sees_its_configuration(2)
}

/// What is written on one side is read on the other, and a file system lives through it.
fn data_survives(vcpus: u8, change: impl FnOnce(&mut std::process::Command)) -> Result<Outcome> {
    const LEN: usize = 8 << 20;
    let mut guest = Guest::new(vcpus)?;
    let written = guest.lun("written.img", 32 * MIB, "")?;
    let read = guest.lun("read.img", 32 * MIB, "")?;
    guest.lun("ext4.img", 64 * MIB, "")?;
    let from_host = pattern(u64::from(vcpus), LEN);
    read.write(5 * MIB, &from_host)?;
    let script = format!(
        "{SECTION}
        written=$(disk 0:0:0:0) read=$(disk 0:0:0:1) ext4=$(disk 0:0:0:2)
        dd if=/dev/urandom of=/tmp/pattern bs=1M count=8 2>/dev/null
        section direct dd if=/tmp/pattern of=$written bs=64k seek=48 oflag=direct conv=fsync
        section pattern sha256sum /tmp/pattern
        section read sh -c \"dd if=$read bs=1M skip=5 count=8 iflag=direct 2>/dev/null | sha256sum\"
        section mkfs mkfs.ext4 -q $ext4
        mkdir -p /mnt
        section mount mount -t ext4 $ext4 /mnt
        section copy cp /tmp/pattern /mnt/pattern
        section umount umount /mnt
        section fsck fsck.ext4 -f -n $ext4
        section remount mount -t ext4 $ext4 /mnt
        section again sha256sum /mnt/pattern
        section errors sh -c 'dmesg | grep -i -e \"I/O error\" -e \"EXT4-fs error\" -e abort'
        "
    );
    let seen = guest.run_with(KERNEL, &script, change)?;
    assert_eq!(seen.status.code(), Some(0), "power-off is exit 0");
    let on_disk = written.sha256(3 * MIB, LEN)?;
    assert_has(&seen, "direct", &["status 0"]);
    assert_has(&seen, "pattern", &[&on_disk]);
    assert_has(&seen, "read", &[&sha256(&from_host)]);
    for section in ["mkfs", "mount", "copy", "umount", "fsck", "remount"] {
        assert_has(&seen, section, &["status 0"]);
    }
    assert_has(&seen, "again", &[&on_disk]);
    assert_eq!(seen.section("errors"), Some("status 1\n"));
    Ok(seen)
}

#[test]
fn data_survives_with_one_vcpu() -> Result<()> {
    data_survives(1, |_| {}).map(drop)
}

#[test]
fn data_survives_with_two_vcpus() -> Result<()> {
    let seen = data_survives(2, |_| {})?;
    assert!(!seen.stderr.contains("io_uring is not available"), "{}", seen.stderr);
    Ok(())
}

#[test]
fn data_survives_without_io_uring() -> Result<()> {
    let seen = data_survives(2, |command| {
        forbid_io_uring(command);
    })?;
    let warnings = seen.stderr.lines().filter(|line| line.contains("io_uring is not available"));
    assert_eq!(warnings.count(), 1, "{}", seen.stderr);
    Ok(())
}

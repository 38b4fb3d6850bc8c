//! What lies behind a guest's disks on a real file system and real block devices of the host.
//!
//! The temporary folder must be on ext4 or the like; the test must be root's, and may load modules.

use std::fs;
use std::io::{Error, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use tempfile::TempDir;
use tests::guest::{ANY, Guest};
use tests::image::{Image, pattern, sha256};
use tests::running::{Outcome, Running};

const MIB: u64 = 1 << 20;

/// Runs a program of the host, and returns its output.
fn host(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output()?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(Error::other(format!("{program} {arguments:?}: {stderr}")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().into())
}

/// A guest that waits, once it has said so.
fn waiting(guest: &Guest) -> Result<Running> {
    let mut running = guest.start("echo ready\nsleep 1000")?;
    running.wait_for("ready")?;
    Ok(running)
}

fn kill(running: Running) -> Result<()> {
    running.program().signal(Signal::SIGKILL)?;
    running.finish().map(drop)
}

/// Asserts that `vmm` refuses the configuration, and starts nothing: with these words on one line.
fn assert_refused(guest: &Guest, words: &[&str]) -> Result<()> {
    let seen = guest.run("exit")?;
    assert_eq!(seen.status.code(), Some(2), "{}", seen.stderr);
    let line = seen.stderr.lines().find(|line| words.iter().all(|word| line.contains(word)));
    assert!(line.is_some(), "no line with {words:?}:\n{}", seen.stderr);
    assert_eq!(seen.console, "", "nothing was started");
    Ok(())
}

/// The flags with which process `id` has opened `file` (proc(5), fdinfo).
fn open_flags(id: u32, file: &Path) -> Result<Vec<i32>> {
    let mut flags = Vec::new();
    for entry in fs::read_dir(format!("/proc/{id}/fd"))? {
        let entry = entry?;
        if fs::read_link(entry.path()).is_ok_and(|target| target == file) {
            let name = entry.file_name();
            let info = fs::read_to_string(format!("/proc/{id}/fdinfo/{}", name.display()))?;
            let octal = info.lines().find_map(|line| line.strip_prefix("flags:"));
            flags.extend(octal.and_then(|text| i32::from_str_radix(text.trim(), 8).ok()));
        }
    }
    Ok(flags)
}

#[test]
fn direct_images_bypass_the_page_cache_and_lose_nothing() -> Result<()> {
    let mut guest = Guest::new(ANY)?;
    let image = guest.lun("direct.img", 32 * MIB, "direct = true")?;
    image.write(16 * MIB, &pattern(3, 4 << 20))?;
    // Pieces of one block at odd addresses, and large ones.
    let mut running = guest.start(
        "disk=$(disk 0:0:0:0)
         dd if=/dev/urandom of=/tmp/data bs=512 count=4099 2>/dev/null
         dd if=/tmp/data of=$disk bs=512 seek=7 count=99 oflag=direct 2>/dev/null
         dd if=/tmp/data of=$disk bs=512 skip=99 seek=106 oflag=direct,seek_bytes,skip_bytes 2>/dev/null
         dd if=/tmp/data of=$disk bs=512k seek=4M oflag=direct,seek_bytes conv=fsync 2>/dev/null
         section data sha256sum /tmp/data
         section read sh -c \"dd if=$disk bs=1M skip=16 count=4 iflag=direct 2>/dev/null | sha256sum\"
         section errors sh -c 'dmesg | grep -i error'
         echo ready; sleep 5",
    )?;
    running.wait_for("ready")?;
    let flags = open_flags(running.program().id(), image.path())?;
    assert!(flags.iter().any(|flags| flags & libc::O_DIRECT != 0), "{flags:?}");
    let seen = running.finish()?;
    seen.assert_powered_off();
    seen.assert_has("data", &[&image.sha256(4 * MIB, 4099 * 512)?]);
    seen.assert_has("read", &[&sha256(&pattern(3, 4 << 20))]);
    assert_eq!(seen.section("errors"), Some("status 1\n"));
    assert_eq!(image.sha256(7 * 512, 99 * 512)?, image.sha256(4 * MIB, 99 * 512)?);
    Ok(())
}

#[test]
fn what_is_not_written_stays_a_hole() -> Result<()> {
    let mut guest = Guest::new(ANY)?;
    let image = guest.lun("sparse.img", 4 << 30, "")?;
    let seen = guest.run(
        "disk=$(disk 0:0:0:0)
         section read dd if=$disk of=/dev/null bs=1M count=64 iflag=direct
         section mkfs mkfs.ext4 -q -E lazy_itable_init=0 $disk
         section discard blkdiscard -f $disk",
    )?;
    seen.assert_powered_off();
    seen.assert_good(&["read", "mkfs", "discard"]);
    assert!(image.is_hole(0, 4 << 30)?, "{} bytes are stored", image.allocated()?);
    Ok(())
}

// ---- locks ---------------------------------------------------------------------------------------

#[test]
fn an_image_in_use_is_refused_unless_both_sides_allow_it() -> Result<()> {
    const SHARED: &str = "shared = true\nwwn = \"naa.3000000000000001\"";
    let mut first = Guest::new(ANY)?;
    let mine = first.lun("mine.img", MIB, "")?;
    let read = first.lun("read.img", MIB, "read_only = true")?;
    let both = first.lun("both.img", MIB, SHARED)?;
    let running = waiting(&first)?;

    let refused =
        [(&mine, ""), (&mine, "read_only = true"), (&mine, SHARED), (&read, ""), (&both, "")];
    for (image, lines) in refused {
        let mut second = Guest::new(ANY)?;
        second.medium("image", image.path(), lines);
        assert_refused(&second, &[&image.path().display().to_string(), "in use by vmm"])?;
    }
    let qemu = Command::new("timeout").arg("60").args(qemu(mine.path())).output()?;
    let stderr = String::from_utf8_lossy(&qemu.stderr);
    assert!(stderr.contains("lock"), "QEMU takes the same locks: {stderr}");

    let mut second = Guest::new(ANY)?;
    second.medium("image", read.path(), "read_only = true");
    second.medium("image", both.path(), SHARED);
    second.run("exit")?.assert_powered_off();
    kill(running)
}

/// The words of a QEMU that has `image` attached, and whose guest never runs.
fn qemu(image: &Path) -> Vec<String> {
    let drive = format!("raw,node-name=disk,file.driver=file,file.filename={}", image.display());
    let words = "qemu-system-x86_64 -M microvm -accel tcg -S -nodefaults -display none \
         -global virtio-mmio.force-legacy=false -qmp stdio \
         -device virtio-scsi-device -device scsi-hd,drive=disk -blockdev";
    words.split_whitespace().map(str::to_owned).chain([drive]).collect()
}

#[test]
fn an_image_in_use_by_qemu_is_refused() -> Result<()> {
    let mut guest = Guest::new(ANY)?;
    let image = guest.lun("disk.img", MIB, "")?;
    let words = qemu(image.path());
    // A QEMU without a monitor's reader is content; its greeting comes when all is opened.
    let mut other = Running::start(Command::new(&words[0]).args(&words[1..]))?;
    other.wait_for("{\"QMP\"")?;
    assert_refused(&guest, &["disk.img", "in use by qemu"])?;
    kill(other)
}

// ---- block devices -------------------------------------------------------------------------------

/// A loop device on a file: what is discarded on the one is a hole in the other.
struct Loop {
    _folder: TempDir,
    file: Image,
    device: PathBuf,
}

impl Loop {
    fn new(size: u64, sector_size: u32) -> Result<Loop> {
        host("modprobe", &["loop"])?;
        let folder = TempDir::new()?;
        let file = Image::create(&folder.path().join("file"), size)?;
        file.write(0, &vec![0xaa; usize::try_from(size).map_err(Error::other)?])?;
        let path = file.path().display().to_string();
        let sector_size = sector_size.to_string();
        let device = host("losetup", &["-b", &sector_size, "-f", "--show", &path])?;
        Ok(Loop { _folder: folder, file, device: device.into() })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.device).status();
    }
}

/// Writes, reads, discards and zeroes a disk of 16 MiB full of AAh.
const USE_DISK: &str = "
    disk=$(disk 0:0:0:0)
    zero() { dd if=$disk bs=1M skip=$1 count=1 iflag=direct 2>/dev/null | cmp -n 1048576 - /dev/zero; }
    dd if=/dev/urandom of=/tmp/data bs=1M count=2 2>/dev/null
    section capacity sg_readcap -l $disk
    section data sha256sum /tmp/data
    section write dd if=/tmp/data of=$disk bs=64k seek=16 oflag=direct conv=fsync
    section read sh -c \"dd if=$disk bs=1M skip=1 count=2 iflag=direct 2>/dev/null | sha256sum\"
    section discard blkdiscard -o 4194304 -l 1048576 $disk
    section discarded zero 4
    section zeroout blkdiscard -z -o 6291456 -l 1048576 $disk
    section zeroed zero 6
    section complaints complaints
";

fn check_use(seen: &Outcome, device: &Loop) -> Result<()> {
    seen.assert_powered_off();
    seen.assert_good(&["write", "discard", "discarded", "zeroout", "zeroed"]);
    let sum = device.file.sha256(MIB, 2 << 20)?;
    seen.assert_has("data", &[&sum]);
    seen.assert_has("read", &[&sum]);
    assert_eq!(seen.section("complaints"), Some("status 1\n"));
    assert!(device.file.is_hole(4 * MIB, MIB)?, "BLKDISCARD has come through");
    assert!(device.file.repeats(6 * MIB, 1 << 20, &[0])?);
    for untouched in [0, 3, 5, 7] {
        assert!(device.file.repeats(untouched * MIB, 1 << 20, &[0xaa])?, "at {untouched} MiB");
    }
    Ok(())
}

fn block_device(sector_size: u32, lines: &str) -> Result<Outcome> {
    let device = Loop::new(16 * MIB, sector_size)?;
    let mut guest = Guest::new(ANY)?;
    guest.medium("block", &device.device, lines);
    let seen = guest.run(USE_DISK)?;
    check_use(&seen, &device)?;
    Ok(seen)
}

#[test]
fn a_block_device_is_written_discarded_and_zeroed() -> Result<()> {
    let seen = block_device(512, "")?;
    seen.assert_has("capacity", &["Logical block length=512 bytes"]);
    Ok(())
}

#[test]
fn a_block_device_has_the_blocks_that_it_has_on_the_host() -> Result<()> {
    let seen = block_device(4096, "direct = true")?;
    seen.assert_has("capacity", &["Logical block length=4096 bytes"]);
    Ok(())
}

#[test]
fn a_mounted_block_device_is_refused() -> Result<()> {
    let device = Loop::new(16 * MIB, 512)?;
    let mountpoint = TempDir::new()?;
    let path = device.device.display().to_string();
    host("mkfs.ext4", &["-q", &path])?;
    host("mount", &[&path, &mountpoint.path().display().to_string()])?;
    let mut guest = Guest::new(ANY)?;
    guest.medium("block", &device.device, "");
    let refused = assert_refused(&guest, &[&path]);
    host("umount", &[&path])?;
    refused
}

#[test]
fn a_block_device_in_use_by_another_vmm_is_refused() -> Result<()> {
    let device = Loop::new(16 * MIB, 512)?;
    let [mut first, mut second] = [Guest::new(ANY)?, Guest::new(ANY)?];
    first.medium("block", &device.device, "");
    second.medium("block", &device.device, "");
    let running = waiting(&first)?;
    assert_refused(&second, &[&device.device.display().to_string()])?;
    kill(running)
}

#[test]
fn a_host_managed_zoned_device_is_refused() -> Result<()> {
    host("modprobe", &["null_blk", "nr_devices=1", "zoned=1", "zone_size=4", "gb=1"])?;
    let model = fs::read_to_string("/sys/block/nullb0/queue/zoned")?;
    assert_eq!(model, "host-managed\n");
    let mut guest = Guest::new(ANY)?;
    guest.medium("block", Path::new("/dev/nullb0"), "");
    let refused = assert_refused(&guest, &["/dev/nullb0", "zoned"]);
    host("modprobe", &["-r", "null_blk"])?;
    refused
}

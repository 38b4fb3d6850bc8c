//! What the host carries in one command is what the guest asks for.

use std::fs::File;
use std::io::Result;
use std::os::unix::fs::FileExt;

use tempfile::TempDir;
use tests::image::{pattern, sha256};
use tests::passthrough::{Machine, Monitor};
use tests::scsi::command::Command;
use tests::scsi::gadget::{Gadget, Medium};

use crate::common::{Loop4096, MIB, REPLAY, empty_file};

/// READ(10) of `bytes` from the beginning of a disk.
fn read(bytes: usize, block: usize) -> Command {
    let blocks = u16::try_from(bytes / block).unwrap().to_be_bytes();
    Command::read(&[0x28, 0, 0, 0, 0, 0, 0, blocks[0], blocks[1], 0], bytes)
}

/// WRITE(10) of `data` at 4 MiB.
fn write(data: &[u8], block: usize) -> Command {
    let blocks = u16::try_from(data.len() / block).unwrap().to_be_bytes();
    let lba = u32::try_from((4 << 20) / block).unwrap().to_be_bytes();
    Command::write(&[0x2a, 0, lba[0], lba[1], lba[2], lba[3], 0, blocks[0], blocks[1], 0], data)
}

/// A guest's disks of 512 and of 4096 byte blocks.
const USE_DISKS: &str = "
    use_disk() {
      disk=$(disk 0:0:0:$1)
      section limit-$1 queue $1 max_sectors_kb
      section page-$1 od -An -v -tx1 /sys/class/scsi_device/0:0:0:$1/device/vpd_pgb0
      section read-$1 sh -c \"dd if=$disk bs=4M count=2 iflag=direct 2>/dev/null | sha256sum\"
      section write-$1 dd if=$disk of=$disk bs=4M count=1 seek=2 iflag=direct oflag=direct
    }
    has() { [ \"$(queue $1 max_sectors_kb)\" = $2 ]; }
    use_disk 0
    use_disk 1
    tell ready
    section follows-0 await has 0 64
    section follows-1 await has 1 64
    for lun in 0 1; do section oversize-$lun /replay /commands.$lun $(generic 0:0:0:$lun); done
    section complaints complaints
";

/// Two disks without VPD pages, of 512 and of 4096 byte blocks, behind a host that carries 256
/// KiB, and later 64 KiB.
#[test]
fn large_transfers_work_on_a_host_that_carries_little() -> Result<()> {
    let folder = TempDir::new()?;
    let files = [empty_file(&folder, "512", 16 * MIB)?, empty_file(&folder, "4096", 16 * MIB)?];
    let data = pattern(7, 8 << 20);
    for file in &files {
        File::options().write(true).open(file)?.write_all_at(&data, 0)?;
    }
    let large = Loop4096::new(&files[1])?;
    let gadget = Gadget::new(&[Medium::Disk(&files[0]), Medium::Disk(large.path())])?;
    let mut machine = Machine::new(Monitor::chosen())?;
    let written = pattern(9, 256 << 10);
    for (lun, (device, block)) in gadget.devices().iter().zip([512, 4096]).enumerate() {
        device.set("max_sectors", "512")?;
        assert_eq!(device.queue("max_hw_sectors_kb")?, "256");
        let node = File::open(device.block())?;
        assert!(read(512 << 10, block).execute(&node).is_err(), "the host carries no more");
        machine.pass(&device.block(), "");
        machine.carry(REPLAY, lun, &[read(256 << 10, block), write(&written, block)])?;
    }

    let mut running = machine.start(USE_DISKS)?;
    running.wait_for("ready")?;
    for device in gadget.devices() {
        device.set("max_sectors", "128")?;
    }
    let seen = machine.finish(running)?;

    seen.assert_powered_off();
    let sum = sha256(&data);
    for (lun, blocks) in [(0, "00 00 02 00"), (1, "00 00 00 40")] {
        assert_eq!(seen.section(&format!("limit-{lun}")).unwrap(), "256\nstatus 0\n");
        let page = format!("00 b0 00 3c 00 00 00 00 {blocks} 00 00 00 00\n");
        seen.assert_has(&format!("page-{lun}"), &[&page]);
        seen.assert_has(&format!("read-{lun}"), &[&sum]);
        seen.assert_good(&[&format!("write-{lun}"), &format!("follows-{lun}")]);
        let [read, write] = &seen.completions(&format!("oversize-{lun}"))[..] else { panic!() };
        let (read, write) = (read.as_ref().unwrap(), write.as_ref().unwrap());
        assert!(read.is_good() && read.resid == 0 && write.is_good() && write.resid == 0);
        assert!(read.data == data[..256 << 10], "a split READ has all its data, in order");
        let mut found = vec![0; 256 << 10];
        File::open(&files[lun])?.read_exact_at(&mut found, 4 << 20)?;
        assert!(found == written, "a split WRITE has written all its data, in order");
    }
    assert_eq!(seen.section("complaints"), Some("status 1\n"));
    Ok(())
}

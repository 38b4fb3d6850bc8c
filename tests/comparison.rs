//! What QEMU's scsi-block makes of devices of the host, for docs/qemu-comparison.md: each check
//! holds where QEMU does what its table says, and fails when QEMU has become better.

use std::fs::File;
use std::io::Result;
use std::os::unix::process::ExitStatusExt;

use tempfile::TempDir;
use tests::passthrough::{Machine, Monitor};
use tests::running::Outcome;
use tests::scsi::command::{Command, Completion};
use tests::scsi::gadget::{Gadget, Medium};
use tests::scsi::lio::{Port, Storage};
use tests::scsi::scsi_debug::ScsiDebug;

const REPLAY: &str = env!("CARGO_BIN_EXE_replay");
const MIB: u64 = 1 << 20;

/// A disk without VPD pages behind a host that carries 256 KiB.
struct Small {
    gadget: Gadget,
    _folder: TempDir,
}

impl Small {
    fn new() -> Result<Small> {
        let folder = TempDir::new()?;
        let file = folder.path().join("disk");
        File::create(&file)?.set_len(16 * MIB)?;
        let gadget = Gadget::new(&[Medium::Disk(&file)])?;
        gadget.devices()[0].set("max_sectors", "512")?;
        Ok(Small { gadget, _folder: folder })
    }
}

fn completion(seen: &Outcome, section: &str, at: usize) -> Completion {
    let mut completions = seen.completions(section);
    completions.swap_remove(at).unwrap_or_else(|error| panic!("{section} {at}: {error}"))
}

/// Points 3, 4 and 6: without a page there is no limit, and large transfers fail.
#[test]
#[ignore = "only with --long"]
fn qemu_tells_no_limit_of_an_old_device() -> Result<()> {
    let small = Small::new()?;
    let device = &small.gadget.devices()[0];
    let mut machine = Machine::new(Monitor::Qemu)?;
    machine.pass(&device.block(), "");
    let mut running = machine.start(
        "section page ls /sys/class/scsi_device/0:0:0:0/device/vpd_pgb0
         section limit queue 0 max_sectors_kb
         section large dd if=$(disk 0:0:0:0) of=/dev/null bs=4M count=1 iflag=direct
         section small dd if=$(disk 0:0:0:0) of=/dev/null bs=64k count=1 iflag=direct
         section errors sh -c 'dmesg | grep -e Sense -e I/O.error'
         tell ready
         sleep 10
         section later queue 0 max_sectors_kb",
    )?;
    running.wait_for("ready")?;
    device.set("max_sectors", "128")?;
    let seen = machine.finish(running)?;
    seen.assert_has("page", &["status 1\n"]);
    seen.assert_has("limit", &["1280\n"]);
    seen.assert_has("large", &["status 1\n"]);
    seen.assert_has("errors", &["I/O error"]);
    seen.assert_good(&["small"]);
    assert_eq!(seen.section("later"), seen.section("limit"));
    Ok(())
}

/// The failure as it was first told of, where nothing is on the way that could help: the host's
/// target passes commands on.
#[test]
#[ignore = "only with --long"]
fn lio_passes_transfers_on_that_the_host_does_not_carry() -> Result<()> {
    const TARGET: &str = "naa.5001405000000021";
    let small = Small::new()?;
    let storage = Storage::device("small", &small.gadget.devices()[0])?;
    let _port = Port::vhost(TARGET, "naa.50014050000000b1", &[&storage])?;
    let mut machine = Machine::new(Monitor::Qemu)?;
    machine.vhost(TARGET);
    let seen = machine.run(
        "for disk in /sys/block/sd*; do
           read -r vendor <$disk/device/vendor
           case $vendor in Linux*) break ;; esac
         done
         section limit cat $disk/queue/max_sectors_kb
         section large dd if=/dev/${disk##*/} of=/dev/null bs=4M count=1 iflag=direct
         section small dd if=/dev/${disk##*/} of=/dev/null bs=64k count=1 iflag=direct",
    )?;
    seen.assert_powered_off();
    assert_ne!(seen.section("limit"), Some("256\nstatus 0\n"));
    seen.assert_has("large", &["status 1\n"]);
    seen.assert_good(&["small"]);
    Ok(())
}

/// Points 2, 7, 10 and 11: large blocks, sense data, residuals.
#[test]
#[ignore = "only with --long"]
fn qemu_loses_block_size_sense_and_residuals() -> Result<()> {
    let debug = ScsiDebug::new(1, &["sector_size=4096", "dsense=1", "dev_size_mb=16"])?;
    let device = debug.device();
    let read_one = Command::read(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], 8192);
    let mut machine = Machine::new(Monitor::Qemu)?;
    machine.pass(&device.block(), "");
    machine.carry(REPLAY, 0, &[Command::vpd(0xc7, 64), read_one])?;
    let read_capacity = Command::read(&[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0], 8);
    let again = [read_capacity.clone(), Command::vpd(0xb0, 64)];
    machine.carry(REPLAY, 1, &again)?;
    let seen = machine.run(
        "section page od -An -v -tx1 -j 8 -N 4 /sys/class/scsi_device/0:0:0:0/device/vpd_pgb0
         node=$(generic 0:0:0:0)
         section sense /replay /commands.0 $node
         find_disk naa.30000000000000ff
         dd if=/tmp/output of=$disk bs=64k conv=sync oflag=direct 2>/dev/null
         for try in 1 2 3; do /replay /commands.1 $node; done",
    )?;
    let bytes = device.queue("max_sectors_kb")?.parse::<u32>().unwrap() << 10;
    let blocks = (bytes / 512).to_be_bytes().map(|byte| format!(" {byte:02x}")).concat();
    seen.assert_has("page", &[&blocks]);
    let refused = completion(&seen, "sense", 0);
    assert_eq!((refused.sense[0], refused.sense_code()), (0x70, (5, 0x24, 0)));
    assert_eq!(refused.sense.get(15), Some(&0), "the field pointer is lost");
    let read = completion(&seen, "sense", 1);
    assert!(read.is_good());
    assert_ne!(read.resid, 4096, "the half that was not asked for");
    assert_eq!(seen.status.signal(), Some(libc::SIGFPE), "a guest ends QEMU");
    Ok(())
}

/// Point 14: a read-only disk is unmapped, and does not say that it is read-only.
#[test]
#[ignore = "only with --long"]
fn qemu_lets_a_guest_erase_a_read_only_disk() -> Result<()> {
    let debug = ScsiDebug::new(1, &["lbpu=1", "dev_size_mb=16"])?;
    let device = debug.device();
    std::fs::write(device.block(), [0xaa; 4096])?;
    let mut list = [0; 24];
    (list[1], list[3], list[19]) = (22, 16, 8);
    let unmap = Command::write(&[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], &list);
    let mode_sense = Command::read(&[0x1a, 8, 0x3f, 0, 252, 0], 252);
    let mut machine = Machine::new(Monitor::Qemu)?;
    machine.pass(&device.block(), "read_only = true");
    machine.carry(REPLAY, 0, &[mode_sense, unmap])?;
    let seen = machine.run("section commands /replay /commands.0 $(generic 0:0:0:0)")?;
    assert_eq!(completion(&seen, "commands", 0).data[2] & 0x80, 0, "no WP");
    assert!(completion(&seen, "commands", 1).is_good(), "UNMAP is carried out");
    let read = Command::read(&[0x28, 0, 0, 0, 0, 0, 0, 0, 8, 0], 4096);
    let now = read.execute(&File::open(device.generic())?)?;
    assert!(now.data.iter().all(|byte| *byte == 0), "it is erased");
    Ok(())
}

/// Points 17 and 19: without privilege and helper, reservations fail as if to be tried again.
#[test]
#[ignore = "only with --long"]
fn qemu_without_privilege_takes_eperm_for_an_abort() -> Result<()> {
    let storage = Storage::memory("memory", 16 * MIB)?;
    let port = Port::loopback("naa.5001405000000001", "naa.50014050000000a1", &[&storage])?;
    let mut machine = Machine::new(Monitor::Qemu)?;
    machine.drop_privileges();
    machine.pass(&port.devices()?[0].block(), "");
    let read_keys = Command::read(&[0x5e, 0, 0, 0, 0, 0, 0, 0, 64, 0], 64);
    let supported = Command::read(&[0xa3, 0x0c, 1, 0x5e, 0, 0, 0, 0, 0, 64, 0, 0], 64);
    machine.carry(REPLAY, 0, &[read_keys, supported])?;
    let seen = machine.run("section commands /replay /commands.0 $(generic 0:0:0:0)")?;
    assert_eq!(completion(&seen, "commands", 0).sense_code(), (0xb, 0, 6));
    Ok(())
}

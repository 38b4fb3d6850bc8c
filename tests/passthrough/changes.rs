//! Devices that hang, vanish, come back, or turn into others under a guest.

use std::io::Result;
use std::thread::sleep;
use std::time::Duration;

use tests::passthrough::{Machine, Monitor};
use tests::running::Running;
use tests::scsi::device::{self, Device};
use tests::scsi::lio::{Port, Storage};
use tests::scsi::scsi_debug::ScsiDebug;

use crate::common::MIB;

/// LUN 0 hangs, LUN 1 is taken away and given back, LUN 2 becomes another one.
const SCRIPT: &str = "
    read_one() { dd if=$(disk 0:0:0:$1) of=/tmp/one bs=4k count=1 iflag=direct 2>/dev/null; }
    marker() { read_one 2 && head -c 5 /tmp/one; }

    # While one disk hangs, others answer; a reset has an end.
    tell hang
    await_step hangs
    in_background stuck dd if=$(disk 0:0:0:0) of=/dev/null bs=4k count=1 iflag=direct
    sleep 1
    section other dd if=$(disk 0:0:0:1) of=/dev/null bs=4k count=64 iflag=direct
    section hangs-still sh -c '[ ! -e /tmp/stuck.status ]'
    section reset sg_reset -N -d $(generic 0:0:0:0)
    section stuck outcome stuck
    section well-again await read_one 0

    # Under load, a disk is gone for a while, and the load with it.
    load() {
      fio --name=load --filename=$(disk 0:0:0:1) --direct=1 --ioengine=libaio --iodepth=8 --thread \
        --rw=randwrite --bsrange=4k-256k --size=16m --verify=crc32c --verify_fatal=1 --eta=never --output=/tmp/fio \"$@\"
    }
    in_background load load --time_based --runtime=600
    sleep 2
    section loads sh -c '[ ! -e /tmp/load.status ]'
    tell load
    section load outcome load
    section back await read_one 1
    section load-again load

    # Another disk takes the address.
    section first marker
    tell reuse
    await_step reused
    section other-1 marker
    sleep 2
    section other-2 marker
    tell refused
    await_step restored
    restored() { [ \"$(marker)\" = first ]; }
    section restored await restored
";

fn hang(running: &mut Running, machine: &Machine, debug: &ScsiDebug) -> Result<()> {
    running.wait_for("hang")?;
    debug.set("delay", "2000")?; // jiffies, of 4 ms
    machine.step("hangs")
}

fn vanish_for_a_while(running: &mut Running, disk: &Device, host: &std::path::Path) -> Result<()> {
    running.wait_for("load")?;
    disk.delete()?;
    sleep(Duration::from_secs(3));
    device::scan(host)
}

#[test]
fn devices_that_hang_vanish_or_change_harm_nobody_else() -> Result<()> {
    let mut debug = ScsiDebug::new(1, &["dev_size_mb=8"])?;
    let [load, first, second] =
        ["load", "first", "second"].map(|name| Storage::memory(name, 32 * MIB));
    let (load, first, second) = (load?, first?, second?);
    let port = Port::loopback("naa.5001405000000001", "naa.50014050000000a1", &[&load, &first])?;
    let other = Port::loopback("naa.5001405000000002", "naa.50014050000000a2", &[&second])?;
    let devices = port.devices()?;
    std::fs::write(devices[1].block(), [&b"first"[..], &[0; 507]].concat())?;
    std::fs::write(other.devices()?[0].block(), [&b"other"[..], &[0; 507]].concat())?;

    let mut machine = Machine::new(Monitor::chosen())?;
    machine.guest().memory(512);
    machine.pass(&debug.device().block(), "");
    machine.pass(&devices[0].block(), "");
    machine.pass(&devices[1].block(), "path_timeout = \"1s\"");
    let mut running = machine.start(SCRIPT)?;

    hang(&mut running, &machine, &debug)?;
    vanish_for_a_while(&mut running, &devices[0], &port.scsi_host()?)?;
    debug.await_devices(1)?;
    running.wait_for("reuse")?;
    port.detach(1)?;
    port.attach(1, &second)?;
    port.devices()?;
    machine.step("reused")?;
    running.wait_for("refused")?;
    port.detach(1)?;
    port.attach(1, &first)?;
    port.devices()?;
    machine.step("restored")?;

    let seen = machine.finish(running)?;
    seen.assert_powered_off();
    seen.assert_good(&[
        "other",
        "hangs-still",
        "well-again",
        "loads",
        "back",
        "load-again",
        "restored",
    ]);
    assert!(!seen.section("load").unwrap().contains("status 0"), "a disk that is gone fails");
    assert_eq!(seen.section("first"), Some("firststatus 0\n"));
    for refused in ["other-1", "other-2"] {
        assert_eq!(seen.section(refused), Some("status 1\n"), "no command reaches the other disk");
    }
    Ok(())
}

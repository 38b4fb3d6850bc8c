//! Nothing is lost on the way between a guest and a device, at any size and depth.

use std::io::Result;

use tests::passthrough::{Machine, Monitor};
use tests::scsi::gadget::{Gadget, Medium};
use tests::scsi::lio::{Port, Storage};

use tempfile::TempDir;

use crate::common::{MIB, empty_file};

/// fio on every disk at once; its report is long.
const VERIFY: &str = "
    set -- --output=/tmp/fio --eta=never --name=global --thread --group_reporting --direct=1 \
      --iodepth=32 --ioengine=libaio --rw=randwrite --size=24m --verify=crc32c --verify_fatal=1
    for lun in 0 1 2; do
      set -- $* --name=small$lun --filename=$(disk 0:0:0:$lun) --bsrange=512-64k --size=8m
      set -- $* --name=large$lun --filename=$(disk 0:0:0:$lun) --bsrange=512k-2m --offset=8m --size=16m
    done
    section verify fio \"$@\"
    section report grep -e err= -e verify -e io= /tmp/fio
    section complaints complaints
";

#[test]
fn what_fio_writes_it_reads_again() -> Result<()> {
    let folder = TempDir::new()?;
    let file = empty_file(&folder, "gadget", 32 * MIB)?;
    let gadget = Gadget::new(&[Medium::Disk(&file)])?;
    let storage = [Storage::memory("one", 32 * MIB)?, Storage::memory("two", 32 * MIB)?];
    let [one, two] = &storage;
    let port = Port::loopback("naa.5001405000000001", "naa.50014050000000a1", &[one, two])?;
    let mut machine = Machine::new(Monitor::chosen())?;
    machine.guest().memory(512);
    for device in gadget.devices().iter().chain(&port.devices()?) {
        machine.pass(&device.block(), "");
    }
    let seen = machine.run(VERIFY)?;
    seen.assert_powered_off();
    seen.assert_good(&["verify"]);
    assert_eq!(seen.section("complaints"), Some("status 1\n"));
    Ok(())
}

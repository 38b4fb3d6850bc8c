//! A stock Debian kernel on machines of unusual size.

use std::io::Result;

use tests::guest::{ANY, Cell, Guest, Transport};
use tests::image::pattern;

const MIB: u64 = 1 << 20;

/// H:C:T:L of every disk, in the order in which Linux has numbered the devices.
const ADDRESSES: &str = "for disk in /sys/block/sd*; do readlink $disk/device; done";

/// 300 disks on three targets: the kernel finds each, once, where it is.
fn all_of_300_disks_are_found(transport: Transport, kernel: &'static str) -> Result<()> {
    let mut guest = Guest::new(Cell { transport, kernel, vcpus: 2 })?;
    let mut wanted = Vec::new();
    for target in [0, 1, 255] {
        for index in 0..100 {
            let lun = if index < 80 { index } else { 200 + index }; // some past 255
            guest.lun(
                &format!("{target}-{lun}.img"),
                MIB,
                &format!("target = {target}\nlun = {lun}"),
            )?;
            // Linux numbers a logical unit by its two address bytes; flat ones begin with 01b.
            let number = if lun < 256 { lun } else { 0x4000 | lun };
            wanted.push(format!("0:0:{target}:{number}"));
        }
    }
    let script = format!(
        "find_all() {{ {ADDRESSES}; }}\n\
         section disks find_all\n\
         section luns sg_luns $(disk 0:0:255:0)\n\
         section last dd if=$(disk 0:0:255:16683) of=/dev/null bs=64k iflag=direct\n"
    );
    let seen = guest.run(&script)?;
    seen.assert_powered_off();
    seen.assert_good(&["last"]);
    seen.assert_has("luns", &["100 lun entries"]);
    let addresses = seen.section("disks").unwrap().lines().filter(|line| line.contains(':'));
    let mut found: Vec<&str> = addresses.map(|line| line.rsplit('/').next().unwrap()).collect();
    found.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(found, wanted);
    // REPORT LUNS is in ascending order (SPC-6 leaves it open; scans are then in order, too).
    let luns = seen.section("luns").unwrap();
    let mut reported: Vec<&str> =
        luns.lines().filter(|line| line.starts_with("    ")).map(str::trim).collect();
    assert_eq!(reported.len(), 100);
    reported.dedup();
    assert!(reported.is_sorted(), "{reported:?}");
    Ok(())
}

#[test]
fn all_of_300_disks_are_found_by_pci() -> Result<()> {
    all_of_300_disks_are_found(Transport::Pci, "6.1")
}

#[test]
#[ignore = "only with --long"]
fn all_of_300_disks_are_found_by_mmio() -> Result<()> {
    all_of_300_disks_are_found(Transport::Mmio, "6.12")
}

/// Reads a disk on every processor: each has a request queue of its own.
const READ_ON_EACH: &str = "
    read_on_each() {
      for cpu in $(seq 0 $(($(nproc) - 1))); do
        taskset -c $cpu dd if=$disk bs=1M iflag=direct 2>/dev/null | sha256sum || return
      done
    }
    disk=$(disk 0:0:0:0)
    section nproc nproc
    section queues ls /sys/block/${disk#/dev/}/mq
    section read read_on_each
    section complaints complaints
";

fn each_of_8_vcpus_reads(transport: Transport) -> Result<()> {
    let mut guest = Guest::new(Cell { transport, kernel: "6.1", vcpus: 8 })?;
    let disk = guest.lun("disk.img", 2 * MIB, "")?;
    disk.write(0, &pattern(8, 2 << 20))?;
    let seen = guest.run(READ_ON_EACH)?;
    seen.assert_powered_off();
    seen.assert_has("nproc", &["8\n"]);
    seen.assert_has("queues", &["7\n"]);
    let sum = disk.sha256(0, 2 << 20)?;
    assert_eq!(seen.section("read").unwrap().matches(&sum).count(), 8);
    assert_eq!(seen.section("complaints"), Some("status 1\n"));
    Ok(())
}

#[test]
fn each_of_8_vcpus_reads_by_pci() -> Result<()> {
    each_of_8_vcpus_reads(Transport::Pci)
}

#[test]
#[ignore = "only with --long"]
fn each_of_8_vcpus_reads_by_mmio() -> Result<()> {
    each_of_8_vcpus_reads(Transport::Mmio)
}

/// Linux takes what it can from the highest memory, so buffers lie above 4 GiB.
#[test]
fn disks_reach_memory_above_4_gib() -> Result<()> {
    const MEMORY: u64 = 5 << 10;
    let mut guest = Guest::new(ANY)?;
    guest.memory(MEMORY);
    let [read, written] =
        [guest.lun("read.img", 32 * MIB, "")?, guest.lun("written.img", 32 * MIB, "")?];
    read.write(0, &pattern(4, 32 << 20))?;
    let seen = guest.run(
        "section zones grep -e 'Node' -e present -e start_pfn /proc/zoneinfo
         section copy dd if=$(disk 0:0:0:0) of=$(disk 0:0:0:1) bs=1M iflag=direct oflag=direct
         section used grep -E 'Mem(Total|Free)' /proc/meminfo
         section complaints complaints",
    )?;
    seen.assert_powered_off();
    seen.assert_good(&["copy"]);
    assert_eq!(written.sha256(0, 32 << 20)?, read.sha256(0, 32 << 20)?);
    assert_eq!(seen.section("complaints"), Some("status 1\n"));
    let total = seen.section("used").unwrap().split_whitespace().nth(1).unwrap();
    assert!(total.parse::<u64>().unwrap() > (MEMORY << 10) * 9 / 10, "{total} KiB");
    let start = seen.section("zones").unwrap().lines().rfind(|line| line.contains("start_pfn"));
    let pfn = start.unwrap().split_whitespace().last().unwrap().parse::<u64>().unwrap();
    assert!(pfn << 12 >= 4 << 30, "the last zone begins at page {pfn}");
    Ok(())
}

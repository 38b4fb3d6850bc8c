//! A stock Debian kernel on machines of unusual size.

use std::io::Result;

use tests::guest::{ANY, Cell, Guest, Transport};
use tests::image::pattern;

const MIB: u64 = 1 << 20;

/// Attaches 300 disks on three targets, some past LUN 255, and returns their H:C:T:L.
fn attach_300(guest: &mut Guest) -> Result<Vec<String>> {
    let mut addresses = Vec::new();
    for target in [0, 1, 255] {
        for lun in (0..80).chain(280..300) {
            let image = format!("{target}-{lun}.img");
            guest.lun(&image, MIB, &format!("target = {target}\nlun = {lun}"))?;
            // Linux numbers a logical unit by its two address bytes; flat ones begin with 01b.
            let number = if lun < 256 { lun } else { 0x4000 | lun };
            addresses.push(format!("0:0:{target}:{number}"));
        }
    }
    Ok(addresses)
}

/// The kernel finds each of many disks, once, where it is, and in order.
fn all_of_300_disks_are_found(transport: Transport, kernel: &'static str) -> Result<()> {
    let mut guest = Guest::new(Cell { transport, kernel, vcpus: 2 })?;
    guest.cmdline("log_buf_len=4M");
    let addresses = attach_300(&mut guest)?;
    let seen = guest.run(
        r"
        found() { dmesg | sed -n 's/.*scsi \([0-9:]*\): Direct-Access.*/\1/p'; }
        section found found
        section disks sh -c 'echo /sys/block/sd* | wc -w'
        section luns sg_luns $(disk 0:0:255:0)
        section last dd if=$(disk 0:0:255:16683) of=/dev/null bs=64k iflag=direct
        ",
    )?;
    seen.assert_powered_off();
    let found = seen.section("found").unwrap().lines();
    let found: Vec<&str> = found.filter(|line| line.contains(':')).collect();
    assert_eq!(found, addresses);
    seen.assert_has("disks", &["300\n"]);
    seen.assert_has(
        "luns",
        &["100 lun entries", "    0000000000000000\n", "    412b000000000000\n"],
    );
    seen.assert_good(&["last"]);
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

/// Twelve controllers in turn by PCI and by MMIO, each with queues of its own size and number.
#[test]
fn controllers_of_both_transports_share_a_guest() -> Result<()> {
    let mut guest = Guest::new(Cell { vcpus: 2, ..ANY })?;
    let (mut sums, mut script) = (String::new(), String::new());
    for index in 0..12_u8 {
        let transport = if index % 2 == 0 { Transport::Pci } else { Transport::Mmio };
        let queue_size = 8 << (index % 8);
        if index > 0 {
            let queues = index % 3 + 1;
            let lines = format!("request_queues = {queues}\nqueue_size = {queue_size}");
            guest.controller(transport, &lines);
        }
        let wwn = format!("naa.30000000000000{index:02x}");
        let disk = guest.lun(&format!("{index}.img"), MIB, &format!("wwn = \"{wwn}\""))?;
        disk.write(0, &pattern(2 * u64::from(index), 1 << 20))?;
        sums += &format!("{}  -\n", disk.sha256(0, 1 << 20)?);
        script +=
            &format!("find_disk {wwn}; dd if=$disk bs=1M iflag=direct 2>/dev/null | sha256sum\n");
    }
    let seen = guest.run(&format!(
        "read_all() {{ {script} }}\nsection read read_all\nsection complaints complaints\n\
         section hosts sh -c 'ls -d /sys/class/scsi_host/* | wc -l'"
    ))?;
    seen.assert_powered_off();
    assert_eq!(seen.section("read").unwrap(), sums + "status 0\n");
    seen.assert_has("hosts", &["12\n"]);
    assert_eq!(seen.section("complaints"), Some("status 1\n"));
    Ok(())
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
        [guest.lun("read.img", 16 * MIB, "")?, guest.lun("written.img", 16 * MIB, "")?];
    read.write(0, &pattern(4, 16 << 20))?;
    let seen = guest.run(
        "section zones grep -e 'Node' -e present -e start_pfn /proc/zoneinfo
         section copy dd if=$(disk 0:0:0:0) of=$(disk 0:0:0:1) bs=1M iflag=direct oflag=direct
         section used grep -E 'Mem(Total|Free)' /proc/meminfo
         section complaints complaints",
    )?;
    seen.assert_powered_off();
    seen.assert_good(&["copy"]);
    assert_eq!(written.sha256(0, 16 << 20)?, read.sha256(0, 16 << 20)?);
    assert_eq!(seen.section("complaints"), Some("status 1\n"));
    let total = seen.section("used").unwrap().split_whitespace().nth(1).unwrap();
    assert!(total.parse::<u64>().unwrap() > (MEMORY << 10) * 9 / 10, "{total} KiB");
    let start = seen.section("zones").unwrap().lines().rfind(|line| line.contains("start_pfn"));
    let pfn = start.unwrap().split_whitespace().last().unwrap().parse::<u64>().unwrap();
    assert!(pfn << 12 >= 4 << 30, "the last zone begins at page {pfn}");
    Ok(())
}

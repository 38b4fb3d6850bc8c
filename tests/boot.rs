//! A stock Debian kernel finds its disks on virtio-scsi, and they do what disks do.

use std::io::Result;

use tests::guest::{ANY, Cell, Guest, Transport};
use tests::image::{Image, pattern, sha256};
use tests::running::{Outcome, Running};
use tests::seccomp::forbid_io_uring;

const MIB: u64 = 1 << 20;

/// Disks that know how they are configured.
fn attach_named_disks(guest: &mut Guest) -> Result<()> {
    guest.lun(
        "system.img",
        64 * MIB,
        "serial = \"SYSTEM-0001\"\nwwn = \"naa.3000000000000001\"\nvendor = \"ACME\"\nproduct = \"ROCKET DISK\"\nrevision = \"2.5\"",
    )?;
    guest.lun("locked.img", 8 * MIB, "lun = 3\nread_only = true\nrotational = true")?;
    guest.lun("far.img", 4 * MIB, "target = 7\nlun = 300")?;
    Ok(())
}

fn check_names(seen: &Outcome, cell: Cell) {
    let Cell { transport, vcpus, .. } = cell;
    seen.assert_has("nproc", &[&format!("{vcpus}\n")]);
    seen.assert_has("clock", &["kvm-clock"]);
    let bus = if transport == Transport::Pci { "/pci0000:00/" } else { "/LNRO0005:00/" };
    seen.assert_has("transport", &[bus]);
    seen.assert_has(
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
    seen.assert_has(
        "inquiry",
        &["Vendor identification: ACME", "SPC-4", "Unit serial number: SYSTEM-0001"],
    );
    check_pages(seen);
    check_refusals(seen);
}

fn check_pages(seen: &Outcome) {
    let pages = ["[sv]", "[sn]", "[di]", "[bl]", "[bdc]", "[lbpv]"];
    seen.assert_has("vpd-0x00", &pages);
    seen.assert_has("vpd-0x80", &["SYSTEM-0001"]);
    seen.assert_has("vpd-0x83", &["0x3000000000000001"]);
    seen.assert_has("vpd-0xb0", &["Maximum transfer length: 32768 blocks"]);
    seen.assert_has("vpd-0xb1", &["Non-rotating medium"]);
    seen.assert_has("rotation", &["not reported"]);
    seen.assert_has(
        "luns-0",
        &["    0000000000000000\n", "    0003000000000000\n", "2 lun entries"],
    );
    seen.assert_has("luns-7", &["    412c000000000000\n"]);
    seen.assert_has(
        "capacity",
        &["Last LBA=131071 (0x1ffff), Number of logical blocks=131072", "Logical block length=512"],
    );
    seen.assert_has("modes", &["Caching", "Control"]);
    seen.assert_good(&["vpd-0xb2", "ready", "sense", "opcodes"]);
    let opcodes = ["Test Unit Ready", "Read(16)", "Write(16)", "Unmap", "Write same(16)"];
    seen.assert_has("opcodes", &opcodes);
}

fn check_refusals(seen: &Outcome) {
    seen.assert_has("unsupported", &["Invalid command operation code"]);
    seen.assert_has("beyond", &["Logical block address out of range"]);
    seen.assert_has("read-only", &["1\n"]);
    seen.assert_has("protected", &["Data Protect", "Write protected"]);
}

/// Disks that hold data, with what the host knows of it.
struct Data {
    written: Image,
    from_host: Vec<u8>,
}

impl Data {
    const LEN: usize = 8 << 20;

    /// The script's variables, for disks that follow each other from 0:0:1:0.
    const SCRIPT: &str = concat!(
        "written=$(disk 0:0:1:0) read=$(disk 0:0:1:1) ext4=$(disk 0:0:1:2)\n",
        include_str!("guest/data.sh")
    );

    fn attach(guest: &mut Guest) -> Result<Data> {
        let written = guest.lun("written.img", 32 * MIB, "target = 1")?;
        let read = guest.lun("read.img", 32 * MIB, "target = 1")?;
        guest.lun("ext4.img", 64 * MIB, "target = 1")?;
        let from_host = pattern(1, Data::LEN);
        read.write(5 * MIB, &from_host)?;
        Ok(Data { written, from_host })
    }

    fn check(&self, seen: &Outcome) -> Result<()> {
        let on_disk = self.written.sha256(3 * MIB, Data::LEN)?;
        seen.assert_has("pattern", &[&on_disk]);
        seen.assert_has("read", &[&sha256(&self.from_host)]);
        seen.assert_has("again", &[&on_disk]);
        seen.assert_good(&["direct", "mkfs", "mount", "copy", "umount", "fsck", "remount"]);
        Ok(())
    }
}

/// A disk without a hole, so that each made can be told.
struct Thin(Image);

impl Thin {
    const SCRIPT: &str = concat!("thin=$(disk 0:0:2:0)\n", include_str!("guest/provisioning.sh"));

    fn attach(guest: &mut Guest) -> Result<Thin> {
        const SIZE: usize = 16 << 20;
        let thin = guest.lun("thin.img", SIZE as u64, "target = 2")?;
        thin.write(0, &vec![0xaa; SIZE])?;
        Ok(Thin(thin))
    }

    fn check(&self, seen: &Outcome) -> Result<()> {
        let limits = [
            "discard_max_hw_bytes:268435456\n",
            "write_zeroes_max_bytes:67108864\n",
            "fua:1\n",
            "write_cache:write back\n",
        ];
        seen.assert_has("limits", &limits);
        seen.assert_has("cache-off", &["write through\n"]);
        seen.assert_has("cache-on", &["write back\n"]);
        seen.assert_good(&["stopped", "started"]);
        seen.assert_has("not-ready", &["device not ready"]);
        seen.assert_good(&["unmap", "unmap-zero", "same-10", "same-16", "same-unmap"]);
        seen.assert_good(&[
            "same-unmap-zero",
            "discard",
            "discard-zero",
            "zeroout",
            "zeroout-zero",
        ]);
        seen.assert_has("unmap-beyond", &["LBA out of range"]);
        let Thin(image) = self;
        for (mib, count) in [(1, 2), (6, 1), (8, 1)] {
            assert!(image.is_hole(mib * MIB, count * MIB)?, "{count} MiB at {mib} are a hole");
        }
        assert!(image.repeats(10 * MIB, 1 << 20, &[0])?, "zeroed");
        let block = image.sha256(4 * MIB, 512)?;
        seen.assert_has("block", &[&block]);
        seen.assert_has("same", &[&block]);
        assert_eq!(image.sha256(5 * MIB, 1 << 20)?, image.sha256(4 * MIB, 1 << 20)?);
        for untouched in [0, 3, 7, 9, 11, 12, 13, 14, 15] {
            assert!(image.repeats(untouched * MIB, 1 << 20, &[0xaa])?, "at {untouched} MiB");
        }
        Ok(())
    }
}

/// Boots a guest with disks of every kind, and checks what its tools say of them, and what the
/// host finds on them.
fn a_guest_sees_and_uses_its_disks(cell: Cell) -> Result<()> {
    let mut guest = Guest::new(cell)?;
    guest.boot_bzimage();
    attach_named_disks(&mut guest)?;
    let (data, thin) = (Data::attach(&mut guest)?, Thin::attach(&mut guest)?);
    let script = [
        include_str!("guest/sees.sh"),
        Data::SCRIPT,
        Thin::SCRIPT,
        "section complaints complaints",
    ];
    let seen = guest.run(&script.join("\n"))?;
    seen.assert_powered_off();
    assert_eq!(seen.section("complaints"), Some("status 1\n"));
    check_names(&seen, cell);
    data.check(&seen)?;
    thin.check(&seen)?;
    assert!(!seen.stderr.contains("io_uring is not available"), "{}", seen.stderr);
    Ok(())
}

mod a_guest_sees_and_uses_its_disks {
    tests::matrix!(super::a_guest_sees_and_uses_its_disks);
}

#[test]
fn data_survives_without_io_uring() -> Result<()> {
    let mut guest = Guest::new(Cell { vcpus: 2, ..ANY })?;
    let data = Data::attach(&mut guest)?;
    let script = format!("{}\nsection complaints complaints", Data::SCRIPT);
    let mut command = guest.command(Some(&script))?;
    let seen = Running::start(forbid_io_uring(&mut command))?.finish()?;
    seen.assert_powered_off();
    assert_eq!(seen.section("complaints"), Some("status 1\n"));
    data.check(&seen)?;
    let warnings = seen.stderr.lines().filter(|line| line.contains("io_uring is not available"));
    assert_eq!(warnings.count(), 1, "{}", seen.stderr);
    Ok(())
}

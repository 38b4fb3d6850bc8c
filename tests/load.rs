//! A stock Debian kernel's disks under load: nothing is lost while they are written, reset, and
//! taken from their driver.

use std::io::Result;

use tests::guest::{ANY, Cell, Guest};
use tests::image::Image;
use tests::running::{Outcome, Running};
use tests::seccomp::forbid_io_uring;

const MIB: u64 = 1 << 20;

/// Where the disks are: several targets, more than one logical unit at a target, and an address
/// past 255.
const ADDRESSES: [(u8, u16); 4] = [(0, 0), (0, 1), (3, 0), (200, 500)];

/// A guest with a disk at each address, and the script's variable that names them.
fn guest(cell: Cell) -> Result<(Guest, Vec<Image>, String)> {
    let mut guest = Guest::new(cell)?;
    guest.memory(512);
    let (mut images, mut wwns) = (Vec::new(), Vec::new());
    for (index, (target, lun)) in ADDRESSES.into_iter().enumerate() {
        let wwn = format!("naa.30000000000000{index:02x}");
        let lines = format!("target = {target}\nlun = {lun}\nwwn = \"{wwn}\"");
        images.push(guest.lun(&format!("disk{index}.img"), 32 * MIB, &lines)?);
        wwns.push(wwn);
    }
    Ok((guest, images, format!("wwns='{}'\n", wwns.join(" "))))
}

fn check(seen: &Outcome, images: &[Image]) -> Result<()> {
    seen.assert_powered_off();
    seen.assert_good(&["verify", "verify-resets", "verify-again"]);
    seen.assert_good(&["resets", "rebind", "same"]);
    assert!(!seen.section("resets").unwrap().contains("\n0 resets"), "devices can be reset");
    assert_eq!(seen.section("complaints"), Some("status 1\n"));
    for image in images {
        assert!(image.allocated()? >= 24 * MIB, "fio has written to {}", image.path().display());
    }
    Ok(())
}

fn nothing_is_lost(cell: Cell) -> Result<()> {
    let (guest, images, wwns) = guest(cell)?;
    let seen = guest.run(&(wwns + include_str!("guest/load.sh")))?;
    check(&seen, &images)
}

mod nothing_is_lost {
    tests::matrix!(super::nothing_is_lost);
}

#[test]
#[ignore = "only with --long"]
fn nothing_is_lost_without_io_uring() -> Result<()> {
    let (guest, images, wwns) = guest(Cell { vcpus: 2, ..ANY })?;
    let mut command = guest.command(Some(&(wwns + include_str!("guest/load.sh"))))?;
    let seen = Running::start(forbid_io_uring(&mut command))?.finish()?;
    check(&seen, &images)
}

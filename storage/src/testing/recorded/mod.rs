//! What real devices answered, as recorded from Linux 6.1: each file has a line for each answer,
//! its name and its bytes.

use super::FakeDevice;
use crate::scsi::wire::u32_at;

/// scsi_debug, 512-byte blocks, provisioned.
pub const DISK_512: &str = include_str!("disk512.txt");
/// scsi_debug, 4096-byte blocks.
pub const DISK_4096: &str = include_str!("disk4096.txt");
/// scsi_debug as a device of SPC (VERSION 03h) that has VPD pages all the same.
pub const DISK_SPC: &str = include_str!("disk-spc.txt");
/// scsi_debug, host-managed zoned.
pub const ZONED: &str = include_str!("zoned.txt");
/// scsi_debug as a tape.
pub const TAPE: &str = include_str!("tape.txt");
/// scsi_debug as a CD device.
pub const CD: &str = include_str!("cd.txt");
/// LIO's ramdisk without a serial number: its list of VPD pages is empty.
pub const LIO_NAMELESS: &str = include_str!("lio-nameless.txt");
/// LIO's fileio over tcm_loop.
pub const LIO: &str = include_str!("lio.txt");

/// All of them.
pub const ALL: [&str; 8] = [DISK_512, DISK_4096, DISK_SPC, ZONED, TAPE, CD, LIO_NAMELESS, LIO];

/// The bytes of one answer.
#[must_use]
pub fn answer(record: &str, name: &str) -> Option<Vec<u8>> {
    let named = |line: &&str| line.split(' ').next() == Some(name);
    let (_, hex) = record.lines().find(named)?.split_once(' ')?;
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    hex.as_bytes().chunks(2).map(byte).collect()
}

impl FakeDevice {
    /// A device that answers as a real one did. Blocks hold zeros.
    #[must_use]
    pub fn recorded(record: &str) -> FakeDevice {
        let vpd = ["vpd00", "vpd80", "vpd83", "vpdb0"].iter();
        let mut device = FakeDevice {
            inquiry: answer(record, "inquiry").unwrap_or_default(),
            vpd: vpd.filter_map(|name| answer(record, name)).map(|it| (it[1], it)).collect(),
            supported: answer(record, "supported"),
            ..FakeDevice::default()
        };
        if let Some(capacity) = answer(record, "capacity16") {
            device.block_size = u32_at(&capacity, 8);
            device.capacity_flags = [capacity[12], capacity[13]];
            let blocks = u32_at(&capacity, 4) + 1;
            device.store = vec![0; (blocks * device.block_size) as usize];
        }
        if let Some(control) = answer(record, "control") {
            let descriptors = usize::from(control[3]);
            device.device_specific = control[2];
            device.block_descriptors = control[4..4 + descriptors].to_vec();
            device.mode_pages = [(0x0a, control[4 + descriptors..].to_vec())].into();
        }
        device
    }
}

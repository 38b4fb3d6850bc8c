//! How much a command may carry, and who says so.
//!
//! It must not know how a limit is worked out.

use storage::host::HostLimits;
use storage::lun::passthrough::limits::{Limits, Origin};
use storage::scsi::wire::u32_at;

use super::model::Limit;

/// Bytes of what virtio-scsi counts in.
const SECTOR: u64 = 512;
/// What a controller without limits reports.
const MAX_SECTORS: u64 = 0xffff;
const SEG_MAX: u32 = 254;

/// All limits, those that a guest is told first; `page` is its Block Limits page, if it has one.
pub(super) fn told(host: &HostLimits, limits: &Limits, page: Option<&[u8]>) -> Vec<Limit> {
    let mut rows = Vec::new();
    let mut guests = |name, value, unit, from| {
        rows.push(Limit { name, value, unit, from, effective: true });
    };
    if let Some(page) = page.filter(|page| page.len() >= 16) {
        let (maximum, optimal) = (u32_at(page, 8), u32_at(page, 12));
        guests("maximum transfer length", maximum.into(), "blocks", of_device(limits, maximum));
        guests("optimal transfer length", optimal.into(), "blocks", of_device(limits, optimal));
    }
    let sectors = (limits.max_transfer() / SECTOR).min(MAX_SECTORS);
    guests("virtio max_sectors", sectors, "sectors", "the least of these, for all LUNs");
    let segments = limits.max_segments.min(SEG_MAX).into();
    guests("virtio seg_max", segments, "segments", "the least of all LUNs and of the queue");
    let mut others = |name, value, unit, from| {
        rows.push(Limit { name, value, unit, from, effective: false });
    };
    others("max_sectors_kb", host.max_bytes >> 10, "KiB", HOST);
    others("max_hw_sectors_kb", host.max_hw_bytes >> 10, "KiB", HOST);
    others("segments", host.max_segments.into(), "pages", HOST);
    others("alignment", host.alignment.into(), "bytes", HOST);
    others("queue depth", host.queue_depth.into(), "commands", HOST);
    if let Some(blocks) = limits.device_blocks {
        others("maximum transfer length", blocks.into(), "blocks", DEVICE);
    }
    if let Some(size) = limits.block_size {
        others("logical block", size.into(), "bytes", "READ CAPACITY");
    }
    rows
}

const HOST: &str = "the host";
const DEVICE: &str = "Block Limits of the device";

/// Where a number of blocks comes from that is no more than the limit.
fn of_device(limits: &Limits, blocks: u32) -> &'static str {
    match limits.origin {
        _ if blocks != limits.blocks() => DEVICE,
        Origin::MaxBytes => "max_sectors_kb of the host",
        Origin::MaxHwBytes => "max_hw_sectors_kb of the host",
        Origin::MaxSegments => "segments of the host, a page each",
    }
}

#[cfg(test)]
mod tests {
    use storage::host::ScsiHost;
    use storage::lun::passthrough::facts::examine;
    use storage::testing::{FakeDevice, FakeHost};

    use super::*;

    fn told(device: FakeDevice, page: [u32; 2]) -> Vec<(&'static str, u64, &'static str)> {
        let host = FakeHost::new(device);
        let of_host = host.limits().unwrap();
        let limits = Limits::of(of_host, &examine(&host).unwrap());
        let [maximum, optimal] = page.map(u32::to_be_bytes);
        let page = [&[0; 8][..], &maximum, &optimal].concat();
        let rows = super::told(&of_host, &limits, Some(&page)).into_iter();
        rows.filter(|row| row.effective).map(|row| (row.name, row.value, row.from)).collect()
    }

    #[test]
    fn each_limit_is_somebodys() {
        let rows = told(FakeDevice::default(), [1024, 64]);
        assert_eq!(rows[0], ("maximum transfer length", 1024, "max_sectors_kb of the host"));
        assert_eq!(rows[1], ("optimal transfer length", 64, DEVICE));
        assert_eq!((rows[2].0, rows[2].1), ("virtio max_sectors", 1024));
        assert_eq!((rows[3].0, rows[3].1), ("virtio seg_max", 254));
        let mut device = FakeDevice::default();
        device.limits.max_segments = 65;
        let rows = told(device, [512, 512]);
        assert_eq!(rows[0].2, "segments of the host, a page each");
        assert_eq!((rows[2].1, rows[3].1), (512, 65));
        let mut device = FakeDevice::default();
        (device.limits.max_bytes, device.limits.max_hw_bytes) = (1 << 30, 1 << 30);
        device.limits.max_segments = u32::MAX;
        assert_eq!(told(device, [1 << 21, 0])[2].1, 0xffff);
    }
}

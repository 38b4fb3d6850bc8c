//! How much one command may carry: what the host can, in bytes and in blocks of the device's real
//! size, known before an initiator has sent its first command.

use libc::iovec;

use super::facts::Facts;
use crate::buffer::DataBuf;
use crate::host::HostLimits;
use crate::scsi::wire::{u16_at, u32_at};

/// A page of memory of the host: where data may be torn apart.
const PAGE: u64 = 4096;

/// How much one command may carry to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that an initiator is told, a multiple of the block size and at least one block.
    pub advertised: u64,
    /// Which of the host's limits that is.
    pub origin: Origin,
    /// Bytes that the host carries whatever memory they are in; beyond it it may fail.
    pub hard: u64,
    /// Bytes of a logical block; `None` where nobody knows, as without a medium.
    pub block_size: Option<u32>,
    /// Blocks that a transfer is best aligned to, at least 1.
    pub granularity: u32,
    /// Blocks beyond which the device itself refuses a transfer (MAXIMUM TRANSFER LENGTH).
    pub device_blocks: Option<u32>,
    /// Segments of memory in one command.
    pub max_segments: u32,
}

/// Where a limit comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// What the host prefers (max_sectors_kb).
    MaxBytes,
    /// What the host is able to (max_hw_sectors_kb).
    MaxHwBytes,
    /// The host's number of segments, with a page of memory in each.
    MaxSegments,
}

impl Limits {
    /// What `host` carries to the device.
    #[must_use]
    pub fn of(host: HostLimits, facts: &Facts) -> Limits {
        let scattered = scattered(host.max_segments);
        let origins = [
            (host.max_bytes, Origin::MaxBytes),
            (host.max_hw_bytes, Origin::MaxHwBytes),
            (scattered, Origin::MaxSegments),
        ];
        // A limit of 0 is none that was told.
        let told = origins.into_iter().filter(|(bytes, _)| *bytes != 0);
        let (bytes, origin) =
            told.min_by_key(|(bytes, _)| *bytes).unwrap_or((scattered, Origin::MaxSegments));
        let hw = if host.max_hw_bytes == 0 { bytes } else { host.max_hw_bytes };
        let block_size = facts.medium.map(|medium| medium.block_size);
        let block = u64::from(assumed(block_size));
        Limits {
            advertised: whole_blocks(bytes, block),
            origin,
            hard: hw.min(scattered),
            block_size,
            granularity: granularity(facts),
            device_blocks: device_blocks(facts),
            max_segments: host.max_segments.max(1),
        }
    }

    /// The advertised limit in blocks, at least 1. Where nobody knows their size, so few that it
    /// is right for long ones too.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        let blocks = self.advertised / u64::from(assumed(self.block_size));
        u32::try_from(blocks).unwrap_or(u32::MAX).max(1)
    }

    /// The longest transfer that neither host nor device refuses, in bytes.
    #[must_use]
    pub fn max_transfer(&self) -> u64 {
        let block = u64::from(assumed(self.block_size));
        let device = self.device_blocks.map_or(u64::MAX, |blocks| u64::from(blocks) * block);
        self.advertised.min(device)
    }

    /// Whether the host carries the data from the memory that it is in; otherwise it has to be
    /// copied to memory in one piece.
    #[must_use]
    pub fn carries(&self, data: &DataBuf) -> bool {
        let pages = data.iovecs().iter().map(pages).fold(0, u64::saturating_add);
        pages <= self.max_segments.into()
    }
}

/// Bytes that fit in any case, where each segment is a page of memory: the first of them may begin
/// late in its page, and then takes one page more.
fn scattered(max_segments: u32) -> u64 {
    u64::from(max_segments).saturating_sub(1).max(1) * PAGE
}

/// Pages of memory that a segment touches.
fn pages(segment: &iovec) -> u64 {
    if segment.iov_len == 0 {
        return 0;
    }
    let within = segment.iov_base.addr() as u64 % PAGE;
    within.saturating_add(segment.iov_len as u64).div_ceil(PAGE)
}

/// The size of a block that is long, where nobody knows it.
fn assumed(block_size: Option<u32>) -> u32 {
    const LONG_BLOCK: u32 = 4096;
    block_size.unwrap_or(LONG_BLOCK)
}

fn whole_blocks(bytes: u64, block: u64) -> u64 {
    (bytes / block).max(1) * block
}

fn granularity(facts: &Facts) -> u32 {
    let optimal = facts.block_limits.as_ref().map_or(0, |page| u16_at(page, 6));
    let physical = facts.medium.map_or(1, |medium| medium.per_physical);
    if optimal == 0 { physical } else { optimal.into() }
}

fn device_blocks(facts: &Facts) -> Option<u32> {
    let blocks = facts.block_limits.as_ref().map_or(0, |page| u32_at(page, 8));
    (blocks != 0).then_some(blocks)
}

#[cfg(test)]
mod tests {
    use super::super::facts::Medium;
    use super::*;
    use crate::testing::OwnedBuf;

    fn host(max_kib: u64, hw_kib: u64, max_segments: u32) -> HostLimits {
        HostLimits {
            max_bytes: max_kib << 10,
            max_hw_bytes: hw_kib << 10,
            max_segments,
            alignment: 4,
            queue_depth: 1,
        }
    }

    fn disk(block_size: u32) -> Facts {
        let medium = Medium { blocks: 1 << 20, block_size, per_physical: 1, protection: 0 };
        Facts { medium: Some(medium), ..Facts::default() }
    }

    #[test]
    fn the_least_of_the_hosts_limits_is_advertised() {
        for (host, kib, origin, hard) in [
            (host(256, 512, 1024), 256, Origin::MaxBytes, 512),
            (host(1280, 512, 1024), 512, Origin::MaxHwBytes, 512),
            (host(1280, 32767, 128), 508, Origin::MaxSegments, 508),
            (host(1280, 32767, 1), 4, Origin::MaxSegments, 4),
            (host(1280, 32767, 0), 4, Origin::MaxSegments, 4),
            (host(0, 0, 17), 64, Origin::MaxSegments, 64),
        ] {
            let limits = Limits::of(host, &disk(512));
            assert_eq!((limits.advertised, limits.origin), (kib << 10, origin), "{host:?}");
            assert_eq!(limits.hard, hard << 10, "{host:?}");
        }
    }

    /// Shortfall 2: QEMU counts in blocks of 512 until the guest has read the capacity.
    #[test]
    fn limits_are_right_for_every_block_size_at_the_first_command() {
        for (block_size, blocks) in [(512, 512), (520, 504), (4096, 64), (4160, 63), (1 << 20, 1)] {
            let limits = Limits::of(host(256, 512, 1024), &disk(block_size));
            assert_eq!(limits.blocks(), blocks, "{block_size}");
            assert_eq!(limits.advertised, u64::from(blocks) * u64::from(block_size));
        }
        let unknown = Limits::of(host(256, 512, 1024), &Facts::default());
        assert_eq!((unknown.block_size, unknown.blocks()), (None, 64));
    }

    #[test]
    fn what_the_device_refuses_limits_it_too() {
        let mut page = vec![0; 64];
        page[11] = 8;
        let facts = Facts { block_limits: Some(page), ..disk(4096) };
        let limits = Limits::of(host(256, 512, 1024), &facts);
        assert_eq!((limits.max_transfer(), limits.advertised), (32 << 10, 256 << 10));
    }

    #[test]
    fn segments_are_counted_by_the_pages_that_they_touch() {
        let limits = Limits::of(host(256, 512, 3), &disk(512));
        assert_eq!(limits.hard, 8192);
        let carries = |memory: &mut OwnedBuf| memory.with(|data| limits.carries(data));
        assert!(carries(&mut OwnedBuf::aligned(&[4096, 4096, 4096], 4096)));
        assert!(!carries(&mut OwnedBuf::aligned(&[4097, 4096, 4096], 4096)));
        assert!(!carries(&mut OwnedBuf::aligned(&[512; 4], 4096)));
        let mut late = OwnedBuf::aligned(&[16384], 4096);
        let carries_late = |skip| {
            late.with(|data| {
                data.advance(skip);
                data.truncate(12288);
                limits.carries(data)
            })
        };
        assert_eq!([0, 8, 4096].map(carries_late), [true, false, true]);
        assert!(carries(&mut OwnedBuf::aligned(&[12288], 4096)));
        assert!(carries(&mut OwnedBuf::zeroed(&[])));
    }
}

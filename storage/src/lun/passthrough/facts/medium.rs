//! The blocks of a device (SBC-4, READ CAPACITY commands).

use super::probe::Probe;
use super::{ExamineError, Facts};
use crate::scsi::wire::{u32_at, u64_at};

/// The blocks of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Medium {
    /// How many there are.
    pub blocks: u64,
    /// Bytes of one of them, without protection information.
    pub block_size: u32,
    /// Logical blocks in a physical one.
    pub per_physical: u32,
    /// The protection type that it is formatted with, 1 to 3, or 0 for none.
    pub protection: u8,
}

impl Medium {
    /// The longest block that is believed in, in bytes.
    const MAX_BLOCK: u32 = 1 << 20;

    fn of_16(data: &[u8]) -> Option<Medium> {
        const PROT_EN: u8 = 0x01;
        const P_TYPE: u8 = 0x0e;
        let flags = data.get(12).copied().unwrap_or(0);
        let protected = flags & PROT_EN != 0;
        let exponent = data.get(13).copied().unwrap_or(0) & 0x0f;
        Some(Medium {
            blocks: u64_at(data, 0).saturating_add(1),
            block_size: Medium::block_size(data, 8)?,
            per_physical: 1 << exponent,
            protection: if protected { ((flags & P_TYPE) >> 1) + 1 } else { 0 },
        })
    }

    fn of_10(data: &[u8]) -> Option<Medium> {
        let blocks = u64::from(u32_at(data, 0)).saturating_add(1);
        let block_size = Medium::block_size(data, 4)?;
        Some(Medium { blocks, block_size, per_physical: 1, protection: 0 })
    }

    fn block_size(data: &[u8], offset: usize) -> Option<u32> {
        let size = u32_at(data, offset);
        (data.len() >= offset + 4 && (1..=Medium::MAX_BLOCK).contains(&size)).then_some(size)
    }
}

/// Reads the capacity, first by the command that a device of its age knows.
pub(super) fn read(probe: &mut Probe<'_>, facts: &Facts) -> Result<Option<Medium>, ExamineError> {
    const VERSION_SPC_3: u8 = 5;
    /// Direct access, write-once, CD, optical memory, simplified direct access, host-managed zoned.
    const WITH_CAPACITY: [u8; 6] = [0x00, 0x04, 0x05, 0x07, 0x0e, 0x14];
    const WITH_CAPACITY_16: [u8; 2] = [0x00, 0x14];
    const PROTECT: u8 = 0x01;
    if !WITH_CAPACITY.contains(&facts.device_type()) {
        return Ok(None);
    }
    if !WITH_CAPACITY_16.contains(&facts.device_type()) {
        return capacity_10(probe);
    }
    let protects = facts.inquiry.get(5).is_some_and(|byte| byte & PROTECT != 0);
    if facts.version() >= VERSION_SPC_3 || protects {
        let long = capacity_16(probe)?;
        return if long.is_some() { Ok(long) } else { capacity_10(probe) };
    }
    match capacity_10(probe)? {
        Some(Medium { blocks, .. }) if blocks > u64::from(u32::MAX) => capacity_16(probe),
        short => Ok(short),
    }
}

fn capacity_16(probe: &mut Probe<'_>) -> Result<Option<Medium>, ExamineError> {
    let cdb = [0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0];
    Ok(probe.ask(&cdb, 32)?.and_then(|data| Medium::of_16(&data)))
}

fn capacity_10(probe: &mut Probe<'_>) -> Result<Option<Medium>, ExamineError> {
    let cdb = [0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    Ok(probe.ask(&cdb, 8)?.and_then(|data| Medium::of_10(&data)))
}

//! Block Limits (SBC-4): no limit is above what the host can carry.
//!
//! The device's own values stay where they are lower. Of the fields in which 0 means that there is
//! no limit, the maximum transfer length alone gets one; elsewhere 0 means that a command is not
//! supported, or that nothing is recommended, and stays. MAXIMUM UNMAP LBA COUNT and MAXIMUM WRITE
//! SAME LENGTH stay too, since these commands carry the same few bytes for any number of blocks,
//! and their time-out is that of commands that go through much of the medium.
//!
//! The limits of the Third-party Copy page (8Fh) stay: they count bytes of parameter lists. One
//! that is longer than the host carries is refused, with the pointer at PARAMETER LIST LENGTH.

use super::{Context, Limits, page};
use crate::scsi::vpd::PageCode;
use crate::scsi::wire::{put_u16, put_u32, u16_at, u32_at};

const MAXIMUM_COMPARE_AND_WRITE_LENGTH: usize = 5;
const OPTIMAL_TRANSFER_LENGTH_GRANULARITY: usize = 6;
const MAXIMUM_TRANSFER_LENGTH: usize = 8;
const OPTIMAL_TRANSFER_LENGTH: usize = 12;
const MAXIMUM_PREFETCH_LENGTH: usize = 16;
const MAXIMUM_UNMAP_BLOCK_DESCRIPTOR_COUNT: usize = 24;
const MAXIMUM_ATOMIC_TRANSFER_LENGTH: usize = 44;
const ATOMIC_TRANSFER_LENGTH_GRANULARITY: usize = 52;
const MAXIMUM_ATOMIC_TRANSFER_LENGTH_WITH_BOUNDARY: usize = 56;
const MAXIMUM_ATOMIC_BOUNDARY_SIZE: usize = 60;

/// Length of the page in SBC-4, in bytes.
const LEN: usize = 64;

/// Length of its first version, up to the optimal transfer length (SBC-2).
const SHORTEST: usize = 16;

/// Lowers what is too high; a device without the page gets one.
pub(super) fn edit(data: &mut Vec<u8>, context: &Context<'_>) {
    if page::is_page(data, PageCode::BLOCK_LIMITS, &context.facts.inquiry) {
        page::settle(data);
        data.resize(data.len().max(SHORTEST), 0);
        page::state_length(data);
    } else {
        let body = [0; LEN - page::HEADER];
        *data = page::new(context.facts.peripheral(), PageCode::BLOCK_LIMITS, &body);
    }
    transfers(data, context.limits.blocks());
    compare_and_write(data, context.limits);
    unmap_descriptors(data, context.limits);
    atomic_writes(data, context.limits.blocks());
}

fn transfers(page: &mut [u8], blocks: u32) {
    lower(page, MAXIMUM_TRANSFER_LENGTH, blocks);
    if u32_at(page, MAXIMUM_TRANSFER_LENGTH) == 0 {
        put_u32(page, MAXIMUM_TRANSFER_LENGTH, blocks);
    }
    let maximum = u32_at(page, MAXIMUM_TRANSFER_LENGTH);
    let granularity = u32::from(u16_at(page, OPTIMAL_TRANSFER_LENGTH_GRANULARITY)).min(maximum);
    let field = u16::try_from(granularity).unwrap_or(u16::MAX);
    put_u16(page, OPTIMAL_TRANSFER_LENGTH_GRANULARITY, field);
    if u32_at(page, OPTIMAL_TRANSFER_LENGTH) > maximum {
        put_u32(page, OPTIMAL_TRANSFER_LENGTH, multiple(maximum, granularity));
    }
    lower(page, MAXIMUM_PREFETCH_LENGTH, blocks);
}

/// COMPARE AND WRITE carries each block twice.
fn compare_and_write(page: &mut [u8], limits: &Limits) {
    let maximum = u32_at(page, MAXIMUM_TRANSFER_LENGTH).min(limits.blocks() / 2);
    let maximum = u8::try_from(maximum).unwrap_or(u8::MAX);
    if let Some(field) = page.get_mut(MAXIMUM_COMPARE_AND_WRITE_LENGTH) {
        *field = maximum.min(*field);
    }
}

/// The parameter list of UNMAP must fit; one that is as long as its CDB can say always does where
/// the host carries that.
fn unmap_descriptors(page: &mut [u8], limits: &Limits) {
    const LIST_HEADER: u64 = 8;
    const DESCRIPTOR: u64 = 16;
    const LONGEST_LIST: u64 = u16::MAX as u64;
    if limits.hard < LONGEST_LIST {
        let descriptors = limits.hard.saturating_sub(LIST_HEADER) / DESCRIPTOR;
        let descriptors = u32::try_from(descriptors).unwrap_or(u32::MAX);
        lower(page, MAXIMUM_UNMAP_BLOCK_DESCRIPTOR_COUNT, descriptors);
    }
}

/// An atomic write cannot be split, and its length must be a multiple of its granularity.
fn atomic_writes(page: &mut [u8], blocks: u32) {
    let granularity = u32_at(page, ATOMIC_TRANSFER_LENGTH_GRANULARITY);
    let maximum = multiple(blocks, granularity);
    let maximum = if granularity > blocks { 0 } else { maximum };
    lower(page, MAXIMUM_ATOMIC_TRANSFER_LENGTH, maximum);
    lower(page, MAXIMUM_ATOMIC_TRANSFER_LENGTH_WITH_BOUNDARY, maximum);
    lower(page, MAXIMUM_ATOMIC_BOUNDARY_SIZE, maximum);
}

/// Lowers the field to `maximum`, if the page has it; 0 stays.
fn lower(page: &mut [u8], offset: usize, maximum: u32) {
    if u32_at(page, offset) > maximum {
        put_u32(page, offset, maximum);
    }
}

/// The greatest multiple of `granularity` up to `value`, if there is one above 0.
fn multiple(value: u32, granularity: u32) -> u32 {
    match value.checked_rem(granularity) {
        Some(rest) if rest < value => value - rest,
        _ => value,
    }
}

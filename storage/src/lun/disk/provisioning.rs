//! Blocks that are given back or filled without being sent: UNMAP, WRITE SAME (SBC-4, Logical
//! block provisioning). A disk is thin provisioned where its backend can unmap and its
//! specification lets it; otherwise it has no UNMAP, and a WRITE SAME only writes.

use super::range::BlockCommand;
use super::{BufferLens, Disk, Plan};
use crate::engine::{BlockIo, ByteRange};
use crate::scsi::cdb::Cdb;
use crate::scsi::sense::Sense;
use crate::scsi::unmap;

/// MAXIMUM UNMAP LBA COUNT, in bytes.
pub(super) const MAX_UNMAP: u32 = 256 << 20;

/// MAXIMUM UNMAP BLOCK DESCRIPTOR COUNT
pub(super) const MAX_UNMAP_DESCRIPTORS: u32 = 256;

/// MAXIMUM WRITE SAME LENGTH, in bytes. Where the host cannot zero, all of them are written.
pub(super) const MAX_WRITE_SAME: u32 = 64 << 20;

impl Disk {
    /// UNMAP, of which the parameter list is yet to be read.
    pub(super) fn unmap(cdb: &Cdb, lens: BufferLens) -> Result<Plan, Sense> {
        const ANCHOR: u8 = 0;
        if cdb.bit(1, ANCHOR) {
            return Err(Sense::invalid_field(1, Some(ANCHOR)));
        }
        Ok(Plan::parameters(cdb.u16(7), lens))
    }

    /// UNMAP with its parameter list. Nothing is unmapped unless all of it is right.
    pub(super) fn unmap_listed(&self, list: &[u8]) -> Result<Plan, Sense> {
        const DESCRIPTORS_LEN_AT: u16 = 2;
        let descriptors = unmap::descriptors(list)?;
        if descriptors.len() > MAX_UNMAP_DESCRIPTORS as usize {
            return Err(Sense::invalid_parameter(DESCRIPTORS_LEN_AT, None));
        }
        let mut ranges = Vec::with_capacity(descriptors.len());
        let mut total = 0;
        for (index, descriptor) in descriptors.enumerate() {
            let range = self.existing(descriptor.lba, descriptor.blocks)?;
            total += range.len;
            if total > MAX_UNMAP.into() {
                return Err(Sense::invalid_parameter(blocks_at(index), None));
            }
            ranges.push(range);
        }
        self.refuse_after_lost_writes()?;
        ranges.retain(|range| range.len > 0);
        if ranges.is_empty() {
            return Ok(Plan::Good);
        }
        let io = BlockIo::Unmap { ranges: ranges.into(), fua: self.is_through() };
        Ok(Plan::Io { io, len: 0 })
    }

    pub(super) fn write_same(&self, cdb: &Cdb, lens: BufferLens) -> Result<Plan, Sense> {
        let command = BlockCommand::of(cdb);
        command.refuse_protection()?;
        let options = WriteSameOptions::of(cdb);
        if options.anchor {
            return Err(Sense::invalid_field(1, Some(4)));
        }
        if options.unmap && self.thin.is_none() {
            return Err(Sense::invalid_field(1, Some(3)));
        }
        if options.physical_address {
            return Err(Sense::invalid_field(1, Some(2)));
        }
        if options.logical_address {
            return Err(Sense::invalid_field(1, Some(1)));
        }
        // WSNZ: 0 does not stand for the rest of the medium.
        if command.blocks == 0 {
            return Err(command.wrong_length());
        }
        let range: ByteRange = self.range(command, MAX_WRITE_SAME)?;
        self.refuse_after_lost_writes()?;
        let io = BlockIo::WriteSame { range, may_unmap: options.unmap, fua: self.is_through() };
        let data_out = if options.no_data_out { 0 } else { self.geometry.block_size };
        Ok(Plan::io(io, data_out.into(), lens.data_out))
    }
}

/// Byte 1 of a WRITE SAME.
struct WriteSameOptions {
    anchor: bool,
    unmap: bool,
    /// PBDATA, which puts the address of each physical sector into it; obsolete.
    physical_address: bool,
    /// LBDATA, which puts the address of each block into it; obsolete.
    logical_address: bool,
    /// NDOB, which only WRITE SAME(16) has.
    no_data_out: bool,
}

impl WriteSameOptions {
    fn of(cdb: &Cdb) -> WriteSameOptions {
        const WRITE_SAME_16: u8 = 0x93;
        WriteSameOptions {
            anchor: cdb.bit(1, 4),
            unmap: cdb.bit(1, 3),
            physical_address: cdb.bit(1, 2),
            logical_address: cdb.bit(1, 1),
            no_data_out: cdb.opcode() == WRITE_SAME_16 && cdb.bit(1, 0),
        }
    }
}

/// Where NUMBER OF LOGICAL BLOCKS of descriptor `index` is in an UNMAP parameter list.
fn blocks_at(index: usize) -> u16 {
    let at = unmap::HEADER_LEN + index * unmap::DESCRIPTOR_LEN + 8;
    u16::try_from(at).unwrap_or(u16::MAX)
}

/// A thin provisioned disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Thin {
    /// OPTIMAL UNMAP GRANULARITY, in blocks.
    pub(super) granularity: u32,
    /// Unmapped blocks read as zeros (LBPRZ).
    pub(super) reads_zero: bool,
}

//! How large the disk is: READ CAPACITY (SBC-4).

use super::{Disk, Plan};
use crate::scsi::cdb::Cdb;
use crate::scsi::wire::{put_u16, put_u32, put_u64};

impl Disk {
    /// A last LBA that does not fit reads as all ones, for which READ CAPACITY(16) is asked.
    pub(super) fn read_capacity_10(&self) -> Plan {
        let last = u32::try_from(self.last_lba()).unwrap_or(u32::MAX);
        let mut bytes = vec![0; 8];
        put_u32(&mut bytes, 0, last);
        put_u32(&mut bytes, 4, self.geometry.block_size);
        Plan::Data { bytes, allocation_length: usize::MAX }
    }

    pub(super) fn read_capacity_16(&self, cdb: &Cdb) -> Plan {
        const LBPME: u8 = 0x80;
        const LBPRZ: u8 = 0x40;
        let mut bytes = vec![0; 32];
        put_u64(&mut bytes, 0, self.last_lba());
        put_u32(&mut bytes, 8, self.geometry.block_size);
        bytes[13] = self.physical_block_exponent();
        put_u16(&mut bytes, 14, self.lowest_aligned_lba());
        bytes[14] |= match self.thin {
            None => 0,
            Some(thin) if thin.reads_zero => LBPME | LBPRZ,
            Some(_) => LBPME,
        };
        let allocation_length = usize::try_from(cdb.u32(10)).unwrap_or(usize::MAX);
        Plan::Data { bytes, allocation_length }
    }

    fn last_lba(&self) -> u64 {
        self.geometry.blocks.saturating_sub(1)
    }

    /// LOGICAL BLOCKS PER PHYSICAL BLOCK EXPONENT
    fn physical_block_exponent(&self) -> u8 {
        u8::try_from(self.blocks_per_physical_block().ilog2()).unwrap_or(0)
    }

    /// LOWEST ALIGNED LOGICAL BLOCK ADDRESS, of 14 bits.
    fn lowest_aligned_lba(&self) -> u16 {
        let lba = self.topology.alignment_offset / self.geometry.block_size;
        u16::try_from(lba).ok().filter(|lba| lba >> 14 == 0).unwrap_or(0)
    }

    /// Logical blocks in a physical block: a power of two.
    pub(super) fn blocks_per_physical_block(&self) -> u32 {
        let blocks = self.topology.physical_block_size.checked_div(self.geometry.block_size);
        blocks.filter(|blocks| blocks.is_power_of_two()).unwrap_or(1)
    }
}

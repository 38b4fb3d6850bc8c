//! Who the disk is and what it can do: INQUIRY and its VPD pages (SPC-6, SBC-4).

use super::provisioning::{MAX_UNMAP, MAX_UNMAP_DESCRIPTORS, MAX_WRITE_SAME};
use super::{Disk, MAX_TRANSFER, Plan};
use crate::scsi::cdb::Cdb;
use crate::scsi::inquiry::{self, DIRECT_ACCESS};
use crate::scsi::sense::Sense;
use crate::scsi::vpd::{self, BlockLimits, PageCode, RotationRate};

/// The VPD pages of a disk, ascending.
const VPD_PAGES: [PageCode; 7] = [
    PageCode::SUPPORTED_PAGES,
    PageCode::UNIT_SERIAL_NUMBER,
    PageCode::DEVICE_IDENTIFICATION,
    PageCode::EXTENDED_INQUIRY_DATA,
    PageCode::BLOCK_LIMITS,
    PageCode::BLOCK_DEVICE_CHARACTERISTICS,
    PageCode::LOGICAL_BLOCK_PROVISIONING,
];

impl Disk {
    pub(super) fn inquiry(&self, cdb: &Cdb) -> Result<Plan, Sense> {
        let evpd = cdb.bit(1, 0);
        let bytes = match (evpd, PageCode(cdb.u8(2))) {
            (true, code) => self.vpd_page(code).ok_or(Sense::invalid_field(2, None))?,
            (false, PageCode(0)) => self.standard_inquiry(),
            (false, _) => return Err(Sense::invalid_field(2, None)),
        };
        Ok(Plan::Data { bytes, allocation_length: cdb.u16(3).into() })
    }

    fn standard_inquiry(&self) -> Vec<u8> {
        let identity = &self.identity;
        let (vendor, product) = (identity.vendor.as_bytes(), identity.product.as_bytes());
        inquiry::standard(DIRECT_ACCESS, vendor, product, identity.revision.as_bytes()).to_vec()
    }

    fn vpd_page(&self, code: PageCode) -> Option<Vec<u8>> {
        Some(match code {
            PageCode::SUPPORTED_PAGES => vpd::supported_pages(&VPD_PAGES),
            PageCode::UNIT_SERIAL_NUMBER => vpd::page(code, self.identity.serial.as_bytes()),
            PageCode::DEVICE_IDENTIFICATION => {
                vpd::device_identification(self.identity.wwn.as_bytes())
            }
            PageCode::EXTENDED_INQUIRY_DATA => vpd::extended_inquiry_data(),
            PageCode::BLOCK_LIMITS => self.block_limits().to_page(),
            PageCode::BLOCK_DEVICE_CHARACTERISTICS => {
                vpd::block_device_characteristics(self.rotation_rate())
            }
            PageCode::LOGICAL_BLOCK_PROVISIONING => match self.thin {
                Some(thin) => vpd::thin_provisioned(thin.reads_zero),
                None => vpd::fully_provisioned(),
            },
            _ => return None,
        })
    }

    fn block_limits(&self) -> BlockLimits {
        let blocks = |bytes: u32| bytes / self.geometry.block_size;
        let physical = match self.blocks_per_physical_block() {
            1 => 0,
            blocks => u16::try_from(blocks).unwrap_or(0),
        };
        let limits = BlockLimits {
            optimal_granularity: physical,
            maximum_transfer: blocks(MAX_TRANSFER),
            maximum_write_same: blocks(MAX_WRITE_SAME),
            ..BlockLimits::default()
        };
        match self.thin {
            None => limits,
            Some(thin) => BlockLimits {
                maximum_unmap: blocks(MAX_UNMAP),
                maximum_unmap_descriptors: MAX_UNMAP_DESCRIPTORS,
                unmap_granularity: thin.granularity,
                ..limits
            },
        }
    }

    fn rotation_rate(&self) -> RotationRate {
        if self.rotational { RotationRate::NOT_REPORTED } else { RotationRate::NON_ROTATING }
    }
}

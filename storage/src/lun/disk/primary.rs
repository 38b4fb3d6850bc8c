//! The commands of every device type (SPC-6).

use super::{Disk, MAX_TRANSFER, Plan};
use crate::scsi::cdb::Cdb;
use crate::scsi::inquiry::{self, DIRECT_ACCESS};
use crate::scsi::mode::{self, PageControl};
use crate::scsi::sense::{Sense, SenseCode};
use crate::scsi::vpd::{self, BlockLimits, PageCode, RotationRate};

/// The VPD pages of a disk, ascending.
const VPD_PAGES: [PageCode; 6] = [
    PageCode::SUPPORTED_PAGES,
    PageCode::UNIT_SERIAL_NUMBER,
    PageCode::DEVICE_IDENTIFICATION,
    PageCode::BLOCK_LIMITS,
    PageCode::BLOCK_DEVICE_CHARACTERISTICS,
    PageCode::LOGICAL_BLOCK_PROVISIONING,
];

/// REQUEST SENSE with nothing pending: every error was told with its command (SPC-6, REQUEST
/// SENSE command).
pub(super) fn request_sense(cdb: &Cdb) -> Plan {
    let bytes = Sense::from(SenseCode::NO_SENSE).to_bytes(cdb.bit(1, 0));
    Plan::Data { bytes, allocation_length: cdb.u8(4).into() }
}

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
            PageCode::BLOCK_LIMITS => self.block_limits().to_page(),
            PageCode::BLOCK_DEVICE_CHARACTERISTICS => {
                vpd::block_device_characteristics(self.rotation_rate())
            }
            PageCode::LOGICAL_BLOCK_PROVISIONING => vpd::logical_block_provisioning(),
            _ => return None,
        })
    }

    fn block_limits(&self) -> BlockLimits {
        BlockLimits { maximum_transfer: MAX_TRANSFER / self.geometry.block_size }
    }

    fn rotation_rate(&self) -> RotationRate {
        if self.rotational { RotationRate::NOT_REPORTED } else { RotationRate::NON_ROTATING }
    }

    pub(super) fn mode_sense_6(&self, cdb: &Cdb) -> Result<Plan, Sense> {
        let control = PageControl(cdb.u8(2) >> 6);
        if control == PageControl::SAVED {
            return Err(SenseCode::SAVING_PARAMETERS_NOT_SUPPORTED.into());
        }
        let pages = mode_pages(mode::PageCode(cdb.u8(2) & 0x3f), cdb.u8(3))?;
        let values: Vec<u8> = match control {
            PageControl::CHANGEABLE => {
                pages.iter().flat_map(|page| mode::unchangeable(page)).collect()
            }
            _ => pages.concat(),
        };
        let without_descriptor = cdb.bit(1, 3);
        let descriptor = (!without_descriptor)
            .then(|| mode::block_descriptor(self.geometry.blocks, self.geometry.block_size));
        let bytes = mode::list_6(mode::device_specific(self.read_only), descriptor, &values);
        Ok(Plan::Data { bytes, allocation_length: cdb.u8(4).into() })
    }
}

/// The pages that a MODE SENSE asks for. Subpage FFh asks for all of them; only 00h exists.
fn mode_pages(code: mode::PageCode, subpage: u8) -> Result<Vec<Vec<u8>>, Sense> {
    if !matches!(subpage, 0x00 | 0xff) {
        return Err(Sense::invalid_field(3, None));
    }
    match code {
        mode::PageCode::CACHING => Ok(vec![mode::caching().to_vec()]),
        mode::PageCode::CONTROL => Ok(vec![mode::control().to_vec()]),
        mode::PageCode::ALL => Ok(vec![mode::caching().to_vec(), mode::control().to_vec()]),
        _ => Err(Sense::invalid_field(2, Some(5))),
    }
}

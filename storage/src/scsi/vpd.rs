//! Vital product data pages (SPC-6 and SBC-4, Vital product data parameters).

use super::inquiry::DIRECT_ACCESS;
use super::wire::{put_u16, put_u32};

/// A VPD page code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageCode(pub u8);

impl PageCode {
    /// Supported VPD Pages
    pub const SUPPORTED_PAGES: PageCode = PageCode(0x00);
    /// Unit Serial Number
    pub const UNIT_SERIAL_NUMBER: PageCode = PageCode(0x80);
    /// Device Identification
    pub const DEVICE_IDENTIFICATION: PageCode = PageCode(0x83);
    /// Block Limits
    pub const BLOCK_LIMITS: PageCode = PageCode(0xb0);
    /// Block Device Characteristics
    pub const BLOCK_DEVICE_CHARACTERISTICS: PageCode = PageCode(0xb1);
    /// Logical Block Provisioning
    pub const LOGICAL_BLOCK_PROVISIONING: PageCode = PageCode(0xb2);
}

/// A page of a direct access block device: the four header bytes, then `body`.
#[must_use]
pub fn page(code: PageCode, body: &[u8]) -> Vec<u8> {
    let mut page = vec![DIRECT_ACCESS, code.0, 0, 0];
    page.extend_from_slice(body);
    let len = u16::try_from(body.len()).unwrap_or(u16::MAX);
    put_u16(&mut page, 2, len);
    page
}

/// The Supported VPD Pages page that lists `pages`, which ascend.
#[must_use]
pub fn supported_pages(pages: &[PageCode]) -> Vec<u8> {
    let codes: Vec<u8> = pages.iter().map(|code| code.0).collect();
    page(PageCode::SUPPORTED_PAGES, &codes)
}

/// The Device Identification page with one NAA designator of the logical unit.
#[must_use]
pub fn device_identification(naa: &[u8]) -> Vec<u8> {
    const BINARY: u8 = 0x01;
    const LOGICAL_UNIT_NAA: u8 = 0x03;
    let len = u8::try_from(naa.len()).unwrap_or(0);
    let designator = [&[BINARY, LOGICAL_UNIT_NAA, 0, len], naa].concat();
    page(PageCode::DEVICE_IDENTIFICATION, &designator)
}

/// What the Block Limits page says. A field that is not here is reported as 0: the commands that
/// it bounds are not supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockLimits {
    /// MAXIMUM TRANSFER LENGTH, in blocks.
    pub maximum_transfer: u32,
}

impl BlockLimits {
    /// The Block Limits page (SBC-4, Block Limits VPD page).
    #[must_use]
    pub fn to_page(&self) -> Vec<u8> {
        let mut page = page(PageCode::BLOCK_LIMITS, &[0; 60]);
        put_u32(&mut page, 8, self.maximum_transfer);
        page
    }
}

/// MEDIUM ROTATION RATE (SBC-4, Block Device Characteristics VPD page).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RotationRate(pub u16);

impl RotationRate {
    /// Not reported: an initiator takes the medium to rotate.
    pub const NOT_REPORTED: RotationRate = RotationRate(0);
    /// The medium does not rotate.
    pub const NON_ROTATING: RotationRate = RotationRate(1);
}

/// The Block Device Characteristics page.
#[must_use]
pub fn block_device_characteristics(rate: RotationRate) -> Vec<u8> {
    let mut page = page(PageCode::BLOCK_DEVICE_CHARACTERISTICS, &[0; 60]);
    put_u16(&mut page, 4, rate.0);
    page
}

/// The Logical Block Provisioning page of a fully provisioned logical unit: no UNMAP, no WRITE
/// SAME with UNMAP, PROVISIONING TYPE 0.
#[must_use]
pub fn logical_block_provisioning() -> Vec<u8> {
    page(PageCode::LOGICAL_BLOCK_PROVISIONING, &[0; 4])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_page_states_its_length() {
        let pages = [
            supported_pages(&[PageCode::SUPPORTED_PAGES, PageCode::BLOCK_LIMITS]),
            device_identification(&[0x35; 8]),
            BlockLimits { maximum_transfer: 1 }.to_page(),
            block_device_characteristics(RotationRate::NON_ROTATING),
            logical_block_provisioning(),
        ];
        for page in pages {
            assert_eq!(usize::from(page[2]) << 8 | usize::from(page[3]), page.len() - 4);
        }
    }

    #[test]
    fn golden_pages() {
        assert_eq!(supported_pages(&[PageCode(0), PageCode(0xb0)]), [0, 0, 0, 2, 0, 0xb0]);
        let identification = device_identification(&[0x30, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(identification, [0, 0x83, 0, 12, 1, 3, 0, 8, 0x30, 1, 2, 3, 4, 5, 6, 7]);
        let limits = BlockLimits { maximum_transfer: 0x8000 }.to_page();
        assert_eq!(limits[..12], [0, 0xb0, 0, 60, 0, 0, 0, 0, 0, 0, 0x80, 0]);
    }
}

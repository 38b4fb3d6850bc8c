//! Vital product data pages (SPC-6 and SBC-4, Vital product data parameters).

use super::inquiry::DIRECT_ACCESS;
use super::sense::Sense;
use super::wire::{put_u16, put_u32, put_u64};

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
    /// Extended INQUIRY Data
    pub const EXTENDED_INQUIRY_DATA: PageCode = PageCode(0x86);
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

/// The Extended INQUIRY Data page: every task attribute but ACA (HEADSUP, ORDSUP, SIMPSUP), a
/// volatile cache (V_SUP), REPORTED LUNS DATA HAS CHANGED cleared on all logical units at once
/// (LUICLR), and nothing else.
#[must_use]
pub fn extended_inquiry_data() -> Vec<u8> {
    const HEADSUP: u8 = 0x04;
    const ORDSUP: u8 = 0x02;
    const SIMPSUP: u8 = 0x01;
    const V_SUP: u8 = 0x01;
    const LUICLR: u8 = 0x01;
    let mut page = page(PageCode::EXTENDED_INQUIRY_DATA, &[0; 60]);
    page[5] = HEADSUP | ORDSUP | SIMPSUP;
    page[6] = V_SUP;
    page[7] = LUICLR;
    page[13] = u8::try_from(Sense::MAX_LEN).unwrap_or(0);
    page
}

/// What the Block Limits page says, in logical blocks. A field that is 0 or not here is reported
/// as 0: no limit, or a command that is not supported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockLimits {
    /// OPTIMAL TRANSFER LENGTH GRANULARITY
    pub optimal_granularity: u16,
    /// MAXIMUM TRANSFER LENGTH
    pub maximum_transfer: u32,
    /// MAXIMUM UNMAP LBA COUNT
    pub maximum_unmap: u32,
    /// MAXIMUM UNMAP BLOCK DESCRIPTOR COUNT, in descriptors.
    pub maximum_unmap_descriptors: u32,
    /// OPTIMAL UNMAP GRANULARITY
    pub unmap_granularity: u32,
    /// MAXIMUM WRITE SAME LENGTH; WRITE SAME does not take a length of 0 (WSNZ).
    pub maximum_write_same: u32,
}

impl BlockLimits {
    /// The Block Limits page (SBC-4, Block Limits VPD page).
    #[must_use]
    pub fn to_page(&self) -> Vec<u8> {
        const WSNZ: u8 = 0x01;
        let mut page = page(PageCode::BLOCK_LIMITS, &[0; 60]);
        page[4] = WSNZ;
        put_u16(&mut page, 6, self.optimal_granularity);
        put_u32(&mut page, 8, self.maximum_transfer);
        put_u32(&mut page, 20, self.maximum_unmap);
        put_u32(&mut page, 24, self.maximum_unmap_descriptors);
        put_u32(&mut page, 28, self.unmap_granularity);
        put_u64(&mut page, 36, self.maximum_write_same.into());
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

/// The Block Device Characteristics page. FUA and SYNCHRONIZE CACHE are those of SBC-3 and later
/// (FUAB), and VERIFY compares unmapped blocks too (VBULS).
#[must_use]
pub fn block_device_characteristics(rate: RotationRate) -> Vec<u8> {
    const FUAB: u8 = 0x02;
    const VBULS: u8 = 0x01;
    let mut page = page(PageCode::BLOCK_DEVICE_CHARACTERISTICS, &[0; 60]);
    put_u16(&mut page, 4, rate.0);
    page[8] = FUAB | VBULS;
    page
}

/// The Logical Block Provisioning page of a fully provisioned logical unit.
#[must_use]
pub fn fully_provisioned() -> Vec<u8> {
    page(PageCode::LOGICAL_BLOCK_PROVISIONING, &[0; 4])
}

/// The Logical Block Provisioning page of a thin provisioned logical unit: UNMAP, and WRITE SAME
/// of both lengths with UNMAP, without anchored blocks or thresholds; `reads_zero` (LBPRZ) where
/// unmapped blocks read as zeros.
#[must_use]
pub fn thin_provisioned(reads_zero: bool) -> Vec<u8> {
    const LBPU: u8 = 0x80;
    const LBPWS: u8 = 0x40;
    const LBPWS10: u8 = 0x20;
    const LBPRZ_ZEROS: u8 = 0x04;
    const THIN: u8 = 0x02;
    let flags = LBPU | LBPWS | LBPWS10 | if reads_zero { LBPRZ_ZEROS } else { 0 };
    page(PageCode::LOGICAL_BLOCK_PROVISIONING, &[0, flags, THIN, 0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_page_states_its_length() {
        let pages = [
            supported_pages(&[PageCode::SUPPORTED_PAGES, PageCode::BLOCK_LIMITS]),
            device_identification(&[0x35; 8]),
            extended_inquiry_data(),
            BlockLimits::default().to_page(),
            block_device_characteristics(RotationRate::NON_ROTATING),
            fully_provisioned(),
            thin_provisioned(true),
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
        let limits = BlockLimits {
            optimal_granularity: 8,
            maximum_transfer: 0x8000,
            maximum_unmap: 0x0010_0000,
            maximum_unmap_descriptors: 256,
            unmap_granularity: 128,
            maximum_write_same: 0x0002_0000,
        };
        let expected = [
            [0, 0xb0, 0, 60, 1, 0, 0, 8].as_slice(),
            &[0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[0, 0x10, 0, 0, 0, 0, 1, 0, 0, 0, 0, 128, 0, 0, 0, 0],
            &[0, 0, 0, 0, 0, 2, 0, 0],
            &[0; 20],
        ];
        assert_eq!(limits.to_page(), expected.concat());
        let characteristics = block_device_characteristics(RotationRate::NON_ROTATING);
        assert_eq!(characteristics[..9], [0, 0xb1, 0, 60, 0, 1, 0, 0, 3]);
        assert_eq!(fully_provisioned(), [0, 0xb2, 0, 4, 0, 0, 0, 0]);
        assert_eq!(thin_provisioned(true), [0, 0xb2, 0, 4, 0, 0xe4, 2, 0]);
        assert_eq!(thin_provisioned(false)[5], 0xe0);
        assert_eq!(extended_inquiry_data()[..14], [0, 0x86, 0, 60, 0, 7, 1, 1, 0, 0, 0, 0, 0, 28]);
    }
}

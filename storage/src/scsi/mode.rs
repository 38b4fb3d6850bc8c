//! Mode parameters (SPC-6 and SBC-4, Mode parameters).

/// A mode page code; its subpage is 00h.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageCode(pub u8);

impl PageCode {
    /// Caching
    pub const CACHING: PageCode = PageCode(0x08);
    /// Control
    pub const CONTROL: PageCode = PageCode(0x0a);
    /// All pages
    pub const ALL: PageCode = PageCode(0x3f);
}

/// PAGE CONTROL: which values are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageControl(pub u8);

impl PageControl {
    /// The values in force.
    pub const CURRENT: PageControl = PageControl(0);
    /// A mask of what MODE SELECT may change.
    pub const CHANGEABLE: PageControl = PageControl(1);
    /// The values after a reset.
    pub const DEFAULT: PageControl = PageControl(2);
    /// The values that survive a power cycle.
    pub const SAVED: PageControl = PageControl(3);
}

/// DEVICE-SPECIFIC PARAMETER of a direct access block device (SBC-4, Mode parameters).
#[must_use]
pub fn device_specific(write_protected: bool) -> u8 {
    const DPOFUA: u8 = 0x10;
    const WP: u8 = 0x80;
    if write_protected { WP | DPOFUA } else { DPOFUA }
}

/// The Caching page: a write-back cache (WCE) that SYNCHRONIZE CACHE and FUA write out.
#[must_use]
pub fn caching() -> [u8; 20] {
    const WCE: u8 = 0x04;
    let mut page = [0; 20];
    page[0] = PageCode::CACHING.0;
    page[1] = 18;
    page[2] = WCE;
    page
}

/// The Control page: one task set for all nexuses, commands reordered without restriction, fixed
/// format sense data.
#[must_use]
pub fn control() -> [u8; 12] {
    const UNRESTRICTED_REORDERING: u8 = 0x10;
    let mut page = [0; 12];
    page[0] = PageCode::CONTROL.0;
    page[1] = 10;
    page[3] = UNRESTRICTED_REORDERING;
    page
}

/// `page` with every parameter zero: nothing in it can be changed.
#[must_use]
pub fn unchangeable(page: &[u8]) -> Vec<u8> {
    page.iter().enumerate().map(|(offset, &byte)| if offset < 2 { byte } else { 0 }).collect()
}

/// The short LBA mode parameter block descriptor. A number of blocks past its field reads as all
/// ones.
#[must_use]
pub fn block_descriptor(blocks: u64, block_size: u32) -> [u8; 8] {
    let blocks = u32::try_from(blocks).unwrap_or(u32::MAX).to_be_bytes();
    let [_, size @ ..] = block_size.to_be_bytes();
    [blocks[0], blocks[1], blocks[2], blocks[3], 0, size[0], size[1], size[2]]
}

/// The parameter list of MODE SENSE(6): header, block descriptor if any, pages.
#[must_use]
pub fn list_6(device_specific: u8, descriptor: Option<[u8; 8]>, pages: &[u8]) -> Vec<u8> {
    let descriptor = descriptor.as_ref().map_or(&[][..], |bytes| &bytes[..]);
    let descriptor_len = if descriptor.is_empty() { 0 } else { 8 };
    let mut list = vec![0, 0, device_specific, descriptor_len];
    list.extend_from_slice(descriptor);
    list.extend_from_slice(pages);
    list[0] = u8::try_from(list.len() - 1).unwrap_or(u8::MAX);
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_state_their_lengths() {
        assert_eq!(usize::from(caching()[1]) + 2, caching().len());
        assert_eq!(usize::from(control()[1]) + 2, control().len());
    }

    #[test]
    fn the_list_counts_what_follows_its_length() {
        let list = list_6(0x80, Some(block_descriptor(1 << 33, 512)), &[0x08, 0]);
        assert_eq!(list, [13, 0, 0x80, 8, 0xff, 0xff, 0xff, 0xff, 0, 0, 2, 0, 0x08, 0]);
        assert_eq!(list_6(0, None, &[]), [3, 0, 0, 0]);
    }

    #[test]
    fn nothing_can_be_changed() {
        assert_eq!(unchangeable(&caching())[..3], [0x08, 18, 0]);
    }
}

//! Mode parameters (SPC-6 and SBC-4, Mode parameters).

use super::sense::{Sense, SenseCode};
use super::wire::{put_u16, put_u32, put_u64, u16_at, u32_at, u64_at};

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

/// WCE, in byte 2 of the Caching page.
const WCE: u8 = 0x04;

/// D_SENSE, in byte 2 of the Control page.
const D_SENSE: u8 = 0x04;

/// SWP, in byte 4 of the Control page.
const SWP: u8 = 0x08;

/// The Caching page: whether there is a volatile write cache (WCE), which SYNCHRONIZE CACHE and
/// FUA write out.
#[must_use]
pub fn caching(write_cache: bool) -> Vec<u8> {
    let mut page = vec![0; 20];
    page[0] = PageCode::CACHING.0;
    page[1] = 18;
    page[2] = if write_cache { WCE } else { 0 };
    page
}

/// Whether `page`, a Caching page, has WCE set.
#[must_use]
pub fn write_cache(page: &[u8]) -> bool {
    page.get(2).is_some_and(|byte| byte & WCE != 0)
}

/// The Control page: one task set for all nexuses, commands reordered without restriction, and
/// what an initiator may choose: sense data in descriptor format (D_SENSE), and a medium that is
/// not to be written (SWP).
#[must_use]
pub fn control(descriptor_sense: bool, software_write_protect: bool) -> Vec<u8> {
    const UNRESTRICTED_REORDERING: u8 = 0x10;
    let mut page = vec![0; 12];
    page[0] = PageCode::CONTROL.0;
    page[1] = 10;
    page[2] = if descriptor_sense { D_SENSE } else { 0 };
    page[3] = UNRESTRICTED_REORDERING;
    page[4] = if software_write_protect { SWP } else { 0 };
    page
}

/// Whether `page`, a Control page, has D_SENSE set.
#[must_use]
pub fn descriptor_sense(page: &[u8]) -> bool {
    page.get(2).is_some_and(|byte| byte & D_SENSE != 0)
}

/// Whether `page`, a Control page, has SWP set.
#[must_use]
pub fn software_write_protect(page: &[u8]) -> bool {
    page.get(4).is_some_and(|byte| byte & SWP != 0)
}

/// The mask of what distinguishes `page` from `other`, the same page with all its changeable bits
/// the other way.
#[must_use]
pub fn changeable(page: &[u8], other: &[u8]) -> Vec<u8> {
    let (header, values) = page.split_at(2);
    let mask = values.iter().zip(&other[2..]).map(|(a, b)| a ^ b);
    header.iter().copied().chain(mask).collect()
}

/// What the mode parameter block descriptor says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockDescriptor {
    /// NUMBER OF LOGICAL BLOCKS
    pub blocks: u64,
    /// LOGICAL BLOCK LENGTH, in bytes.
    pub block_size: u32,
}

impl BlockDescriptor {
    /// The short LBA descriptor. A number of blocks past its field reads as all ones.
    #[must_use]
    pub fn to_short(self) -> Vec<u8> {
        let mut bytes = vec![0; 8];
        put_u32(&mut bytes, 0, u32::try_from(self.blocks).unwrap_or(u32::MAX));
        put_u32(&mut bytes, 4, self.block_size & 0x00ff_ffff);
        bytes
    }

    /// The long LBA descriptor.
    #[must_use]
    pub fn to_long(self) -> Vec<u8> {
        let mut bytes = vec![0; 16];
        put_u64(&mut bytes, 0, self.blocks);
        put_u32(&mut bytes, 12, self.block_size);
        bytes
    }
}

/// Set in byte 4 of the longer header where the block descriptor is the long one.
const LONGLBA: u8 = 0x01;

/// Which mode parameter header a command uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// Four bytes: MODE SELECT(6) and MODE SENSE(6).
    Six,
    /// Eight bytes: MODE SELECT(10) and MODE SENSE(10).
    Ten,
}

impl Header {
    const fn len(self) -> usize {
        match self {
            Header::Six => 4,
            Header::Ten => 8,
        }
    }

    /// The parameter list of a MODE SENSE: header, block descriptor if any, pages.
    #[must_use]
    pub fn list(self, device_specific: u8, descriptor: &[u8], pages: &[u8]) -> Vec<u8> {
        let mut list = vec![0; self.len()];
        list.extend_from_slice(descriptor);
        list.extend_from_slice(pages);
        let descriptor_len = u8::try_from(descriptor.len()).unwrap_or(0);
        let len = list.len();
        match self {
            Header::Six => {
                list[0] = u8::try_from(len - 1).unwrap_or(u8::MAX);
                list[2] = device_specific;
                list[3] = descriptor_len;
            }
            Header::Ten => {
                put_u16(&mut list, 0, u16::try_from(len - 2).unwrap_or(u16::MAX));
                list[3] = device_specific;
                list[4] = if descriptor_len == 16 { LONGLBA } else { 0 };
                list[7] = descriptor_len;
            }
        }
        list
    }

    /// Takes the parameter list of a MODE SELECT apart. MODE DATA LENGTH and the device-specific
    /// parameter mean nothing there.
    ///
    /// # Errors
    /// PARAMETER LIST LENGTH ERROR where it is cut off, INVALID FIELD IN PARAMETER LIST where the
    /// medium type is not 00h or the block descriptor is of no known length.
    pub fn parse(self, list: &[u8]) -> Result<Parameters<'_>, Sense> {
        let (header, rest) = split(list, self.len())?;
        let byte = |at: usize| header.get(at).copied().unwrap_or(0);
        let (medium_type_at, descriptor_len_at, descriptor_len, long) = match self {
            Header::Six => (1, 3, usize::from(byte(3)), false),
            Header::Ten => (2, 6, usize::from(u16_at(header, 6)), byte(4) & LONGLBA != 0),
        };
        if byte(medium_type_at) != 0 {
            return Err(Sense::invalid_parameter(offset(medium_type_at), None));
        }
        let descriptor = match (descriptor_len, long) {
            (0 | 8, false) | (0 | 16, true) => split(rest, descriptor_len)?,
            _ => return Err(Sense::invalid_parameter(offset(descriptor_len_at), None)),
        };
        let (descriptor, pages) = descriptor;
        Ok(Parameters { header: self, descriptor, pages, at: self.len() + descriptor_len })
    }
}

/// A MODE SELECT parameter list, behind its header. Iterating yields its pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters<'a> {
    header: Header,
    descriptor: &'a [u8],
    pages: &'a [u8],
    at: usize,
}

impl Parameters<'_> {
    /// Checks that the block descriptor, if there is one, says what is so anyway: `actual`, with
    /// 0 or all ones for the number of blocks that there are.
    ///
    /// # Errors
    /// INVALID FIELD IN PARAMETER LIST at the field that says otherwise.
    pub fn check_descriptor(&self, actual: BlockDescriptor) -> Result<(), Sense> {
        let bytes = self.descriptor;
        let (blocks, all_ones, block_size, block_size_at) = match bytes.len() {
            0 => return Ok(()),
            16 => (u64_at(bytes, 0), u64::MAX, u32_at(bytes, 12), 12),
            _ => (u32_at(bytes, 0).into(), u32::MAX.into(), u32_at(bytes, 4) & 0x00ff_ffff, 5),
        };
        if ![0, actual.blocks, all_ones].contains(&blocks) {
            return Err(Sense::invalid_parameter(offset(self.header.len()), None));
        }
        if block_size != actual.block_size {
            return Err(Sense::invalid_parameter(offset(self.header.len() + block_size_at), None));
        }
        Ok(())
    }
}

/// A page of a MODE SELECT parameter list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page<'a> {
    /// The whole page, at least its two header bytes.
    pub bytes: &'a [u8],
    /// Where in the list it begins.
    pub at: usize,
}

/// Set in byte 0 of a page that has a subpage code.
const SPF: u8 = 0x40;

impl Page<'_> {
    /// PAGE CODE, if the page has no subpage code.
    #[must_use]
    pub fn code(&self) -> Option<PageCode> {
        let first = self.bytes.first()?;
        (first & SPF == 0).then_some(PageCode(first & 0x3f))
    }

    /// Compares the page with what is in force: only bits in `changeable` may differ.
    ///
    /// # Errors
    /// INVALID FIELD IN PARAMETER LIST at the page length or at the leftmost bit that may not be
    /// changed.
    pub fn check(&self, current: &[u8], changeable: &[u8]) -> Result<(), Sense> {
        if self.bytes.get(1) != current.get(1) {
            return Err(Sense::invalid_parameter(offset(self.at + 1), None));
        }
        let bytes = self.bytes.iter().zip(current).zip(changeable).enumerate().skip(2);
        for (index, ((new, old), mask)) in bytes {
            let wrong = (new ^ old) & !mask;
            if wrong != 0 {
                let bit = u8::try_from(wrong.ilog2()).unwrap_or(7);
                return Err(Sense::invalid_parameter(offset(self.at + index), Some(bit)));
            }
        }
        Ok(())
    }
}

impl<'a> Iterator for Parameters<'a> {
    type Item = Result<Page<'a>, Sense>;

    fn next(&mut self) -> Option<Self::Item> {
        let first = *self.pages.first()?;
        let len = match first & SPF {
            0 => self.pages.get(1).map(|&len| 2 + usize::from(len)),
            _ => Some(4 + usize::from(u16_at(self.pages, 2))),
        };
        let page = len.ok_or(SenseCode::PARAMETER_LIST_LENGTH_ERROR.into());
        Some(page.and_then(|len| split(self.pages, len)).map(|(bytes, rest)| {
            let page = Page { bytes, at: self.at };
            self.pages = rest;
            self.at += bytes.len();
            page
        }))
    }
}

fn split(bytes: &[u8], len: usize) -> Result<(&[u8], &[u8]), Sense> {
    bytes.split_at_checked(len).ok_or(SenseCode::PARAMETER_LIST_LENGTH_ERROR.into())
}

/// A place in a parameter list, whose length is at most 65535.
fn offset(at: usize) -> u16 {
    u16::try_from(at).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DISK: BlockDescriptor = BlockDescriptor { blocks: 1 << 33, block_size: 512 };

    #[test]
    fn pages_state_their_lengths_and_say_what_they_were_made_from() {
        for flag in [false, true] {
            let page = caching(flag);
            assert_eq!((usize::from(page[1]) + 2, write_cache(&page)), (page.len(), flag));
            let page = control(flag, !flag);
            assert_eq!(usize::from(page[1]) + 2, page.len());
            assert_eq!((descriptor_sense(&page), software_write_protect(&page)), (flag, !flag));
        }
    }

    #[test]
    fn a_mask_has_the_page_header_and_what_differs() {
        let mask = changeable(&control(false, false), &control(true, true));
        assert_eq!(mask, [0x0a, 10, 0x04, 0, 0x08, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn lists_count_what_follows_their_length() {
        let short = DISK.to_short();
        assert_eq!(short, [0xff, 0xff, 0xff, 0xff, 0, 0, 2, 0]);
        let list = Header::Six.list(0x80, &short, &[0x08, 0]);
        assert_eq!(list, [&[13, 0, 0x80, 8], &short[..], &[0x08, 0]].concat());
        assert_eq!(Header::Six.list(0, &[], &[]), [3, 0, 0, 0]);
        let long = DISK.to_long();
        assert_eq!(long, [0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
        let list = Header::Ten.list(0x80, &long, &[]);
        assert_eq!(list, [&[0, 22, 0, 0x80, 1, 0, 0, 16], &long[..]].concat());
        assert_eq!(Header::Ten.list(0, &[], &[]), [0, 6, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn what_mode_sense_returns_mode_select_takes() {
        let pages = [caching(true), control(false, false)].concat();
        for (header, descriptor) in [
            (Header::Six, vec![]),
            (Header::Six, DISK.to_short()),
            (Header::Ten, DISK.to_short()),
            (Header::Ten, DISK.to_long()),
        ] {
            let list = header.list(0x10, &descriptor, &pages);
            let parameters = header.parse(&list).unwrap();
            assert_eq!(parameters.check_descriptor(DISK), Ok(()));
            let codes: Vec<_> = parameters.map(|page| page.unwrap().code().unwrap()).collect();
            assert_eq!(codes, [PageCode::CACHING, PageCode::CONTROL]);
            for cut in 1..list.len() {
                let whole =
                    header.parse(&list[..cut]).is_ok_and(|mut pages| pages.all(|p| p.is_ok()));
                let ends = [0, 20, 32].map(|len| list.len() - pages.len() + len);
                assert_eq!(whole, ends.contains(&cut), "{cut}");
            }
        }
    }

    #[test]
    fn only_changeable_bits_may_differ() {
        let (current, mask) = (caching(true), changeable(&caching(true), &caching(false)));
        let check = |at: usize, value: u8| {
            let mut bytes = current.clone();
            bytes[at] = value;
            Page { bytes: &bytes, at: 12 }.check(&current, &mask)
        };
        assert_eq!(check(2, 0), Ok(()));
        assert_eq!(check(2, 0x01), Err(Sense::invalid_parameter(14, Some(0))));
        assert_eq!(check(19, 0x30), Err(Sense::invalid_parameter(31, Some(5))));
        assert_eq!(check(1, 17), Err(Sense::invalid_parameter(13, None)));
    }

    #[test]
    fn a_block_descriptor_changes_nothing() {
        let check = |header: Header, descriptor: &[u8]| {
            let list = header.list(0, descriptor, &[]);
            header.parse(&list).unwrap().check_descriptor(DISK)
        };
        let refused = |at| Err(Sense::invalid_parameter(at, None));
        assert_eq!(check(Header::Six, &[0, 0, 0, 0, 0, 0, 2, 0]), Ok(()));
        assert_eq!(check(Header::Six, &[0, 0, 0, 1, 0, 0, 2, 0]), refused(4));
        assert_eq!(check(Header::Ten, &[0, 0, 0, 0, 0, 0, 16, 0]), refused(13));
        let mut long = DISK.to_long();
        long[14] = 16;
        assert_eq!(check(Header::Ten, &long), refused(20));
        assert_eq!(check(Header::Ten, &[0xff; 8]), refused(13));
    }

    #[test]
    fn headers_with_unknown_values_are_refused() {
        let refused = |header: Header, list: &[u8], at| {
            assert_eq!(header.parse(list), Err(Sense::invalid_parameter(at, None)));
        };
        refused(Header::Six, &[0, 1, 0, 0], 1);
        refused(Header::Six, &[0, 0, 0, 16], 3);
        refused(Header::Ten, &[0, 0, 1, 0, 0, 0, 0, 0], 2);
        refused(Header::Ten, &[0, 0, 0, 0, 1, 0, 0, 8], 6);
    }

    proptest! {
        #[test]
        fn no_list_panics_and_every_list_ends(list in prop::collection::vec(any::<u8>(), 0..80)) {
            for header in [Header::Six, Header::Ten] {
                if let Ok(parameters) = header.parse(&list) {
                    let pages = parameters.take(100).take_while(Result::is_ok).count();
                    prop_assert!(pages <= list.len() / 2);
                }
            }
        }
    }
}

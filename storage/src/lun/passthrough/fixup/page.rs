//! What all VPD pages have in common (SPC-6, VPD data formats).

use crate::lun::passthrough::facts::is_inquiry;
use crate::scsi::vpd::PageCode;
use crate::scsi::wire::{put_u16, u16_at};

/// Bytes before the part that PAGE LENGTH counts.
pub(super) const HEADER: usize = 4;

/// Whether `data` is this page.
pub(super) fn is_page(data: &[u8], code: PageCode, inquiry: &[u8]) -> bool {
    data.len() >= HEADER && data.get(1) == Some(&code.0) && !is_inquiry(data, inquiry)
}

/// Cuts the page to the length that it states, and has it state what there is.
pub(super) fn settle(page: &mut Vec<u8>) {
    page.truncate(HEADER + usize::from(u16_at(page, 2)));
    state_length(page);
}

/// Has the page state the length that it has.
pub(super) fn state_length(page: &mut Vec<u8>) {
    page.truncate(HEADER + usize::from(u16::MAX));
    let len = u16::try_from(page.len().saturating_sub(HEADER)).unwrap_or(u16::MAX);
    put_u16(page, 2, len);
}

/// A page of the device that `peripheral` begins.
pub(super) fn new(peripheral: u8, code: PageCode, body: &[u8]) -> Vec<u8> {
    let mut page = [&[peripheral, code.0, 0, 0], body].concat();
    state_length(&mut page);
    page
}

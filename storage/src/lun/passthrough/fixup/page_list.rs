//! Supported VPD Pages (SPC-6): the pages that an initiator is to ask for are in the list.

use super::{Context, has_block_limits, page};
use crate::scsi::vpd::PageCode;

/// Adds what is missing, each before the first greater code. A device without the list gets one,
/// since an initiator asks for no page that is not in it.
pub(super) fn edit(data: &mut Vec<u8>, context: &Context<'_>) {
    let facts = context.facts;
    let added = added(context);
    if !page::is_page(data, PageCode::SUPPORTED_PAGES, &facts.inquiry) {
        if added.is_empty() {
            return;
        }
        *data = page::new(facts.peripheral(), PageCode::SUPPORTED_PAGES, &[]);
    }
    page::settle(data);
    if !added.is_empty() {
        insert(data, PageCode::SUPPORTED_PAGES);
    }
    added.into_iter().for_each(|code| insert(data, code));
    page::state_length(data);
}

/// The pages that the device has by us.
pub(super) fn added(context: &Context<'_>) -> Vec<PageCode> {
    let pages = [
        (context.overlay.serial.is_some(), PageCode::UNIT_SERIAL_NUMBER),
        (context.overlay.wwn.is_some(), PageCode::DEVICE_IDENTIFICATION),
        (has_block_limits(context.facts.device_type()), PageCode::BLOCK_LIMITS),
    ];
    pages.into_iter().filter_map(|(has, code)| has.then_some(code)).collect()
}

fn insert(page: &mut Vec<u8>, code: PageCode) {
    let list = page.get(page::HEADER..).unwrap_or(&[]);
    if list.contains(&code.0) {
        return;
    }
    let place = list.iter().position(|&it| it > code.0).unwrap_or(list.len());
    page.insert(page::HEADER + place, code.0);
}

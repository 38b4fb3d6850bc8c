//! The standard INQUIRY data and the VPD pages, as a device gives them and as a guest gets them.
//!
//! This file must not know what is changed on the way.

use storage::host::ScsiHost;
use storage::lun::passthrough::fixup::{Context, Fixup};
use storage::scsi::cdb::Cdb;
use storage::scsi::wire::u16_at;

use super::ask::{NoAnswer, ask, send, verify};
use super::fields::{Which, fields};
use super::model::Page;

const INQUIRY: u8 = 0x12;
/// Bytes of a CDB of INQUIRY.
const CDB_LEN: usize = 6;
/// As much of a page as devices of all ages give.
const PAGE_LEN: u16 = 252;

/// Every page that the device lists or a guest's view of it.
pub(super) fn read(host: &dyn ScsiHost, context: &Context<'_>) -> Vec<Page> {
    let standard = u16::try_from(context.facts.inquiry.len()).unwrap_or(PAGE_LEN);
    let mut pages = vec![page(host, Which::Standard, standard.max(36), context)];
    let list = page(host, Which::Vpd(0), PAGE_LEN, context);
    let mut codes: Vec<u8> = [&list.device, &list.guest]
        .into_iter()
        .flat_map(|page| page.as_deref().and_then(|page| page.get(4..)).unwrap_or_default())
        .copied()
        .filter(|code| *code != 0)
        .collect();
    codes.sort_unstable();
    codes.dedup();
    if list.device.is_some() || list.guest.is_some() {
        pages.push(list);
    }
    pages.extend(codes.into_iter().map(|code| page(host, Which::Vpd(code), PAGE_LEN, context)));
    pages
}

fn page(host: &dyn ScsiHost, which: Which, len: u16, context: &Context<'_>) -> Page {
    let device_type = context.facts.device_type();
    let (device, refused) = match of_device(host, which, len) {
        Ok(bytes) => (Some(bytes), None),
        Err(no) => (None, Some(no.to_string())),
    };
    let guest_len = device.as_ref().and_then(|page| u16::try_from(page.len()).ok());
    let guest = of_guest(host, which, guest_len.unwrap_or(0).max(len), context);
    Page {
        page: match which {
            Which::Standard => "inquiry".into(),
            Which::Vpd(code) => format!("{code:02x}"),
        },
        name: which.name(device_type),
        fields: fields(which, device_type, device.as_deref(), guest.as_deref()),
        device,
        refused,
        guest,
    }
}

fn of_device(host: &dyn ScsiHost, which: Which, len: u16) -> Result<Vec<u8>, NoAnswer> {
    let cdb = cdb(which);
    let mut page = ask(host, &with_len(cdb, len), len.into())?;
    let whole = match which {
        Which::Standard => len,
        Which::Vpd(_) => u16_at(&page, 2).saturating_add(4),
    };
    if whole > len
        && let Ok(all) = ask(host, &with_len(cdb, whole), whole.into())
    {
        page = all;
    }
    page.truncate(whole.into());
    Ok(page)
}

/// What a guest gets that asks for `len` bytes.
fn of_guest(host: &dyn ScsiHost, which: Which, len: u16, context: &Context<'_>) -> Option<Vec<u8>> {
    let cdb = with_len(cdb(which), len);
    let fixup = Fixup::of(&Cdb::new(&cdb), context.facts.device_type());
    let Some(fixup) = fixup else { return of_device(host, which, len).ok() };
    let (mut completion, mut page) = send(host, fixup.cdb.0.get(..CDB_LEN)?, fixup.len).ok()?;
    fixup.apply(context, &mut completion, &mut page);
    verify(&completion).ok()?;
    if which != Which::Standard {
        page.truncate(usize::from(u16_at(&page, 2)) + 4);
    }
    Some(page)
}

fn cdb(which: Which) -> [u8; CDB_LEN] {
    match which {
        Which::Standard => [INQUIRY, 0, 0, 0, 0, 0],
        Which::Vpd(code) => [INQUIRY, 1, code, 0, 0, 0],
    }
}

fn with_len(mut cdb: [u8; CDB_LEN], len: u16) -> [u8; CDB_LEN] {
    [cdb[3], cdb[4]] = len.to_be_bytes();
    cdb
}

#[cfg(test)]
mod tests {
    use storage::lun::passthrough::facts::examine;
    use storage::lun::passthrough::fixup::Promises;
    use storage::lun::passthrough::limits::Limits;
    use storage::lun::spec::Overlay;
    use storage::testing::{FakeDevice, FakeHost};

    use super::*;

    fn pages(device: FakeDevice) -> Vec<Page> {
        let host = FakeHost::new(device);
        let facts = examine(&host).unwrap();
        let limits = Limits::of(host.limits().unwrap(), &facts);
        let promises = Promises {
            third_party_copy: false,
            report_target_port_groups: true,
            set_target_port_groups: false,
        };
        let (overlay, write_protected) = (&Overlay::default(), false);
        let context =
            Context { facts: &facts, limits: &limits, overlay, write_protected, promises };
        read(&host, &context)
    }

    fn codes(pages: &[Page]) -> Vec<&str> {
        pages.iter().map(|page| page.page.as_str()).collect()
    }

    #[test]
    fn pages_that_either_lists_are_read_once_each() {
        let mut device = FakeDevice::default();
        device.set_vpd(&[0, 0x00, 0, 4, 0x00, 0x83, 0x80, 0x83]);
        let pages = pages(device);
        assert_eq!(codes(&pages), ["inquiry", "00", "80", "83", "b0"]);
        let limits = pages.last().unwrap();
        assert_eq!(limits.refused.as_deref(), Some("ends with sense 5/24/00"));
        // 512 KiB in blocks of 512 bytes.
        assert_eq!(limits.guest.as_ref().map(|page| page[8..12].to_vec()), Some(vec![0, 0, 4, 0]));
        assert_eq!((&limits.device, limits.guest.as_ref().unwrap().len()), (&None, 64));
        let serial = &pages[2];
        assert!(serial.device.is_some() && serial.device == serial.guest);
    }

    #[test]
    fn long_answers_are_read_whole_and_short_ones_as_they_are() {
        let mut device = FakeDevice::of_type(1);
        device.inquiry.resize(96, 0xee);
        device.inquiry[4] = 91;
        device.set_vpd(&[&[1, 0x80, 1, 44][..], &[b'A'; 300]].concat());
        device.set_vpd(&[1, 0x83, 0xff, 0xff, 1]);
        let pages = pages(device);
        let len = |page: &Option<Vec<u8>>| page.as_ref().unwrap().len();
        let lens: Vec<_> = pages.iter().map(|page| len(&page.device)).collect();
        assert_eq!(lens, [96, 7, 304, 5]);
        let lens: Vec<_> = pages.iter().map(|page| len(&page.guest)).collect();
        assert_eq!(lens, [96, 7, 304, 5]);
    }

    #[test]
    fn a_device_without_pages_has_the_standard_data_only() {
        let mut device = FakeDevice::of_type(1);
        device.vpd.clear();
        assert_eq!(codes(&pages(device)), ["inquiry"]);
    }
}

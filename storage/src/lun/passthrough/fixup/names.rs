//! The names that a device goes by: Unit Serial Number and Device Identification (SPC-6), where
//! the user gave it others.

use super::{Context, page};
use crate::lun::spec::Naa;
use crate::scsi::vpd::PageCode;

/// The user's serial number, whatever the device's is.
pub(super) fn edit_serial_number(data: &mut Vec<u8>, context: &Context<'_>) {
    if let Some(serial) = &context.overlay.serial {
        let peripheral = context.facts.peripheral();
        *data = page::new(peripheral, PageCode::UNIT_SERIAL_NUMBER, serial.as_bytes());
    }
}

/// The user's designator in place of those of the logical unit; those of its ports stay.
pub(super) fn edit_identification(data: &mut Vec<u8>, context: &Context<'_>) {
    if let Some(wwn) = &context.overlay.wwn {
        let device = context.facts.identification.as_deref().unwrap_or(&[]);
        let body = [designator(wwn), others(device)].concat();
        let peripheral = context.facts.peripheral();
        *data = page::new(peripheral, PageCode::DEVICE_IDENTIFICATION, &body);
    }
}

fn designator(naa: &Naa) -> Vec<u8> {
    const BINARY: u8 = 0x01;
    const LOGICAL_UNIT_NAA: u8 = 0x03;
    let bytes = naa.as_bytes();
    let len = u8::try_from(bytes.len()).unwrap_or(0);
    [&[BINARY, LOGICAL_UNIT_NAA, 0, len], bytes].concat()
}

/// The descriptors of the page that do not name the logical unit, as far as they are whole.
fn others(page: &[u8]) -> Vec<u8> {
    const ASSOCIATION: u8 = 0x30;
    const DESCRIPTOR_HEADER: usize = 4;
    let mut others = Vec::new();
    let mut rest = page.get(page::HEADER..).unwrap_or(&[]);
    while let [_, flags, _, len, ..] = rest {
        let Some((descriptor, after)) =
            rest.split_at_checked(DESCRIPTOR_HEADER + usize::from(*len))
        else {
            break;
        };
        if flags & ASSOCIATION != 0 {
            others.extend(descriptor);
        }
        rest = after;
    }
    others
}

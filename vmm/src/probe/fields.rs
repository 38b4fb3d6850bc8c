//! What the bytes of the standard INQUIRY data and of VPD pages say (SPC-6 and SBC-4, Vital product
//! data parameters): those fields that decide how a guest uses a device.
//!
//! This file must not know where the bytes come from. They may be anything.

use storage::scsi::designator::{self, Association};
use storage::scsi::wire::{u16_at, u32_at, u64_at};

use super::model::{Field, Named, Value};
use crate::printable::printable;

/// Which bytes are meant: the standard INQUIRY data, or a VPD page by its code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    Standard,
    Vpd(u8),
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    U8,
    U16,
    U32,
    U64,
    /// So many bits, of which the lowest is this one.
    Bits(u8, u8),
    /// A text of so many bytes.
    Text(usize),
}

use Kind::{Bits, Text, U8, U16, U32, U64};

/// The name of a field, the offset of its first byte, and what it is.
type Layout = &'static [(&'static str, usize, Kind)];

const STANDARD: Layout = &[
    ("peripheral qualifier", 0, Bits(3, 5)),
    ("peripheral device type", 0, Bits(5, 0)),
    ("RMB", 1, Bits(1, 7)),
    ("version", 2, U8),
    ("NORMACA", 3, Bits(1, 5)),
    ("HISUP", 3, Bits(1, 4)),
    ("SCCS", 5, Bits(1, 7)),
    ("TPGS", 5, Bits(2, 4)),
    ("3PC", 5, Bits(1, 3)),
    ("PROTECT", 5, Bits(1, 0)),
    ("ENCSERV", 6, Bits(1, 6)),
    ("MULTIP", 6, Bits(1, 4)),
    ("CMDQUE", 7, Bits(1, 1)),
    ("vendor", 8, Text(8)),
    ("product", 16, Text(16)),
    ("revision", 32, Text(4)),
];

const EXTENDED_INQUIRY: Layout = &[
    ("SPT", 4, Bits(3, 3)),
    ("GRD_CHK", 4, Bits(1, 2)),
    ("APP_CHK", 4, Bits(1, 1)),
    ("REF_CHK", 4, Bits(1, 0)),
    ("HEADSUP", 5, Bits(1, 2)),
    ("ORDSUP", 5, Bits(1, 1)),
    ("SIMPSUP", 5, Bits(1, 0)),
    ("V_SUP", 6, Bits(1, 0)),
    ("LUICLR", 7, Bits(1, 0)),
    ("maximum supported sense data length", 13, U8),
];

const BLOCK_LIMITS: Layout = &[
    ("WSNZ", 4, Bits(1, 0)),
    ("maximum compare and write length", 5, U8),
    ("optimal transfer length granularity", 6, U16),
    ("maximum transfer length", 8, U32),
    ("optimal transfer length", 12, U32),
    ("maximum prefetch length", 16, U32),
    ("maximum unmap LBA count", 20, U32),
    ("maximum unmap block descriptor count", 24, U32),
    ("optimal unmap granularity", 28, U32),
    ("UGAVALID", 32, Bits(1, 7)),
    ("maximum write same length", 36, U64),
    ("maximum atomic transfer length", 44, U32),
    ("atomic alignment", 48, U32),
    ("atomic transfer length granularity", 52, U32),
    ("maximum atomic transfer length with atomic boundary", 56, U32),
    ("maximum atomic boundary size", 60, U32),
];

const CHARACTERISTICS: Layout = &[
    ("medium rotation rate", 4, U16),
    ("nominal form factor", 7, Bits(4, 0)),
    ("ZONED", 8, Bits(2, 4)),
    ("FUAB", 8, Bits(1, 1)),
];

const PROVISIONING: Layout = &[
    ("threshold exponent", 4, U8),
    ("LBPU", 5, Bits(1, 7)),
    ("LBPWS", 5, Bits(1, 6)),
    ("LBPWS10", 5, Bits(1, 5)),
    ("LBPRZ", 5, Bits(3, 2)),
    ("provisioning type", 6, Bits(3, 0)),
];

const ZONED: Layout = &[
    ("URSWRZ", 4, Bits(1, 0)),
    ("optimal number of open sequential write preferred zones", 8, U32),
    ("optimal number of non-sequentially written zones", 12, U32),
    ("maximum number of open sequential write required zones", 16, U32),
];

/// Of device types that keep blocks on disks: direct access, simplified, and zoned.
const DISKS: [u8; 3] = [0x00, 0x0e, 0x14];

impl Which {
    /// How it is called, on a device of this type.
    pub(super) fn name(self, device_type: u8) -> &'static str {
        let disk = DISKS.contains(&device_type);
        match self {
            Which::Standard => "standard INQUIRY data",
            Which::Vpd(0x00) => "Supported VPD Pages",
            Which::Vpd(0x80) => "Unit Serial Number",
            Which::Vpd(0x83) => "Device Identification",
            Which::Vpd(0x84) => "Software Interface Identification",
            Which::Vpd(0x85) => "Management Network Addresses",
            Which::Vpd(0x86) => "Extended INQUIRY Data",
            Which::Vpd(0x87) => "Mode Page Policy",
            Which::Vpd(0x88) => "SCSI Ports",
            Which::Vpd(0x89) => "ATA Information",
            Which::Vpd(0x8a) => "Power Condition",
            Which::Vpd(0x8d) => "Power Consumption",
            Which::Vpd(0x8f) => "Third-party Copy",
            Which::Vpd(0x90) => "Protocol Specific Logical Unit Information",
            Which::Vpd(0x91) => "Protocol Specific Port Information",
            Which::Vpd(0xb0) if disk => "Block Limits",
            Which::Vpd(0xb1) if disk => "Block Device Characteristics",
            Which::Vpd(0xb2) if disk => "Logical Block Provisioning",
            Which::Vpd(0xb3) if disk => "Referrals",
            Which::Vpd(0xb4) if disk => "Supported Block Lengths And Protection Types",
            Which::Vpd(0xb5) if disk => "Block Device Characteristics Extension",
            Which::Vpd(0xb6) if disk => "Zoned Block Device Characteristics",
            Which::Vpd(0xb7) if disk => "Block Limits Extension",
            Which::Vpd(0xb0) if device_type == 1 => "Sequential-Access Device Capabilities",
            Which::Vpd(0xb1) if device_type == 1 => "Manufacturer-assigned Serial Number",
            Which::Vpd(0xc0..) => "vendor specific",
            Which::Vpd(_) => "",
        }
    }

    fn layout(self, device_type: u8) -> Layout {
        let disk = DISKS.contains(&device_type);
        match self {
            Which::Standard => STANDARD,
            Which::Vpd(0x86) => EXTENDED_INQUIRY,
            Which::Vpd(0xb0) if disk => BLOCK_LIMITS,
            Which::Vpd(0xb1) if disk => CHARACTERISTICS,
            Which::Vpd(0xb2) if disk => PROVISIONING,
            Which::Vpd(0xb6) if disk => ZONED,
            Which::Vpd(_) => &[],
        }
    }
}

/// The fields of a page of a device of this type, as the device has them and as a guest gets them.
pub(super) fn fields(
    which: Which,
    device_type: u8,
    device: Option<&[u8]>,
    guest: Option<&[u8]>,
) -> Vec<Field> {
    let (device, guest) = (read(which, device_type, device), read(which, device_type, guest));
    let names = device.iter().map(|(name, _)| *name);
    let more = guest.iter().map(|(name, _)| *name);
    let more = more.filter(|name| !device.iter().any(|(other, _)| other == name));
    let value = |fields: &[(&'static str, Value)], name| {
        fields.iter().find(|(other, _)| *other == name).map(|(_, value)| value.clone())
    };
    names
        .chain(more)
        .map(|name| Field { name, device: value(&device, name), guest: value(&guest, name) })
        .collect()
}

fn read(which: Which, device_type: u8, bytes: Option<&[u8]>) -> Vec<(&'static str, Value)> {
    let Some(bytes) = bytes else { return Vec::new() };
    let body = || bytes.get(4..).unwrap_or_default();
    match which {
        Which::Vpd(0x00) => vec![("pages", Value::Text(codes(body())))],
        Which::Vpd(0x80) => vec![("serial number", Value::Text(text(body())))],
        Which::Vpd(0x83) => vec![("designators", Value::Text(listed(&named(bytes))))],
        _ => {
            let layout = which.layout(device_type).iter();
            layout.filter_map(|(name, at, kind)| Some((*name, kind.read(bytes, *at)?))).collect()
        }
    }
}

impl Kind {
    fn len(self) -> usize {
        match self {
            U8 | Bits(..) => 1,
            U16 => 2,
            U32 => 4,
            U64 => 8,
            Text(len) => len,
        }
    }

    /// The field at `at`, unless it is cut off.
    fn read(self, bytes: &[u8], at: usize) -> Option<Value> {
        let field = bytes.get(at..)?.get(..self.len())?;
        Some(match self {
            U8 => Value::Number(u64::from(*field.first()?)),
            U16 => Value::Number(u64::from(u16_at(field, 0))),
            U32 => Value::Number(u64::from(u32_at(field, 0))),
            U64 => Value::Number(u64_at(field, 0)),
            Bits(count, lowest) => {
                Value::Number(u64::from(field.first()? >> lowest) & ((1 << count) - 1))
            }
            Text(_) => Value::Text(text(field)),
        })
    }
}

fn codes(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

/// An ASCII data field without the spaces or zeros that fill it, whatever is in it.
pub(super) fn text(bytes: &[u8]) -> String {
    let shown: String = bytes
        .iter()
        .map(|byte| match byte {
            0x20..=0x7e => char::from(*byte).to_string(),
            0 => " ".to_owned(),
            _ => format!("\\x{byte:02x}"),
        })
        .collect();
    shown.trim().to_owned()
}

/// The designators in a Device Identification page.
pub(super) fn named(page: &[u8]) -> Vec<Named> {
    let found = designator::in_page(page).into_iter();
    found
        .map(|(association, designator)| Named {
            association: match association {
                Association::LogicalUnit => "logical unit",
                Association::TargetPort => "target port",
                Association::TargetDevice => "target device",
                Association::Reserved => "reserved",
            },
            // A SCSI name string is filled up with zeros.
            designator: printable(designator.to_string().trim_end_matches('\0')),
        })
        .collect()
}

fn listed(named: &[Named]) -> String {
    let each = named.iter().map(|it| format!("{} {}", it.association, it.designator));
    each.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_is_cut_off_has_the_fields_that_are_there() {
        let mut page = vec![0; 64];
        (page[1], page[5], page[11]) = (0xb0, 7, 9);
        let all = fields(Which::Vpd(0xb0), 0, Some(&page), None);
        assert_eq!(all.len(), BLOCK_LIMITS.len());
        assert_eq!((all[1].name, &all[1].device), (BLOCK_LIMITS[1].0, &Some(Value::Number(7))));
        assert_eq!((all[3].name, &all[3].device), (BLOCK_LIMITS[3].0, &Some(Value::Number(9))));
        for (len, count) in [(0, 0), (4, 0), (5, 1), (11, 3), (12, 4), (43, 10), (44, 11)] {
            assert_eq!(fields(Which::Vpd(0xb0), 0, Some(&page[..len]), None).len(), count, "{len}");
        }
    }

    #[test]
    fn what_only_one_side_has_is_shown() {
        let page = [0, 0x80, 0, 2, b'A', b'B'];
        let [field] = &fields(Which::Vpd(0x80), 0, None, Some(&page))[..] else { panic!() };
        assert_eq!((&field.device, &field.guest), (&None, &Some(Value::Text("AB".into()))));
    }

    #[test]
    fn one_code_is_another_page_on_another_type() {
        let page = [0; 64];
        assert!(!fields(Which::Vpd(0xb0), 0x14, Some(&page), None).is_empty());
        assert!(fields(Which::Vpd(0xb0), 0x01, Some(&page), None).is_empty());
        assert_eq!(Which::Vpd(0xb0).name(1), "Sequential-Access Device Capabilities");
    }

    #[test]
    fn texts_of_a_hostile_device_are_harmless() {
        assert_eq!(text(b"  LIO-ORG \0\0"), "LIO-ORG");
        assert_eq!(text(b"\x1b[2J\n\xe2\x80\xae"), "\\x1b[2J\\x0a\\xe2\\x80\\xae");
        let name = "\u{202e}\u{1b}x";
        let len = u8::try_from(name.len()).unwrap();
        let page = [&[0, 0x83, 0, len + 4, 0x03, 0x08, 0, len][..], name.as_bytes()].concat();
        assert_eq!(named(&page)[0].designator, "name.\\u{202e}\\u{1b}x");
    }
}

//! What a logical unit says it is: its designators (SPC-6, Device Identification VPD page), or else
//! vendor, product and serial number.
//!
//! Knows how to ask, and how to compare; not when, nor what becomes of a logical unit that is
//! another one.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::host::{HostStatus, ScsiHost, whole};
use crate::scsi::designator::{self, Association, Designator, Kind};
use crate::scsi::sense::{SenseCode, SenseKey};
use crate::scsi::status::Status;

/// What a logical unit says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The designators that are its own, at least one, in their order.
    Designators(Vec<Designator>),
    /// It has none.
    Model(Model),
}

/// The names of a logical unit that has no designator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// T10 VENDOR IDENTIFICATION
    pub vendor: String,
    /// PRODUCT IDENTIFICATION
    pub product: String,
    /// PRODUCT SERIAL NUMBER, empty where the device tells none.
    pub serial: String,
}

/// Why nobody can say what a logical unit is.
#[derive(Debug, thiserror::Error)]
pub enum Unknown {
    /// The device answers that it is not there.
    #[error("no logical unit is there")]
    Nothing,
    /// The device does not answer.
    #[error("INQUIRY ended with status {:#04x}", .0.0)]
    Status(Status),
    /// The way to the device is broken.
    #[error("INQUIRY ended with host status {:#04x}", .0.0)]
    Host(HostStatus),
    /// The host does not send the command.
    #[error("INQUIRY failed: {0}")]
    Io(#[from] io::Error),
}

impl Identity {
    /// Asks the device.
    ///
    /// # Errors
    /// [`Unknown`], which may pass.
    pub fn of(host: &dyn ScsiHost) -> Result<Identity, Unknown> {
        const DEVICE_IDENTIFICATION: u8 = 0x83;
        let page = vital_product_data(host, DEVICE_IDENTIFICATION)?.unwrap_or_default();
        let own = designator::in_page(&page).into_iter().filter_map(|(association, designator)| {
            let names = association == Association::LogicalUnit && !designator.bytes().is_empty();
            names.then_some(designator)
        });
        let own: Vec<_> = own.collect();
        if own.is_empty() {
            return Ok(Identity::Model(Model::of(host)?));
        }
        Ok(Identity::Designators(own))
    }

    /// Whether the logical unit has this designator.
    #[must_use]
    pub fn has(&self, designator: &Designator) -> bool {
        matches!(self, Identity::Designators(own) if own.contains(designator))
    }

    /// What names it best: its designators of the kind that is hardest to have by mistake.
    #[must_use]
    pub fn essence(self) -> Identity {
        let Identity::Designators(own) = self else { return self };
        let best = own.iter().map(|it| strength(it.kind())).max();
        let is_best = |it: &Designator| Some(strength(it.kind())) == best;
        Identity::Designators(own.into_iter().filter(is_best).collect())
    }

    /// Whether all of it holds for `found` as well.
    #[must_use]
    pub fn is_part_of(&self, found: &Identity) -> bool {
        match self {
            Identity::Designators(own) => own.iter().all(|it| found.has(it)),
            Identity::Model(_) => self == found,
        }
    }
}

/// A registered name is harder to have by mistake than one of a vendor's own making.
fn strength(kind: Kind) -> u8 {
    match kind {
        Kind::T10 => 0,
        Kind::Name => 1,
        Kind::Eui => 2,
        Kind::Naa => 3,
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = match self {
            Identity::Designators(own) => own,
            Identity::Model(model) => return write!(f, "{model}"),
        };
        let names: Vec<_> = own.iter().map(ToString::to_string).collect();
        write!(f, "{}", names.join(", "))
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.vendor, self.product)?;
        match self.serial.as_str() {
            "" => write!(f, " without a serial number"),
            serial => write!(f, " with serial number {serial}"),
        }
    }
}

impl Model {
    fn of(host: &dyn ScsiHost) -> Result<Model, Unknown> {
        const UNIT_SERIAL_NUMBER: u8 = 0x80;
        let data = inquiry(host, None, 36)?.unwrap_or_default();
        let serial = vital_product_data(host, UNIT_SERIAL_NUMBER)?.unwrap_or_default();
        Ok(Model {
            vendor: text(data.get(8..16)),
            product: text(data.get(16..32)),
            serial: text(serial.get(4..)),
        })
    }
}

/// An ASCII data field without what it is padded with; what is not printable is escaped.
fn text(field: Option<&[u8]>) -> String {
    let is_padding = |byte: &u8| matches!(byte, b' ' | 0);
    let field = field.unwrap_or_default();
    let end = field.iter().rposition(|byte| !is_padding(byte)).map_or(0, |last| last + 1);
    let start = field.iter().position(|byte| !is_padding(byte)).unwrap_or(end);
    field.get(start..end).unwrap_or_default().escape_ascii().to_string()
}

/// A whole VPD page, or `None` where the device does not have it.
fn vital_product_data(host: &dyn ScsiHost, code: u8) -> Result<Option<Vec<u8>>, Unknown> {
    /// What one byte of an allocation length can say, which all devices take.
    const USUAL: u16 = 252;
    let Some(page) = inquiry(host, Some(code), USUAL)? else { return Ok(None) };
    // A device that knows no VPD pages may answer with its standard data.
    let [_, answered, high, low, ..] = page[..] else { return Ok(None) };
    if answered != code {
        return Ok(None);
    }
    let len = u16::from_be_bytes([high, low]).saturating_add(4);
    let whole = if len > USUAL { inquiry(host, Some(code), len)? } else { None };
    Ok(whole.or(Some(page)))
}

/// INQUIRY (SPC-6): the data, or `None` where the device refuses the page.
fn inquiry(host: &dyn ScsiHost, page: Option<u8>, len: u16) -> Result<Option<Vec<u8>>, Unknown> {
    /// As long as Linux gives it when it looks for devices, and more than a path takes to fail.
    const TIMEOUT: Duration = Duration::from_secs(20);
    const ATTEMPTS: usize = 4;
    let [high, low] = len.to_be_bytes();
    let cdb = [0x12, u8::from(page.is_some()), page.unwrap_or(0), high, low, 0];
    let mut last = Status::GOOD;
    for _ in 0..ATTEMPTS {
        let (end, data) = whole::receive(host, &cdb, len.into(), TIMEOUT)?;
        if end.host_status != HostStatus::OK {
            return Err(Unknown::Host(end.host_status));
        }
        let code = SenseCode::of(&end.sense).unwrap_or(SenseCode::NO_SENSE);
        match (end.status, code.key) {
            (Status::GOOD, _) => {
                return if is_connected(&data) { Ok(Some(data)) } else { Err(Unknown::Nothing) };
            }
            (Status::CHECK_CONDITION, SenseKey::UNIT_ATTENTION) => last = end.status,
            (Status::CHECK_CONDITION, SenseKey::ILLEGAL_REQUEST) => return refused(code),
            (status, _) => return Err(Unknown::Status(status)),
        }
    }
    Err(Unknown::Status(last))
}

fn refused(code: SenseCode) -> Result<Option<Vec<u8>>, Unknown> {
    match code {
        SenseCode::LOGICAL_UNIT_NOT_SUPPORTED => Err(Unknown::Nothing),
        _ => Ok(None),
    }
}

/// PERIPHERAL QUALIFIER 000b: a peripheral device is connected.
fn is_connected(data: &[u8]) -> bool {
    data.first().is_none_or(|first| first >> 5 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeDevice, FakeHost, Outcome};

    /// A Device Identification VPD page with these descriptors: code set, association and type,
    /// designator.
    fn page(descriptors: &[(u8, u8, &[u8])]) -> Vec<u8> {
        let mut list = Vec::new();
        for (code_set, flags, bytes) in descriptors {
            list.extend([*code_set, *flags, 0, u8::try_from(bytes.len()).unwrap()]);
            list.extend(*bytes);
        }
        let len = u16::try_from(list.len()).unwrap().to_be_bytes();
        [&[0, 0x83], &len[..], &list].concat()
    }

    fn host(page: &[u8]) -> FakeHost {
        let mut device = FakeDevice::default();
        device.set_vpd(page);
        FakeHost::new(device)
    }

    const NAA: [u8; 8] = [0x50, 1, 2, 3, 4, 5, 6, 7];
    const OTHER: [u8; 8] = [0x50, 1, 2, 3, 4, 5, 6, 8];

    fn naa(bytes: [u8; 8]) -> Designator {
        Designator::new(Kind::Naa, &bytes)
    }

    #[test]
    fn only_the_logical_units_own_designators_count() {
        let host = host(&page(&[
            (2, 0x01, b"VENDOR  disk"),
            (1, 0x03, &NAA),
            (1, 0x93, &OTHER),
            (1, 0xa3, &OTHER),
            (1, 0x94, &[0, 0, 0, 1]),
            (1, 0x03, &[]),
        ]));
        let found = Identity::of(&host).unwrap();
        assert_eq!(found.to_string(), "t10.VENDOR  disk, naa.5001020304050607");
        assert!(found.has(&naa(NAA)) && !found.has(&naa(OTHER)));
        assert_eq!(found.essence(), Identity::Designators(vec![naa(NAA)]));
    }

    #[test]
    fn the_essence_may_gain_company_but_not_go() {
        let one = Identity::of(&host(&page(&[(1, 0x03, &NAA)]))).unwrap().essence();
        let both = Identity::of(&host(&page(&[(1, 0x03, &OTHER), (1, 0x03, &NAA)]))).unwrap();
        assert!(one.is_part_of(&both));
        assert!(!both.is_part_of(&one));
    }

    #[test]
    fn a_long_page_is_read_whole() {
        let long = page(&[(2, 0x01, &[b'x'; 240]), (1, 0x03, &NAA)]);
        let host = host(&long);
        assert!(Identity::of(&host).unwrap().has(&naa(NAA)));
        let lengths: Vec<_> = host.take_cdbs().iter().map(|cdb| (cdb[3], cdb[4])).collect();
        assert_eq!(lengths, [(0, 252), (1, 4)]);
    }

    #[test]
    fn without_a_designator_the_model_and_serial_number_are_it() {
        let mut device = FakeDevice::default();
        device.vpd.remove(&0x83);
        let found = Identity::of(&FakeHost::new(device.clone())).unwrap();
        assert_eq!(found.to_string(), "VMM FAKE DISK with serial number FAKE0001");
        device.set_vpd(b"\0\x80\0\x04 \x01x ");
        let other = Identity::of(&FakeHost::new(device.clone())).unwrap();
        assert_eq!(other.to_string(), r"VMM FAKE DISK with serial number \x01x");
        assert!(!found.is_part_of(&other) && found.is_part_of(&found));
        device.vpd.clear();
        let bare = Identity::of(&FakeHost::new(device)).unwrap();
        assert_eq!(bare.to_string(), "VMM FAKE DISK without a serial number");
    }

    #[test]
    fn another_page_in_place_of_the_page_is_no_page() {
        let mut device = FakeDevice::default();
        let mut answered = page(&[(1, 0x03, &NAA)]);
        answered[1] = 0x00;
        device.vpd.insert(0x83, answered);
        assert!(matches!(Identity::of(&FakeHost::new(device)), Ok(Identity::Model(_))));
    }

    #[test]
    fn a_unit_attention_is_no_answer() {
        let host = FakeHost::default();
        host.next(Outcome::check(SenseCode::POWER_ON_OCCURRED));
        host.next(Outcome::check(SenseCode::REPORTED_LUNS_DATA_HAS_CHANGED));
        assert!(Identity::of(&host).is_ok());
        (0..8).for_each(|_| host.next(Outcome::check(SenseCode::POWER_ON_OCCURRED)));
        assert!(matches!(Identity::of(&host), Err(Unknown::Status(_))));
    }

    #[test]
    fn a_logical_unit_that_is_not_there_is_none() {
        let host = FakeHost::default();
        host.next(Outcome::check(SenseCode::LOGICAL_UNIT_NOT_SUPPORTED));
        assert!(matches!(Identity::of(&host), Err(Unknown::Nothing)));
        let host = FakeHost::new(FakeDevice::of_type(0x7f));
        assert!(matches!(Identity::of(&host), Err(Unknown::Nothing)));
    }

    #[test]
    fn no_answer_is_no_identity() {
        let host = FakeHost::default();
        host.next(Outcome::host(HostStatus::NO_CONNECT));
        assert!(matches!(Identity::of(&host), Err(Unknown::Host(HostStatus::NO_CONNECT))));
        host.next(Outcome::status(Status::BUSY));
        assert!(matches!(Identity::of(&host), Err(Unknown::Status(Status::BUSY))));
        host.next(Outcome::Errno(libc::ENODEV));
        assert!(matches!(Identity::of(&host), Err(Unknown::Io(_))));
        host.next(Outcome::data(&[]));
        host.next(Outcome::data(&[]));
        host.next(Outcome::data(&[]));
        assert!(matches!(Identity::of(&host), Ok(Identity::Model(_))), "it must not panic");
    }
}

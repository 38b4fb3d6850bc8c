//! Looks at a device and tells all of it.
//!
//! Owns who is asked for what. It must not know how any of it is shown.

use storage::host::ScsiHost;
use storage::lun::passthrough::facts::{ExamineError, Facts};
use storage::lun::passthrough::fixup::has_block_limits;
use storage::lun::passthrough::view::View;
use storage::lun::passthrough::watch::overhear::Overhearing;
use storage::lun::spec::PassthroughSpec;

use super::commands::{self, Senders};
use super::model::{Capacity, Device, Identity, Missing, Page, Report};
use super::{ask, fields, limits, missing, pages, reservations};
use crate::printable::printable;

/// What is asked about, and what the host tells of it.
pub(super) struct Subject<'a> {
    pub(super) spec: &'a PassthroughSpec,
    pub(super) host: &'a dyn ScsiHost,
    pub(super) device: Device,
    pub(super) senders: Senders<'a>,
    /// What is known to be missing already.
    pub(super) missing: Vec<Missing>,
}

/// Asks the device.
///
/// # Errors
/// When it does not even answer INQUIRY, or the host does not say what it can carry.
pub(super) fn report(subject: Subject<'_>) -> Result<Report, ExamineError> {
    let Subject { spec, host, mut device, senders, mut missing } = subject;
    let overhearing = Overhearing::new(host);
    let host: &dyn ScsiHost = &overhearing;
    let view = View::of(spec, host)?;
    let facts = &view.facts;
    let pages = pages::read(host, &view.context(spec));
    let policy = commands::policy(spec, &view, &senders);
    missing.extend(missing::of(spec, facts, &policy));
    let reservations = reservations::look(host);
    device.attentions = overhearing.into_heard().into_iter().map(ask::shown).collect();
    Ok(Report {
        format: 1,
        path: printable(&spec.path.to_string_lossy()),
        device,
        identity: identity(facts, &pages),
        limits: limits::told(&view.host, &view.limits, block_limits(facts, &pages)),
        pages,
        policy,
        reservations,
        missing,
    })
}

/// What the LUN `spec` is in a few words: its type and names, how much it holds, and how much one
/// command carries; nothing where the device does not answer.
pub(super) fn summary(spec: &PassthroughSpec, host: &dyn ScsiHost) -> Option<String> {
    let View { facts, limits, .. } = View::of(spec, host).ok()?;
    let overlay = spec.overlay.wwn.map(|wwn| wwn.to_string());
    let identity = overlay.or_else(|| facts.identity().map(|identity| identity.to_string()));
    let mut parts = vec![type_name(facts.device_type()).to_owned(), facts.names().join(" ")];
    parts.extend(identity);
    if let Some(medium) = facts.medium {
        parts.push(format!("{} blocks of {} bytes", medium.blocks, medium.block_size));
    }
    parts.push(format!("up to {} KiB at a time", limits.max_transfer() >> 10));
    Some(printable(&parts.join(", ")))
}

fn guests<'a>(pages: &'a [Page], code: &str) -> Option<&'a [u8]> {
    pages.iter().find(|page| page.page == code)?.guest.as_deref()
}

/// The Block Limits page of a guest, on a device that has such a page.
fn block_limits<'a>(facts: &Facts, pages: &'a [Page]) -> Option<&'a [u8]> {
    guests(pages, "b0").filter(|_| has_block_limits(facts.device_type()))
}

/// Who a guest takes it for.
fn identity(facts: &Facts, pages: &[Page]) -> Identity {
    let standard = guests(pages, "inquiry").unwrap_or_default();
    let field =
        |range: std::ops::Range<usize>| fields::text(standard.get(range).unwrap_or_default());
    Identity {
        device_type: facts.device_type(),
        type_name: type_name(facts.device_type()),
        vendor: field(8..16),
        product: field(16..32),
        revision: field(32..36),
        serial: guests(pages, "80").and_then(|page| page.get(4..)).map(fields::text),
        designators: guests(pages, "83").map(fields::named).unwrap_or_default(),
        capacity: facts
            .medium
            .map(|medium| Capacity { blocks: medium.blocks, block_size: medium.block_size }),
    }
}

/// PERIPHERAL DEVICE TYPE (SPC-6, INQUIRY command).
fn type_name(code: u8) -> &'static str {
    match code {
        0x00 => "direct access block device",
        0x01 => "sequential access device",
        0x03 => "processor device",
        0x05 => "CD/DVD device",
        0x07 => "optical memory device",
        0x08 => "media changer device",
        0x0c => "storage array controller device",
        0x0d => "enclosure services device",
        0x0e => "simplified direct access device",
        0x11 => "object-based storage device",
        0x14 => "host managed zoned block device",
        0x1e => "well known logical unit",
        _ => "device of another type",
    }
}

#[cfg(test)]
mod tests {
    use storage::testing::{FakeDevice, FakeHost};

    use super::*;
    use crate::probe::model::Named;

    fn look(spec: &PassthroughSpec, host: &FakeHost) -> Result<Report, ExamineError> {
        let senders = Senders { direct: &|_| true, broker: None };
        let device = Device::default();
        report(Subject { spec, host, device, senders, missing: Vec::new() })
    }

    #[test]
    fn a_device_is_shown_as_a_guest_sees_it() {
        let mut spec = PassthroughSpec::new("/dev/sg1".as_ref());
        let host = FakeHost::default();
        host.device().attentions.push_back(storage::scsi::sense::SenseCode::POWER_ON_OCCURRED);
        let report = look(&spec, &host).unwrap();
        let identity = &report.identity;
        assert_eq!((identity.vendor.as_str(), identity.product.as_str()), ("VMM", "FAKE DISK"));
        assert_eq!(identity.serial.as_deref(), Some("FAKE0001"));
        assert_eq!(identity.capacity, Some(Capacity { blocks: 2048, block_size: 512 }));
        assert_eq!(report.device.attentions, ["6/29/01"]);
        assert_eq!((report.limits[0].value, report.limits[0].effective), (1024, true));
        assert_eq!(report.reservations.unread[0], "READ KEYS ends with sense 5/20/00");
        spec.overlay.serial = Some("S 1".into());
        spec.overlay.wwn = storage::lun::spec::Naa::parse("5001438012345678").ok();
        let identity = look(&spec, &host).unwrap().identity;
        assert_eq!(identity.serial.as_deref(), Some("S 1"));
        let named =
            Named { association: "logical unit", designator: "naa.5001438012345678".into() };
        assert_eq!(identity.designators, [named]);
    }

    #[test]
    fn nothing_is_sent_that_changes_anything() {
        let mut spec = PassthroughSpec::new("/dev/sg1".as_ref());
        spec.policy.preset = storage::lun::passthrough::policy::Preset::Full;
        for device_type in 0..=0x1f {
            let host = FakeHost::new(FakeDevice::of_type(device_type));
            drop(look(&spec, &host).unwrap());
            for sent in host.take_sent() {
                let looks = [0x03, 0x12, 0x1a, 0x25, 0x5a, 0x5e, 0x9e, 0xa3].contains(&sent.cdb[0]);
                assert!(looks && sent.data_out.is_empty(), "{:02x?}", sent.cdb);
            }
        }
    }

    #[test]
    fn a_hostile_device_shows_nothing_that_is_not_printable() {
        let mut device = FakeDevice::default();
        device.inquiry[8..36].copy_from_slice(
            b"\x1b[2J\n\r\x9b1 \xe2\x80\xae\0\0\0\0\0\0\0\0\0\0\0\x07\x08\t\x0b\x0c",
        );
        let name = "\u{202e}\u{1b}]0;x\u{7}";
        let len = u8::try_from(name.len()).unwrap();
        let page = [&[0, 0x83, 0, len + 4, 0x03, 0x08, 0, len][..], name.as_bytes()].concat();
        device.set_vpd(&page);
        device.set_vpd(&[0, 0x80, 0, 4, 0x1b, b'c', 0xff, 0x00]);
        let report = look(&PassthroughSpec::new("/x\n\u{1b}".as_ref()), &FakeHost::new(device));
        let report = report.unwrap();
        let shown = crate::probe::text::Text(&report).to_string();
        assert!(shown.lines().all(|line| printable(line) == line), "{shown}");
        assert!(shown.starts_with("/x\\n\\u{1b}: direct access block device, "), "{shown}");
        let json = crate::probe::json::json(&report);
        assert!(json.lines().all(|line| printable(line) == line), "{json}");
    }

    #[test]
    fn a_summary_is_one_line() {
        let mut spec = PassthroughSpec::new("/dev/sg1".as_ref());
        let host = FakeHost::default();
        let told = "direct access block device, VMM FAKE DISK 0001, naa.5001405000000001, 2048 \
                    blocks of 512 bytes, up to 512 KiB at a time";
        assert_eq!(summary(&spec, &host).as_deref(), Some(told));
        spec.overlay.wwn = storage::lun::spec::Naa::parse("5001438012345678").ok();
        assert!(summary(&spec, &host).unwrap().contains("0001, naa.5001438012345678, 2048"));
        host.device().inquiry[8] = b'\n';
        assert!(summary(&spec, &host).unwrap().contains("device, \\nMM FAKE"));
        host.device().gone = true;
        assert_eq!(summary(&spec, &host), None);
    }

    #[test]
    fn a_device_that_does_not_answer_is_an_error() {
        let spec = PassthroughSpec::new("/dev/sg1".as_ref());
        let gone = FakeHost::new(FakeDevice { gone: true, ..FakeDevice::default() });
        assert!(look(&spec, &gone).is_err());
    }
}

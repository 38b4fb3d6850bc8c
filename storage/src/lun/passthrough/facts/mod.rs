//! What a device is: what it says of itself before an initiator has asked it anything.
//!
//! No length that a device states is trusted, and nothing is asked in a way that old devices do
//! not take. What an initiator is told about it is [`super::limits`]' and [`super::fixup`]'s.

use crate::host::{HostStatus, ScsiHost};
use crate::scsi::designator::{self, Association, Designator, Kind};
use crate::scsi::mode;
use crate::scsi::sense::SenseCode;
use crate::scsi::vpd::PageCode;

mod commands;
mod medium;
mod probe;

pub use commands::{Command, Commands, Timeouts};
pub use medium::Medium;
use probe::Probe;

/// What a device is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The standard INQUIRY data, at least 5 bytes.
    pub inquiry: Vec<u8>,
    /// The codes of its VPD pages, as it lists them; `None` where it has no such list.
    pub pages: Option<Vec<u8>>,
    /// PRODUCT SERIAL NUMBER (Unit Serial Number VPD page), without the spaces around it.
    pub serial: Option<String>,
    /// The Device Identification VPD page, as long as it says.
    pub identification: Option<Vec<u8>>,
    /// The Block Limits VPD page, as long as it says.
    pub block_limits: Option<Vec<u8>>,
    /// The medium of a block device, if there is one and it can be told.
    pub medium: Option<Medium>,
    /// The commands that it supports, if it says.
    pub commands: Option<Commands>,
    /// Whether it was told to make sense data in descriptor format (D_SENSE of the Control mode
    /// page).
    pub descriptor_sense: bool,
    /// The unit attentions that were met on the way, which no initiator sees any more.
    pub attentions: Vec<SenseCode>,
}

/// Nobody can tell what a device is: the predicate of a sentence about it.
#[derive(Debug, thiserror::Error)]
pub enum ExamineError {
    /// The host does not send it a command.
    #[error("cannot be sent a command: {0}")]
    Host(#[from] std::io::Error),
    /// The way to it is broken.
    #[error("does not answer (host status {:02x}h)", .0.0)]
    Transport(HostStatus),
    /// It does not say what it is.
    #[error("does not answer INQUIRY")]
    NoInquiry,
    /// It says that there is no such logical unit (PERIPHERAL QUALIFIER).
    #[error("has no logical unit behind it (peripheral qualifier {0})")]
    NoLogicalUnit(u8),
}

/// Asks a device what it is. Blocks as long as the device does, within the probe's own time-outs.
///
/// # Errors
/// When its INQUIRY data cannot be had, or the way to it breaks.
pub fn examine(host: &dyn ScsiHost) -> Result<Facts, ExamineError> {
    let mut probe = Probe::new(host);
    let mut facts = Facts { inquiry: probe.inquiry()?, ..Facts::default() };
    if facts.qualifier() != 0 {
        return Err(ExamineError::NoLogicalUnit(facts.qualifier()));
    }
    facts.pages = probe.page_list(&facts.inquiry)?;
    facts.serial = probe.page(&facts, PageCode::UNIT_SERIAL_NUMBER)?.and_then(|page| text(&page));
    facts.identification = probe.page(&facts, PageCode::DEVICE_IDENTIFICATION)?;
    facts.block_limits = probe.page(&facts, PageCode::BLOCK_LIMITS)?;
    facts.medium = medium::read(&mut probe, &facts)?;
    // Whoever cannot answer these is usable nevertheless, even if it had to be reset.
    facts.descriptor_sense = probe.control_page().is_ok_and(|it| mode::descriptor_sense(&it));
    facts.commands = commands::read(&mut probe, &facts).unwrap_or(None);
    facts.attentions = probe.attentions;
    Ok(facts)
}

fn text(page: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(page.get(4..)?).trim_matches([' ', '\0']).to_owned();
    (!text.is_empty()).then_some(text)
}

/// Whether `data` is not the VPD page that was asked for but `inquiry`, the standard INQUIRY data:
/// so answers a device that takes no notice of EVPD.
pub(super) fn is_inquiry(data: &[u8], inquiry: &[u8]) -> bool {
    const TELLING: usize = 8;
    data.len() >= TELLING && data.get(..TELLING) == inquiry.get(..TELLING)
}

impl Facts {
    /// PERIPHERAL DEVICE TYPE
    #[must_use]
    pub fn device_type(&self) -> u8 {
        self.peripheral() & 0x1f
    }

    /// PERIPHERAL QUALIFIER
    #[must_use]
    pub fn qualifier(&self) -> u8 {
        self.peripheral() >> 5
    }

    /// PERIPHERAL QUALIFIER and PERIPHERAL DEVICE TYPE, as all its pages begin.
    #[must_use]
    pub fn peripheral(&self) -> u8 {
        self.inquiry.first().copied().unwrap_or(0)
    }

    /// The version of the standard that it claims, without what other bodies put beside it (SPC-6,
    /// VERSION field): 02h is SCSI-2, 04h SPC-2, 05h SPC-3.
    #[must_use]
    pub fn version(&self) -> u8 {
        self.inquiry.get(2).copied().unwrap_or(0) & 0x07
    }

    /// Whether its medium can be removed (RMB).
    #[must_use]
    pub fn removable(&self) -> bool {
        self.inquiry.get(1).is_some_and(|byte| byte & 0x80 != 0)
    }

    /// T10 VENDOR IDENTIFICATION, PRODUCT IDENTIFICATION and PRODUCT REVISION LEVEL, without the
    /// spaces behind them.
    #[must_use]
    pub fn names(&self) -> [String; 3] {
        [8..16, 16..32, 32..36].map(|field| {
            let bytes = self.inquiry.get(field).unwrap_or(&[]);
            String::from_utf8_lossy(bytes).trim_end_matches([' ', '\0']).to_owned()
        })
    }

    /// All designators, in the device's order.
    #[must_use]
    pub fn designators(&self) -> Vec<(Association, Designator)> {
        designator::in_page(self.identification.as_deref().unwrap_or(&[]))
    }

    /// The designator of the logical unit by which it is best told apart.
    #[must_use]
    pub fn identity(&self) -> Option<Designator> {
        let rank = |designator: &Designator| match designator.kind() {
            Kind::Naa => 3,
            Kind::Eui => 2,
            Kind::Name => 1,
            Kind::T10 => 0,
        };
        let of_unit = |(association, designator)| {
            (association == Association::LogicalUnit).then_some(designator)
        };
        let designators = self.designators().into_iter().filter_map(of_unit);
        // The first of several is the device's choice.
        designators.rev().max_by_key(|it: &Designator| (rank(it), it.bytes().len()))
    }

    /// Whether the VPD page is in its list.
    #[must_use]
    pub fn lists(&self, code: PageCode) -> bool {
        self.pages.as_ref().is_some_and(|pages| pages.contains(&code.0))
    }
}

#[cfg(test)]
mod tests;

//! Edits of responses: the few bytes without which an initiator breaks.
//!
//! An edit works on the whole response, whatever part of it the initiator wants; then it is cut.
//! Each page has a file that knows its bytes; here is which command gets which edit, and when.

use super::facts::Facts;
use super::limits::Limits;
use crate::host::{Completion, HostStatus};
use crate::lun::spec::Overlay;
use crate::scsi::cdb::Cdb;
use crate::scsi::sense::{SenseCode, SenseKey};
use crate::scsi::status::Status;
use crate::scsi::vpd::PageCode;
use crate::scsi::wire::put_u16;

mod block_limits;
mod inquiry;
mod mode_sense;
mod names;
mod page;
mod page_list;

/// What an edit goes by.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// What the device is.
    pub facts: &'a Facts,
    /// How much a command may carry to it.
    pub limits: &'a Limits,
    /// What it says instead.
    pub overlay: &'a Overlay,
    /// No command that writes the medium gets through.
    pub write_protected: bool,
    /// What is allowed of that which standard INQUIRY data promises.
    pub promises: Promises,
}

/// Whether the commands are allowed that standard INQUIRY data promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promises {
    /// EXTENDED COPY and RECEIVE COPY RESULTS: 83h and 84h (3PC).
    pub third_party_copy: bool,
    /// REPORT TARGET PORT GROUPS: A3h/0Ah (TPGS).
    pub report_target_port_groups: bool,
    /// SET TARGET PORT GROUPS: A4h/0Ah (explicit in TPGS).
    pub set_target_port_groups: bool,
}

/// The edit of a command's response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fixup {
    edit: Edit,
    /// The CDB to be sent, of the same length: the same but for its allocation length.
    pub cdb: Cdb,
    /// Bytes of memory of our own that the response is to come to.
    pub len: usize,
    /// ALLOCATION LENGTH of the initiator, in bytes.
    pub allocation_length: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edit {
    Inquiry,
    PageList,
    SerialNumber,
    Identification,
    BlockLimits,
    ModeSense { specific: usize },
}

/// Whether devices of this PERIPHERAL DEVICE TYPE have a Block Limits VPD page of the kind of
/// direct access block devices: these, optical memory devices and zoned ones (SPC-6 names the
/// SBC for them; RBC has no such page).
#[must_use]
pub fn has_block_limits(device_type: u8) -> bool {
    matches!(device_type, 0x00 | 0x07 | 0x14)
}

impl Fixup {
    /// What becomes of the response to `cdb`, if anything.
    #[must_use]
    pub fn of(cdb: &Cdb, device_type: u8) -> Option<Fixup> {
        let (edit, allocation_length) = match cdb.opcode() {
            0x12 => (Edit::of_inquiry(cdb, device_type)?, cdb.u16(3)),
            0x1a if mode_sense::has_write_protect(device_type) => {
                (Edit::ModeSense { specific: 2 }, cdb.u8(4).into())
            }
            0x5a if mode_sense::has_write_protect(device_type) => {
                (Edit::ModeSense { specific: 3 }, cdb.u16(7))
            }
            _ => return None,
        };
        let len = edit.whole(allocation_length);
        let mut cdb = *cdb;
        if len != allocation_length {
            put_u16(&mut cdb.0, 3, len);
        }
        Some(Fixup { edit, cdb, len: len.into(), allocation_length: allocation_length.into() })
    }

    /// Edits the response: `data` is what came from the device, and then what goes to the
    /// initiator, no longer than its allocation length. Where the device refused a page that an
    /// initiator must have, `completion` becomes GOOD. Its residual counts against the
    /// initiator's allocation length.
    pub fn apply(&self, context: &Context<'_>, completion: &mut Completion, data: &mut Vec<u8>) {
        match Verdict::of(completion) {
            Verdict::Data => self.edit(context, data),
            Verdict::Refused => {
                data.clear();
                self.edit(context, data);
                if !data.is_empty() {
                    completion.status = Status::GOOD;
                    completion.sense.clear();
                }
            }
            Verdict::Failed => {}
        }
        data.truncate(self.allocation_length);
        let missing = self.allocation_length.saturating_sub(data.len());
        completion.resid = i32::try_from(missing).unwrap_or(i32::MAX);
    }

    /// Edits the whole response, which is empty where the device refused the page.
    fn edit(&self, context: &Context<'_>, data: &mut Vec<u8>) {
        match self.edit {
            Edit::Inquiry => inquiry::edit(data, context),
            Edit::PageList => page_list::edit(data, context),
            Edit::SerialNumber => names::edit_serial_number(data, context),
            Edit::Identification => names::edit_identification(data, context),
            Edit::BlockLimits => block_limits::edit(data, context),
            Edit::ModeSense { specific } => mode_sense::edit(data, specific, context),
        }
    }
}

impl Edit {
    fn of_inquiry(cdb: &Cdb, device_type: u8) -> Option<Edit> {
        const EVPD: u8 = 0;
        const CMDDT: u8 = 1;
        if cdb.bit(1, CMDDT) {
            return None;
        }
        match (cdb.bit(1, EVPD), PageCode(cdb.u8(2))) {
            (false, PageCode(0)) => Some(Edit::Inquiry),
            (true, PageCode::SUPPORTED_PAGES) => Some(Edit::PageList),
            (true, PageCode::UNIT_SERIAL_NUMBER) => Some(Edit::SerialNumber),
            (true, PageCode::DEVICE_IDENTIFICATION) => Some(Edit::Identification),
            (true, PageCode::BLOCK_LIMITS) => {
                has_block_limits(device_type).then_some(Edit::BlockLimits)
            }
            _ => None,
        }
    }

    /// The allocation length with which the whole response comes; one that old devices take,
    /// where the initiator's is no longer.
    fn whole(self, allocation_length: u16) -> u16 {
        const OLD_ALLOCATION: u16 = 252;
        const LONGEST_LIST: u16 = 260;
        match self {
            Edit::PageList | Edit::BlockLimits => {
                allocation_length.clamp(OLD_ALLOCATION, LONGEST_LIST)
            }
            _ => allocation_length,
        }
    }
}

/// What a command's end says of its data.
enum Verdict {
    /// It is there.
    Data,
    /// The device does not know the page.
    Refused,
    /// There is none, for another reason.
    Failed,
}

impl Verdict {
    fn of(completion: &Completion) -> Verdict {
        let Completion { status, sense, host_status: HostStatus::OK, .. } = completion else {
            return Verdict::Failed;
        };
        match (*status, SenseCode::of(sense).map(|code| code.key)) {
            (Status::GOOD, _) => Verdict::Data,
            (Status::CHECK_CONDITION, Some(key)) if !SenseCode::is_deferred(sense) => match key {
                SenseKey::NO_SENSE | SenseKey::RECOVERED_ERROR => Verdict::Data,
                SenseKey::ILLEGAL_REQUEST => Verdict::Refused,
                _ => Verdict::Failed,
            },
            _ => Verdict::Failed,
        }
    }
}

#[cfg(test)]
mod tests;

//! The commands of an examination, each sent until it has an answer.

use std::time::Duration;

use super::{ExamineError, Facts, is_inquiry};
use crate::host::{Completion, HostStatus, ScsiHost, whole};
use crate::scsi::mode;
use crate::scsi::sense::{SenseCode, SenseKey};
use crate::scsi::status::Status;
use crate::scsi::vpd::PageCode;
use crate::scsi::wire::u16_at;

/// How long a command may take: what a disk needs to spin up is not waited for.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How often a command is sent at most.
const TRIES: usize = 10;

/// How long a busy device is left alone.
const PAUSE: Duration = Duration::from_millis(100);

/// The ALLOCATION LENGTH that devices of all ages take: one byte, and no odd number.
const OLD_ALLOCATION: u8 = 252;

/// Sends commands to a device.
#[derive(Debug)]
pub(super) struct Probe<'a> {
    host: &'a dyn ScsiHost,
    /// The unit attentions that were met.
    pub(super) attentions: Vec<SenseCode>,
}

/// How a command ended.
enum End {
    /// With as much data as came.
    Data(Vec<u8>),
    /// The device does not do that, or cannot now.
    Refused,
    /// It is worth another try, at once or after a pause.
    Again { pause: bool },
}

impl<'a> Probe<'a> {
    pub(super) fn new(host: &'a dyn ScsiHost) -> Probe<'a> {
        Probe { host, attentions: Vec::new() }
    }

    /// What the device answers, at most `len` bytes; `None` where it has no answer.
    pub(super) fn ask(&mut self, cdb: &[u8], len: usize) -> Result<Option<Vec<u8>>, ExamineError> {
        for _ in 0..TRIES {
            match self.send(cdb, len)? {
                End::Data(bytes) => return Ok(Some(bytes)),
                End::Refused => return Ok(None),
                End::Again { pause: true } => std::thread::sleep(PAUSE),
                End::Again { pause: false } => {}
            }
        }
        Ok(None)
    }

    fn send(&mut self, cdb: &[u8], len: usize) -> Result<End, ExamineError> {
        let (completion, bytes) = whole::receive(self.host, cdb, len, TIMEOUT)?;
        match completion.host_status {
            HostStatus::OK => Ok(self.judge(&completion, bytes)),
            HostStatus::BUS_BUSY
            | HostStatus::PARITY
            | HostStatus::RESET
            | HostStatus::SOFT_ERROR
            | HostStatus::IMM_RETRY
            | HostStatus::REQUEUE
            | HostStatus::TRANSPORT_DISRUPTED => Ok(End::Again { pause: true }),
            broken => Err(ExamineError::Transport(broken)),
        }
    }

    fn judge(&mut self, completion: &Completion, bytes: Vec<u8>) -> End {
        const BECOMING_READY: (u8, u8) = (0x04, 0x01);
        match completion.status {
            Status::GOOD => return End::Data(bytes),
            Status::BUSY | Status::TASK_SET_FULL | Status::TASK_ABORTED => {
                return End::Again { pause: true };
            }
            Status::CHECK_CONDITION => {}
            _ => return End::Refused,
        }
        let code = SenseCode::of(&completion.sense);
        let Some(code) = code.filter(|_| !SenseCode::is_deferred(&completion.sense)) else {
            return End::Again { pause: true };
        };
        match code.key {
            SenseKey::NO_SENSE | SenseKey::RECOVERED_ERROR => End::Data(bytes),
            SenseKey::UNIT_ATTENTION => {
                self.attentions.push(code);
                End::Again { pause: false }
            }
            SenseKey::ABORTED_COMMAND => End::Again { pause: true },
            SenseKey::NOT_READY if (code.asc, code.ascq) == BECOMING_READY => {
                End::Again { pause: true }
            }
            _ => End::Refused,
        }
    }

    /// The standard INQUIRY data: as much as every device has, then as much as it says to have.
    pub(super) fn inquiry(&mut self) -> Result<Vec<u8>, ExamineError> {
        const SHORT: u8 = 36;
        let ask = |len: u8, probe: &mut Self| {
            probe.ask(&[0x12, 0, 0, 0, len, 0], len.into()).map(Option::unwrap_or_default)
        };
        let short = ask(SHORT, self)?;
        let Some(additional) = short.get(4) else { return Err(ExamineError::NoInquiry) };
        let stated = additional.saturating_add(5);
        if stated <= SHORT {
            return Ok(short);
        }
        let long = ask(stated, self)?;
        Ok(if long.len() >= short.len() { long } else { short })
    }

    /// The codes of the Supported VPD Pages page. A device that knows no such pages may answer
    /// with its standard INQUIRY data, which looks like it.
    pub(super) fn page_list(&mut self, inquiry: &[u8]) -> Result<Option<Vec<u8>>, ExamineError> {
        let Some(page) = self.vpd(PageCode::SUPPORTED_PAGES)? else { return Ok(None) };
        let list = page.get(4..).filter(|_| !is_inquiry(&page, inquiry));
        Ok(list.map(<[u8]>::to_vec))
    }

    /// A VPD page that the device lists, as long as it says and is.
    pub(super) fn page(
        &mut self,
        facts: &Facts,
        code: PageCode,
    ) -> Result<Option<Vec<u8>>, ExamineError> {
        if facts.lists(code) { self.vpd(code) } else { Ok(None) }
    }

    fn vpd(&mut self, code: PageCode) -> Result<Option<Vec<u8>>, ExamineError> {
        let first = self.vpd_within(code, OLD_ALLOCATION.into())?;
        let Some(page) = first else { return Ok(None) };
        let whole = u16_at(&page, 2).saturating_add(4);
        if whole <= OLD_ALLOCATION.into() {
            return Ok(Some(page));
        }
        let long = self.vpd_within(code, whole)?;
        Ok(Some(long.filter(|long| long.len() > page.len()).unwrap_or(page)))
    }

    fn vpd_within(&mut self, code: PageCode, len: u16) -> Result<Option<Vec<u8>>, ExamineError> {
        let [high, low] = len.to_be_bytes();
        let Some(mut page) = self.ask(&[0x12, 0x01, code.0, high, low, 0], len.into())? else {
            return Ok(None);
        };
        page.truncate(usize::from(u16_at(&page, 2)) + 4);
        Ok((page.len() >= 4 && page.get(1) == Some(&code.0)).then_some(page))
    }

    /// The current values of the Control mode page.
    pub(super) fn control_page(&mut self) -> Result<Vec<u8>, ExamineError> {
        const DBD: u8 = 0x08;
        let cdb = [0x1a, DBD, mode::PageCode::CONTROL.0, 0, OLD_ALLOCATION, 0];
        let data = self.ask(&cdb, OLD_ALLOCATION.into())?.unwrap_or_default();
        let descriptors = usize::from(data.get(3).copied().unwrap_or(0));
        let page = data.get(4 + descriptors..).unwrap_or(&[]);
        let is_control = page.first().is_some_and(|it| it & 0x7f == mode::PageCode::CONTROL.0);
        Ok(if is_control { page.to_vec() } else { Vec::new() })
    }
}

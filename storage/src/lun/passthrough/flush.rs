//! What was written is made stable before the VMM ends, as far as the device goes along.

use std::io;
use std::time::Duration;

use super::outcome::ending;
use super::policy::Verdict;
use super::unit::Unit;
use super::watch::Watched;
use crate::host::{Data, Request};
use crate::scsi::cdb::Cdb;
use crate::scsi::command::device_type;
use crate::scsi::sense::{SenseCode, SenseKey};
use crate::scsi::status::Status;
use crate::task::{Response, SenseData};

/// How long the end of the VMM waits for a device.
const TIMEOUT: Duration = Duration::from_secs(60);

/// SYNCHRONIZE CACHE(10) of all blocks, to disks that the initiator may have written to.
///
/// # Errors
/// When the device, or the way to it, failed; not where it has nothing to make stable.
pub(super) fn flush(unit: &Unit) -> io::Result<()> {
    /// Beyond this, unit attentions are no news.
    const ATTEMPTS: usize = 5;
    let cdb = Cdb::new(&[0x35]);
    let view = unit.view();
    let is_disk = matches!(view.facts.device_type(), device_type::DISK | device_type::ZONED);
    let writable = matches!(view.policy.judge(&Cdb::new(&[0x2a])), Verdict::Forward);
    if !is_disk || !writable {
        return Ok(());
    }
    for _ in 0..ATTEMPTS {
        unit.watch().admit(|| false).map_err(io::Error::other)?;
        let request = Request { cdb: &cdb.0[..10], data: Data::None, timeout: TIMEOUT };
        let response = ending(unit.host().execute(request), 0).response;
        let Response::Status { status, sense, .. } = &response else {
            return Err(failed(&response));
        };
        let code = sense.as_ref().and_then(SenseData::code);
        match code.map(|code| code.key) {
            _ if *status == Status::GOOD => return Ok(()),
            Some(SenseKey::UNIT_ATTENTION) => {}
            // It has no cache.
            Some(SenseKey::ILLEGAL_REQUEST) => return Ok(()),
            _ if code == Some(SenseCode::MEDIUM_NOT_PRESENT) => return Ok(()),
            _ => return Err(failed(&response)),
        }
    }
    Err(io::Error::other("the device reports nothing but unit attentions"))
}

fn failed(response: &Response) -> io::Error {
    io::Error::other(format!("SYNCHRONIZE CACHE failed: {response:?}"))
}

//! Commands that look at a device and change nothing.
//!
//! This file must not know what an answer means beyond whether it is one.

use std::io;
use std::time::Duration;

use storage::host::whole;
use storage::host::{Completion, HostStatus, ScsiHost};
use storage::scsi::sense::{SenseCode, SenseKey};
use storage::scsi::status::Status;

/// How long a look may take.
const TIMEOUT: Duration = Duration::from_secs(20);
/// How often a command is sent that ends with a unit attention.
const TRIES: usize = 4;

/// Why there is no answer: a clause about the command.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    /// The host does not let this process send the command.
    #[error("needs CAP_SYS_RAWIO")]
    NotPermitted,
    /// The host could not send it.
    #[error("cannot be sent: {0}")]
    Host(io::Error),
    /// The way to the device is broken.
    #[error("ends with host status {:02x}h", .0.0)]
    Transport(HostStatus),
    /// The device has something against it.
    #[error("ends with sense {}", shown(*.0))]
    Sense(SenseCode),
    /// The device does not carry it out now.
    #[error("ends with status {:02x}h", .0.0)]
    Status(Status),
}

/// A sense code as it is usually written: key, additional code and qualifier in hex.
pub(super) fn shown(code: SenseCode) -> String {
    format!("{:x}/{:02x}/{:02x}", code.key.0, code.asc, code.ascq)
}

/// The data-in of a command, at most `room` bytes.
pub(super) fn ask(host: &dyn ScsiHost, cdb: &[u8], room: usize) -> Result<Vec<u8>, NoAnswer> {
    let (completion, bytes) = send(host, cdb, room)?;
    verify(&completion).map(|()| bytes)
}

/// How a command with at most `room` bytes of data-in ends, once no unit attention is in its way,
/// and its data.
pub(super) fn send(
    host: &dyn ScsiHost,
    cdb: &[u8],
    room: usize,
) -> Result<(Completion, Vec<u8>), NoAnswer> {
    let mut ended = once(host, cdb, room)?;
    for _ in 1..TRIES {
        let code = SenseCode::of(&ended.0.sense);
        if code.is_none_or(|code| code.key != SenseKey::UNIT_ATTENTION) {
            break;
        }
        ended = once(host, cdb, room)?;
    }
    Ok(ended)
}

fn once(host: &dyn ScsiHost, cdb: &[u8], room: usize) -> Result<(Completion, Vec<u8>), NoAnswer> {
    whole::receive(host, cdb, room, TIMEOUT).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => NoAnswer::NotPermitted,
        _ => NoAnswer::Host(error),
    })
}

/// Whether a command has its data.
pub(super) fn verify(completion: &Completion) -> Result<(), NoAnswer> {
    // RECOVERED ERROR comes with all of the data.
    const RECOVERED_ERROR: SenseKey = SenseKey(1);
    if completion.host_status != HostStatus::OK {
        return Err(NoAnswer::Transport(completion.host_status));
    }
    match (completion.status, SenseCode::of(&completion.sense)) {
        (Status::GOOD, _) => Ok(()),
        (Status::CHECK_CONDITION, Some(code)) if code.key == RECOVERED_ERROR => Ok(()),
        (Status::CHECK_CONDITION, Some(code)) => Err(NoAnswer::Sense(code)),
        (status, _) => Err(NoAnswer::Status(status)),
    }
}

#[cfg(test)]
mod tests {
    use storage::testing::{FakeHost, Outcome};

    use super::*;

    const INQUIRY: [u8; 6] = [0x12, 0, 0, 0, 36, 0];
    const TEST: [u8; 6] = [0; 6];

    #[test]
    fn unit_attentions_pass() {
        let host = FakeHost::default();
        let attention = || Outcome::check(SenseCode::POWER_ON_OCCURRED);
        (0..3).for_each(|_| host.next(attention()));
        assert_eq!(ask(&host, &INQUIRY, 36).unwrap().len(), 36);
        (0..5).for_each(|_| host.next(attention()));
        assert_eq!(ask(&host, &TEST, 0).unwrap_err().to_string(), "ends with sense 6/29/01");
    }

    #[test]
    fn an_answer_is_as_long_as_it_is() {
        let host = FakeHost::default();
        host.next(Outcome::data(&[1, 2, 3]));
        assert_eq!(ask(&host, &INQUIRY, 36).unwrap(), [1, 2, 3]);
        host.next(Outcome::alter(|completion| completion.resid = 99));
        assert!(ask(&host, &INQUIRY, 36).unwrap().is_empty());
        host.next(Outcome::alter(|completion| completion.resid = -5));
        assert_eq!(ask(&host, &INQUIRY, 36).unwrap().len(), 36);
    }

    #[test]
    fn what_is_no_answer_says_why() {
        let host = FakeHost::default();
        for (outcome, why) in [
            (Outcome::Errno(libc::EPERM), "needs CAP_SYS_RAWIO"),
            (Outcome::Errno(libc::ENODEV), "cannot be sent: No such device (os error 19)"),
            (Outcome::host(HostStatus::TIME_OUT), "ends with host status 03h"),
            (Outcome::status(Status::BUSY), "ends with status 08h"),
            (Outcome::check(SenseCode::INVALID_FIELD_IN_CDB), "ends with sense 5/24/00"),
        ] {
            host.next(outcome);
            assert_eq!(ask(&host, &TEST, 0).unwrap_err().to_string(), why);
        }
    }
}

//! What the end of a forwarded command means to the initiator: the one place where an error of
//! the host, or of its way to the device, becomes a response.
//!
//! What the device itself said goes through unchanged. All else is in two tables: [`on_the_way`]
//! for the host byte (include/scsi/scsi_status.h of Linux), and [`refused`] for errors of the
//! system call.

use std::io;

use super::pin::Refusal;
use crate::host::{Completion, HostStatus};
use crate::scsi::sense::SenseCode;
use crate::scsi::status::Status;
use crate::task::{Response, SenseData, ServiceResponse};

/// How one attempt at a command ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ending {
    /// What the initiator is told, unless there is another attempt.
    pub(super) response: Response,
    /// Whether another attempt is worth it.
    pub(super) again: Again,
    /// What else there is to learn from it.
    pub(super) notice: Option<Notice>,
}

/// Whether another attempt at a command is worth it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// It has ended.
    Never,
    /// No path led to the device, as far as is known: if it can be repeated.
    IfRepeatable,
    /// It was not sent.
    Always,
}

/// What an ending says about the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// It was reset, or may have been.
    Reset,
    /// It may be gone, or another one.
    Lost,
    /// It reports this unit attention itself.
    Attention(SenseCode),
    /// Somebody else has it reserved.
    Conflict,
}

impl Ending {
    fn told(response: Response) -> Ending {
        Ending { response, again: Again::Never, notice: None }
    }

    fn failed(why: ServiceResponse) -> Ending {
        Ending::told(Response::Failed(why))
    }

    /// No path, and `why` if none comes back.
    fn no_path(why: ServiceResponse) -> Ending {
        Ending { again: Again::IfRepeatable, ..Ending::failed(why) }
    }

    fn noticing(self, notice: Notice) -> Ending {
        Ending { notice: Some(notice), ..self }
    }
}

/// The ending of a command with `len` bytes of data that was not sent, because nobody knows what
/// would take it.
pub(super) fn not_sent(refusal: Refusal, len: u32) -> Ending {
    match refusal {
        Refusal::Closed => {
            Ending::told(Response::check_condition(SenseCode::LOGICAL_UNIT_NOT_SUPPORTED, len))
        }
        Refusal::Unverified => {
            // As where no path led there: an initiator with other paths takes those.
            Ending { again: Again::Always, ..Ending::failed(ServiceResponse::TransportFailure) }
        }
        Refusal::Aborted => Ending::failed(ServiceResponse::Aborted),
    }
}

/// The ending of a command with `len` bytes of data.
pub(super) fn ending(result: io::Result<Completion>, len: u32) -> Ending {
    match result {
        Ok(completion) if has_answered(&completion) => answered(completion, len),
        Ok(completion) => on_the_way(completion.host_status),
        Err(error) => refused(&error, len),
    }
}

/// Whether the status is the device's. Older kernels have host bytes of their own beside some
/// statuses, 10h to 13h, and a reservation conflict is one whatever the adapter says besides
/// (`scsi_decide_disposition`).
pub(super) fn has_answered(completion: &Completion) -> bool {
    match completion.host_status {
        HostStatus::OK | HostStatus::PASSTHROUGH => true,
        HostStatus(0x10..=0x13) => completion.status != Status::GOOD,
        _ => completion.status == Status::RESERVATION_CONFLICT,
    }
}

fn answered(completion: Completion, len: u32) -> Ending {
    let Completion { status, sense, resid, .. } = completion;
    // A device that wanted more than there was left nothing; none leaves more than there was.
    let resid = u32::try_from(resid).unwrap_or(0).min(len);
    let notice = notice(status, &sense);
    let sense = Some(sense).filter(|sense| !sense.is_empty());
    let sense = sense.map(|sense| SenseData::Device(sense.into()));
    Ending { notice, ..Ending::told(Response::Status { status, sense, resid }) }
}

fn notice(status: Status, sense: &[u8]) -> Option<Notice> {
    match status {
        Status::RESERVATION_CONFLICT => Some(Notice::Conflict),
        Status::CHECK_CONDITION => {
            let code = SenseCode::of(sense).filter(|code| code.is_unit_attention())?;
            Some(Notice::Attention(code))
        }
        _ => None,
    }
}

/// What became of a command that the device did not answer.
fn on_the_way(host_status: HostStatus) -> Ending {
    use ServiceResponse::{
        BadTarget, Busy, Failure, NexusFailure, Reset, TargetFailure, TransportFailure,
    };
    match host_status {
        HostStatus::NO_CONNECT => Ending::no_path(TransportFailure).noticing(Notice::Lost),
        HostStatus::BAD_TARGET => Ending::failed(BadTarget).noticing(Notice::Lost),
        // What the path leads to when it is back may be another device.
        HostStatus::TRANSPORT_DISRUPTED
        | HostStatus::TRANSPORT_FAILFAST
        | HostStatus::TRANSPORT_MARGINAL => {
            Ending::no_path(TransportFailure).noticing(Notice::Lost)
        }
        HostStatus::SOFT_ERROR => Ending::no_path(TransportFailure),
        // The adapter has not sent it.
        HostStatus::BUS_BUSY | HostStatus::IMM_RETRY | HostStatus::REQUEUE => Ending::no_path(Busy),
        // The host ends a command that takes too long by an abort and then by resets of all kinds;
        // the initiator is told of a reset, after which it tries again.
        HostStatus::TIME_OUT | HostStatus::RESET => Ending::failed(Reset).noticing(Notice::Reset),
        // By whom is not known, nor whether the device had done it.
        HostStatus::ABORT | HostStatus::PARITY => Ending::failed(TransportFailure),
        HostStatus(0x10) => Ending::failed(TargetFailure),
        HostStatus(0x11) => Ending::failed(NexusFailure),
        _ => Ending::failed(Failure),
    }
}

/// What it means that the host's SCSI layer did not take a command.
fn refused(error: &io::Error, len: u32) -> Ending {
    let sense = |code: SenseCode| Ending::told(Response::check_condition(code, len));
    let status = |status| Ending::told(Response::Status { status, sense: None, resid: len });
    let Some(errno) = error.raw_os_error() else { return refused_by_kind(error, len) };
    match errno {
        // It is not for this process to send, or nothing that the host can carry, today and
        // tomorrow.
        libc::EPERM | libc::EACCES | libc::EOPNOTSUPP | libc::ENOTTY | libc::EMSGSIZE => {
            sense(SenseCode::INVALID_COMMAND_OPERATION_CODE)
        }
        libc::EINVAL | libc::E2BIG => sense(SenseCode::INVALID_FIELD_IN_CDB),
        libc::ENODEV | libc::ENXIO | libc::ENOTCONN | libc::ENOLINK | libc::EHOSTUNREACH => {
            Ending::no_path(ServiceResponse::TransportFailure).noticing(Notice::Lost)
        }
        // The host was short of something, as of a broker, and did nothing.
        libc::ENOMEM
        | libc::EAGAIN
        | libc::EBUSY
        | libc::ENOBUFS
        | libc::ENOENT
        | libc::ECONNREFUSED => status(Status::BUSY),
        // An sg node has a queue of its own.
        libc::EDOM => status(Status::TASK_SET_FULL),
        libc::EBADE => status(Status::RESERVATION_CONFLICT),
        libc::ENOMEDIUM => sense(SenseCode::MEDIUM_NOT_PRESENT),
        libc::EROFS => sense(SenseCode::WRITE_PROTECTED),
        libc::ETIMEDOUT => Ending::failed(ServiceResponse::Reset).noticing(Notice::Reset),
        // A system call that was interrupted may have left the command with the device.
        libc::EINTR | libc::ECANCELED | libc::EPIPE | libc::ECONNRESET => {
            Ending::failed(ServiceResponse::TransportFailure)
        }
        // Among them EIO, for more data than the adapter carries.
        _ => sense(SenseCode::INTERNAL_TARGET_FAILURE),
    }
}

fn refused_by_kind(error: &io::Error, len: u32) -> Ending {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported => {
            Ending::told(Response::check_condition(SenseCode::INVALID_COMMAND_OPERATION_CODE, len))
        }
        io::ErrorKind::NotConnected
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof
        | io::ErrorKind::TimedOut => Ending::failed(ServiceResponse::TransportFailure),
        _ => Ending::told(Response::check_condition(SenseCode::INTERNAL_TARGET_FAILURE, len)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::sense::Sense;

    fn completion(host_status: HostStatus, status: Status) -> Completion {
        Completion { host_status, status, ..Completion::default() }
    }

    fn errno(errno: i32) -> Ending {
        ending(Err(io::Error::from_raw_os_error(errno)), 100)
    }

    #[test]
    fn every_status_goes_through_with_its_sense_and_residual() {
        for byte in 0..=u8::MAX {
            for sense in [vec![], vec![0x72, 3, 0x11, 0, 0, 0, 0, 244], vec![0xa5; 252]] {
                let sent = Completion {
                    status: Status(byte),
                    sense: sense.clone(),
                    resid: 30,
                    ..Completion::default()
                };
                let Response::Status { status, sense: seen, resid } =
                    ending(Ok(sent), 100).response
                else {
                    panic!()
                };
                assert_eq!((status, resid), (Status(byte), 30));
                let data = (!sense.is_empty()).then(|| SenseData::Device(sense.into()));
                assert_eq!(seen, data);
            }
        }
    }

    #[test]
    fn residuals_stay_within_the_data() {
        for (resid, seen) in [(-1, 0), (i32::MIN, 0), (0, 0), (101, 100), (i32::MAX, 100)] {
            let sent = Completion { resid, ..Completion::default() };
            assert_eq!(ending(Ok(sent), 100).response, Response::good(seen));
        }
    }

    #[test]
    fn nothing_that_went_wrong_is_good() {
        for host_status in 1..=u16::MAX {
            if host_status == HostStatus::PASSTHROUGH.0 {
                continue;
            }
            let end = ending(Ok(completion(HostStatus(host_status), Status::GOOD)), 100);
            assert!(matches!(end.response, Response::Failed(_)), "{host_status:#x}");
        }
        for number in 1..200 {
            match errno(number).response {
                Response::Status { status, .. } => assert_ne!(status, Status::GOOD, "{number}"),
                Response::Failed(_) => {}
            }
        }
    }

    #[test]
    fn what_can_come_back_is_told_from_what_cannot() {
        use ServiceResponse::{BadTarget, Busy, Failure, Reset, TransportFailure};
        for (host_status, why, no_path, notice) in [
            (0x01, TransportFailure, true, Some(Notice::Lost)),
            (0x02, Busy, true, None),
            (0x03, Reset, false, Some(Notice::Reset)),
            (0x04, BadTarget, false, Some(Notice::Lost)),
            (0x05, TransportFailure, false, None),
            (0x06, TransportFailure, false, None),
            (0x07, Failure, false, None),
            (0x08, Reset, false, Some(Notice::Reset)),
            (0x09, Failure, false, None),
            (0x0b, TransportFailure, true, None),
            (0x0c, Busy, true, None),
            (0x0d, Busy, true, None),
            (0x0e, TransportFailure, true, Some(Notice::Lost)),
            (0x0f, TransportFailure, true, Some(Notice::Lost)),
            (0x14, TransportFailure, true, Some(Notice::Lost)),
            (0xff, Failure, false, None),
        ] {
            let again = if no_path { Again::IfRepeatable } else { Again::Never };
            let expected = Ending { response: Response::Failed(why), again, notice };
            let seen = ending(Ok(completion(HostStatus(host_status), Status::GOOD)), 100);
            assert_eq!(seen, expected, "{host_status:#x}");
        }
    }

    #[test]
    fn a_reservation_conflict_is_a_status_whatever_the_host_adds() {
        for host_status in [0x00, 0x07, 0x0a, 0x11] {
            let sent = completion(HostStatus(host_status), Status::RESERVATION_CONFLICT);
            let Response::Status { status, .. } = ending(Ok(sent), 0).response else { panic!() };
            assert_eq!(status, Status::RESERVATION_CONFLICT);
        }
    }

    #[test]
    fn older_kernels_mark_what_the_device_said() {
        for host_status in [0x10, 0x12, 0x13] {
            let sent = Completion {
                sense: vec![0x70, 0, 3, 0, 0, 0, 0, 10],
                ..completion(HostStatus(host_status), Status::CHECK_CONDITION)
            };
            assert!(matches!(ending(Ok(sent), 0).response, Response::Status { .. }));
        }
    }

    #[test]
    fn what_the_host_refuses_is_told_as_what_it_is() {
        for (number, code) in [
            (libc::EPERM, SenseCode::INVALID_COMMAND_OPERATION_CODE),
            (libc::EACCES, SenseCode::INVALID_COMMAND_OPERATION_CODE),
            (libc::EINVAL, SenseCode::INVALID_FIELD_IN_CDB),
            (libc::EIO, SenseCode::INTERNAL_TARGET_FAILURE),
            (libc::EFAULT, SenseCode::INTERNAL_TARGET_FAILURE),
            (libc::ENOMEDIUM, SenseCode::MEDIUM_NOT_PRESENT),
        ] {
            let sense = Sense::from(code);
            let expected = Ending::told(Response::check_condition(sense, 100));
            assert_eq!(errno(number), expected, "{number}");
        }
        let gone = errno(libc::ENODEV);
        assert_eq!((gone.again, gone.notice), (Again::IfRepeatable, Some(Notice::Lost)));
        let busy = Response::Status { status: Status::BUSY, sense: None, resid: 100 };
        assert_eq!(errno(libc::ENOMEM), Ending::told(busy));
    }

    #[test]
    fn the_devices_own_unit_attention_is_noticed_in_both_formats() {
        let code = SenseCode::BUS_DEVICE_RESET_FUNCTION_OCCURRED;
        for descriptor_format in [false, true] {
            let sent = Completion {
                status: Status::CHECK_CONDITION,
                sense: Sense::from(code).to_bytes(descriptor_format),
                ..Completion::default()
            };
            assert_eq!(ending(Ok(sent), 0).notice, Some(Notice::Attention(code)));
        }
    }
}

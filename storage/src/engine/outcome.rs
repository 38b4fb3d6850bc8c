//! What the end of an I/O means to the initiator: the one place where an error of the host
//! becomes a status.

use std::fmt;
use std::io;

use crate::scsi::sense::{Sense, SenseCode, SenseKey};
use crate::scsi::status::Status;
use crate::task::{Response, ServiceResponse};

/// How an I/O failed: at which step, and at which byte of the medium. All before that was done.
#[derive(Debug)]
pub(super) enum Failure {
    /// The host did not read.
    Read { error: io::Error, at: u64 },
    /// The host did not write, unmap or zero.
    Write { error: io::Error, at: u64 },
    /// The host did not make stable what was written, nobody knows where. It is lost.
    Flush(io::Error),
    /// A flush was not begun, so nothing is lost.
    NoTurn,
    /// The medium holds something else than data-out.
    Miscompare { at: u64 },
    /// The initiator wanted no more of it.
    Aborted,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Read { error, at } => write!(f, "cannot read at byte {at}: {error}"),
            Failure::Write { error, at } => write!(f, "cannot write at byte {at}: {error}"),
            Failure::Flush(error) => write!(f, "cannot flush: {error}"),
            Failure::NoTurn => write!(f, "the flush was not begun"),
            Failure::Miscompare { at } => write!(f, "miscompare at byte {at}"),
            Failure::Aborted => write!(f, "aborted"),
        }
    }
}

/// The response to an I/O on blocks of `block_size` bytes, with `resid` bytes not transferred.
pub(super) fn response(result: Result<(), Failure>, block_size: u32, resid: u32) -> Response {
    let Err(failure) = result else { return Response::good(resid) };
    // The initiator tries again.
    let busy = Response::Status { status: Status::BUSY, sense: None, resid };
    let (error, at) = match &failure {
        Failure::NoTurn => return busy,
        Failure::Read { error, .. } | Failure::Write { error, .. } if is_shortage(error) => {
            return busy;
        }
        Failure::Read { error, at } | Failure::Write { error, at } => (error, Some(*at)),
        Failure::Flush(error) => (error, None),
        Failure::Miscompare { at } => {
            let code = SenseCode::MISCOMPARE_DURING_VERIFY_OPERATION;
            return check_condition(code, Some(*at), block_size, resid);
        }
        Failure::Aborted => return Response::Failed(ServiceResponse::Aborted),
    };
    match error.raw_os_error() {
        Some(libc::EBADE) => {
            Response::Status { status: Status::RESERVATION_CONFLICT, sense: None, resid }
        }
        number => check_condition(sense_code(&failure, number), at, block_size, resid),
    }
}

/// Whether the host did nothing, being short of something for now or told to stop.
fn is_shortage(error: &io::Error) -> bool {
    let shortages =
        [libc::ENOMEM, libc::EAGAIN, libc::EBUSY, libc::ENOBUFS, libc::ECANCELED, libc::EINTR];
    error.raw_os_error().is_some_and(|errno| shortages.contains(&errno))
}

/// CHECK CONDITION that names the LBA of byte `at`, if an LBA is to blame (SBC-4, Error
/// reporting; of VERIFY it says nothing more, so a miscompare is reported like any other block).
fn check_condition(code: SenseCode, at: Option<u64>, block_size: u32, resid: u32) -> Response {
    let names_lba = [SenseKey::MEDIUM_ERROR, SenseKey::MISCOMPARE].contains(&code.key);
    let lba = at.filter(|_| names_lba).and_then(|at| at.checked_div(block_size.into()));
    Response::check_condition(Sense { information: lba, ..code.into() }, resid)
}

fn sense_code(failure: &Failure, errno: Option<i32>) -> SenseCode {
    match (failure, errno) {
        (_, Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG)) => {
            SenseCode::SPACE_ALLOCATION_FAILED_WRITE_PROTECT
        }
        (_, Some(libc::EROFS | libc::EPERM | libc::EACCES)) => SenseCode::WRITE_PROTECTED,
        // Without a number: the file ends before its last block.
        (Failure::Read { .. }, Some(libc::EIO | libc::ENODATA | libc::EILSEQ) | None) => {
            SenseCode::UNRECOVERED_READ_ERROR
        }
        // However a flush failed, the medium takes no writes any more.
        (Failure::Write { .. }, Some(libc::EIO | libc::ENODATA) | None)
        | (Failure::Flush(_), _) => SenseCode::WRITE_ERROR,
        // The initiator tries again. COMMAND TIMEOUT DURING PROCESSING would be closer, but Linux
        // takes it for the end of a command duration limit, and gives up.
        (_, Some(libc::ETIMEDOUT)) => SenseCode::LOGICAL_UNIT_COMMUNICATION_TIME_OUT,
        (_, Some(libc::ENOLINK)) => SenseCode::LOGICAL_UNIT_COMMUNICATION_FAILURE,
        _ => SenseCode::INTERNAL_TARGET_FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::SenseData;

    fn read(error: io::Error) -> Failure {
        Failure::Read { error, at: 4096 }
    }

    fn write(error: io::Error) -> Failure {
        Failure::Write { error, at: 5000 }
    }

    const STEPS: [fn(io::Error) -> Failure; 3] = [read, write, Failure::Flush];

    fn failed(step: fn(io::Error) -> Failure, errno: i32) -> Response {
        response(Err(step(io::Error::from_raw_os_error(errno))), 512, 100)
    }

    #[test]
    fn errors_keep_their_meaning() {
        for (step, errno, code, information) in [
            (STEPS[0], libc::EIO, SenseCode::UNRECOVERED_READ_ERROR, Some(8)),
            (STEPS[1], libc::EIO, SenseCode::WRITE_ERROR, Some(9)),
            (STEPS[2], libc::EIO, SenseCode::WRITE_ERROR, None),
            (STEPS[2], libc::ENOMEM, SenseCode::WRITE_ERROR, None),
            (STEPS[2], libc::ENOSPC, SenseCode::SPACE_ALLOCATION_FAILED_WRITE_PROTECT, None),
            (STEPS[1], libc::ENOSPC, SenseCode::SPACE_ALLOCATION_FAILED_WRITE_PROTECT, None),
            (STEPS[1], libc::EROFS, SenseCode::WRITE_PROTECTED, None),
            (STEPS[0], libc::EINVAL, SenseCode::INTERNAL_TARGET_FAILURE, None),
            (STEPS[1], libc::EREMOTEIO, SenseCode::INTERNAL_TARGET_FAILURE, None),
            (STEPS[1], libc::ENODEV, SenseCode::INTERNAL_TARGET_FAILURE, None),
            (STEPS[0], libc::ETIMEDOUT, SenseCode::LOGICAL_UNIT_COMMUNICATION_TIME_OUT, None),
            (STEPS[1], libc::ENOLINK, SenseCode::LOGICAL_UNIT_COMMUNICATION_FAILURE, None),
            (STEPS[2], libc::ETIMEDOUT, SenseCode::WRITE_ERROR, None),
        ] {
            let sense = Sense { information, ..code.into() };
            assert_eq!(failed(step, errno), Response::check_condition(sense, 100), "{errno}");
        }
        // The initiator tries what was aborted again.
        for errno in [libc::ETIMEDOUT, libc::ENOLINK] {
            let Response::Status { sense: Some(SenseData::Own(sense)), .. } = failed(read, errno)
            else {
                panic!()
            };
            assert_eq!(sense.code.key, SenseKey::ABORTED_COMMAND);
        }
    }

    #[test]
    fn a_miscompare_names_its_block() {
        let code = SenseCode::MISCOMPARE_DURING_VERIFY_OPERATION;
        let sense = Sense { information: Some(3), ..code.into() };
        let seen = response(Err(Failure::Miscompare { at: 3 * 4096 + 17 }), 4096, 0);
        assert_eq!(seen, Response::check_condition(sense, 0));
    }

    #[test]
    fn no_error_is_good_and_shortage_is_busy() {
        for errno in 1..134 {
            for step in STEPS {
                let Response::Status { status, resid, .. } = failed(step, errno) else { panic!() };
                assert_ne!(status, Status::GOOD, "{errno}");
                assert_eq!(resid, 100);
            }
        }
        let busy = Response::Status { status: Status::BUSY, sense: None, resid: 100 };
        assert_eq!(failed(read, libc::ENOMEM), busy);
        assert_eq!(failed(write, libc::ECANCELED), busy);
        assert_eq!(response(Err(Failure::NoTurn), 512, 100), busy);
    }

    #[test]
    fn a_file_that_became_shorter_is_a_medium_error() {
        let end = read(io::ErrorKind::UnexpectedEof.into());
        let sense = Sense { information: Some(8), ..SenseCode::UNRECOVERED_READ_ERROR.into() };
        assert_eq!(response(Err(end), 512, 8), Response::check_condition(sense, 8));
    }
}

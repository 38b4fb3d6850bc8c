//! What the host's answer to an I/O means to the initiator: the one place where an error of the
//! host becomes a status.

use std::io;

use super::BlockIo;
use crate::backend::is_shortage;
use crate::scsi::sense::SenseCode;
use crate::scsi::status::Status;
use crate::task::Response;

/// The response to `io` after `result`, with `resid` bytes not transferred.
pub(super) fn response(io: BlockIo, result: io::Result<()>, resid: u32) -> Response {
    let Err(error) = result else { return Response::good(resid) };
    if is_shortage(&error) {
        // The initiator tries again.
        return Response::Status { status: Status::BUSY, sense: None, resid };
    }
    match error.raw_os_error() {
        Some(libc::EBADE) => {
            Response::Status { status: Status::RESERVATION_CONFLICT, sense: None, resid }
        }
        number => Response::check_condition(sense(io, number), resid),
    }
}

fn sense(io: BlockIo, errno: Option<i32>) -> SenseCode {
    match (io, errno) {
        (_, Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG)) => {
            SenseCode::SPACE_ALLOCATION_FAILED_WRITE_PROTECT
        }
        (_, Some(libc::EROFS | libc::EPERM | libc::EACCES)) => SenseCode::WRITE_PROTECTED,
        // Without a number: the file ends before its last block.
        (BlockIo::Read { .. }, Some(libc::EIO | libc::ENODATA | libc::EILSEQ) | None) => {
            SenseCode::UNRECOVERED_READ_ERROR
        }
        (BlockIo::Write { .. } | BlockIo::Flush, Some(libc::EIO | libc::ENODATA) | None) => {
            SenseCode::WRITE_ERROR
        }
        _ => SenseCode::INTERNAL_TARGET_FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: BlockIo = BlockIo::Read { offset: 0, fua: false };
    const WRITE: BlockIo = BlockIo::Write { offset: 0, fua: false };

    fn failed(io: BlockIo, errno: i32) -> Response {
        response(io, Err(io::Error::from_raw_os_error(errno)), 512)
    }

    #[test]
    fn errors_keep_their_meaning() {
        for (io, errno, code) in [
            (READ, libc::EIO, SenseCode::UNRECOVERED_READ_ERROR),
            (WRITE, libc::EIO, SenseCode::WRITE_ERROR),
            (BlockIo::Flush, libc::EIO, SenseCode::WRITE_ERROR),
            (WRITE, libc::ENOSPC, SenseCode::SPACE_ALLOCATION_FAILED_WRITE_PROTECT),
            (WRITE, libc::EROFS, SenseCode::WRITE_PROTECTED),
            (READ, libc::EINVAL, SenseCode::INTERNAL_TARGET_FAILURE),
        ] {
            assert_eq!(failed(io, errno), Response::check_condition(code, 512), "{io:?} {errno}");
        }
    }

    #[test]
    fn no_error_is_good_and_shortage_is_busy() {
        for errno in 1..134 {
            for io in [READ, WRITE, BlockIo::Flush] {
                let Response::Status { status, resid, .. } = failed(io, errno) else { panic!() };
                assert_ne!(status, Status::GOOD, "{errno}");
                assert_eq!(resid, 512);
            }
        }
        let busy = Response::Status { status: Status::BUSY, sense: None, resid: 512 };
        assert_eq!(failed(READ, libc::ENOMEM), busy);
    }

    #[test]
    fn a_file_that_became_shorter_is_a_medium_error() {
        let end = Err(io::ErrorKind::UnexpectedEof.into());
        let expected = Response::check_condition(SenseCode::UNRECOVERED_READ_ERROR, 8);
        assert_eq!(response(READ, end, 8), expected);
    }
}

//! A node of a SCSI device that somebody else has opened and lent: nothing of it is taken, and its
//! open file stays as it is.
#![expect(unsafe_code, reason = "SG_IO")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

use libc::{c_int, c_uchar, c_uint, c_ushort, c_void};

use super::{Completion, Data, HostLimits, HostStatus, Request, ScsiHost};
use crate::scsi::status::Status;

const SG_IO: libc::Ioctl = 0x2285;
const SG_SCSI_RESET: libc::Ioctl = 0x2284;
/// `SG_SCSI_RESET_DEVICE | SG_SCSI_RESET_NO_ESCALATE`
const DEVICE_ONLY: c_int = 0x101;

/// `struct sg_io_hdr` (scsi/sg.h).
#[repr(C)]
struct Header {
    interface_id: c_int,
    dxfer_direction: c_int,
    cmd_len: c_uchar,
    mx_sb_len: c_uchar,
    iovec_count: c_ushort,
    dxfer_len: c_uint,
    dxferp: *mut c_void,
    cmdp: *const c_uchar,
    sbp: *mut c_uchar,
    timeout: c_uint,
    flags: c_uint,
    pack_id: c_int,
    usr_ptr: *mut c_void,
    status: c_uchar,
    masked_status: c_uchar,
    msg_status: c_uchar,
    sb_len_wr: c_uchar,
    host_status: c_ushort,
    driver_status: c_ushort,
    resid: c_int,
    duration: c_uint,
    info: c_uint,
}

/// A node that was lent.
#[derive(Debug)]
pub struct LentDevice(OwnedFd);

impl LentDevice {
    /// The node that is open as `fd`.
    #[must_use]
    pub fn new(fd: OwnedFd) -> LentDevice {
        LentDevice(fd)
    }
}

impl ScsiHost for LentDevice {
    fn execute(&self, request: Request<'_>) -> io::Result<Completion> {
        let (direction, segments) = match &request.data {
            Data::None => (-1, &[][..]),
            Data::In(buf) => (-3, buf.iovecs()),
            Data::Out(buf) => (-2, buf.iovecs()),
        };
        let mut sense = [0; 252];
        // SAFETY: its fields are integers and pointers that may be null.
        let mut header: Header = unsafe { MaybeUninit::zeroed().assume_init() };
        header.interface_id = c_int::from(b'S');
        header.dxfer_direction = direction;
        header.cmd_len = c_uchar::try_from(request.cdb.len()).unwrap_or(0);
        header.cmdp = request.cdb.as_ptr();
        header.mx_sb_len = 252;
        header.sbp = sense.as_mut_ptr();
        header.iovec_count = c_ushort::try_from(segments.len()).unwrap_or(0);
        header.dxferp = segments.as_ptr().cast_mut().cast();
        let len: usize = segments.iter().map(|segment| segment.iov_len).sum();
        header.dxfer_len = c_uint::try_from(len).map_err(io::Error::other)?;
        header.timeout = c_uint::try_from(request.timeout.as_millis()).unwrap_or(c_uint::MAX);
        // SAFETY: CDB, sense data and segments are borrowed until the call returns.
        if unsafe { libc::ioctl(self.0.as_raw_fd(), SG_IO, &raw mut header) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Completion {
            status: Status(header.status),
            sense: sense[..usize::from(header.sb_len_wr).min(252)].to_vec(),
            resid: header.resid,
            host_status: HostStatus(header.host_status),
        })
    }

    fn reset_logical_unit(&self) -> io::Result<()> {
        let mut what = DEVICE_ONLY;
        // SAFETY: it reads an int.
        match unsafe { libc::ioctl(self.0.as_raw_fd(), SG_SCSI_RESET, ptr::from_mut(&mut what)) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn limits(&self) -> io::Result<HostLimits> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

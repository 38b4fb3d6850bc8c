//! The system calls on SCSI device nodes, each as a safe function.
//!
//! It owns the kernel's numbers and layouts (linux/fs.h, scsi/sg.h). It must not know what a
//! command means, or what a call is good for.
#![expect(unsafe_code, reason = "system calls")]

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::ptr;
use std::time::Duration;

use libc::{c_int, c_uchar, c_uint, c_ushort, c_void, iovec};

use super::{Completion, Data, HostStatus, Request};
use crate::scsi::status::Status;

/// Segments of data that one call takes (`UIO_MAXIOV` of the kernel).
pub(super) const MAX_SEGMENTS: usize = 1024;
/// Bytes of the longest CDB that every supported kernel carries (`struct scsi_cmnd`).
pub(super) const MAX_CDB: usize = 32;
/// Bytes of the shortest one that the kernel takes.
const MIN_CDB: usize = 6;
/// Bytes of the longest sense data (SPC-6, Sense data); the kernel keeps 96 of them.
const MAX_SENSE: u8 = 252;

const SG_IO: libc::Ioctl = 0x2285;
const SG_GET_SG_TABLESIZE: libc::Ioctl = 0x227f;
const SG_GET_VERSION_NUM: libc::Ioctl = 0x2282;
const SG_SET_FORCE_PACK_ID: libc::Ioctl = 0x227b;
const SG_GET_REQUEST_TABLE: libc::Ioctl = 0x2286;
const SG_SCSI_RESET: libc::Ioctl = 0x2284;
const BLKSECTGET: libc::Ioctl = 0x1267;

const SG_SCSI_RESET_DEVICE: c_int = 1;
const SG_SCSI_RESET_NO_ESCALATE: c_int = 0x100;

const SG_DXFER_NONE: c_int = -1;
const SG_DXFER_TO_DEV: c_int = -2;
const SG_DXFER_FROM_DEV: c_int = -3;
const SG_FLAG_DIRECT_IO: c_uint = 1;

/// Requests that an sg node holds for one open file (`SG_MAX_QUEUE`).
pub(super) const SG_MAX_QUEUE: u16 = 16;

/// `struct sg_io_hdr`.
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

/// `struct sg_req_info`.
#[repr(C)]
#[derive(Clone, Copy)]
struct RequestInfo {
    req_state: i8,
    orphan: i8,
    sg_io_owned: i8,
    problem: i8,
    pack_id: c_int,
    usr_ptr: *mut c_void,
    duration: c_uint,
    unused: c_int,
}

/// Which way data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    None,
    In,
    Out,
}

/// A command for a node: what borrows the memory that the kernel reads and writes.
pub(super) struct Command<'a> {
    header: Header,
    sense: [u8; MAX_SENSE as usize],
    // The CDB and the segments.
    _memory: PhantomData<&'a [u8]>,
}

/// What became of a command that the kernel's SCSI layer has taken.
#[derive(Debug)]
pub(super) struct Ended {
    status: u8,
    host_status: u16,
    resid: i32,
    sense: Vec<u8>,
}

fn errno(number: c_int) -> io::Error {
    io::Error::from_raw_os_error(number)
}

/// Milliseconds of a time-out. 0 would be the kernel's default, and beyond `i32::MAX` is for ever.
fn milliseconds(timeout: Duration) -> c_uint {
    let whole = timeout.as_nanos().div_ceil(1_000_000).clamp(1, i32::MAX as u128);
    c_uint::try_from(whole).unwrap_or(c_uint::MAX)
}

impl From<Ended> for Completion {
    fn from(Ended { status, host_status, resid, sense }: Ended) -> Completion {
        let (status, host_status) = (Status(status), HostStatus(host_status));
        Completion { status, sense, resid, host_status }
    }
}

impl<'a> Command<'a> {
    /// The command of `request`.
    ///
    /// # Errors
    /// EMSGSIZE where the CDB has a length that no kernel carries, EIO where the data has, EINVAL
    /// where it has more than [`MAX_SEGMENTS`] segments.
    pub(super) fn of(request: &'a Request<'_>) -> io::Result<Command<'a>> {
        let (direction, segments) = match &request.data {
            Data::None => (Direction::None, &[][..]),
            Data::In(data) => (Direction::In, data.iovecs()),
            Data::Out(data) => (Direction::Out, data.iovecs()),
        };
        // SAFETY: the segments are those of a `DataBuf`, which is borrowed as long as the command
        // lives, and writable where data comes in.
        unsafe { Command::new(request.cdb, direction, segments, request.timeout) }
    }

    /// # Errors
    /// See [`Command::of`].
    ///
    /// # Safety
    /// The memory of the segments stays mapped, and writable where data comes in, as long as the
    /// command lives.
    unsafe fn new(
        cdb: &'a [u8],
        direction: Direction,
        segments: &'a [iovec],
        timeout: Duration,
    ) -> io::Result<Command<'a>> {
        if !(MIN_CDB..=MAX_CDB).contains(&cdb.len()) {
            return Err(errno(libc::EMSGSIZE));
        }
        if segments.len() > MAX_SEGMENTS {
            return Err(errno(libc::EINVAL));
        }
        let mut len = 0usize;
        for segment in segments {
            len = len.checked_add(segment.iov_len).ok_or_else(|| errno(libc::EIO))?;
        }
        let header = Header {
            interface_id: c_int::from(b'S'),
            dxfer_direction: match direction {
                _ if len == 0 => SG_DXFER_NONE,
                Direction::None => SG_DXFER_NONE,
                Direction::In => SG_DXFER_FROM_DEV,
                Direction::Out => SG_DXFER_TO_DEV,
            },
            cmd_len: u8::try_from(cdb.len()).map_err(|_| errno(libc::EMSGSIZE))?,
            mx_sb_len: MAX_SENSE,
            iovec_count: 0,
            dxfer_len: c_uint::try_from(len).map_err(|_| errno(libc::EIO))?,
            dxferp: ptr::null_mut(),
            cmdp: cdb.as_ptr(),
            sbp: ptr::null_mut(),
            timeout: milliseconds(timeout),
            flags: SG_FLAG_DIRECT_IO,
            pack_id: 0,
            usr_ptr: ptr::null_mut(),
            status: 0,
            masked_status: 0,
            msg_status: 0,
            sb_len_wr: 0,
            host_status: 0,
            driver_status: 0,
            resid: 0,
            duration: 0,
            info: 0,
        };
        let mut command = Command { header, sense: [0; MAX_SENSE as usize], _memory: PhantomData };
        command.point_at(segments);
        Ok(command)
    }

    /// One segment goes without an array: an sg node does direct I/O on no other.
    fn point_at(&mut self, segments: &[iovec]) {
        match segments {
            [] => {}
            [only] => self.header.dxferp = only.iov_base,
            several => {
                self.header.dxferp = several.as_ptr().cast_mut().cast();
                self.header.iovec_count = c_ushort::try_from(several.len()).unwrap_or(0);
            }
        }
    }

    fn ended(self) -> Ended {
        let written = usize::from(self.header.sb_len_wr);
        Ended {
            status: self.header.status,
            host_status: self.header.host_status,
            resid: self.header.resid,
            sense: self.sense.get(..written).unwrap_or(&self.sense).to_vec(),
        }
    }

    /// Sends the command and waits for its end, which no signal interrupts on a block node.
    ///
    /// # Errors
    /// The kernel's. After all but EINTR, EFAULT and ENODEV the command was not sent.
    pub(super) fn sg_io(mut self, file: &File) -> io::Result<Ended> {
        self.header.sbp = self.sense.as_mut_ptr();
        let argument = &raw mut self.header;
        // SAFETY: `new`'s promise; the CDB and the segments are borrowed, sense data is owned.
        if unsafe { libc::ioctl(file.as_raw_fd(), SG_IO, argument) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(self.ended())
    }

    /// The same on an sg node, where a signal does interrupt the wait, and the kernel would then
    /// send the command once more: none is taken meanwhile. A stop (SIGSTOP, a debugger, a
    /// freezer) cannot be kept off; for that there is [`Command::write_and_read`].
    ///
    /// # Errors
    /// See [`Command::sg_io`].
    pub(super) fn sg_io_alone(self, file: &File) -> io::Result<Ended> {
        let _blocked = SignalsBlocked::new();
        self.sg_io(file)
    }

    /// Sends the command to an sg node that is open for writing, under a number that no other
    /// command has there now, and waits for its end. What interrupts the wait sends nothing twice.
    ///
    /// # Errors
    /// [`NotSent`] says whether the command can have been carried out.
    pub(super) fn write_and_read(mut self, file: &File, number: u32) -> Result<Ended, NotSent> {
        self.header.pack_id = c_int::try_from(number & 0x7fff_ffff).unwrap_or(0);
        self.write(file).map_err(NotSent::Refused)?;
        loop {
            match self.read(file) {
                Ok(()) => return Ok(self.ended()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.settle(file);
                    return Err(NotSent::Lost(error));
                }
            }
        }
    }

    fn write(&mut self, file: &File) -> io::Result<()> {
        self.header.sbp = self.sense.as_mut_ptr();
        let argument: *const Header = &raw const self.header;
        // SAFETY: `new`'s promise; the CDB and the segments are borrowed, sense data is owned.
        let sent = unsafe { libc::write(file.as_raw_fd(), argument.cast(), size_of::<Header>()) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn read(&mut self, file: &File) -> io::Result<()> {
        let argument: *mut Header = &raw mut self.header;
        // SAFETY: the header is ours; what it points to is as it was when it was written.
        let read = unsafe { libc::read(file.as_raw_fd(), argument.cast(), size_of::<Header>()) };
        if read < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The node of a device that goes away lets nobody wait for commands that it still has, and
    /// that may still touch memory: waits until the kernel has ended this one.
    fn settle(&self, file: &File) {
        while is_under_way(file, self.header.pack_id) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Why there is no end of a command.
#[derive(Debug)]
pub(super) enum NotSent {
    /// The kernel did not take it.
    Refused(io::Error),
    /// The kernel took it, and does not tell what became of it.
    Lost(io::Error),
}

fn is_under_way(file: &File, pack_id: c_int) -> bool {
    const SENT: i8 = 1;
    let mut table = [MaybeUninit::<RequestInfo>::zeroed(); SG_MAX_QUEUE as usize];
    // SAFETY: it writes `SG_MAX_QUEUE` entries.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), SG_GET_REQUEST_TABLE, table.as_mut_ptr()) };
    done == 0
        && table.iter().any(|entry| {
            // SAFETY: it was zeroed, and all bits are valid in all its fields.
            let entry = unsafe { entry.assume_init_ref() };
            entry.req_state == SENT && entry.pack_id == pack_id
        })
}

/// All signals are kept from this thread while it lives.
struct SignalsBlocked(libc::sigset_t);

impl SignalsBlocked {
    fn new() -> SignalsBlocked {
        let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::zeroed());
        // SAFETY: both sets are ours; `before` was zeroed, and is valid even if the call fails.
        unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), before.as_mut_ptr());
            SignalsBlocked(before.assume_init())
        }
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: the set is what the thread had before.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, ptr::null_mut()) };
    }
}

/// # Safety
/// `request` reads or writes a `T` at its argument, and nothing else.
unsafe fn ioctl<T>(file: &File, request: libc::Ioctl, mut argument: T) -> io::Result<T> {
    // SAFETY: the caller's promise.
    if unsafe { libc::ioctl(file.as_raw_fd(), request, &raw mut argument) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(argument)
}

/// Version of the SG interface, as 30536 for 3.5.36. Only SCSI devices have one.
pub(super) fn sg_version(file: &File) -> io::Result<c_int> {
    // SAFETY: it writes an int.
    unsafe { ioctl(file, SG_GET_VERSION_NUM, 0) }
}

/// Lets a read from an sg node wait for one command rather than for any.
pub(super) fn read_by_number(file: &File) -> io::Result<()> {
    // SAFETY: it reads an int.
    unsafe { ioctl(file, SG_SET_FORCE_PACK_ID, 1 as c_int) }.map(drop)
}

/// Bytes that an sg node's device takes in one command.
pub(super) fn sg_max_bytes(file: &File) -> io::Result<u32> {
    // SAFETY: it writes an int.
    let bytes = unsafe { ioctl(file, BLKSECTGET, 0 as c_int) }?;
    u32::try_from(bytes).map_err(io::Error::other)
}

/// Segments that an sg node's device takes in one command.
pub(super) fn sg_max_segments(file: &File) -> io::Result<u32> {
    // SAFETY: it writes an int.
    let segments = unsafe { ioctl(file, SG_GET_SG_TABLESIZE, 0 as c_int) }?;
    u32::try_from(segments).map_err(io::Error::other)
}

/// Resets a logical unit, waits for that, and tries nothing beyond it.
pub(super) fn reset_device(file: &File) -> io::Result<()> {
    // SAFETY: it reads an int.
    unsafe { ioctl(file, SG_SCSI_RESET, SG_SCSI_RESET_DEVICE | SG_SCSI_RESET_NO_ESCALATE) }
        .map(drop)
}

/// Clears O_NONBLOCK: the calls on an open node wait.
pub(super) fn let_wait(file: &File) -> io::Result<()> {
    let fd = file.as_raw_fd();
    // SAFETY: no memory is passed.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    // SAFETY: no memory is passed.
    if flags < 0 || unsafe { libc::fcntl(fd, libc::F_SETFL, flags & !libc::O_NONBLOCK) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_as_the_kernel_wants_it() {
        assert_eq!(size_of::<Header>(), 88);
        assert_eq!(size_of::<RequestInfo>(), 24);
        assert_eq!(std::mem::offset_of!(Header, dxferp), 16);
        assert_eq!(std::mem::offset_of!(Header, status), 64);
    }

    #[test]
    fn a_time_out_is_never_none_and_never_for_ever() {
        assert_eq!(milliseconds(Duration::ZERO), 1);
        assert_eq!(milliseconds(Duration::from_micros(1500)), 2);
        assert_eq!(milliseconds(Duration::from_secs(30)), 30_000);
        assert_eq!(milliseconds(Duration::MAX), 0x7fff_ffff);
    }

    fn refusal(cdb_len: usize, segments: &[iovec]) -> Option<i32> {
        let cdb = vec![0; cdb_len];
        // SAFETY: the command is not sent.
        let command =
            unsafe { Command::new(&cdb, Direction::In, segments, Duration::from_secs(1)) };
        command.err().and_then(|error| error.raw_os_error())
    }

    #[test]
    fn what_no_kernel_carries_is_refused() {
        let nothing = |len| iovec { iov_base: ptr::null_mut(), iov_len: len };
        assert_eq!(refusal(5, &[]), Some(libc::EMSGSIZE));
        assert_eq!(refusal(6, &[]), None);
        assert_eq!(refusal(32, &[]), None);
        assert_eq!(refusal(33, &[]), Some(libc::EMSGSIZE));
        assert_eq!(refusal(6, &[nothing(1); 1024]), None);
        assert_eq!(refusal(6, &[nothing(1); 1025]), Some(libc::EINVAL));
        assert_eq!(refusal(6, &[nothing(1 << 32)]), Some(libc::EIO));
        assert_eq!(refusal(6, &[nothing(usize::MAX); 2]), Some(libc::EIO));
    }
}

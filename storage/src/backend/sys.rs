//! The system calls on files that the standard library does not have, each as a safe function.
//!
//! It owns the kernel's numbers and layouts. It must not know what a call is good for.
#![expect(unsafe_code, reason = "system calls")]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libc::{c_int, c_short, off_t};

use super::Alignment;
use crate::buffer::DataBuf;

/// `IOV_MAX`: the segments that one system call takes.
pub(crate) const MAX_SEGMENTS: usize = 1024;

/// Bytes of the largest folio in the page cache: what an entry of a page middle directory maps.
const MAX_FOLIO: u64 = 2 << 20;

// linux/fs.h; not in libc.
const BLKROGET: libc::Ioctl = 0x125e;
const BLKDISCARD: libc::Ioctl = 0x1277;
const BLKALIGNOFF: libc::Ioctl = 0x127a;
const BLKZEROOUT: libc::Ioctl = 0x127f;
const BLKGETSIZE64: libc::Ioctl = 0x8008_1272;

/// Repeats `call` while signals interrupt it.
fn checked(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        match usize::try_from(call()) {
            Ok(value) => return Ok(value),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

fn checked_int(mut call: impl FnMut() -> c_int) -> io::Result<()> {
    checked(|| call() as isize).map(drop)
}

fn position(offset: u64) -> io::Result<off_t> {
    off_t::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))
}

fn segment_count(data: &DataBuf) -> c_int {
    c_int::try_from(data.iovecs().len().min(MAX_SEGMENTS)).unwrap_or(c_int::MAX)
}

/// Reads from `offset` into the start of `data`; returns the number of bytes.
pub(super) fn read(file: &File, data: &mut DataBuf, offset: u64) -> io::Result<usize> {
    let (fd, offset, count) = (file.as_raw_fd(), position(offset)?, segment_count(data));
    // SAFETY: the segments come from a `DataBuf`, whose memory is valid and writable.
    checked(|| unsafe { libc::preadv2(fd, data.iovecs().as_ptr(), count, offset, 0) })
}

/// Writes the start of `data` at `offset`; returns the number of bytes.
pub(super) fn write(file: &File, data: &DataBuf, offset: u64) -> io::Result<usize> {
    let (fd, offset, count) = (file.as_raw_fd(), position(offset)?, segment_count(data));
    // SAFETY: the segments come from a `DataBuf`, whose memory is valid.
    checked(|| unsafe { libc::pwritev2(fd, data.iovecs().as_ptr(), count, offset, 0) })
}

/// Makes the data of `file` stable. It is tried once: a call that a signal interrupts may have taken
/// note of a failed write-back, and the next would not hear of it.
pub(super) fn sync_data(file: &File) -> io::Result<()> {
    // SAFETY: no memory is passed.
    match unsafe { libc::fdatasync(file.as_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Drops what the page cache has of these bytes and need not write first. It drops whole folios
/// only, so those go that reach into the range.
pub(super) fn drop_cached(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let start = offset - offset % MAX_FOLIO;
    let end = offset.saturating_add(len).div_ceil(MAX_FOLIO).saturating_mul(MAX_FOLIO);
    let (fd, start, len) = (file.as_raw_fd(), position(start)?, position(end - start)?);
    // SAFETY: no memory is passed.
    match unsafe { libc::posix_fadvise(fd, start, len, libc::POSIX_FADV_DONTNEED) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// fallocate(2), which keeps the size.
fn allocate(file: &File, mode: c_int, offset: u64, len: u64) -> io::Result<()> {
    let (mode, offset, len) = (mode | libc::FALLOC_FL_KEEP_SIZE, position(offset)?, position(len)?);
    // SAFETY: no memory is passed.
    checked_int(|| unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) })
}

/// Frees what holds these bytes, which read as zeros from then on. A block device has them zeroed
/// by its own command or not at all.
pub(super) fn punch_hole(file: &File, offset: u64, len: u64) -> io::Result<()> {
    allocate(file, libc::FALLOC_FL_PUNCH_HOLE, offset, len)
}

/// Makes these bytes of a regular file read as zeros and keeps what holds them.
pub(super) fn zero_range(file: &File, offset: u64, len: u64) -> io::Result<()> {
    allocate(file, libc::FALLOC_FL_ZERO_RANGE, offset, len)
}

/// # Safety
/// `request` reads or writes a `T` at its argument, and nothing else.
unsafe fn ioctl<T>(file: &File, request: libc::Ioctl, mut argument: T) -> io::Result<T> {
    // SAFETY: the caller's promise.
    checked_int(|| unsafe { libc::ioctl(file.as_raw_fd(), request, &raw mut argument) })?;
    Ok(argument)
}

/// Size of a block device in bytes.
pub(super) fn device_size(file: &File) -> io::Result<u64> {
    // SAFETY: it writes 64 bits.
    unsafe { ioctl(file, BLKGETSIZE64, 0u64) }
}

/// Size of a block device's logical blocks in bytes.
pub(super) fn logical_block_size(file: &File) -> io::Result<u32> {
    // SAFETY: it writes an int.
    let size = unsafe { ioctl(file, libc::BLKSSZGET, 0 as c_int) }?;
    u32::try_from(size).map_err(io::Error::other)
}

/// Size of a block device's physical blocks in bytes.
pub(super) fn physical_block_size(file: &File) -> io::Result<u32> {
    // SAFETY: it writes an unsigned int.
    unsafe { ioctl(file, libc::BLKPBSZGET, 0u32) }
}

/// Where a block device's first physical block begins, in bytes; `None` where the parts of a
/// composed device do not agree.
pub(super) fn alignment_offset(file: &File) -> io::Result<Option<u32>> {
    // SAFETY: it writes an int.
    unsafe { ioctl(file, BLKALIGNOFF, 0 as c_int) }.map(|offset| u32::try_from(offset).ok())
}

/// Whether a block device takes no writes.
pub(super) fn is_read_only(file: &File) -> io::Result<bool> {
    // SAFETY: it writes an int.
    unsafe { ioctl(file, BLKROGET, 0 as c_int) }.map(|read_only| read_only != 0)
}

/// Discards bytes of a block device, whose content is then unknown.
pub(super) fn discard(file: &File, offset: u64, len: u64) -> io::Result<()> {
    // SAFETY: it reads two 64-bit numbers.
    unsafe { ioctl(file, BLKDISCARD, [offset, len]) }.map(drop)
}

/// Zeroes bytes of a block device, by writing zeros if it has no command for that.
pub(super) fn zero_out(file: &File, offset: u64, len: u64) -> io::Result<()> {
    // SAFETY: it reads two 64-bit numbers.
    unsafe { ioctl(file, BLKZEROOUT, [offset, len]) }.map(drop)
}

/// What direct I/O on `file` has to keep to. `None` where the kernel or the file system does not
/// say; alignments of 0 where there is no direct I/O.
pub(super) fn direct_alignment(file: &File) -> io::Result<Option<Alignment>> {
    let mut answer = MaybeUninit::<libc::statx>::zeroed();
    let (fd, flags, wanted) = (file.as_raw_fd(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN);
    // SAFETY: the path is empty and the kernel fills in `answer`, as far as it knows the fields.
    checked_int(|| unsafe { libc::statx(fd, c"".as_ptr(), flags, wanted, answer.as_mut_ptr()) })?;
    // SAFETY: it was zeroed, and all its fields are integers.
    let answer = unsafe { answer.assume_init() };
    let alignment =
        Alignment { offset: answer.stx_dio_offset_align, memory: answer.stx_dio_mem_align };
    Ok((answer.stx_mask & wanted != 0).then_some(alignment))
}

/// Whether the effective user may write to `path`.
pub(crate) fn may_write(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let access = || {
        // SAFETY: the path ends with a NUL.
        unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::W_OK, libc::AT_EACCESS) }
    };
    checked_int(access)
}

#[expect(clippy::cast_possible_truncation, reason = "the numbers of struct flock are below 4")]
const fn short(number: c_int) -> c_short {
    number as c_short
}

fn lock_of(kind: c_int, byte: u32) -> libc::flock {
    libc::flock {
        l_type: short(kind),
        l_whence: short(libc::SEEK_SET),
        l_start: byte.into(),
        l_len: 1,
        l_pid: 0,
    }
}

/// Takes a shared lock on one byte, for as long as the file is open anywhere. `WouldBlock` or
/// `PermissionDenied` where somebody has an exclusive one.
pub(super) fn lock_shared(file: &File, byte: u32) -> io::Result<()> {
    let lock = lock_of(libc::F_RDLCK, byte);
    // SAFETY: it reads the lock.
    checked_int(|| unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) })
}

/// Whether somebody else has any lock on this byte.
pub(super) fn is_locked(file: &File, byte: u32) -> io::Result<bool> {
    let mut lock = lock_of(libc::F_WRLCK, byte);
    // SAFETY: it reads and writes the lock.
    checked_int(|| unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) })?;
    Ok(lock.l_type != short(libc::F_UNLCK))
}

//! The system calls that the standard library does not have, each as a safe function.
//!
//! It owns the kernel's numbers and layouts. It must not know what a call is good for.
#![expect(unsafe_code, reason = "system calls")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use libc::{c_int, c_long, c_ulong, c_void, socklen_t};

// linux/capability.h; not in libc.
const LINUX_CAPABILITY_VERSION_3: u32 = 0x2008_0522;
/// CAP_SYS_RAWIO
pub(crate) const SYS_RAWIO: u32 = 17;
/// CAP_SYS_ADMIN
pub(crate) const SYS_ADMIN: u32 = 21;

// asm-generic/socket.h; not in libc.
const SO_PEERGROUPS: c_int = 59;
const SO_PEERPIDFD: c_int = 77;

fn checked(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Gives up every capability but these, for good: neither this thread, nor those that it starts,
/// nor any program gains one again.
pub(crate) fn keep_only(capabilities: &[u32]) -> io::Result<()> {
    let prctl = |option: c_int, argument: c_ulong| {
        // SAFETY: the options take numbers.
        unsafe { libc::prctl(option, argument, 0 as c_ulong, 0 as c_ulong, 0 as c_ulong) }
    };
    checked(prctl(libc::PR_SET_NO_NEW_PRIVS, 1))?;
    let clear = c_ulong::try_from(libc::PR_CAP_AMBIENT_CLEAR_ALL).unwrap_or(0);
    checked(prctl(libc::PR_CAP_AMBIENT, clear))?;
    // The kernel says EINVAL past its last capability, and EPERM to who may not drop any.
    for capability in 0..64 {
        match prctl(libc::PR_CAPBSET_DROP, capability) {
            0 => {}
            _ => match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::EINVAL) => break,
                error => return Err(error),
            },
        }
    }
    let kept = capabilities.iter().fold(0, |set, capability| set | 1 << capability);
    set_capabilities(kept)
}

fn set_capabilities(kept: u32) -> io::Result<()> {
    let header = CapHeader { version: LINUX_CAPABILITY_VERSION_3, pid: 0 };
    let low = CapData { effective: kept, permitted: kept, inheritable: 0 };
    let data = [low, CapData::default()];
    // SAFETY: it reads a header and two sets.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether this thread has all of these capabilities in effect.
pub(crate) fn has(capabilities: &[u32]) -> io::Result<bool> {
    let header = CapHeader { version: LINUX_CAPABILITY_VERSION_3, pid: 0 };
    let mut data = [CapData::default(); 2];
    // SAFETY: it reads a header and writes two sets.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(capabilities.iter().all(|capability| data[0].effective & 1 << capability != 0))
}

/// # Safety
/// `option` fills in a `T` or part of it.
unsafe fn option<T>(
    socket: BorrowedFd<'_>,
    option: c_int,
    value: &mut MaybeUninit<T>,
) -> io::Result<usize> {
    let mut len = socklen_t::try_from(size_of::<T>()).unwrap_or(0);
    let to: *mut c_void = value.as_mut_ptr().cast();
    // SAFETY: the caller's promise, and `len` is the size of `value`.
    checked(unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, to, &raw mut len)
    })?;
    usize::try_from(len).map_err(io::Error::other)
}

/// Who connected a Unix socket: process, user, group.
pub(crate) fn peer(socket: BorrowedFd<'_>) -> io::Result<libc::ucred> {
    let mut peer = MaybeUninit::<libc::ucred>::zeroed();
    // SAFETY: it fills in a `ucred`, which was zeroed and has integers only.
    unsafe {
        option(socket, libc::SO_PEERCRED, &mut peer)?;
        Ok(peer.assume_init())
    }
}

/// The supplementary groups of who connected a Unix socket; none where there are too many.
pub(crate) fn peer_groups(socket: BorrowedFd<'_>) -> Vec<u32> {
    let mut groups = MaybeUninit::<[u32; 256]>::zeroed();
    // SAFETY: it fills in numbers, which were zeroed.
    let (len, groups) =
        unsafe { (option(socket, SO_PEERGROUPS, &mut groups).unwrap_or(0), groups.assume_init()) };
    groups.get(..len / size_of::<u32>()).unwrap_or(&[]).to_vec()
}

/// Whether a socket listens, and for streams.
pub(crate) fn listens(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let number = |name| {
        let mut value = MaybeUninit::<c_int>::zeroed();
        // SAFETY: it fills in a number, which was zeroed.
        unsafe { option(socket, name, &mut value).map(|_| value.assume_init()) }
    };
    Ok(number(libc::SO_ACCEPTCONN)? != 0 && number(libc::SO_TYPE)? == libc::SOCK_STREAM)
}

/// The very process that connected a Unix socket, or, on kernels before 6.5, that which has its
/// number now.
pub(crate) fn peer_process(socket: BorrowedFd<'_>, pid: i32) -> io::Result<OwnedFd> {
    let mut fd = MaybeUninit::<RawFd>::zeroed();
    // SAFETY: it fills in a descriptor, which is new and nobody else's.
    unsafe {
        if option(socket, SO_PEERPIDFD, &mut fd).is_ok() {
            return Ok(OwnedFd::from_raw_fd(fd.assume_init()));
        }
    }
    // SAFETY: numbers are passed; the descriptor is new and nobody else's.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, c_long::from(pid), 0 as c_long);
        match RawFd::try_from(fd) {
            Ok(fd) if fd >= 0 => Ok(OwnedFd::from_raw_fd(fd)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Whether a process runs still.
pub(crate) fn is_alive(process: &OwnedFd) -> bool {
    let mut poll = libc::pollfd { fd: process.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: it reads and writes the one entry.
    unsafe { libc::poll(&raw mut poll, 1, 0) == 0 }
}

/// The flags of an open file.
pub(crate) fn flags(fd: impl AsFd) -> io::Result<c_int> {
    // SAFETY: no memory is passed.
    let flags = unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_GETFL) };
    checked(flags).map(|()| flags)
}

/// The first descriptor after the standard ones, which whoever started this process left to it.
/// It is taken once.
pub(crate) fn passed() -> io::Result<OwnedFd> {
    const FIRST: RawFd = 3;
    // SAFETY: no memory is passed.
    checked(unsafe { libc::fcntl(FIRST, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: it is open, and nobody in this process owns what it did not open.
    Ok(unsafe { OwnedFd::from_raw_fd(FIRST) })
}

//! Hosts on which a system call fails, or does not return.
#![expect(unsafe_code, reason = "prctl, and code between fork and exec")]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use libc::{sock_filter, sock_fprog};

/// Makes io_uring_setup fail with EPERM in `command`, as in many containers.
pub fn forbid_io_uring(command: &mut Command) -> &mut Command {
    fail(command, libc::SYS_io_uring_setup, libc::EPERM)
}

/// Makes the system call of this number fail with `errno` in `command`.
pub fn fail(command: &mut Command, call: libc::c_long, errno: libc::c_int) -> &mut Command {
    let action = libc::SECCOMP_RET_ERRNO | errno.unsigned_abs();
    // SAFETY: the filter only makes system calls that are safe between fork and exec.
    unsafe { command.pre_exec(move || install(call, action, 0).map(drop)) }
}

/// Makes the system call of this number never return in `command`, as on a disk that hangs: it
/// waits for an answer that only `command` itself could give.
pub fn stall(command: &mut Command, call: libc::c_long) -> &mut Command {
    const NEW_LISTENER: libc::c_ulong = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    let install = move || {
        let listener = install(call, libc::SECCOMP_RET_USER_NOTIF, NEW_LISTENER)?;
        // SAFETY: a descriptor that was just opened is to stay open over exec.
        match unsafe { libc::ioctl(listener, libc::FIONCLEX) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: as above.
    unsafe { command.pre_exec(install) }
}

/// BPF over `struct seccomp_data`: its first word is the number of the system call.
/// Gives what seccomp(2) returns.
#[expect(clippy::cast_possible_truncation, reason = "opcodes of BPF have 16 bits")]
#[expect(clippy::cast_sign_loss, reason = "numbers of calls are positive")]
fn install(call: libc::c_long, action: u32, flags: libc::c_ulong) -> io::Result<libc::c_int> {
    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    let mut filter = [
        step(LOAD_WORD, 0, 0, 0),
        step(JUMP_IF_EQUAL, 0, 1, call as u32),
        step(RETURN, 0, 0, action),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program outlives both calls, which read it only.
    let result = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    };
    libc::c_int::try_from(result).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)
}

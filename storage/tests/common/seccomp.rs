//! A host that refuses one system call, for what no file can be made to do.

use std::thread;

use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter, sock_fprog};

/// Runs `test` on a thread for which, and for whose threads, fdatasync(2) fails with `errno`.
/// io_uring does not ask: what it does is no system call.
pub fn without_fdatasync<T: Send>(errno: i32, test: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            refuse(libc::SYS_fdatasync, errno);
            test()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn refuse(call: libc::c_long, errno: i32) {
    let (call, errno) = (u32::try_from(call).unwrap(), u32::try_from(errno).unwrap());
    let statement = |code: u32, jf: u8, k: u32| {
        let code = u16::try_from(code).unwrap();
        sock_filter { code, jt: 0, jf, k }
    };
    // The number of the call comes first in `struct seccomp_data`.
    let mut filter = [
        statement(BPF_LD | BPF_W | BPF_ABS, 0, 0),
        statement(BPF_JMP | BPF_JEQ | BPF_K, 1, call),
        statement(BPF_RET | BPF_K, 0, libc::SECCOMP_RET_ERRNO | errno),
        statement(BPF_RET | BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = sock_fprog { len: 4, filter: filter.as_mut_ptr() };
    let mode = libc::c_ulong::from(libc::SECCOMP_MODE_FILTER);
    // SAFETY: the program lives until the kernel has copied it.
    let refused = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) != 0
    };
    assert!(!refused, "{}", std::io::Error::last_os_error());
}

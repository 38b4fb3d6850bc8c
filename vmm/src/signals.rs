//! The signals that end the VMM, as a file descriptor.

use std::fs::File;
use std::io::{self, Read};
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use vmm_sys_util::signal::{self, block_signal, create_sigset};

const SIGNALS: [libc::c_int; 4] = [libc::SIGTERM, libc::SIGHUP, libc::SIGINT, libc::SIGQUIT];

/// SIGTERM, SIGHUP, SIGINT and SIGQUIT: blocked, and read from here.
#[derive(Debug)]
pub(crate) struct Signals(File);

impl Signals {
    /// Blocks the signals in this thread and in those that it starts from now on. SIGHUP stays
    /// ignored if it is, as `nohup` wants; shells ignore SIGINT and SIGQUIT for programs in the
    /// background, but who sends them on purpose means it.
    ///
    /// # Errors
    /// When the host refuses.
    pub(crate) fn new() -> io::Result<Self> {
        let unwanted = |signal| signal == libc::SIGHUP && is_ignored(signal);
        let wanted: Vec<_> = SIGNALS.into_iter().filter(|signal| !unwanted(*signal)).collect();
        for signal in &wanted {
            match block_signal(*signal) {
                Ok(()) | Err(signal::Error::SignalAlreadyBlocked(_)) => {}
                Err(error) => return Err(io::Error::other(error.to_string())),
            }
        }
        Ok(Signals(File::from(open(&create_sigset(&wanted)?)?)))
    }

    /// The name of the next signal, if there is one.
    ///
    /// # Errors
    /// When the descriptor cannot be read.
    pub(crate) fn next(&self) -> io::Result<Option<&'static str>> {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        match (&self.0).read(&mut info) {
            Ok(_) => {
                let number = info.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
                Ok(Some(name(number)))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[expect(unsafe_code, reason = "signalfd")]
fn open(signals: &libc::sigset_t) -> io::Result<OwnedFd> {
    // SAFETY: `signals` is an initialised signal set that is only read.
    let fd = unsafe { libc::signalfd(-1, signals, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just opened and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[expect(unsafe_code, reason = "sigaction")]
fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: a sigaction is integers and an optional function, for which zero is a value.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: nothing is installed, and `action` is a sigaction to fill in.
    let result = unsafe { libc::sigaction(signal, ptr::null(), &raw mut action) };
    result == 0 && action.sa_sigaction == libc::SIG_IGN
}

fn name(signal: libc::c_int) -> &'static str {
    match signal {
        libc::SIGTERM => "SIGTERM",
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        _ => "a signal",
    }
}

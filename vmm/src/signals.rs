//! The signals that end the VMM, as a file descriptor.

use std::fs::File;
use std::io::{self, Read};
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Instant;

use vmm_sys_util::signal::{self, SIGRTMAX, SIGRTMIN, block_signal, create_sigset};

use crate::poll::{Interest, PollSet};

/// A signal that somebody sent to the VMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Signal {
    number: libc::c_int,
    /// Its name.
    pub(crate) name: &'static str,
    /// Whether it presses the power button; the others end the VMM at once.
    pub(crate) presses_button: bool,
}

/// What ends the VMM in good order.
const SIGNALS: [Signal; 13] = [
    pressing(libc::SIGTERM, "SIGTERM"),
    pressing(libc::SIGHUP, "SIGHUP"),
    pressing(libc::SIGINT, "SIGINT"),
    ending(libc::SIGQUIT, "SIGQUIT"),
    ending(libc::SIGUSR1, "SIGUSR1"),
    ending(libc::SIGUSR2, "SIGUSR2"),
    ending(libc::SIGALRM, "SIGALRM"),
    ending(libc::SIGPWR, "SIGPWR"),
    ending(libc::SIGXCPU, "SIGXCPU"),
    ending(libc::SIGIO, "SIGIO"),
    ending(libc::SIGPROF, "SIGPROF"),
    ending(libc::SIGSTKFLT, "SIGSTKFLT"),
    ending(libc::SIGVTALRM, "SIGVTALRM"),
];

/// Whatever would end the VMM without a word, the terminal left as it is; but for those that tell
/// of a bug, and the first real-time signal, which stops vCPUs.
fn signals() -> impl Iterator<Item = Signal> {
    let real_time = SIGRTMIN() + 1..=SIGRTMAX();
    SIGNALS.into_iter().chain(real_time.map(|number| ending(number, "a real-time signal")))
}

const fn pressing(number: libc::c_int, name: &'static str) -> Signal {
    Signal { number, name, presses_button: true }
}

const fn ending(number: libc::c_int, name: &'static str) -> Signal {
    Signal { number, name, presses_button: false }
}

/// The signals that end the VMM: blocked, and read from here.
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
        let all = signals().map(|signal| signal.number);
        let wanted: Vec<_> = all.filter(|signal| !unwanted(*signal)).collect();
        for signal in &wanted {
            match block_signal(*signal) {
                Ok(()) | Err(signal::Error::SignalAlreadyBlocked(_)) => {}
                Err(error) => return Err(io::Error::other(error.to_string())),
            }
        }
        ignore_file_size_limit();
        Ok(Signals(File::from(open(&create_sigset(&wanted)?)?)))
    }

    /// Whether there is a signal.
    pub(crate) fn is_pending(&self) -> bool {
        let mut set = PollSet::default();
        let place = set.add(self, Interest::Input);
        set.wait(Some(Instant::now())).is_ok() && set.is_ready(place)
    }

    /// The next signal, if there is one.
    ///
    /// # Errors
    /// When the descriptor cannot be read.
    pub(crate) fn next(&self) -> io::Result<Option<Signal>> {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        match (&self.0).read(&mut info) {
            Ok(_) => {
                let number = info.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
                Ok(signals().find(|signal| signal.number == number))
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

/// A guest's write past the limit on file sizes is to fail, not to end the VMM.
#[expect(unsafe_code, reason = "signal")]
fn ignore_file_size_limit() {
    // SAFETY: ignoring a signal runs no code.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
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

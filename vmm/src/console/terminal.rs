//! The terminal on standard input: raw while the guest has it, and as it was on every way out.

use std::io::{self, IsTerminal};
use std::mem;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use vmm_sys_util::signal::register_signal_handler;

static RAW: AtomicBool = AtomicBool::new(false);

/// The terminal's settings before, for a way out that runs no destructors.
static SAVED: OnceLock<libc::termios> = OnceLock::new();

/// What ends a program that has a bug, or that somebody wants to look like it.
const FATAL: [libc::c_int; 7] = [
    libc::SIGABRT,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGSEGV,
    libc::SIGSYS,
    libc::SIGTRAP,
];

/// Whether the terminal is in raw mode, where a new line needs a carriage return.
pub(crate) fn is_raw() -> bool {
    RAW.load(Ordering::Relaxed)
}

/// Standard input's terminal in raw mode, until this is dropped.
#[derive(Debug)]
pub(crate) struct RawMode(libc::termios);

impl RawMode {
    /// Puts the terminal into raw mode; `None` if standard input is no terminal.
    ///
    /// # Errors
    /// When the terminal refuses.
    #[expect(unsafe_code, reason = "termios")]
    pub(crate) fn enter() -> io::Result<Option<Self>> {
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
        // SAFETY: termios is plain integers, for which zero is a value.
        let mut settings: libc::termios = unsafe { mem::zeroed() };
        // SAFETY: `settings` is a termios to fill in.
        check(unsafe { libc::tcgetattr(libc::STDIN_FILENO, &raw mut settings) })?;
        let saved = RawMode(settings);
        SAVED.get_or_init(|| settings);
        for signal in FATAL {
            register_signal_handler(signal, restore_and_die)?;
        }
        // SAFETY: `settings` is a termios to change.
        unsafe { libc::cfmakeraw(&raw mut settings) };
        set_terminal(&settings)?;
        RAW.store(true, Ordering::Relaxed);
        Ok(Some(saved))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        RAW.store(false, Ordering::Relaxed);
        if let Err(error) = set_terminal(&self.0) {
            log::error!("the terminal's settings cannot be restored ({error}): run `stty sane`");
        }
    }
}

/// Restores the terminal and lets the signal do what it does by default.
#[expect(unsafe_code, reason = "a signal handler")]
extern "C" fn restore_and_die(
    signal: libc::c_int,
    _info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    if let Some(settings) = SAVED.get() {
        let _ = set_terminal(settings);
    }
    // SAFETY: both calls may be made from a signal handler.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

#[expect(unsafe_code, reason = "termios")]
fn set_terminal(settings: &libc::termios) -> io::Result<()> {
    // SAFETY: `settings` is a valid termios that is only read.
    check(unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, settings) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

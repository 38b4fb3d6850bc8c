//! The log: one line each on standard error, with the guest's name.
//!
//! A guest can provoke some of the lines as often as it likes, and must not fill a disk with
//! them: each place in the code that logs has a budget of lines that refills slowly, and what
//! exceeds it is only counted. Nor may a reader who does not read hold anybody up: once the VMM
//! is made to run a guest, a thread writes the lines.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::console;
use crate::output::Output;
use crate::printable::printable;

/// Lines that a place may log at once.
const BURST: u32 = 10;

/// How long a place waits for its next line after that.
const REFILL: Duration = Duration::from_secs(10);

static LOGGER: OnceLock<Logger> = OnceLock::new();

/// A place in the code.
type Place = (Option<&'static str>, Option<u32>);

#[derive(Default)]
struct Logger {
    guest: OnceLock<String>,
    output: OnceLock<Output>,
    budgets: Mutex<HashMap<Place, Budget>>,
}

/// What a place may still log.
struct Budget {
    left: u32,
    refilled: Instant,
    suppressed: u64,
}

impl Budget {
    fn new(now: Instant) -> Budget {
        Budget { left: BURST, refilled: now, suppressed: 0 }
    }

    /// Takes a line: how many were suppressed before it, or `None` if it is suppressed itself.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let refills = now.duration_since(self.refilled).as_secs() / REFILL.as_secs();
        if refills > 0 {
            let refills = u32::try_from(refills).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(refills).min(BURST);
            self.refilled = now;
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Some(std::mem::take(&mut self.suppressed))
            }
            None => {
                self.suppressed += 1;
                None
            }
        }
    }
}

/// Starts logging.
pub(crate) fn init() {
    // The only error is that there is a logger already, which then is this one.
    let _ = log::set_logger(LOGGER.get_or_init(Logger::default));
    log::set_max_level(LevelFilter::Info);
}

/// Names the guest in each line from now on.
pub(crate) fn name_guest(name: &str) {
    LOGGER.get_or_init(Logger::default).guest.get_or_init(|| name.to_owned());
}

/// Has a thread write the lines from now on, so that nobody waits for their reader. The thread
/// takes no signal that its starter does not take.
///
/// # Errors
/// When the host cannot start a thread.
pub(crate) fn detach() -> io::Result<()> {
    let output = Output::new("log", io::stderr())?;
    LOGGER.get_or_init(Logger::default).output.get_or_init(|| output);
    Ok(())
}

/// Waits until all lines are written, or their reader has taken nothing for a while.
pub(crate) fn finish() {
    // Of lines that are lost there is nobody to be told.
    LOGGER.get().and_then(|logger| logger.output.get()).map(Output::finish);
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let Some(suppressed) = self.budget(record) else { return };
        let line = line(self.guest.get().map(String::as_str), record, suppressed);
        let end = if console::is_raw() { "\r\n" } else { "\n" };
        let line = format!("{line}{end}");
        // A log that cannot be written has nowhere to be reported.
        let _ = match self.output.get() {
            Some(output) => output.writer().write_all(line.as_bytes()),
            None => io::stderr().write_all(line.as_bytes()),
        };
    }

    fn flush(&self) {}
}

impl Logger {
    fn budget(&self, record: &Record<'_>) -> Option<u64> {
        let mut budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let place = (record.file_static(), record.line());
        budgets.entry(place).or_insert_with(|| Budget::new(now)).take(now)
    }
}

fn line(guest: Option<&str>, record: &Record<'_>, suppressed: u64) -> String {
    let guest = guest.map(|name| format!("{name}: ")).unwrap_or_default();
    let level = match record.level() {
        Level::Error => "error: ",
        Level::Warn => "warning: ",
        Level::Info => "",
        Level::Debug => "debug: ",
        Level::Trace => "trace: ",
    };
    let more = match suppressed {
        0 => String::new(),
        count => format!(" ({count} lines like it were suppressed)"),
    };
    printable(&format!("vmm: {guest}{level}{}{more}", record.args()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_the_guest_and_what_is_bad() {
        let record = |level| Record::builder().level(level).args(format_args!("x")).build();
        assert_eq!(line(None, &record(Level::Info), 0), "vmm: x");
        assert_eq!(line(Some("guest1"), &record(Level::Warn), 0), "vmm: guest1: warning: x");
        let after = line(None, &record(Level::Info), 7);
        assert_eq!(after, "vmm: x (7 lines like it were suppressed)");
    }

    #[test]
    fn a_place_that_logs_too_much_is_counted_instead() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        for _ in 0..BURST {
            assert_eq!(budget.take(start), Some(0));
        }
        for _ in 0..5 {
            assert_eq!(budget.take(start), None);
        }
        assert_eq!(budget.take(start + REFILL), Some(5));
        assert_eq!(budget.take(start + REFILL), None);
        assert_eq!(budget.take(start + 100 * REFILL), Some(1));
    }
}

//! The log: one line each on standard error, with the guest's name.

use std::io::{self, Write};
use std::sync::OnceLock;

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::console;

static LOGGER: Logger = Logger { guest: OnceLock::new() };

struct Logger {
    guest: OnceLock<String>,
}

/// Starts logging.
pub(crate) fn init() {
    // The only error is that there is a logger already, which then is this one.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(LevelFilter::Info);
}

/// Names the guest in each line from now on.
pub(crate) fn name_guest(name: &str) {
    LOGGER.guest.get_or_init(|| name.to_owned());
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let line = line(self.guest.get().map(String::as_str), record);
        let end = if console::is_raw() { "\r\n" } else { "\n" };
        // A log that cannot be written has nowhere to be reported.
        let _ = io::stderr().write_all(format!("{line}{end}").as_bytes());
    }

    fn flush(&self) {}
}

fn line(guest: Option<&str>, record: &Record<'_>) -> String {
    let guest = guest.map(|name| format!("{name}: ")).unwrap_or_default();
    let level = match record.level() {
        Level::Error => "error: ",
        Level::Warn => "warning: ",
        Level::Info => "",
        Level::Debug => "debug: ",
        Level::Trace => "trace: ",
    };
    format!("vmm: {guest}{level}{}", record.args())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_the_guest_and_what_is_bad() {
        let record = |level| Record::builder().level(level).args(format_args!("x")).build();
        assert_eq!(line(None, &record(Level::Info)), "vmm: x");
        assert_eq!(line(Some("guest1"), &record(Level::Warn)), "vmm: guest1: warning: x");
    }
}

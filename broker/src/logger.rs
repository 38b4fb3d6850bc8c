//! The log: one line each on standard error.

use std::io::{self, Write};

use log::{Level, LevelFilter, Log, Metadata, Record};

struct Logger;

/// Starts logging.
pub(crate) fn init() {
    // The only error is that there is a logger already, which then is this one.
    let _ = log::set_logger(&Logger);
    log::set_max_level(LevelFilter::Info);
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let level = match record.level() {
            Level::Error => "error: ",
            Level::Warn => "warning: ",
            Level::Info | Level::Debug | Level::Trace => "",
        };
        // A log that cannot be written has nowhere to be reported.
        let _ = writeln!(io::stderr(), "vmm-broker: {level}{}", record.args());
    }

    fn flush(&self) {}
}

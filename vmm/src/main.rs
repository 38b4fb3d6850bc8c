//! `vmm`: boots a guest from one TOML file.
//!
//! Owns the way from the command line to the exit status: 0 the guest powered off (or reset, where
//! that ends it), 1 the VMM failed or was forced to end, 2 nothing could be started, 3 the guest
//! crashed. Of `vmm probe`: 0 the device was looked at, 1 it does not answer, 2 it cannot be opened.

mod build;
mod check;
mod cli;
mod config;
mod console;
mod event_loop;
mod exit;
mod guest;
mod host;
mod irq;
mod job;
mod kernel;
mod limits;
mod logger;
mod machine;
mod memory;
mod output;
mod poll;
mod printable;
mod probe;
mod signals;
mod spec;
mod vcpu;

use std::error::Error;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};
use crate::exit::Exit;
use crate::guest::{Guest, Ready, StartError};
use crate::host::Host;

const FAILED: u8 = 1;
const NOT_STARTED: u8 = 2;
const CRASHED: u8 = 3;

fn main() -> ExitCode {
    logger::init();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.exit_code() == 0 => error.exit(),
        Err(error) => return refuse(&cli::one_line(&error)),
    };
    if let Some(Command::Probe(options)) = &cli.command {
        return probe::run(options);
    }
    let config = cli.config.unwrap_or_default();
    let host = Host::look();
    let spec = match config::load(&config, &host) {
        Ok(spec) if cli.check => return check::tell(&config, &spec, &host),
        Ok(spec) => spec,
        Err(problems) => return refuse(&problems),
    };
    logger::name_guest(&spec.machine.name);
    if let Err(error) = limits::raise_open_files() {
        log::warn!("the limit of open files stays as it is: {error}");
    }
    let status = match Guest::prepare(&spec).map(Ready::run) {
        Ok(Ok(exit)) => status(exit.as_ref()),
        Ok(Err(error)) => fail(&error, FAILED),
        Err(error @ StartError::Ended { .. }) => fail(&error, FAILED),
        Err(error) => fail(&error, NOT_STARTED),
    };
    logger::finish();
    status
}

fn refuse(why: &dyn Display) -> ExitCode {
    // Standard error may be closed; the status tells all the same.
    let _ = writeln!(io::stderr(), "{why}");
    NOT_STARTED.into()
}

/// The exit status after a guest that ended so, or was made to.
fn status(exit: Option<&Exit>) -> ExitCode {
    match exit {
        Some(Exit::PowerOff | Exit::Reset) => ExitCode::SUCCESS,
        Some(Exit::Crash(_)) => CRASHED.into(),
        Some(Exit::Failure(_)) | None => FAILED.into(),
    }
}

fn fail(error: &dyn Error, status: u8) -> ExitCode {
    log::error!("{}", chain(error));
    status.into()
}

/// An error and its causes on one line.
fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}

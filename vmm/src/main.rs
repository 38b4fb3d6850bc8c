//! `vmm`: boots a guest from one TOML file.
//!
//! Owns the way from the command line to the exit status: 0 the guest powered off (or reset, where
//! that ends it), 1 the VMM failed or was forced to end, 2 bad configuration, 3 the guest crashed.

mod build;
mod cli;
mod config;
mod console;
mod event_loop;
mod exit;
mod guest;
mod irq;
mod kernel;
mod limits;
mod logger;
mod machine;
mod memory;
mod poll;
mod signals;
mod spec;
mod vcpu;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;
use crate::event_loop::End;
use crate::exit::Exit;
use crate::guest::{Guest, RunError};

const FAILED: u8 = 1;
const BAD_CONFIGURATION: u8 = 2;
const CRASHED: u8 = 3;

fn main() -> ExitCode {
    logger::init();
    let cli = Cli::parse();
    let spec = match config::load(&cli.config) {
        Ok(spec) => spec,
        Err(problems) => {
            // Standard error may be closed; the status tells all the same.
            let _ = writeln!(io::stderr(), "{problems}");
            return BAD_CONFIGURATION.into();
        }
    };
    logger::name_guest(&spec.machine.name);
    if let Err(error) = limits::raise_open_files() {
        log::warn!("the limit of open files stays as it is: {error}");
    }
    match Guest::open(&spec).and_then(Guest::run) {
        Ok(end) => conclude(end),
        Err(error) => fail(&error),
    }
}

/// Tells how the guest ended, and gives the exit status.
fn conclude(end: End) -> ExitCode {
    match end {
        End::Guest(Exit::PowerOff) => {
            log::info!("the guest powered off");
            ExitCode::SUCCESS
        }
        End::Guest(Exit::Reset) => {
            log::info!("the guest reset, and is not started again");
            ExitCode::SUCCESS
        }
        End::Guest(Exit::Crash(what)) => {
            log::error!("the guest crashed: {what}");
            CRASHED.into()
        }
        End::Guest(Exit::Failure(what)) => {
            log::error!("{what}");
            FAILED.into()
        }
        End::Forced(by) => {
            log::warn!("ended by {by} while the guest was running");
            FAILED.into()
        }
    }
}

/// Tells why the guest cannot run, and gives the exit status.
fn fail(error: &RunError) -> ExitCode {
    log::error!("{}", chain(error));
    if error.is_configuration() { BAD_CONFIGURATION.into() } else { FAILED.into() }
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

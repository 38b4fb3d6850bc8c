//! `vmm`: boots a guest from one TOML file.
//!
//! Owns the order of things from the command line to the exit status: 0 the guest powered off or
//! reset, 1 the VMM failed or was forced to end, 2 bad configuration, 3 the guest crashed.

mod build;
mod check;
mod cli;
mod config;
mod console;
mod event_loop;
mod exit;
mod host;
mod irq;
mod kernel;
mod limits;
mod logger;
mod machine;
mod memory;
mod signals;
mod spec;
mod vcpu;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::build::BuildError;
use crate::cli::Cli;
use crate::console::{Input, Output, RawMode};
use crate::event_loop::{End, EventLoop};
use crate::exit::Exit;
use crate::host::Host;
use crate::machine::{Machine, MachineError};
use crate::signals::Signals;
use crate::spec::GuestSpec;

const FAILED: u8 = 1;
const BAD_CONFIGURATION: u8 = 2;
const CRASHED: u8 = 3;

/// The VMM cannot run the guest.
#[derive(Debug, thiserror::Error)]
enum RunError {
    /// The machine could not be built.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// A controller could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The host lacks what the main thread needs.
    #[error("the host refuses {what}")]
    Host {
        /// What was refused.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The main loop failed.
    #[error("the main loop cannot wait")]
    Loop(#[from] event_manager::Error),
}

impl RunError {
    fn status(&self) -> u8 {
        match self {
            RunError::Machine(error) if error.is_configuration() => BAD_CONFIGURATION,
            RunError::Build(error) if error.is_configuration() => BAD_CONFIGURATION,
            _ => FAILED,
        }
    }
}

fn main() -> ExitCode {
    logger::init();
    let cli = Cli::parse();
    let host = Host::look();
    let spec = match config::load(&cli.config, &host) {
        Ok(spec) if cli.check => return check::tell(&cli.config, &spec, &host),
        Ok(spec) => spec,
        Err(problems) => {
            // Standard error may be closed; the status tells all the same.
            let _ = writeln!(io::stderr(), "{problems}");
            return BAD_CONFIGURATION.into();
        }
    };
    logger::name_guest(&spec.machine.name);
    match run(&spec) {
        Ok(end) => conclude(end),
        Err(error) => {
            log::error!("{}", chain(&error));
            error.status().into()
        }
    }
}

/// Runs the guest to its end. The terminal is as it was when this returns.
fn run(spec: &GuestSpec) -> Result<End, RunError> {
    let host = |what| move |source| RunError::Host { what, source };
    if let Err(error) = limits::raise_open_files() {
        log::warn!("the limit of open files stays as it is: {error}");
    }
    let signals = Signals::new().map_err(host("to receive signals"))?;
    let output = Output::stdout().map_err(host("a thread for the console"))?;
    let room = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(host("an event"))?;
    let for_machine = room.try_clone().map_err(host("an event"))?;
    let mut machine = Machine::new(&spec.machine, &spec.boot, output.writer(), for_machine)?;
    build::controllers(&machine, &spec.controllers)?;

    let terminal = RawMode::enter().map_err(host("to set the terminal up"))?;
    let input = Input::stdin(terminal.is_some()).map_err(host("to read standard input"))?;
    machine.start()?;
    let end = EventLoop::new(&machine, &signals, input, room).run();
    // Before all that may take its time.
    drop(terminal);
    machine.stop();
    let lost = output.finish();
    if lost > 0 {
        log::warn!("console: {lost} bytes of output were lost, as their reader was slow or gone");
    }
    Ok(end?)
}

/// Tells how the guest ended, and gives the exit status.
fn conclude(end: End) -> ExitCode {
    match end {
        End::Guest(Exit::PowerOff) => {
            log::info!("the guest powered off");
            ExitCode::SUCCESS
        }
        End::Guest(Exit::Reset) => {
            log::info!("the guest asked for a reset, and the VMM ends: start it again");
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

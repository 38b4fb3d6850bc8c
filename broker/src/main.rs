//! `vmm-broker`: sends the SCSI commands that take privilege, for those who may not send them.
//!
//! Owns the way from the command line to the exit status: 0 it was told to end, or nothing is
//! wrong (--check), 1 it failed, 2 nothing was started.

mod cli;
mod listener;
mod logger;

use std::fmt::Display;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use broker::device::Nodes;
use broker::policy::{Policy, file};
use broker::privilege;
use broker::server::Server;
use broker::vport::Adapters;
use clap::Parser;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::cli::Cli;

const FAILED: u8 = 1;
const NOT_STARTED: u8 = 2;

/// How long commands under way may take once the broker is to end.
const FAREWELL: Duration = Duration::from_secs(10);
/// How long to let nobody in once the host has no more to give.
const EXHAUSTED: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    logger::init();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.exit_code() == 0 => error.exit(),
        Err(error) => return refuse(&cli::one_line(&error)),
    };
    let policy = match file::load(&cli.policy) {
        Ok(policy) => policy,
        Err(error) => return refuse(&error),
    };
    if cli.check {
        return ExitCode::SUCCESS;
    }
    match prepare(&cli, policy) {
        Ok((listener, signals, server)) => match serve(&listener, &signals, &server, &cli.policy) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                log::error!("{error}");
                FAILED.into()
            }
        },
        Err(why) => refuse(&why),
    }
}

fn refuse(why: &dyn Display) -> ExitCode {
    // Standard error may be closed; the status tells all the same.
    let _ = writeln!(io::stderr(), "{why}");
    NOT_STARTED.into()
}

/// Opens what needs root's privilege, and gives up the rest of it.
fn prepare(cli: &Cli, policy: Policy) -> Result<(UnixListener, SignalFd, Arc<Server>), String> {
    if !privilege::suffices().map_err(|error| error.to_string())? {
        return Err("CAP_SYS_RAWIO and CAP_SYS_ADMIN are missing; start it as root".into());
    }
    let listener = listener::open(cli.socket.as_deref())?;
    let signals = signals().map_err(|error| format!("signals cannot be awaited: {error}"))?;
    privilege::confine(&policy.limits)
        .map_err(|error| format!("privileges cannot be given up: {error}"))?;
    let sysfs = Path::new("/sys");
    let server = Server::new(policy, Box::new(Nodes::new(sysfs)), Adapters::new(sysfs));
    Ok((listener, signals, server))
}

/// The signals that end the broker, and the one that makes it read its policy again.
fn signals() -> nix::Result<SignalFd> {
    let wanted = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];
    let set: SigSet = wanted.into_iter().collect();
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC)
}

fn serve(
    listener: &UnixListener,
    signals: &SignalFd,
    server: &Arc<Server>,
    policy: &Path,
) -> io::Result<()> {
    log::info!("ready");
    loop {
        let mut polled =
            [listener.as_fd(), signals.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut polled, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [client, signal] = polled.map(|fd| fd.any().unwrap_or(false));
        if signal && let Some(signal) = signals.read_signal()? {
            if signal.ssi_signo.cast_signed() != Signal::SIGHUP as i32 {
                break;
            }
            reload(server, policy);
        }
        if client {
            admit(listener, server);
        }
    }
    if !server.stop(FAREWELL) {
        log::warn!("ends while commands are under way");
    }
    Ok(())
}

fn admit(listener: &UnixListener, server: &Arc<Server>) {
    match listener.accept() {
        Ok((socket, _)) => server.admit(socket),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(error) => {
            log::warn!("clients cannot be let in: {error}");
            std::thread::sleep(EXHAUSTED);
        }
    }
}

fn reload(server: &Server, path: &Path) {
    match file::load(path) {
        Ok(policy) => {
            server.set_policy(policy);
            log::info!("the policy has been read again");
        }
        Err(error) => log::error!("the policy stays as it was: {error}"),
    }
}

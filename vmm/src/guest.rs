//! A guest and its lives: what is opened once, and the machine that is built anew at each reboot.
//!
//! Kept from life to life are the files, the locks and the SCSI buses of the logical units, the
//! kernel and the initramfs, the console and its terminal, and the log. Kernel and initramfs are
//! read again from the descriptors that were opened first: a file that is replaced during the
//! run, as package managers do it, takes effect at the next start of the VMM. The virtual machine
//! with its vCPUs, devices and zeroed memory is dropped and built again from the same
//! specifications; in between, every logical unit sees a hard reset.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvm_ioctls::Kvm;
use storage::engine::Pool;

use crate::build::{self, BuildError, Hba};
use crate::console::{Console, ConsoleError};
use crate::event_loop::{self, End, Front, Life};
use crate::exit::Exit;
use crate::kernel::{BootError, BootFiles};
use crate::machine::{self, Machine, MachineError};
use crate::signals::Signals;
use crate::spec::{GuestSpec, MachineSpec, OnCrash, OnReboot};

/// Threads for image I/O that cannot go by ring, shared by all controllers.
const POOL_THREADS: usize = 8;

/// The VMM cannot run the guest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// Kernel or initramfs are not usable.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The machine could not be built.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// A controller could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The console cannot be had.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// The host lacks what the main thread needs.
    #[error("the host refuses {what}")]
    Host {
        /// What was refused.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It ran, and cannot be built again.
    #[error("the guest cannot be started again")]
    Restart(#[source] Box<RunError>),
}

impl RunError {
    /// Whether the configuration asks for what cannot be, whatever the host, and nothing was
    /// started.
    pub(crate) fn is_configuration(&self) -> bool {
        match self {
            RunError::Boot(_) => true,
            RunError::Machine(error) => error.is_configuration(),
            RunError::Build(error) => error.is_configuration(),
            RunError::Console(error) => error.is_configuration(),
            RunError::Host { .. } | RunError::Restart(_) => false,
        }
    }
}

fn host(what: &'static str) -> impl Fn(io::Error) -> RunError {
    move |source| RunError::Host { what, source }
}

/// A guest with all that its lives share.
#[derive(Debug)]
pub(crate) struct Guest<'a> {
    spec: &'a GuestSpec,
    kvm: Kvm,
    boot: BootFiles,
    hbas: Vec<Hba>,
    pool: Arc<Pool>,
    front: Front,
}

impl<'a> Guest<'a> {
    /// Opens everything that `spec` names, and runs nothing.
    ///
    /// # Errors
    /// [`RunError`] says what cannot be opened.
    pub(crate) fn open(spec: &'a GuestSpec) -> Result<Self, RunError> {
        let signals = Signals::new().map_err(host("to receive signals"))?;
        Ok(Guest {
            spec,
            boot: BootFiles::open(&spec.boot)?,
            kvm: machine::open_kvm()?,
            hbas: build::open(&spec.controllers)?,
            pool: Pool::new(POOL_THREADS),
            // Last, as it leaves a file behind where something later fails.
            front: Front { signals, console: Console::open(&spec.serial)? },
        })
    }

    /// Runs the guest from life to life, until its end is that of the VMM too. By then all of its
    /// output and all that it wrote to its disks is where it belongs, and the terminal is as it
    /// was.
    ///
    /// # Errors
    /// [`RunError`]
    pub(crate) fn run(mut self) -> Result<End, RunError> {
        let end = self.lives();
        // Before all that may take its time.
        self.front.console.give_terminal_back();
        let flushed = build::flush(&self.hbas);
        self.front.console.finish();
        let end = end?;
        flushed?;
        Ok(end)
    }

    fn lives(&mut self) -> Result<End, RunError> {
        let mut machine = self.build()?;
        self.front.console.take_terminal().map_err(host("to set the terminal up"))?;
        let mut crashes = Crashes::default();
        loop {
            let start = Instant::now();
            let Life { end, asked } = self.live(machine)?;
            let pause = match restart(&self.spec.machine, &end) {
                // Whoever wants the guest to end does not want it to begin again.
                Some(_) if asked => return Ok(end),
                None => return Ok(end),
                Some(Why::Reset) => Duration::ZERO,
                Some(Why::Crash) => crashes.pause(start.elapsed()),
            };
            announce(&end, pause);
            if event_loop::pause(&mut self.front, pause).map_err(host("to wait"))? {
                return Ok(end);
            }
            self.hbas.iter().for_each(Hba::hard_reset);
            machine = self.build().map_err(|error| RunError::Restart(Box::new(error)))?;
        }
    }

    /// A machine with its controllers.
    fn build(&self) -> Result<Machine, RunError> {
        let console = &self.front.console;
        let room = console.room().map_err(host("an event"))?;
        let machine =
            Machine::new(&self.kvm, &self.spec.machine, &self.boot, console.writer(), room)?;
        for hba in &self.hbas {
            hba.add_to(&machine, &self.pool)?;
        }
        Ok(machine)
    }

    /// One life. Nothing of the machine is left when this returns.
    fn live(&mut self, mut machine: Machine) -> Result<Life, RunError> {
        machine.start()?;
        let stop_timeout = self.spec.machine.stop_timeout;
        let life = event_loop::run(&mut self.front, &machine, stop_timeout);
        machine.stop();
        life.map_err(host("to wait"))
    }
}

/// Why a guest starts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Reset,
    Crash,
}

/// Whether a guest starts again whose life ended so.
fn restart(spec: &MachineSpec, end: &End) -> Option<Why> {
    match end {
        End::Guest(Exit::Reset) => (spec.on_reboot == OnReboot::Restart).then_some(Why::Reset),
        End::Guest(Exit::Crash(_)) => (spec.on_crash == OnCrash::Restart).then_some(Why::Crash),
        End::Guest(Exit::PowerOff | Exit::Failure(_)) | End::Forced(_) => None,
    }
}

fn announce(end: &End, pause: Duration) {
    match end {
        End::Guest(Exit::Crash(what)) if pause.is_zero() => {
            log::error!("the guest crashed, and starts again: {what}");
        }
        End::Guest(Exit::Crash(what)) => {
            log::error!("the guest crashed, and starts again in {pause:?}: {what}");
        }
        _ => log::info!("the guest reset, and starts again"),
    }
}

/// Crashes that follow each other closely. A guest that crashes whenever it starts must not keep
/// the host busy: its next start is put off, at first by a second, then by twice the time before,
/// up to a minute. One that had lived for a minute starts at once.
#[derive(Debug, Default)]
struct Crashes {
    pause: Duration,
}

impl Crashes {
    const FIRST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(60);
    const LONG_LIFE: Duration = Duration::from_secs(60);

    /// How long to wait after a crash that ended a life as long as `lived`.
    fn pause(&mut self, lived: Duration) -> Duration {
        self.pause = if lived >= Self::LONG_LIFE {
            Duration::ZERO
        } else {
            (2 * self.pause).clamp(Self::FIRST, Self::LONGEST)
        };
        self.pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crashes_in_a_row_are_put_off_longer_and_longer() {
        let mut crashes = Crashes::default();
        let pauses: Vec<u64> =
            (0..9).map(|_| crashes.pause(Duration::from_millis(50)).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(crashes.pause(Duration::from_secs(3600)), Duration::ZERO);
        assert_eq!(crashes.pause(Duration::from_secs(59)), Duration::from_secs(1));
    }
}

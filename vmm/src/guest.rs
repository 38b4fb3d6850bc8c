//! A guest and its lives: what is opened once, and the machine that is built anew at each reboot.
//!
//! Kept from life to life are the files, the locks and the SCSI buses of the logical units, the
//! kernel and the initramfs, the console and its terminal, and the log. Kernel and initramfs are
//! read again from the descriptors that were opened first: a file that is replaced during the
//! run, as package managers do it, takes effect at the next start of the VMM. The virtual machine
//! with its vCPUs, devices and zeroed memory is dropped and built again from the same
//! specifications; in between, every logical unit sees a hard reset.

use std::io;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvm_ioctls::Kvm;
use storage::engine::Pool;

use crate::build::{self, BuildError, FlushError, Hba};
use crate::console::{Console, ConsoleError};
use crate::event_loop::{self, End, Front, Idle, Life};
use crate::exit::Exit;
use crate::job::Job;
use crate::kernel::{BootError, BootFiles};
use crate::limits;
use crate::logger;
use crate::machine::{self, Machine, MachineError};
use crate::signals::Signals;
use crate::spec::{GuestSpec, MachineSpec, OnCrash, OnReboot};

/// Threads for image I/O that cannot go by ring, shared by all controllers.
const POOL_THREADS: usize = 8;

/// How long the disks have to finish once the end is forced.
const GRACE: Duration = Duration::from_secs(10);

/// The guest cannot be made ready to run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
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
    /// Somebody wants the VMM to end.
    #[error("ended by {by} before the guest started")]
    Ended {
        /// Who.
        by: &'static str,
    },
    /// The host lacks what the main thread needs.
    #[error("the host refuses {what}")]
    Host {
        /// What was refused.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// The VMM cannot go on with the guest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// A vCPU could not be started.
    #[error(transparent)]
    Start(#[from] MachineError),
    /// The main loop failed.
    #[error("the main loop cannot wait")]
    Loop(#[from] io::Error),
    /// It ran, and cannot be built again.
    #[error("the guest cannot be started again")]
    Restart(#[from] StartError),
    /// What it wrote may be lost.
    #[error(transparent)]
    Flush(#[from] FlushError),
    /// A disk does not finish.
    #[error("{by}: gave up waiting for {what}: what the guest wrote may be lost")]
    GaveUp {
        /// Who did not want to wait longer.
        by: String,
        /// What was waited for.
        what: &'static str,
    },
}

fn host(what: &'static str) -> impl Fn(io::Error) -> StartError {
    move |source| StartError::Host { what, source }
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
    /// When the disks have to have finished, once the end is forced.
    deadline: Option<Instant>,
}

/// A guest that is ready to run.
#[derive(Debug)]
pub(crate) struct Ready<'a> {
    guest: Guest<'a>,
    machine: Machine,
}

impl<'a> Guest<'a> {
    /// Opens everything that `spec` names, and builds the machine; runs nothing.
    ///
    /// # Errors
    /// [`StartError`] says what cannot be had.
    pub(crate) fn prepare(spec: &'a GuestSpec) -> Result<Ready<'a>, StartError> {
        let signals = Signals::new().map_err(host("to receive signals"))?;
        // Signals are for this thread alone by now.
        logger::detach().map_err(host("a thread for the log"))?;
        let mut guest = Guest {
            spec,
            boot: BootFiles::open(&spec.boot)?,
            kvm: machine::open_kvm()?,
            hbas: build::open(&spec.controllers)?,
            pool: Pool::new(POOL_THREADS),
            front: Front { signals, console: Console::new(&spec.serial)? },
            deadline: None,
        };
        let machine = guest.build()?;
        // Whatever else there is to complain of has been: nothing was changed till now.
        guest.front.console.open(&spec.serial)?;
        guest.front.console.take_terminal().map_err(host("to set the terminal up"))?;
        Ok(Ready { guest, machine })
    }

    /// A machine with its controllers, unless somebody wants the VMM to end meanwhile.
    fn build(&self) -> Result<Machine, StartError> {
        let built = self.try_build();
        match self.front.signals.next().map_err(host("to tell of signals"))? {
            Some(signal) => Err(StartError::Ended { by: signal.name }),
            None => built,
        }
    }

    fn try_build(&self) -> Result<Machine, StartError> {
        let console = &self.front.console;
        let room = console.room().map_err(host("an event"))?;
        let wanted = || !self.front.signals.is_pending();
        let (spec, output) = (&self.spec.machine, console.writer());
        let machine = Machine::new(&self.kvm, spec, &self.boot, output, room, &wanted)?;
        for hba in &self.hbas {
            hba.add_to(&machine, &self.pool)?;
        }
        Ok(machine)
    }

    /// All lives, the first of them in `machine`; returns how the last one ended, nothing if it was
    /// made to, and leaves no machine.
    fn lives(&mut self, mut machine: Machine) -> Result<Option<Exit>, RunError> {
        let mut crashes = Crashes::default();
        loop {
            let start = Instant::now();
            let life = self.live(&mut machine);
            let why = life.as_ref().ok().and_then(|life| restart(&self.spec.machine, life));
            let (Ok(Life { end, .. }), Some(why)) = (&life, why) else {
                self.front.console.give_terminal_back();
                let exit = life.map(|life| self.tell(life.end));
                let drained = self.drain(machine);
                return exit.and_then(|exit| drained.map(|()| exit));
            };
            let pause = match why {
                Why::Reset => Duration::ZERO,
                Why::Crash => crashes.pause(start.elapsed()),
            };
            announce(end, pause);
            self.drain(machine)?;
            if self.deadline.is_some() || self.is_ended_within(pause)? {
                return Ok(None);
            }
            self.hbas.iter().for_each(Hba::hard_reset);
            limits::trim_heap();
            machine = self.build()?;
        }
    }

    fn live(&mut self, machine: &mut Machine) -> Result<Life, RunError> {
        machine.start()?;
        Ok(event_loop::run(&mut self.front, machine, self.spec.machine.stop_timeout)?)
    }

    /// Waits for `pause` before the next life, or until the VMM is to end: which.
    fn is_ended_within(&mut self, pause: Duration) -> io::Result<bool> {
        let until = Some(Instant::now() + pause);
        let idle = event_loop::idle(&mut self.front, None::<&Job<()>>, until)?;
        if let Idle::Asked(by) = &idle {
            self.force(by);
        }
        Ok(idle != Idle::Late)
    }

    /// Ends a machine. Nothing is left of it when this returns without an error.
    fn drain(&mut self, machine: Machine) -> Result<(), RunError> {
        let drained = self.wait_for("disks to carry out their last commands", || drop(machine));
        if drained.is_err() {
            // Whoever is the last to have these waits for the disks too.
            mem::forget((mem::take(&mut self.hbas), Arc::clone(&self.pool)));
        }
        drained
    }

    /// Makes everything stable that was written, and closes the disks.
    fn close(&mut self) -> Result<(), RunError> {
        let hbas = mem::take(&mut self.hbas);
        if hbas.is_empty() {
            // They were given up.
            return Ok(());
        }
        Ok(self.wait_for("disks to be flushed and closed", move || build::flush(&hbas))??)
    }

    /// Waits for `work` of the disks until it is done, or somebody does not want to wait longer.
    fn wait_for<T: Send + 'static>(
        &mut self,
        what: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, RunError> {
        let job = Job::start(work)?;
        loop {
            let by = match event_loop::idle(&mut self.front, Some(&job), self.deadline)? {
                Idle::Done => return Ok(job.result()),
                Idle::Asked(by) if self.deadline.is_none() => {
                    self.force(&by);
                    continue;
                }
                Idle::Asked(by) => by,
                Idle::Late => format!("{GRACE:?} have passed"),
            };
            return Err(RunError::GaveUp { by, what });
        }
    }

    /// Tells how the last life ended.
    fn tell(&mut self, end: End) -> Option<Exit> {
        match &end {
            End::Guest(Exit::PowerOff) => log::info!("the guest powered off"),
            End::Guest(Exit::Reset) => log::info!("the guest reset, and is not started again"),
            End::Guest(Exit::Crash(what)) => log::error!("the guest crashed: {what}"),
            End::Guest(Exit::Failure(what)) => log::error!("{what}"),
            End::Forced(by) => self.force(by),
        }
        match end {
            End::Guest(exit) => Some(exit),
            End::Forced(_) => None,
        }
    }

    /// Begins an end that does not wait for ever.
    fn force(&mut self, by: &str) {
        self.deadline = Some(Instant::now() + GRACE);
        self.front.console.give_terminal_back();
        log::warn!(
            "ended by {by}; the disks have {GRACE:?} to finish, and a further signal gives them up"
        );
    }
}

impl Ready<'_> {
    /// Runs the guest from life to life, until its end is that of the VMM too. By then all of its
    /// output and all that it wrote to its disks is where it belongs, and the terminal is as it
    /// was. Returns how the guest ended, nothing if it was made to.
    ///
    /// # Errors
    /// [`RunError`]
    pub(crate) fn run(self) -> Result<Option<Exit>, RunError> {
        let Ready { mut guest, machine } = self;
        let exit = guest.lives(machine);
        // In whatever way that ended, and before all that may take its time.
        guest.front.console.give_terminal_back();
        let closed = guest.close();
        guest.front.console.finish();
        if let (Err(_), Err(lost)) = (&exit, &closed) {
            log::error!("{}", crate::chain(lost));
        }
        exit.and_then(|exit| closed.map(|()| exit))
    }
}

/// Why a guest starts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Reset,
    Crash,
}

/// Whether a guest starts again after such a life. Whoever wants it to end does not want it to
/// begin again.
fn restart(spec: &MachineSpec, life: &Life) -> Option<Why> {
    match life.end {
        _ if life.asked => None,
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

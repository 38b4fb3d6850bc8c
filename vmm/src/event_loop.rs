//! The main thread's loop: it carries input to the guest and waits for a reason to end.
//!
//! Asked to, it presses the guest's power button and gives the guest its time to power off. That
//! is a matter of one life of the guest: a loop sees one machine, or waits for the next one.

use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use crate::console::Console;
use crate::exit::Exit;
use crate::machine::Machine;
use crate::poll::{Interest, PollSet};
use crate::signals::{Signal, Signals};

/// The keys that end the VMM.
const KEYS: &str = "Ctrl-A X";

/// Why the loop ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The guest stopped.
    Guest(Exit),
    /// Somebody wants the VMM to end at once, or the guest did not power off in its time: which.
    Forced(String),
}

/// What outlives the machine, as far as the loop works on it.
#[derive(Debug)]
pub(crate) struct Front {
    /// Who asks the VMM to end.
    pub(crate) signals: Signals,
    /// The serial console.
    pub(crate) console: Console,
}

/// How a life of the guest ended.
#[derive(Debug)]
pub(crate) struct Life {
    /// Why.
    pub(crate) end: End,
    /// The guest had been asked to power off.
    pub(crate) asked: bool,
}

/// Carries input to the guest in `machine` until that stops or the VMM is to end. A guest that is
/// asked to power off has `stop_timeout` for it.
///
/// # Errors
/// When the host refuses to wait.
pub(crate) fn run(
    front: &mut Front,
    machine: &Machine,
    stop_timeout: Duration,
) -> io::Result<Life> {
    let mut stop: Option<Stop> = None;
    loop {
        let mut set = PollSet::default();
        let exit = set.add(machine.exit_event(), Interest::Input);
        let signal = set.add(&front.signals, Interest::Input);
        let console = front.console.watch(&mut set);
        set.wait(stop.as_ref().map(|stop| stop.deadline))?;

        let ended = |end| Ok(Life { end, asked: stop.is_some() });
        if set.is_ready(exit)
            && let Some(exit) = machine.take_exit()
        {
            return ended(End::Guest(exit));
        }
        if front.console.serve(&set, &console, |bytes| machine.serial().enqueue(bytes)) {
            return ended(End::Forced(KEYS.into()));
        }
        if let Some(stop) = stop.as_ref().filter(|stop| stop.deadline <= Instant::now()) {
            let why = format!("stop_timeout, {stop_timeout:?} after {}", stop.by);
            return ended(End::Forced(why));
        }
        if set.is_ready(signal)
            && let Some(signal) = front.signals.next()?
        {
            if stop.is_some() {
                return ended(End::Forced(format!("a second signal, {}", signal.name)));
            }
            if !signal.presses_button {
                return ended(End::Forced(signal.name.into()));
            }
            stop = Some(Stop::begin(signal, machine, stop_timeout));
        }
    }
}

/// A guest that was asked to power off.
#[derive(Debug)]
struct Stop {
    by: &'static str,
    deadline: Instant,
}

impl Stop {
    fn begin(signal: Signal, machine: &Machine, timeout: Duration) -> Stop {
        // A time that no clock reaches is one that never ends.
        const LONG: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
        let deadline = Instant::now() + timeout.min(LONG);
        if let Err(error) = machine.press_power_button() {
            log::error!("the power button cannot be pressed: {error}");
        }
        log::info!("{}: the guest is asked to power off, and has {timeout:?}", signal.name);
        Stop { by: signal.name, deadline }
    }
}

/// What ended a wait while there was no machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Idle {
    /// What was waited for.
    Done,
    /// Somebody wants the VMM to end: who.
    Asked(String),
    /// The deadline.
    Late,
}

/// Waits while there is no machine, for `job` to hang up or until `deadline`.
///
/// # Errors
/// When the host refuses to wait.
pub(crate) fn idle(
    front: &mut Front,
    job: Option<&impl AsRawFd>,
    deadline: Option<Instant>,
) -> io::Result<Idle> {
    loop {
        let mut set = PollSet::default();
        let done = job.map(|job| set.add(job, Interest::HangUp));
        let signal = set.add(&front.signals, Interest::Input);
        let console = front.console.watch(&mut set);
        set.wait(deadline)?;
        if done.is_some_and(|done| set.is_ready(done)) {
            return Ok(Idle::Done);
        }
        if front.console.serve(&set, &console, |_| 0) {
            return Ok(Idle::Asked(KEYS.into()));
        }
        if set.is_ready(signal)
            && let Some(signal) = front.signals.next()?
        {
            return Ok(Idle::Asked(signal.name.into()));
        }
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Ok(Idle::Late);
        }
    }
}

//! A host's SCSI device that is not there: it answers by itself, or as a test has scripted it, and
//! remembers what it was sent.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::FakeDevice;
use crate::host::{Completion, Data, HostLimits, HostStatus, Request, ScsiHost};
use crate::scsi::sense::{Sense, SenseCode};
use crate::scsi::status::Status;

/// A nexus to a [`FakeDevice`].
#[derive(Debug, Default)]
pub struct FakeHost {
    device: Mutex<FakeDevice>,
    script: Mutex<VecDeque<Step>>,
    sent: Mutex<Vec<Sent>>,
    holds: Mutex<Vec<Hold>>,
    resets: Mutex<Resets>,
    /// How often its paths were looked at.
    refreshes: AtomicUsize,
    closed: AtomicBool,
}

#[derive(Debug, Default)]
struct Resets {
    count: usize,
    outcomes: VecDeque<i32>,
}

#[derive(Debug)]
struct Step {
    opcode: Option<u8>,
    outcome: Outcome,
}

/// A command that was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// The CDB.
    pub cdb: Vec<u8>,
    /// Room for data-in, in bytes.
    pub data_in: usize,
    /// The data-out.
    pub data_out: Vec<u8>,
    /// How long it may take.
    pub timeout: Duration,
}

type Call = dyn FnOnce(&mut Request<'_>) -> io::Result<Completion> + Send;
type Alteration = dyn FnOnce(&mut Completion) + Send;

/// What becomes of a command instead of what the device would do.
pub enum Outcome {
    /// It ends so, with no data moved; `resid` is the whole length where it is 0 here.
    End(Completion),
    /// The host fails it with an errno.
    Errno(i32),
    /// The closure plays the device.
    Call(Box<Call>),
    /// The device carries it out, and its end is altered.
    Alter(Box<Alteration>),
    /// It does not end before the hold is released.
    Stuck(Hold),
}

impl Outcome {
    /// CHECK CONDITION with this sense, in fixed format.
    #[must_use]
    pub fn check(sense: impl Into<Sense>) -> Outcome {
        let sense = sense.into().to_fixed().to_vec();
        Outcome::End(Completion { status: Status::CHECK_CONDITION, sense, ..Completion::default() })
    }

    /// This status, without sense.
    #[must_use]
    pub fn status(status: Status) -> Outcome {
        Outcome::End(Completion { status, ..Completion::default() })
    }

    /// This host status.
    #[must_use]
    pub fn host(host_status: HostStatus) -> Outcome {
        Outcome::End(Completion { host_status, ..Completion::default() })
    }

    /// What `play` makes of it.
    pub fn call(
        play: impl FnOnce(&mut Request<'_>) -> io::Result<Completion> + Send + 'static,
    ) -> Outcome {
        Outcome::Call(Box::new(play))
    }

    /// GOOD with these bytes, cut to the room that there is.
    #[must_use]
    pub fn data(bytes: &[u8]) -> Outcome {
        let bytes = bytes.to_vec();
        Outcome::call(move |request| Ok(FakeDevice::answer(request, &bytes)))
    }

    /// What the device does, but with its end altered.
    pub fn alter(alter: impl FnOnce(&mut Completion) + Send + 'static) -> Outcome {
        Outcome::Alter(Box::new(alter))
    }

    /// Nothing, until the hold is released.
    #[must_use]
    pub fn stuck() -> (Outcome, Hold) {
        let hold = Hold::default();
        (Outcome::Stuck(hold.clone()), hold)
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::End(completion) => write!(f, "End({completion:?})"),
            Outcome::Errno(errno) => write!(f, "Errno({errno})"),
            Outcome::Call(_) => write!(f, "Call"),
            Outcome::Alter(_) => write!(f, "Alter"),
            Outcome::Stuck(_) => write!(f, "Stuck"),
        }
    }
}

/// Holds a command at the device.
#[derive(Clone, Debug, Default)]
pub struct Hold(Arc<(Mutex<Held>, Condvar)>);

#[derive(Debug, Default)]
struct Held {
    arrived: bool,
    outcome: Option<Release>,
}

#[derive(Debug)]
enum Release {
    Device,
    As(Outcome),
}

impl Hold {
    /// Waits until the command is at the device.
    pub fn wait_for_arrival(&self) {
        let guard = self.wait_while(|held| !held.arrived);
        drop(guard);
    }

    /// Lets the device carry the command out.
    pub fn release(&self) {
        self.end(Release::Device);
    }

    /// Ends the command so.
    pub fn release_with(&self, outcome: Outcome) {
        self.end(Release::As(outcome));
    }

    fn end(&self, release: Release) {
        lock(&self.0.0).outcome.get_or_insert(release);
        self.0.1.notify_all();
    }

    fn arrive(&self) -> Release {
        lock(&self.0.0).arrived = true;
        self.0.1.notify_all();
        let mut held = self.wait_while(|held| held.outcome.is_none());
        held.outcome.take().unwrap_or(Release::Device)
    }

    fn wait_while(&self, condition: impl Fn(&Held) -> bool) -> MutexGuard<'_, Held> {
        let guard = lock(&self.0.0);
        let waited = self.0.1.wait_while(guard, |held| condition(held));
        waited.unwrap_or_else(PoisonError::into_inner)
    }
}

impl FakeHost {
    /// A way to `device`.
    #[must_use]
    pub fn new(device: FakeDevice) -> FakeHost {
        FakeHost { device: Mutex::new(device), ..FakeHost::default() }
    }

    /// The device, to be looked at and changed. No command gets on meanwhile.
    pub fn device(&self) -> MutexGuard<'_, FakeDevice> {
        lock(&self.device)
    }

    /// Scripts the next command that has no outcome yet, whatever it is.
    pub fn next(&self, outcome: Outcome) {
        lock(&self.script).push_back(Step { opcode: None, outcome });
    }

    /// Scripts the next command with `opcode` that has no outcome yet.
    pub fn on(&self, opcode: u8, outcome: Outcome) {
        lock(&self.script).push_back(Step { opcode: Some(opcode), outcome });
    }

    /// Has the next reset fail with this errno.
    pub fn next_reset(&self, errno: i32) {
        lock(&self.resets).outcomes.push_back(errno);
    }

    /// How often the logical unit was reset, or was to be.
    pub fn resets(&self) -> usize {
        lock(&self.resets).count
    }

    /// Every command since the last look.
    pub fn take_sent(&self) -> Vec<Sent> {
        std::mem::take(&mut *lock(&self.sent))
    }

    /// Every CDB since the last look.
    pub fn take_cdbs(&self) -> Vec<Vec<u8>> {
        self.take_sent().into_iter().map(|sent| sent.cdb).collect()
    }

    fn scripted(&self, opcode: Option<u8>) -> Option<Outcome> {
        let mut script = lock(&self.script);
        let fits = |step: &Step| step.opcode.is_none() || step.opcode == opcode;
        let index = script.iter().position(fits)?;
        script.remove(index).map(|step| step.outcome)
    }

    fn play(&self, request: &mut Request<'_>, outcome: Outcome) -> io::Result<Completion> {
        match outcome {
            Outcome::End(completion) => Ok(with_resid(completion, request)),
            Outcome::Errno(errno) => Err(io::Error::from_raw_os_error(errno)),
            Outcome::Call(play) => play(request),
            Outcome::Alter(alter) => {
                let mut completion = self.device().execute(request)?;
                alter(&mut completion);
                Ok(completion)
            }
            Outcome::Stuck(hold) => {
                lock(&self.holds).push(hold.clone());
                match hold.arrive() {
                    Release::Device => self.device().execute(request),
                    Release::As(outcome) => self.play(request, outcome),
                }
            }
        }
    }
}

impl FakeHost {
    /// How often it was told to look at its paths, since it was asked last.
    pub fn take_refreshes(&self) -> usize {
        self.refreshes.swap(0, Ordering::SeqCst)
    }

    /// Whether nobody waits for its commands any more.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }
}

impl ScsiHost for FakeHost {
    fn execute(&self, mut request: Request<'_>) -> io::Result<Completion> {
        lock(&self.sent).push(Sent::of(&request));
        match self.scripted(request.cdb.first().copied()) {
            Some(outcome) => self.play(&mut request, outcome),
            None => self.device().execute(&mut request),
        }
    }

    fn carries(&self, _: &[u8]) -> bool {
        true
    }

    fn reset_logical_unit(&self) -> io::Result<()> {
        let mut resets = lock(&self.resets);
        resets.count += 1;
        if let Some(errno) = resets.outcomes.pop_front() {
            return Err(io::Error::from_raw_os_error(errno));
        }
        for hold in lock(&self.holds).drain(..) {
            hold.release_with(Outcome::host(HostStatus::RESET));
        }
        self.device().attentions.push_back(SenseCode::BUS_DEVICE_RESET_FUNCTION_OCCURRED);
        Ok(())
    }

    fn refresh_paths(&self) {
        self.refreshes.fetch_add(1, Ordering::SeqCst);
    }

    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    fn limits(&self) -> io::Result<HostLimits> {
        let device = self.device();
        if device.gone { Err(FakeDevice::no_device()) } else { Ok(device.limits) }
    }
}

impl Sent {
    fn of(request: &Request<'_>) -> Sent {
        let mut sent =
            Sent { cdb: request.cdb.into(), timeout: request.timeout, ..Sent::default() };
        match &request.data {
            Data::None => {}
            Data::In(buf) => sent.data_in = buf.len(),
            Data::Out(buf) => {
                sent.data_out = vec![0; buf.len()];
                buf.read(&mut sent.data_out);
            }
        }
        sent
    }
}

fn with_resid(mut completion: Completion, request: &Request<'_>) -> Completion {
    let len = match &request.data {
        Data::None => 0,
        Data::In(buf) => buf.len(),
        Data::Out(buf) => buf.len(),
    };
    if completion.resid == 0 {
        completion.resid = i32::try_from(len).unwrap_or(i32::MAX);
    }
    completion
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::lend;

    const TIMEOUT: Duration = Duration::from_secs(1);

    fn inquiry(host: &FakeHost) -> io::Result<(Completion, Vec<u8>)> {
        let mut bytes = vec![0; 36];
        let cdb = [0x12, 0, 0, 0, 36, 0];
        let completion = lend(&mut bytes, |buf| {
            host.execute(Request { cdb: &cdb, data: Data::In(buf), timeout: TIMEOUT })
        })?;
        Ok((completion, bytes))
    }

    fn nothing(host: &FakeHost, opcode: u8) -> io::Result<Completion> {
        host.execute(Request { cdb: &[opcode, 0, 0, 0, 0, 0], data: Data::None, timeout: TIMEOUT })
    }

    #[test]
    fn a_script_goes_before_the_device_and_all_is_recorded() {
        let host = FakeHost::default();
        host.on(0x00, Outcome::Errno(libc::EPERM));
        host.next(Outcome::status(Status::BUSY));
        assert_eq!(inquiry(&host).unwrap().0.status, Status::BUSY);
        let (completion, bytes) = inquiry(&host).unwrap();
        assert_eq!((completion, &bytes[8..11]), (Completion::default(), &b"VMM"[..]));
        assert_eq!(nothing(&host, 0).unwrap_err().raw_os_error(), Some(libc::EPERM));
        let sent = host.take_sent();
        assert_eq!(sent.iter().map(|it| it.data_in).collect::<Vec<_>>(), [36, 36, 0]);
        assert_eq!((host.take_cdbs().len(), sent[0].timeout), (0, TIMEOUT));
    }

    #[test]
    fn a_stuck_command_ends_by_a_release_or_a_reset() {
        let host = FakeHost::default();
        let (outcome, hold) = Outcome::stuck();
        let (other, _) = Outcome::stuck();
        host.on(0x00, outcome);
        host.on(0x35, other);
        std::thread::scope(|scope| {
            let ready = scope.spawn(|| nothing(&host, 0x00));
            let synchronized = scope.spawn(|| nothing(&host, 0x35));
            hold.wait_for_arrival();
            hold.release();
            assert_eq!(ready.join().unwrap().unwrap(), Completion::default());
            while lock(&host.holds).len() < 2 {
                std::thread::yield_now();
            }
            host.reset_logical_unit().unwrap();
            let completion = synchronized.join().unwrap().unwrap();
            assert_eq!(completion.host_status, HostStatus::RESET);
        });
        assert_eq!(host.resets(), 1);
    }
}

//! A dm-multipath map, whose several I_T nexuses an initiator is to see as one.
//!
//! Ordinary commands go by the map's node, and the device mapper chooses a path. Reservations
//! belong to a nexus (SPC-6, Persistent reservations), so their commands go by the paths: an
//! initiator that registers is registered on each path, reserves by one of them, which is
//! remembered, and reads of all of them as of one.
//!
//! Which path the next command takes, nobody is told. So a path that has come back is registered
//! when somebody notices ([`Multipath::restored`]), and otherwise when a command comes back with
//! RESERVATION CONFLICT by it, which then is sent once more. Which paths there are is looked up at
//! those moments and at each command of reservations.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::broker::Broker;
use super::broker::protocol::{PERSISTENT_RESERVE_IN, PERSISTENT_RESERVE_OUT};
use super::privileged::{Direct, Privileged};
use super::sg::SgDevice;
use super::{Completion, Data, HostLimits, HostStatus, Options, Request, ScsiHost, whole};
use crate::scsi::sense::{Sense, SenseCode, SenseKey};
use crate::scsi::status::Status;

mod out;
mod registrations;
mod report;
mod source;

use source::Source;

use registrations::Registrations;

/// A path of a map: a nexus of its own.
#[derive(Clone, Debug)]
pub struct Path {
    /// The way by it.
    pub host: Arc<dyn ScsiHost>,
    /// The name of the host's port, as sysfs has it: `naa.` and hex digits, or an iSCSI name.
    pub initiator: Option<String>,
}

/// A map over paths to one logical unit.
#[derive(Debug)]
pub struct Multipath {
    map: Arc<dyn ScsiHost>,
    source: Option<Source>,
    paths: Mutex<Arc<[Path]>>,
    reservations: Mutex<Reservations>,
    attentions: Mutex<Attentions>,
}

/// What the initiator has registered, and by which path it has reserved.
#[derive(Debug)]
struct Reservations {
    paths: Arc<[Path]>,
    known: Registrations,
}

/// Unit attentions that came by a path while the initiator had not asked.
#[derive(Debug, Default)]
struct Attentions {
    waiting: VecDeque<Vec<u8>>,
    /// What was delivered last: other paths say the same.
    last: Option<SenseCode>,
}

/// What came of a command by one path.
enum Outcome {
    /// The device has answered.
    Answered(Completion),
    /// The command has not reached the device.
    NotSent(io::Result<Completion>),
    /// Nobody knows whether it has.
    Unknown(io::Result<Completion>),
}

impl Multipath {
    /// The map `map` over `paths`.
    #[must_use]
    pub fn new(map: Arc<dyn ScsiHost>, paths: Vec<Path>) -> Multipath {
        let known = Registrations::unknown(paths.len());
        let paths: Arc<[Path]> = paths.into();
        let reservations = Mutex::new(Reservations { paths: Arc::clone(&paths), known });
        let (source, paths) = (None, Mutex::new(paths));
        Multipath { map, source, paths, reservations, attentions: Mutex::default() }
    }

    /// The map that `map` has taken, over the paths that it has now, as far as they can be opened.
    /// Commands that take privilege go by `broker`.
    #[must_use]
    pub fn open(map: Arc<SgDevice>, options: &Options, broker: Option<Arc<Broker>>) -> Multipath {
        let way = Privileged::new(Arc::clone(&map) as Arc<dyn Direct>, broker.clone());
        let source = Source::new(map, options, broker);
        let paths = source.look().unwrap_or_default();
        Multipath { source: Some(source), ..Multipath::new(Arc::new(way), paths) }
    }

    /// Looks which paths there are.
    fn follow(&self) {
        if let Some(paths) = self.source.as_ref().and_then(Source::look) {
            self.replace(paths);
        }
    }

    /// Takes note of the paths that the map has now, where they are others than before.
    pub fn set_paths(&self, paths: Vec<Path>) {
        self.replace(paths);
        self.restored();
    }

    fn replace(&self, paths: Vec<Path>) {
        let paths: Arc<[Path]> = paths.into();
        *self.paths.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&paths);
        let mut reservations = self.lock();
        reservations.known.forget(paths.len());
        reservations.paths = paths;
    }

    /// Registers the initiator on paths on which it is not, if it still is on any: to be called
    /// when a path comes back.
    pub fn restored(&self) {
        self.repair(&mut self.lock(), REPAIR_TIMEOUT);
    }

    fn lock(&self) -> MutexGuard<'_, Reservations> {
        self.reservations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there was a path to be registered, and now is.
    fn repair(&self, reservations: &mut Reservations, timeout: Duration) -> bool {
        if reservations.known.key().is_some() || reservations.known.is_in_doubt() {
            self.learn(reservations, timeout);
        }
        reservations.known.is_partial() && self.register_the_rest(reservations, timeout)
    }

    /// A unit attention that waits, for a command that tells of them.
    fn attention(&self, cdb: &[u8]) -> Option<Completion> {
        const EXEMPT: [u8; 3] = [0x03, 0x12, 0xa0];
        let exempt = cdb.first().is_none_or(|opcode| EXEMPT.contains(opcode));
        let mut attentions = self.attentions.lock().unwrap_or_else(PoisonError::into_inner);
        if exempt {
            return None;
        }
        let sense = attentions.waiting.pop_front()?;
        attentions.last = SenseCode::of(&sense);
        Some(Completion { status: Status::CHECK_CONDITION, sense, ..Completion::default() })
    }

    /// Keeps a unit attention for the initiator, unless it has heard of it by another path.
    fn keep(&self, sense: Vec<u8>) {
        let mut attentions = self.attentions.lock().unwrap_or_else(PoisonError::into_inner);
        let code = SenseCode::of(&sense);
        let waits = attentions.waiting.iter().any(|waiting| SenseCode::of(waiting) == code);
        if !waits && attentions.last != code {
            attentions.waiting.push_back(sense);
        }
    }

    /// Sends a command by one path. Unit attentions that come first are kept for the initiator,
    /// but for those that reservations of its own cause on its other paths.
    fn send(&self, path: &Path, cdb: &[u8], list: &[u8], timeout: Duration) -> Outcome {
        for _ in 0..MOST_ATTENTIONS {
            match sent(whole::send(&*path.host, cdb, list, timeout)) {
                Outcome::Answered(completion) if attention_of(&completion).is_some() => {
                    if !attention_of(&completion).is_some_and(is_of_reservations) {
                        self.keep(completion.sense);
                    }
                }
                other => return other,
            }
        }
        sent(whole::send(&*path.host, cdb, list, timeout))
    }
}

/// How long a command may take that restores a registration.
const REPAIR_TIMEOUT: Duration = Duration::from_secs(30);
/// Unit attentions that a path may have.
const MOST_ATTENTIONS: usize = 8;

fn sent(outcome: io::Result<Completion>) -> Outcome {
    match outcome {
        Ok(completion) => match (completion.host_status, completion.status) {
            (HostStatus::OK, _) => Outcome::Answered(completion),
            (HostStatus::NO_CONNECT | HostStatus::BAD_TARGET, _) => {
                Outcome::NotSent(Ok(completion))
            }
            (_, Status::GOOD) => Outcome::Unknown(Ok(completion)),
            // What older kernels say beside RESERVATION CONFLICT.
            _ => Outcome::Answered(completion),
        },
        Err(error) => match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES | libc::ENXIO | libc::ENODEV) => {
                Outcome::NotSent(Err(error))
            }
            _ => Outcome::Unknown(Err(error)),
        },
    }
}

fn attention_of(completion: &Completion) -> Option<SenseCode> {
    let code = SenseCode::of(&completion.sense)?;
    let is_one = completion.status == Status::CHECK_CONDITION;
    (is_one && code.key == SenseKey::UNIT_ATTENTION).then_some(code)
}

/// RESERVATIONS PREEMPTED, RESERVATIONS RELEASED, REGISTRATIONS PREEMPTED.
fn is_of_reservations(code: SenseCode) -> bool {
    code.asc == 0x2a && (0x03..=0x05).contains(&code.ascq)
}

fn refusal(sense: Sense) -> Completion {
    let (status, sense) = (Status::CHECK_CONDITION, sense.to_fixed().to_vec());
    Completion { status, sense, ..Completion::default() }
}

/// The same request once more.
fn again<'a>(request: &'a mut Request<'_>) -> Request<'a> {
    let data = match &mut request.data {
        Data::None => Data::None,
        Data::In(buf) => Data::In(buf),
        Data::Out(buf) => Data::Out(buf),
    };
    Request { cdb: request.cdb, data, timeout: request.timeout }
}

impl ScsiHost for Multipath {
    fn execute(&self, mut request: Request<'_>) -> io::Result<Completion> {
        if let Some(attention) = self.attention(request.cdb) {
            return Ok(attention);
        }
        match request.cdb.first() {
            Some(&PERSISTENT_RESERVE_IN) => {
                self.follow();
                return self.report(request);
            }
            Some(&PERSISTENT_RESERVE_OUT) => {
                self.follow();
                return self.out(&request);
            }
            _ => {}
        }
        let outcome = self.map.execute(again(&mut request))?;
        if outcome.status == Status::RESERVATION_CONFLICT {
            self.follow();
            if self.repair(&mut self.lock(), request.timeout) {
                return self.map.execute(request);
            }
        }
        Ok(outcome)
    }

    /// Reservations take a path at least, and have to go by all of them.
    fn carries(&self, cdb: &[u8]) -> bool {
        if !matches!(cdb.first(), Some(&(PERSISTENT_RESERVE_IN | PERSISTENT_RESERVE_OUT))) {
            return self.map.carries(cdb);
        }
        let paths = Arc::clone(&self.paths.lock().unwrap_or_else(PoisonError::into_inner));
        !paths.is_empty() && paths.iter().all(|path| path.host.carries(cdb))
    }

    fn reset_logical_unit(&self) -> io::Result<()> {
        // A command that hangs there holds the other lock.
        let paths = Arc::clone(&self.paths.lock().unwrap_or_else(PoisonError::into_inner));
        let mut outcome = Err(io::Error::from_raw_os_error(libc::ENODEV));
        for path in paths.iter() {
            outcome = path.host.reset_logical_unit();
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    fn limits(&self) -> io::Result<HostLimits> {
        self.map.limits()
    }
}

#[cfg(test)]
mod tests;

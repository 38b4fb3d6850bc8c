//! A dm-multipath map, whose several I_T nexuses an initiator is to see as one.
//!
//! Ordinary commands go by the map's node, and the device mapper chooses a path. Reservations
//! belong to a nexus (SPC-6, Persistent reservations), so their commands go by the paths: an
//! initiator that registers is registered on each path, reserves by one of them, which is
//! remembered, and reads of all of them as of one.
//!
//! Which path the next command takes, nobody is told. So a path that has come back is registered
//! when somebody notices ([`ScsiHost::refresh_paths`]), and otherwise when a command comes back with
//! RESERVATION CONFLICT by it, which then is sent once more.

use std::collections::VecDeque;
use std::io;
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::broker::Broker;
use super::broker::protocol::{PERSISTENT_RESERVE_IN, PERSISTENT_RESERVE_OUT};
use super::privileged::{Direct, Privileged};
use super::sg::SgDevice;
use super::{
    Completion, Data, HostLimits, HostStatus, OpenError, Options, Request, ScsiHost, whole,
};
use crate::scsi::sense::{Sense, SenseCode, SenseKey};
use crate::scsi::status::Status;

mod out;
mod registrations;
mod report;

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
    /// What its paths are opened by.
    legs: Option<Legs>,
    paths: Mutex<Arc<[Path]>>,
    reservations: Mutex<Reservations>,
    attentions: Mutex<Attentions>,
}

/// The paths of a map of the host's.
#[derive(Debug)]
struct Legs {
    map: Arc<SgDevice>,
    options: Options,
    broker: Option<Arc<Broker>>,
    /// The nodes that are open.
    open: Mutex<Vec<PathBuf>>,
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
        let (paths, attentions) = (Mutex::new(paths), Mutex::default());
        Multipath { map, legs: None, paths, reservations, attentions }
    }

    /// The map that `map` has taken, over the paths that it has now. Commands that take privilege
    /// go by `broker`.
    ///
    /// # Errors
    /// Where no path's node can be opened.
    pub fn open(
        map: Arc<SgDevice>,
        options: &Options,
        broker: Option<&Arc<Broker>>,
    ) -> Result<Multipath, OpenError> {
        let (options, broker) = (*options, broker.cloned());
        let host = Arc::new(Privileged::new(Arc::clone(&map) as Arc<dyn Direct>, broker.clone()));
        let legs = Legs { map, options, broker, open: Mutex::default() };
        let paths = legs.open()?;
        Ok(Multipath { legs: Some(legs), ..Multipath::new(host, paths) })
    }

    /// Finds out whether [`Multipath::open`] would succeed, and takes nothing.
    ///
    /// # Errors
    /// What [`Multipath::open`] would say.
    pub fn check(map: &SgDevice, options: &Options) -> Result<(), OpenError> {
        let options = of_paths(options);
        let opened = map.legs().into_iter().map(|node| SgDevice::check(&node, &options));
        opened.reduce(Result::or).unwrap_or(Ok(()))
    }

    /// Takes note of the paths that the map has now, where they are others than before.
    fn set_paths(&self, paths: Vec<Path>) {
        let paths: Arc<[Path]> = paths.into();
        *self.paths.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&paths);
        let mut reservations = self.lock();
        reservations.known.forget(paths.len());
        reservations.paths = paths;
        drop(reservations);
        self.restored();
    }

    /// Registers the initiator on paths on which it is not, if it still is on any: to be called
    /// when a path comes back.
    fn restored(&self) {
        self.repair(&mut self.lock(), REPAIR_TIMEOUT);
    }

    /// The paths; a command that hangs on one of them does not keep them.
    fn paths(&self) -> Arc<[Path]> {
        Arc::clone(&self.paths.lock().unwrap_or_else(PoisonError::into_inner))
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

impl Legs {
    /// Opens the paths that the map has now.
    fn open(&self) -> Result<Vec<Path>, OpenError> {
        let (mut nodes, mut paths) = (Vec::new(), Vec::new());
        let mut outcome = Ok(());
        for node in self.map.legs() {
            match self.open_one(&node) {
                Ok(path) => {
                    paths.push(path);
                    nodes.push(node);
                }
                Err(error) => {
                    let map = self.map.node().display();
                    log::warn!("{}, a path of {map}, {error}", node.display());
                    outcome = Err(error);
                }
            }
        }
        // A path may be away; not all of them.
        if paths.is_empty() {
            outcome?;
        }
        *self.nodes() = nodes;
        Ok(paths)
    }

    fn open_one(&self, node: &FilePath) -> Result<Path, OpenError> {
        let device = SgDevice::open(node, &of_paths(&self.options))?;
        let initiator = device.ports().initiator;
        let device: Arc<dyn Direct> = Arc::new(device);
        Ok(Path { host: Arc::new(Privileged::new(device, self.broker.clone())), initiator })
    }

    /// Whether the map has others now. One that went and came back has another name: the old one
    /// is taken as long as it is open.
    fn are_others(&self) -> bool {
        *self.nodes() != self.map.legs()
    }

    fn nodes(&self) -> MutexGuard<'_, Vec<PathBuf>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How the paths of a map are opened: the device mapper has them, and this process has that.
fn of_paths(options: &Options) -> Options {
    Options { force: true, shared_nexus: true, ..*options }
}

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
            Some(&PERSISTENT_RESERVE_IN) => return self.report(request),
            Some(&PERSISTENT_RESERVE_OUT) => return self.out(&request),
            _ => {}
        }
        let outcome = self.map.execute(again(&mut request))?;
        if outcome.status == Status::RESERVATION_CONFLICT
            && self.repair(&mut self.lock(), request.timeout)
        {
            return self.map.execute(request);
        }
        Ok(outcome)
    }

    fn carries(&self, cdb: &[u8]) -> bool {
        match cdb.first() {
            Some(&PERSISTENT_RESERVE_OUT) if !out::is_for_several(cdb) => false,
            Some(&(PERSISTENT_RESERVE_IN | PERSISTENT_RESERVE_OUT)) => {
                self.paths().iter().any(|path| path.host.carries(cdb))
            }
            _ => self.map.carries(cdb),
        }
    }

    fn reset_logical_unit(&self) -> io::Result<()> {
        let mut outcome = Err(io::Error::from_raw_os_error(libc::ENODEV));
        for path in self.paths().iter() {
            outcome = path.host.reset_logical_unit();
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    fn refresh_paths(&self) {
        match self.legs.as_ref().filter(|legs| legs.are_others()).map(Legs::open) {
            Some(Ok(paths)) => self.set_paths(paths),
            // Why has been said; those that are open stay.
            Some(Err(_)) | None => self.restored(),
        }
    }

    fn close(&self) {
        self.map.close();
        self.paths().iter().for_each(|path| path.host.close());
    }

    fn limits(&self) -> io::Result<HostLimits> {
        self.map.limits()
    }
}

#[cfg(test)]
mod tests;

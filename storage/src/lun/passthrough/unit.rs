//! What a passthrough logical unit is at present: its way to the device, and what is known of the
//! device. Both can be replaced while commands run, each of which takes what there is when it
//! begins.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::counters::{Counters, Event};
use super::outcome::{Ending, Notice};
use super::retry::{BackOff, Bell};
use crate::host::{Completion, ScsiHost};
use crate::lun::UnitEvents;
use crate::lun::spec::PassthroughSpec;
use crate::scsi::sense::SenseCode;

/// A passthrough logical unit, shared by all who work for it.
#[derive(Debug)]
pub struct Unit {
    /// What it was made from.
    pub spec: PassthroughSpec,
    host: RwLock<Arc<dyn ScsiHost>>,
    events: OnceLock<Arc<dyn UnitEvents>>,
    /// What it has done.
    pub counters: Counters,
    told: Mutex<Told>,
    /// Wakes commands that are held.
    bell: Bell,
    /// It ends: nothing is held any more.
    ending: AtomicBool,
}

/// The unit attention that the device reported last.
type Told = Option<(SenseCode, Instant)>;

/// How long a unit attention that the device reported itself need not be raised again.
const DUPLICATE: Duration = Duration::from_secs(1);

/// Where a command is held.
pub(super) struct Patience<'a> {
    /// It can be sent again.
    pub(super) idempotent: bool,
    /// The initiator wants no more of it.
    pub(super) aborted: &'a dyn Fn() -> bool,
}

impl Unit {
    pub(super) fn new(spec: &PassthroughSpec, host: Arc<dyn ScsiHost>) -> Unit {
        Unit {
            spec: spec.clone(),
            host: RwLock::new(host),
            events: OnceLock::new(),
            counters: Counters::default(),
            told: Mutex::default(),
            bell: Bell::default(),
            ending: AtomicBool::new(false),
        }
    }

    /// The way to the device.
    #[must_use]
    pub fn host(&self) -> Arc<dyn ScsiHost> {
        Arc::clone(&self.host.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on commands go by `host`.
    pub fn set_host(&self, host: Arc<dyn ScsiHost>) {
        *self.host.write().unwrap_or_else(PoisonError::into_inner) = host;
        self.bell.ring();
    }

    pub(super) fn attach(&self, events: Arc<dyn UnitEvents>) {
        if self.events.set(events).is_err() {
            log::error!("bug: {} is attached twice", self.spec.path.display());
        }
    }

    /// The way to the initiator, once there is one.
    #[must_use]
    pub fn events(&self) -> Option<&Arc<dyn UnitEvents>> {
        self.events.get()
    }

    /// Tells the initiator of `code`, unless the device has just done so itself.
    pub fn raise(&self, code: SenseCode) {
        let told = *lock(&self.told);
        if told.is_some_and(|(other, at)| other == code && at.elapsed() < DUPLICATE) {
            return;
        }
        if let Some(events) = self.events() {
            events.attention(code);
        }
    }

    /// Wakes commands that are held, to look whether they still are to be.
    pub(super) fn wake(&self) {
        self.bell.ring();
    }

    /// Holds nothing any more.
    pub(super) fn end(&self) {
        self.ending.store(true, Ordering::Release);
        self.bell.ring();
    }

    /// Makes attempts at a command with `len` bytes of data until one has an end that the
    /// initiator is to see: without a path, a command that can be repeated is held.
    pub(super) fn persist(
        &self,
        patience: &Patience<'_>,
        len: u32,
        mut attempt: impl FnMut(&dyn ScsiHost) -> std::io::Result<Completion>,
    ) -> Ending {
        let mut back_off = BackOff::new(self.spec.path_timeout);
        loop {
            let ending = super::outcome::ending(attempt(self.host().as_ref()), len);
            self.notice(&ending);
            if !ending.no_path || !patience.idempotent || !self.pause(&mut back_off, patience) {
                return ending;
            }
            self.counters.count(Event::Retried);
        }
    }

    /// Waits for the next attempt; whether there is to be one.
    pub(super) fn pause(&self, back_off: &mut BackOff, patience: &Patience<'_>) -> bool {
        let enough = || (patience.aborted)() || self.ending.load(Ordering::Acquire);
        back_off.pause().is_some_and(|pause| !self.bell.wait(pause, enough))
    }

    fn notice(&self, ending: &Ending) {
        match ending.notice {
            Some(Notice::Reset) => self.raise(SenseCode::BUS_DEVICE_RESET_FUNCTION_OCCURRED),
            Some(Notice::Attention(code)) => *lock(&self.told) = Some((code, Instant::now())),
            Some(Notice::Lost) | None => {}
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Patience<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Patience(idempotent: {})", self.idempotent)
    }
}

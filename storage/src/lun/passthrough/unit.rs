//! What a passthrough logical unit is at present: its way to the device, and what is known of the
//! device. Both can be replaced while commands run, each of which takes what there is when it
//! begins.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use super::bounce::Room;
use super::counters::{Counters, Event};
use super::device::Device;
use super::outcome::{self, Again, Ending, Notice};
use super::pin::Pin;
use super::policy::{Policy, Preset, Refusals};
use super::retry::{BackOff, Bell};
use super::view::View;
use super::watch::{Connection, Watch, Watched};
use crate::host::{Completion, HostLimits, OpenError, ScsiHost};
use crate::lun::UnitEvents;
use crate::lun::spec::PassthroughSpec;
use crate::scsi::cdb::Cdb;
use crate::scsi::sense::Sense;
use crate::task::AbortFlag;

/// A passthrough logical unit, shared by all who work for it.
#[derive(Debug)]
pub struct Unit {
    /// What it was made from.
    pub spec: PassthroughSpec,
    host: RwLock<Arc<dyn ScsiHost>>,
    view: RwLock<Arc<View>>,
    events: OnceLock<Arc<dyn UnitEvents>>,
    /// What the host may change behind its back.
    watch: Watch,
    /// Nobody else uses the device by its I_T nexus.
    private_nexus: bool,
    /// What the policy has refused.
    refusals: Refusals,
    /// What it has done.
    pub counters: Counters,
    /// Memory for data that the host cannot reach where it is.
    pub(super) room: Room,
    /// Wakes commands that are held.
    bell: Bell,
    /// The initiator has stopped it.
    stopped: AtomicBool,
    /// It ends: nothing is held any more.
    ending: AtomicBool,
    /// It was said that the device cannot be reset; an initiator must not be able to fill a log.
    pub(super) not_reset: AtomicBool,
}

/// How long a command is held.
#[derive(Clone, Debug)]
pub(super) struct Patience {
    unit: Arc<Unit>,
    idempotent: bool,
    abort: Arc<AbortFlag>,
}

impl Patience {
    /// That of a command which `abort` may end.
    pub(super) fn new(unit: &Arc<Unit>, idempotent: bool, abort: &Arc<AbortFlag>) -> Patience {
        Patience { unit: Arc::clone(unit), idempotent, abort: Arc::clone(abort) }
    }

    /// Nobody wants any more of it.
    pub(super) fn is_over(&self) -> bool {
        self.abort.is_set() || self.unit.is_ending()
    }
}

impl Unit {
    pub(super) fn new(spec: &PassthroughSpec, device: Device, view: View, pin: Pin) -> Unit {
        let name = spec.path.display().to_string();
        let device_type = view.facts.device_type();
        let private_nexus = has_private_nexus(spec, &view.policy);
        Unit {
            spec: spec.clone(),
            host: RwLock::new(device.host),
            view: RwLock::new(Arc::new(view)),
            events: OnceLock::new(),
            watch: Watch::new(spec, pin, device.place, private_nexus),
            private_nexus,
            refusals: Refusals::new(name, device_type),
            counters: Counters::default(),
            room: Room::new(Unit::ROOM),
            bell: Bell::default(),
            stopped: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            not_reset: AtomicBool::new(false),
        }
    }

    /// Bytes of memory of our own for data at a time.
    const ROOM: usize = 32 << 20;

    pub(super) fn attach(&self, events: Arc<dyn UnitEvents>) {
        if self.events.set(events).is_err() {
            log::error!("bug: {} is attached twice", self.spec.path.display());
        }
    }

    /// What is known of the device.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks the device again what it is, after a command that may have changed it.
    pub(super) fn examine(&self) {
        let host = self.host();
        if let Err(why) = self.watch.ask(host.as_ref(), |host| self.refresh(host)) {
            log::warn!("{}: {why}", self.name());
        }
    }

    fn set_view(&self, view: View) {
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
    }

    /// The policy refuses `cdb` with `sense`.
    pub(super) fn refused(&self, cdb: &Cdb, sense: &Sense) {
        self.counters.count(Event::Refused);
        self.refusals.refused(cdb, sense);
    }

    /// Whether nobody else uses the device by its I_T nexus.
    pub(super) fn has_private_nexus(&self) -> bool {
        self.private_nexus
    }

    /// Wakes commands that are held, to look whether they still are to be.
    pub(super) fn wake(&self) {
        self.bell.ring();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    pub(super) fn set_stopped(&self, stopped: bool) {
        self.stopped.store(stopped, Ordering::Release);
    }

    /// Nothing is held any more.
    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// Holds nothing any more.
    pub(super) fn end(&self) {
        self.ending.store(true, Ordering::Release);
        self.bell.ring();
        self.host().close();
    }

    /// Makes attempts at a command with `len` bytes of data until one has an end that the
    /// initiator is to see: without a path, a command that can be repeated is held.
    pub(super) fn persist(
        &self,
        patience: &Patience,
        len: u32,
        mut attempt: impl FnMut(&dyn ScsiHost) -> io::Result<Completion>,
    ) -> Ending {
        let mut back_off = BackOff::new(self.spec.path_timeout);
        loop {
            let ending = match self.watch.admit(|| patience.is_over()) {
                Ok(()) => outcome::ending(attempt(self.host().as_ref()), len),
                Err(refusal) => outcome::not_sent(refusal, len),
            };
            self.notice(&ending);
            let again = match ending.again {
                Again::Never => false,
                Again::IfRepeatable => patience.idempotent,
                Again::Always => true,
            };
            if !again || !self.pause(&mut back_off, patience) {
                return ending;
            }
            self.counters.count(Event::Retried);
        }
    }

    /// Waits for the next attempt; whether there is to be one.
    pub(super) fn pause(&self, back_off: &mut BackOff, patience: &Patience) -> bool {
        back_off.pause().is_some_and(|pause| !self.bell.wait(pause, || patience.is_over()))
    }

    fn notice(&self, ending: &Ending) {
        match ending.notice {
            Some(Notice::Reset) => self.watch.device_reset(),
            Some(Notice::Attention(code)) => self.watch.device_attention(code),
            Some(Notice::Conflict) => self.watch.reservation_conflict(),
            Some(Notice::Lost) => self.watch.path_lost(),
            None => {}
        }
    }
}

impl Watched for Unit {
    fn name(&self) -> String {
        let path = self.spec.path.display();
        match self.events.get().map(|events| events.label()) {
            Some(label) => format!("lun {label} ({path})"),
            None => path.to_string(),
        }
    }

    fn watch(&self) -> &Watch {
        &self.watch
    }

    fn host(&self) -> Arc<dyn ScsiHost> {
        Arc::clone(&self.host.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_host(&self, host: Arc<dyn ScsiHost>) {
        *self.host.write().unwrap_or_else(PoisonError::into_inner) = host;
        self.bell.ring();
    }

    fn events(&self) -> Option<Arc<dyn UnitEvents>> {
        self.events.get().cloned()
    }

    fn limits(&self) -> HostLimits {
        self.view().host
    }

    fn refresh(&self, host: &dyn ScsiHost) -> Result<(), String> {
        let view = View::of(&self.spec, host).map_err(|error| format!("it {error}"))?;
        self.set_view(view);
        Ok(())
    }

    fn connect(&self, path: &Path) -> Result<Connection, OpenError> {
        let Device { host, place } = Device::open(&self.spec, path)?;
        Ok(Connection { host, place })
    }
}

/// Whether nobody else uses the device by its I_T nexus, not even the host: who is allowed what
/// others are fenced with is promised that.
fn has_private_nexus(spec: &PassthroughSpec, policy: &Policy) -> bool {
    let promised = spec.policy.preset >= Preset::Cluster || policy.fences();
    promised && !spec.shared_nexus && !spec.force
}

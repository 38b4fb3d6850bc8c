//! What the host may change behind a logical unit's back: who it is, whether it is there, how big
//! it is, what can be carried to it, and who holds its reservation.
//!
//! | file | role |
//! |---|---|
//! | this one | what one logical unit's watch knows, and what its commands tell it |
//! | [`watcher`] | the thread that hears events and looks at sysfs, for all logical units |
//! | [`notice`] | what an event tells |
//! | [`errands`] | a thread for what has to be asked of a device, which may not answer |
//! | [`inquiries`] | what is asked then, and what comes of it: gone, back, another, changed |
//! | [`overhear`] | unit attentions that our own questions use up |
//!
//! The pin, the mirror, presence and reservations are beside this folder; here they meet. Sends
//! commands of its own, and knows nothing of those of the initiator but how they ended.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::mirror::Mirror;
use super::pin::{Pin, Refusal};
use super::presence::Place;
use super::reservations::{Order, Reservations};
use crate::host::{HostLimits, OpenError, ScsiHost};
use crate::lun::UnitEvents;
use crate::lun::spec::PassthroughSpec;
use crate::scsi::cdb::Cdb;
use crate::scsi::sense::SenseCode;
use crate::scsi::status::Status;

mod clock;
mod errands;
mod inquiries;
mod notice;
mod overhear;
#[cfg(test)]
mod tests;
mod watcher;

pub use clock::Clock;
pub use watcher::Watcher;

use errands::{Errands, Wanted};
use overhear::Overhearing;

/// A logical unit, as far as its watch sees it.
pub trait Watched: fmt::Debug + Send + Sync {
    /// What it is called in messages.
    fn name(&self) -> String;

    /// Its watch.
    fn watch(&self) -> &Watch;

    /// The way to the device.
    fn host(&self) -> Arc<dyn ScsiHost>;

    /// From now on commands go by `host`; those that are held try again.
    fn set_host(&self, host: Arc<dyn ScsiHost>);

    /// The way to the initiator, once there is one.
    fn events(&self) -> Option<Arc<dyn UnitEvents>>;

    /// The limits of the host that what the initiator is told goes by.
    fn limits(&self) -> HostLimits;

    /// Has the device examined again by way of `host`, which is its own, and tells the initiator
    /// what is found from then on.
    ///
    /// # Errors
    /// What kept the device from being examined; all stays as it was.
    fn refresh(&self, host: &dyn ScsiHost) -> Result<(), String>;

    /// Opens the device at `path`, with the options that it was opened with at first.
    ///
    /// # Errors
    /// [`OpenError`] says why that does not work.
    fn connect(&self, path: &Path) -> Result<Connection, OpenError>;
}

/// A device that was opened.
#[derive(Debug)]
pub struct Connection {
    /// The way to it.
    pub host: Arc<dyn ScsiHost>,
    /// Where it is.
    pub place: Place,
}

/// What a logical unit's watch knows.
#[derive(Debug)]
pub struct Watch {
    pin: Pin,
    mirror: Mirror,
    reservations: Option<Reservations>,
    /// Where it was configured to be.
    path: PathBuf,
    /// How long it may be out of reach before its initiator is told that it is gone.
    path_timeout: Duration,
    presence: Mutex<Presence>,
    errands: Errands,
    clock: Clock,
    registration: OnceLock<Registration>,
}

#[derive(Debug)]
struct Presence {
    place: Place,
    /// It is open.
    connected: bool,
    /// Its initiator does not see it.
    hidden: bool,
    /// It has been out of reach since then.
    away_since: Option<Instant>,
    /// Its size at the last look, in blocks of 512 bytes.
    sectors: Option<u64>,
    /// Its paths at the last look, where it is a map.
    paths: Vec<(String, bool)>,
    /// What was said last about it, which is not said again.
    complaint: String,
}

/// A logical unit's place at the watcher, which lives as long as there is one.
#[derive(Debug)]
struct Registration {
    unit: Weak<dyn Watched>,
    watcher: Arc<Watcher>,
}

impl Watch {
    /// The watch of a logical unit that was opened at `place`. `reservations` are looked after
    /// where the initiator may make any, and the nexus is its own.
    #[must_use]
    pub fn new(spec: &PassthroughSpec, pin: Pin, place: Place, reservations: bool) -> Watch {
        Watch {
            pin,
            mirror: Mirror::default(),
            reservations: reservations.then(Reservations::default),
            path: spec.path.clone(),
            path_timeout: spec.path_timeout,
            presence: Mutex::new(Presence::new(place, false)),
            errands: Errands::default(),
            clock: Clock::default(),
            registration: OnceLock::new(),
        }
    }

    /// The same watch by another clock.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Watch {
        Watch { clock, ..self }
    }

    /// Lets a command pass that is to be sent next: one load, where nothing is suspect. Otherwise
    /// waits, at most [`Pin::PATIENCE`].
    ///
    /// # Errors
    /// [`Refusal`]: the command must not be sent.
    pub fn admit(&self, is_aborted: impl Fn() -> bool) -> Result<(), Refusal> {
        self.pin.admit(|| self.want(Wanted::CHECK), is_aborted)
    }

    /// The initiator has been given this unit attention of the device's own.
    pub fn device_attention(&self, code: SenseCode) {
        let is_news = self.mirror.claim(code, self.clock.now());
        // Its driver, which looks because of an event alone, gets that once the device has been
        // examined, so that it is told what is so from now on.
        let event = event_of(code).filter(|_| is_news);
        let heard = match event {
            Some(SenseCode::CAPACITY_DATA_HAS_CHANGED) => Wanted::HEARD_OF_CAPACITY,
            Some(_) => Wanted::HEARD_OF_PARAMETERS,
            None => Wanted::default(),
        };
        self.consider(code, heard);
    }

    /// Asks by way of `host`, and lets the initiator have the unit attentions that this used up.
    pub(super) fn ask<T>(&self, host: &dyn ScsiHost, ask: impl FnOnce(&dyn ScsiHost) -> T) -> T {
        let host = Overhearing::new(host);
        let answer = ask(&host);
        for code in host.into_heard() {
            self.mirror.should_raise(code, self.clock.now());
        }
        self.wake();
        answer
    }

    /// Commands were ended by a reset: the initiator hears of it at once, unless it just has from
    /// the device.
    pub fn device_reset(&self) {
        let code = SenseCode::BUS_DEVICE_RESET_FUNCTION_OCCURRED;
        let unit = self.registration.get().and_then(|registration| registration.unit.upgrade());
        if let Some(unit) = unit.filter(|_| self.mirror.claim(code, self.clock.now())) {
            announce(unit.as_ref(), code);
        }
        self.pin.suspect();
        self.wake();
    }

    /// A command found no way to the device.
    pub fn path_lost(&self) {
        self.pin.suspect();
        self.want(Wanted::CHECK);
    }

    /// A command met the reservation of somebody else.
    pub fn reservation_conflict(&self) {
        if self.reservations.as_ref().is_some_and(Reservations::is_registered) {
            self.want(Wanted::RESERVATIONS);
        }
    }

    /// To be called before a command of the initiator's is sent, with its parameter list, and what
    /// it returns to be handed to [`Watch::ended`] with the device's status, or dropped where
    /// there is none.
    pub fn order(&self, cdb: &Cdb, parameters: &[u8]) -> Option<Order<'_>> {
        self.reservations.as_ref()?.order(cdb, parameters)
    }

    /// An order of the initiator's ended.
    pub fn ended(&self, order: Order<'_>, status: Status) {
        order.ended(status);
        // What it led to is what later changes are told from.
        self.reservation_conflict();
    }

    /// What a unit attention says, whoever was given it, that is to be looked into; `heard` is
    /// wanted then as well.
    fn consider(&self, code: SenseCode, heard: Wanted) {
        if may_be_another(code) {
            self.pin.suspect();
        }
        if may_say_something_else(code) {
            self.want(Wanted::REFRESH.and(heard));
        }
    }

    /// What it was pinned to.
    #[must_use]
    pub fn pin(&self) -> &Pin {
        &self.pin
    }

    fn want(&self, wanted: Wanted) {
        let unit = self.registration.get().and_then(|registration| registration.unit.upgrade());
        match unit {
            Some(unit) => self.errands.want(wanted, &unit, inquiries::carry_out),
            None => self.errands.postpone(wanted),
        }
    }

    /// Has the watcher look at what has come up.
    fn wake(&self) {
        if let Some(registration) = self.registration.get() {
            registration.watcher.wake();
        }
    }

    fn presence(&self) -> MutexGuard<'_, Presence> {
        self.presence.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Presence {
    /// That of a device which has just been opened.
    fn new(place: Place, hidden: bool) -> Presence {
        let (sectors, paths) = (place.look().sectors(), place.paths());
        let complaint = String::new();
        Presence { place, connected: true, hidden, away_since: None, sectors, paths, complaint }
    }

    /// Says something about the logical unit, once.
    fn complain(&mut self, level: log::Level, unit: &dyn Watched, complaint: &str) {
        if self.complaint != complaint {
            log::log!(level, "{}: {complaint}", unit.name());
            complaint.clone_into(&mut self.complaint);
        }
    }

    /// Shows or hides the logical unit, if it is not so already.
    fn tell(&self, unit: &dyn Watched) {
        if let Some(events) = unit.events() {
            events.set_present(!self.hidden);
        }
    }
}

/// Whether another logical unit may be there after this unit attention.
fn may_be_another(code: SenseCode) -> bool {
    matches!((code.asc, code.ascq), (0x29, _) | (0x2a, 0x09) | (0x3f, 0x03 | 0x0e))
}

/// Whether a device may say something else about itself after this unit attention.
fn may_say_something_else(code: SenseCode) -> bool {
    matches!(
        (code.asc, code.ascq),
        (0x28 | 0x29, _) | (0x2a, 0x00 | 0x01 | 0x09) | (0x3f, 0x01..=0x05)
    )
}

/// Tells the initiator of `code`, by an event as well where its driver acts on that.
fn announce(unit: &dyn Watched, code: SenseCode) {
    let Some(events) = unit.events() else { return };
    events.attention(code);
    if let Some(code) = event_of(code) {
        events.parameters_changed(code);
    }
}

/// Of what an initiator's driver is to hear by an event besides the unit attention `code`: Linux
/// reads everything anew for 2A/00, 2A/01 and 2A/09 alone (`virtscsi_handle_param_change`).
fn event_of(code: SenseCode) -> Option<SenseCode> {
    match (code.asc, code.ascq) {
        (0x2a, 0x00 | 0x01 | 0x09) => Some(code),
        (0x3f, 0x03) => Some(SenseCode::MODE_PARAMETERS_CHANGED),
        _ => None,
    }
}

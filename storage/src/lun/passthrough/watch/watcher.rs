//! The thread that hears the host's events, and looks at sysfs in case it missed one: one for the
//! process, from the first logical unit that is watched until the last has ended.
//!
//! It waits for no device; questions are the errands of each logical unit. A process that may
//! hear no events (one in a network namespace of its own) sees by its looks what sysfs shows, and
//! from its commands what the device tells.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::errands::Wanted;
use super::inquiries;
use super::notice::Notice;
use super::{Registration, Watch, Watched, announce};
use crate::host::HostLimits;
use crate::host::sysfs::Hctl;
use crate::host::uevent::{Event, Uevent, Uevents};
use crate::lun::passthrough::presence::Sight;
use crate::lun::passthrough::reservations::Reservations;
use crate::scsi::sense::SenseCode;

/// Watches logical units.
#[derive(Debug)]
pub struct Watcher {
    entries: Mutex<Entries>,
    wake: EventFd,
}

#[derive(Debug, Default)]
struct Entries {
    units: Vec<Entry>,
    /// When the second began in which looks are counted, and how many there were.
    budget: Option<(Instant, usize)>,
}

#[derive(Debug)]
struct Entry {
    unit: Weak<dyn Watched>,
    /// Whose events are its own, as of the last look.
    addresses: Vec<Hctl>,
    last_look: Option<Instant>,
    next_look: Instant,
}

/// How often a logical unit is looked at.
const ROUND: Duration = Duration::from_secs(5);

/// How many looks there are in a [`SECOND`]: each reads about ten files of sysfs.
const LOOKS: usize = 100;

const SECOND: Duration = Duration::from_secs(1);

/// Events that are taken at a time.
const EVENTS: usize = 256;

/// The one of this process, while something is watched.
static WATCHER: Mutex<Weak<Watcher>> = Mutex::new(Weak::new());

impl Watcher {
    /// The watcher of this process, with its thread.
    ///
    /// # Errors
    /// Where the host has no thread or no event left.
    pub fn of_process() -> io::Result<Arc<Watcher>> {
        let mut current = WATCHER.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watcher) = current.upgrade() {
            return Ok(watcher);
        }
        let events = Uevents::listen().inspect_err(|error| {
            log::warn!("the host's events are not heard, changes show later: {error}");
        });
        let watcher = Watcher::start(events.ok())?;
        *current = Arc::downgrade(&watcher);
        Ok(watcher)
    }

    /// A watcher with a thread that hears `events`.
    fn start(events: Option<Uevents>) -> io::Result<Arc<Watcher>> {
        let watcher = Arc::new(Watcher::idle()?);
        let ears = Ears::of(&watcher, events)?;
        let watched = Arc::downgrade(&watcher);
        thread::Builder::new().name("scsi-watch".into()).spawn(move || ears.listen(&watched))?;
        Ok(watcher)
    }

    /// A watcher without a thread.
    pub(super) fn idle() -> io::Result<Watcher> {
        let wake = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        Ok(Watcher { entries: Mutex::default(), wake })
    }

    /// Watches `unit` until it ends.
    pub fn watch(self: &Arc<Watcher>, unit: &Arc<dyn Watched>) {
        let watch = unit.watch();
        let registration = Registration { unit: Arc::downgrade(unit), watcher: Arc::clone(self) };
        if watch.registration.set(registration).is_err() {
            log::error!("bug: {} is watched twice", unit.name());
            return;
        }
        let addresses = watch.presence().place.addresses();
        let next_look = watch.clock.now();
        let unit = Arc::downgrade(unit);
        self.lock().units.push(Entry { unit, addresses, last_look: None, next_look });
        self.wake();
    }

    pub(super) fn wake(&self) {
        if let Err(error) = self.wake.write(1) {
            // A full counter has woken it already.
            log::debug!("the watcher is not woken: {error}");
        }
    }

    /// Takes in what happened, looks where it is time to, and tells initiators what is due.
    /// Returns when it wants to be called again at the latest.
    pub(super) fn turn(&self, now: Instant, events: &[Event]) -> Instant {
        let mut entries = self.lock();
        entries.units.retain(|entry| entry.unit.strong_count() > 0);
        for event in events {
            entries.hear(event, now);
        }
        let looked = entries.take_due(now);
        drop(entries);
        for (unit, place) in looked {
            let addresses = unit.watch().look(unit.as_ref(), now);
            self.lock().remember(place, &unit, addresses);
        }
        self.tell(now)
    }

    /// Tells initiators what is due.
    fn tell(&self, now: Instant) -> Instant {
        let mut next = now + ROUND;
        let watched = self.lock().watched();
        for (unit, next_look) in watched {
            let mirror = &unit.watch().mirror;
            for code in mirror.due(now) {
                announce(unit.as_ref(), code);
            }
            // Where there are more to look at than a second has looks, they wait.
            let next_look = if next_look <= now { now + SECOND } else { next_look };
            let due = mirror.next_due().unwrap_or(next_look);
            next = next.min(due).min(next_look);
        }
        next
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // Its thread has yet to hear that it is over.
        self.wake();
    }
}

impl Entries {
    /// Those that still are, and when they are looked at next.
    fn watched(&self) -> Vec<(Arc<dyn Watched>, Instant)> {
        let live = |entry: &Entry| Some((entry.unit.upgrade()?, entry.next_look));
        self.units.iter().filter_map(live).collect()
    }

    fn hear(&mut self, event: &Event, now: Instant) {
        let event = match event {
            Event::Device(event) => event,
            Event::Missed => return self.suspect_all(now),
        };
        let Some(notice) = Notice::of(event) else { return };
        for entry in &mut self.units {
            let Some(unit) = entry.unit.upgrade() else { continue };
            entry.hear(unit.as_ref(), event, notice, now);
        }
    }

    fn suspect_all(&mut self, now: Instant) {
        for entry in &mut self.units {
            if let Some(unit) = entry.unit.upgrade() {
                unit.watch().pin.suspect();
                entry.look_by(now);
            }
        }
    }

    /// Those that are to be looked at now, and their places.
    fn take_due(&mut self, now: Instant) -> Vec<(Arc<dyn Watched>, usize)> {
        let (began, used) = match self.budget {
            Some((began, used)) if now.saturating_duration_since(began) < SECOND => (began, used),
            _ => (now, 0),
        };
        let due = self.units.iter_mut().enumerate().filter(|(_, entry)| entry.next_look <= now);
        let mut due: Vec<_> = due.collect();
        // Who has waited longest comes first, so that all have their turn.
        due.sort_by_key(|(_, entry)| entry.last_look);
        let due = due.into_iter().take(LOOKS.saturating_sub(used)).filter_map(|(place, entry)| {
            entry.last_look = Some(now);
            entry.next_look = now + ROUND;
            Some((entry.unit.upgrade()?, place))
        });
        let due: Vec<_> = due.collect();
        self.budget = Some((began, used + due.len()));
        due
    }

    /// The logical unit at `place` has these addresses, unless others have moved up meanwhile.
    fn remember(&mut self, place: usize, unit: &Arc<dyn Watched>, addresses: Vec<Hctl>) {
        let entry = self.units.get_mut(place);
        let own = |entry: &&mut Entry| entry.unit.ptr_eq(&Arc::downgrade(unit));
        if let Some(entry) = entry.filter(own) {
            entry.addresses = addresses;
        }
    }
}

impl Entry {
    fn hear(&mut self, unit: &dyn Watched, event: &Uevent, notice: Notice, now: Instant) {
        let watch = unit.watch();
        let address = event.address();
        let is_own = address.is_some_and(|address| self.addresses.contains(&address));
        let is_node = watch.presence().place.is_node_of(event);
        match notice {
            Notice::Removed if is_node || (is_own && self.addresses.len() == 1) => {
                watch.remove();
            }
            Notice::Added if !watch.presence().connected => {
                // By another name, which udev may yet have to make.
                let soon = if is_own { now } else { now + SECOND };
                self.look_by(soon);
            }
            Notice::Attention(code) if is_own || is_node => {
                watch.mirror.should_raise(code, now);
                watch.consider(code, Wanted::default());
                self.look_by(now);
            }
            Notice::Attention(SenseCode::REPORTED_LUNS_DATA_HAS_CHANGED)
                if address.is_some_and(|other| self.shares_target(other)) =>
            {
                watch.pin.suspect();
                self.look_by(now);
            }
            Notice::PathBack if is_node => watch.want(Wanted::PATHS),
            Notice::Look | Notice::Removed if is_own || is_node => self.look_by(now),
            _ => {}
        }
    }

    fn look_by(&mut self, time: Instant) {
        self.next_look = self.next_look.min(time);
    }

    fn shares_target(&self, other: Hctl) -> bool {
        let target = |address: Hctl| (address.host, address.channel, address.target);
        self.addresses.iter().any(|&own| target(own) == target(other))
    }
}

impl Watch {
    /// The host has removed the device. Another may have its address already.
    fn remove(&self) {
        self.pin.close();
        self.want(Wanted::LOST.and(Wanted::CHECK));
    }

    /// Looks at sysfs, and has errands run for what it shows. Returns the addresses that are its
    /// own.
    fn look(&self, unit: &dyn Watched, now: Instant) -> Vec<Hctl> {
        let place = self.presence().place.clone();
        let sight = place.look();
        let wanted = self.take_in(unit, sight, now);
        let wanted = wanted.and(self.changes(unit, sight)).and(self.errands.take_postponed());
        let paths = place.paths();
        let before = std::mem::replace(&mut self.presence().paths, paths.clone());
        let wanted = if before == paths { wanted } else { wanted.and(Wanted::PATHS) };
        if !wanted.is_empty() {
            self.want(wanted);
        }
        place.addresses()
    }

    /// Draws the conclusions from a look that concern presence; returns what else is wanted.
    fn take_in(&self, unit: &dyn Watched, sight: Sight, now: Instant) -> Wanted {
        let mut presence = self.presence();
        presence.tell(unit);
        if !presence.connected {
            return Wanted::CHECK;
        }
        match sight {
            Sight::Gone => {
                self.pin.close();
                return Wanted::LOST.and(Wanted::CHECK);
            }
            Sight::Blocked => {
                presence.away_since.get_or_insert(now);
                return Wanted::default();
            }
            Sight::Offline => {
                let since = *presence.away_since.get_or_insert(now);
                let waited = now.saturating_duration_since(since);
                if !presence.hidden && waited >= self.path_timeout {
                    inquiries::hide(unit, &mut presence, "no path leads to its device");
                }
                return Wanted::default();
            }
            Sight::Running(_) => {}
        }
        if presence.away_since.take().is_some() {
            self.pin.suspect();
        }
        if self.pin.is_trusted() { Wanted::default() } else { Wanted::CHECK }
    }

    /// What has changed about a device that is there.
    fn changes(&self, unit: &dyn Watched, sight: Sight) -> Wanted {
        let Sight::Running(sectors) = sight else { return Wanted::default() };
        let mut wanted = Wanted::default();
        // The host regulates the depth of its queue by itself; no initiator is told of that.
        let told = |limits: HostLimits| HostLimits { queue_depth: 0, ..limits };
        if unit.host().limits().is_ok_and(|limits| told(limits) != told(unit.limits())) {
            wanted = wanted.and(Wanted::LIMITS);
        }
        if let Some(now) = sectors
            && self.presence().sectors.replace(now).is_some_and(|before| before != now)
        {
            wanted = wanted.and(Wanted::CAPACITY);
        }
        if self.reservations.as_ref().is_some_and(Reservations::is_registered) {
            wanted = wanted.and(Wanted::RESERVATIONS);
        }
        wanted
    }
}

/// What the thread waits for.
#[derive(Debug)]
pub(super) struct Ears {
    epoll: Epoll,
    wake: EventFd,
    events: Option<Uevents>,
}

impl Ears {
    pub(super) fn of(watcher: &Watcher, events: Option<Uevents>) -> io::Result<Ears> {
        let wake = watcher.wake.try_clone()?;
        let epoll = Epoll::new()?;
        let fds = [Some(wake.as_raw_fd()), events.as_ref().map(|it| it.as_fd().as_raw_fd())];
        for fd in fds.into_iter().flatten() {
            epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, 0))?;
        }
        Ok(Ears { epoll, wake, events })
    }

    pub(super) fn listen(mut self, watcher: &Weak<Watcher>) {
        let mut next = Instant::now();
        loop {
            self.wait(next.saturating_duration_since(Instant::now()));
            let events = self.hear();
            let Some(watcher) = watcher.upgrade() else { return };
            next = watcher.turn(Instant::now(), &events);
        }
    }

    fn wait(&self, timeout: Duration) {
        // Rounded up, so that what is due by then is.
        let timeout = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX).saturating_add(1);
        match self.epoll.wait(timeout, &mut [EpollEvent::default(); 2]) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                log::error!("the host's events cannot be waited for: {error}");
                thread::sleep(SECOND);
            }
            _ => {}
        }
        // It is non-blocking, and empty where an event of the host's woke us.
        let _ = self.wake.read();
    }

    fn hear(&mut self) -> Vec<Event> {
        let mut heard = Vec::new();
        while let Some(events) = &self.events
            && heard.len() < EVENTS
        {
            match events.try_next() {
                Ok(Some(event)) => heard.push(event),
                Ok(None) => break,
                Err(error) => {
                    log::error!("the host's events are not heard any more: {error}");
                    self.events = None;
                }
            }
        }
        heard
    }
}

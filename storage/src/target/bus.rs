//! The logical units of one SCSI domain, attached and detached while commands run.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use vmm_sys_util::eventfd::EventFd;

use super::address::{Lun, LunAddress};
use super::attention::Attention;
use super::event::{BusEvent, EventSink};
use super::gate::{Gate, Passage};
use super::lane::Lane;
use super::management::{Function, Management, Outcome, Reply};
use super::wakers::Wakers;
use crate::lun::{LogicalUnit, UnitEvents};
use crate::scsi::sense::SenseCode;

/// A logical unit's place in its bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct UnitIndex(pub(super) u32);

/// A logical unit at its place.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) lun: Arc<dyn LogicalUnit>,
    pub(super) index: UnitIndex,
    pub(super) gate: Gate,
    pub(super) attention: Attention,
    /// Its initiator does not see it: new commands find nothing at its address.
    hidden: AtomicBool,
}

impl Unit {
    fn is_visible(&self) -> bool {
        !self.hidden.load(Ordering::Acquire)
    }
}

/// One target's logical units by number.
#[derive(Clone, Debug, Default)]
pub(super) struct Target {
    units: Vec<Option<Arc<Unit>>>,
}

impl Target {
    /// Its logical units that its initiator sees, by number, ascending.
    fn visible(&self) -> impl Iterator<Item = (u16, &Arc<Unit>)> {
        let attached = |(number, unit)| Some((number, Option::as_ref(unit)?));
        (0..=Lun::MAX).zip(&self.units).filter_map(attached).filter(|(_, unit)| unit.is_visible())
    }

    /// The numbers of its logical units, ascending.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u16> {
        self.visible().map(|(number, _)| number)
    }

    /// Its logical units.
    pub(super) fn units(&self) -> impl Iterator<Item = &Arc<Unit>> {
        self.visible().map(|(_, unit)| unit)
    }

    /// Logical unit `number`.
    pub(super) fn unit(&self, number: u16) -> Option<&Arc<Unit>> {
        self.attached(number).filter(|unit| unit.is_visible())
    }

    /// Logical unit `number`, whether its initiator sees it or not.
    fn attached(&self, number: u16) -> Option<&Arc<Unit>> {
        self.units.get(usize::from(number))?.as_ref()
    }

    /// Tells the initiator that the list of logical units is another one.
    fn raise_luns_changed(&self) {
        for unit in self.units() {
            unit.attention.raise(SenseCode::REPORTED_LUNS_DATA_HAS_CHANGED);
        }
    }

    fn slot(&mut self, number: u16) -> &mut Option<Arc<Unit>> {
        let number = usize::from(number);
        if self.units.len() <= number {
            self.units.resize_with(number + 1, || None);
        }
        &mut self.units[number]
    }
}

/// What is attached, at one moment. Replaced as a whole, never changed.
#[derive(Clone, Debug, Default)]
pub(super) struct Map {
    targets: Vec<Target>,
    units: Vec<Option<Arc<Unit>>>,
    /// No place before this one is free.
    first_free: usize,
}

impl Map {
    /// The target, if it has a logical unit.
    pub(super) fn target(&self, target: u8) -> Option<&Target> {
        self.targets.get(usize::from(target)).filter(|target| target.units().next().is_some())
    }

    /// The target, if it has a logical unit, be it out of sight.
    fn populated(&self, target: u8) -> Option<&Target> {
        let populated = |target: &&Target| target.units.iter().any(Option::is_some);
        self.targets.get(usize::from(target)).filter(populated)
    }

    /// The logical unit at a place in the bus.
    pub(super) fn at(&self, index: UnitIndex) -> Option<&Arc<Unit>> {
        self.units.get(index.0 as usize)?.as_ref()
    }

    /// The logical unit at an address.
    pub(super) fn find(&self, address: LunAddress) -> Option<&Arc<Unit>> {
        let Lun::Unit(number) = address.lun else { return None };
        self.target(address.target)?.unit(number)
    }

    /// All logical units.
    pub(super) fn units(&self) -> impl Iterator<Item = &Arc<Unit>> {
        self.units.iter().flatten()
    }

    /// Number of places.
    pub(super) fn places(&self) -> usize {
        self.units.len()
    }

    fn target_mut(&mut self, target: u8) -> &mut Target {
        let target = usize::from(target);
        if self.targets.len() <= target {
            self.targets.resize_with(target + 1, Target::default);
        }
        &mut self.targets[target]
    }

    /// Puts `lun` at an address, in the first place that is free.
    fn place(
        &mut self,
        target: u8,
        number: u16,
        lun: Arc<dyn LogicalUnit>,
        gate: Gate,
    ) -> Result<(), AttachError> {
        if number > Lun::MAX {
            return Err(AttachError::TooLarge(number));
        }
        while self.units.get(self.first_free).is_some_and(Option::is_some) {
            self.first_free += 1;
        }
        let free = self.first_free;
        let slot = self.target_mut(target).slot(number);
        if slot.is_some() {
            return Err(AttachError::Taken(target, number));
        }
        let attention = Attention::default();
        attention.raise(SenseCode::POWER_ON_OCCURRED);
        // 256 targets of 16384 logical units fit.
        let index = UnitIndex(u32::try_from(free).unwrap_or(u32::MAX));
        let unit = Arc::new(Unit { lun, index, gate, attention, hidden: AtomicBool::new(false) });
        *slot = Some(Arc::clone(&unit));
        match self.units.get_mut(free) {
            Some(place) => *place = Some(unit),
            None => self.units.push(Some(unit)),
        }
        Ok(())
    }

    fn vacate(&mut self, index: UnitIndex) {
        let place = index.0 as usize;
        if let Some(unit) = self.units.get_mut(place) {
            *unit = None;
            self.first_free = self.first_free.min(place);
        }
    }
}

/// A logical unit cannot be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// The address is taken.
    #[error("there is a logical unit at target {0} lun {1} already")]
    Taken(u8, u16),
    /// The number is too large.
    #[error("lun {0} is above {max}", max = Lun::MAX)]
    TooLarge(u16),
}

/// A logical unit cannot be detached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DetachError {
    /// Nothing is there.
    #[error("there is no logical unit at target {0} lun {1}")]
    Missing(u8, u16),
    /// Its commands did not end in time.
    #[error("the commands of target {0} lun {1} do not end")]
    Busy(u8, u16),
}

/// What was written to a logical unit cannot be made stable.
#[derive(Debug, thiserror::Error)]
#[error("target {target} lun {lun} cannot be flushed")]
pub struct FlushError {
    target: u8,
    lun: u16,
    source: io::Error,
}

/// One initiator's SCSI domain.
pub struct Bus {
    /// Held through a whole attach or detach, which may wait for commands to end.
    changes: Mutex<()>,
    /// Held only to read or replace it: queue threads do.
    map: Mutex<Arc<Map>>,
    generation: AtomicU64,
    wakers: Arc<Wakers>,
    /// What each lane has been told to do and has not done yet.
    orders: Box<[Mutex<Orders>]>,
    events: Mutex<Option<Arc<dyn EventSink>>>,
}

/// Task management functions that wait for a lane to look at its commands.
#[derive(Debug, Default)]
struct Orders {
    /// Somebody serves the lane.
    open: bool,
    /// Commands of the lane may run for ever, and nobody will say when they have ended.
    leaked: bool,
    managements: Vec<Arc<Management>>,
}

impl Bus {
    /// A domain without logical units, for `lanes` request queues.
    ///
    /// # Errors
    /// When the host has no file descriptor left.
    pub fn new(lanes: u16) -> io::Result<Arc<Bus>> {
        let wakers = Arc::new(Wakers::new(lanes)?);
        let orders = (0..lanes).map(|_| Mutex::default()).collect();
        let (changes, map, events) = (Mutex::default(), Mutex::default(), Mutex::default());
        let generation = AtomicU64::new(0);
        Ok(Arc::new(Bus { changes, map, generation, wakers, orders, events }))
    }

    /// The way in for request queue `index`, and the event that tells its thread to call
    /// [`Lane::attend`]. There is one at a time.
    ///
    /// # Errors
    /// When the host has no file descriptor left.
    pub fn lane(self: &Arc<Bus>, index: u16) -> io::Result<(Lane, EventFd)> {
        let index = usize::from(index);
        let event = self.wakers.event(index).ok_or(io::ErrorKind::NotFound)?.try_clone()?;
        if let Some(orders) = self.orders.get(index) {
            lock(orders).open = true;
        }
        Ok((Lane::new(Arc::clone(self), index), event))
    }

    /// Attaches `lun` at an address; the initiator hears of it by an event, and by REPORTED LUNS
    /// DATA HAS CHANGED on the target's other logical units.
    ///
    /// # Errors
    /// [`AttachError`] when the address cannot be given.
    pub fn attach(
        self: &Arc<Bus>,
        target: u8,
        number: u16,
        lun: Arc<dyn LogicalUnit>,
    ) -> Result<(), AttachError> {
        self.attach_all([(target, number, lun)])
    }

    /// Attaches logical units by target and number, all of them or none: for many at once, in
    /// time that grows with their number.
    ///
    /// # Errors
    /// [`AttachError`] names the first whose address cannot be given.
    pub fn attach_all(
        self: &Arc<Bus>,
        luns: impl IntoIterator<Item = (u8, u16, Arc<dyn LogicalUnit>)>,
    ) -> Result<(), AttachError> {
        let _change = self.begin_change();
        let before = self.current();
        let mut map = Map::clone(&before);
        let mut attached = Vec::new();
        for (target, number, lun) in luns {
            map.place(target, number, lun, Gate::new(&self.wakers))?;
            attached.push(LunAddress { target, lun: Lun::Unit(number) });
        }
        self.publish(map);
        let targets: BTreeSet<u8> = attached.iter().map(|at| at.target).collect();
        let older = targets.into_iter().filter_map(|target| before.target(target));
        older.for_each(Target::raise_luns_changed);
        for address in attached {
            self.introduce(address);
            self.tell(BusEvent::Attached(address));
        }
        Ok(())
    }

    /// Gives a logical unit its way to the initiator.
    fn introduce(self: &Arc<Bus>, address: LunAddress) {
        if let Some(unit) = self.current().find(address) {
            let (bus, here) = (Arc::downgrade(self), Arc::downgrade(unit));
            unit.lun.attached(Arc::new(Reporter { bus, unit: here, address }));
        }
    }

    /// Detaches the logical unit at an address once its commands have ended; those that wait at
    /// its gate then find nothing there.
    ///
    /// # Errors
    /// [`DetachError`]; after `Busy` the logical unit is still attached.
    pub fn detach(&self, target: u8, number: u16, timeout: Duration) -> Result<(), DetachError> {
        let _change = self.begin_change();
        let mut map = Map::clone(&self.current());
        let slot = map.target_mut(target).slot(number);
        let unit = slot.take().ok_or(DetachError::Missing(target, number))?;
        map.vacate(unit.index);
        let gone = unit.gate.exclude(timeout, || (self.publish(map), Passage::Gone));
        gone.ok_or(DetachError::Busy(target, number))?;
        self.current().target(target).into_iter().for_each(Target::raise_luns_changed);
        self.tell(BusEvent::Detached(LunAddress { target, lun: Lun::Unit(number) }));
        Ok(())
    }

    /// Tells the initiator that a property of a logical unit changed: by the unit attention
    /// `code`, and by an event.
    pub fn changed(&self, target: u8, number: u16, code: SenseCode) {
        let address = LunAddress { target, lun: Lun::Unit(number) };
        if let Some(unit) = self.current().find(address) {
            unit.attention.raise(code);
            self.tell(BusEvent::Changed(address, code));
        }
    }

    /// From now on events go to `sink`, until there is another; without one they are lost.
    pub fn listen(&self, sink: Option<Arc<dyn EventSink>>) {
        *lock(&self.events) = sink;
    }

    /// Begins a task management function, which ends with one call of `reply`: before this
    /// returns, or later from any thread. The [`Management`] serves to give it up; `None` if it
    /// has ended.
    pub fn manage(
        &self,
        function: Function,
        address: LunAddress,
        reply: Reply,
    ) -> Option<Arc<Management>> {
        // What is quarantined has commands that do not end, and need not be waited for again.
        let quarantined = |unit: &Arc<Unit>| unit.gate.passage() == Passage::Quarantined;
        let units = match self.named(function, address) {
            Ok(units) if function.ends_commands() && units.iter().any(quarantined) => {
                reply(Outcome::Failed);
                return None;
            }
            Ok(units) => units,
            Err(outcome) => {
                reply(outcome);
                return None;
            }
        };
        let management = Management::begin(function, units, reply);
        if function == Function::LogicalUnitReset {
            management.units().iter().for_each(|unit| management.begin_reset(unit));
        }
        for (lane, orders) in self.orders.iter().enumerate() {
            let mut orders = lock(orders);
            if orders.leaked {
                // Never to be acknowledged.
                management.expect();
            } else if orders.open {
                // A lane that nobody serves has no commands.
                management.expect();
                orders.managements.push(Arc::clone(&management));
                self.wakers.wake(lane);
            }
        }
        management.acknowledge();
        Some(management)
    }

    /// The logical units that a function at an address is about.
    fn named(&self, function: Function, address: LunAddress) -> Result<Vec<Arc<Unit>>, Outcome> {
        let map = self.current();
        // What is out of sight may still have commands.
        let target = map.populated(address.target).ok_or(Outcome::BadTarget)?;
        match (function, address.lun) {
            (Function::ClearAca, _) => Err(Outcome::Rejected),
            (Function::NexusReset, _) => Ok(target.units.iter().flatten().cloned().collect()),
            // It answers every command at once, but some may still lie in a ring.
            (_, Lun::ReportLuns) => Ok(Vec::new()),
            (_, Lun::Unit(number)) => target
                .attached(number)
                .map(|unit| vec![Arc::clone(unit)])
                .ok_or(Outcome::IncorrectLun),
            (_, Lun::Unsupported) => Err(Outcome::IncorrectLun),
        }
    }

    /// What `lane` has been told to do since it was asked last.
    pub(super) fn take_orders(&self, lane: usize) -> Vec<Arc<Management>> {
        let orders = self.orders.get(lane);
        orders.map(|orders| std::mem::take(&mut lock(orders).managements)).unwrap_or_default()
    }

    /// Nobody serves `lane` any more, and nobody knows when its commands end: functions that wait
    /// for it fail.
    pub(super) fn leak_lane(&self, lane: usize) {
        if let Some(orders) = self.orders.get(lane) {
            *lock(orders) = Orders { leaked: true, ..Orders::default() };
        }
    }

    /// Nobody serves `lane` any more; returns what it has been told and not done.
    pub(super) fn close_lane(&self, lane: usize) -> Vec<Arc<Management>> {
        let orders = self.orders.get(lane);
        orders.map(|orders| std::mem::take(&mut *lock(orders)).managements).unwrap_or_default()
    }

    /// The initiator was gone: it hears so from every logical unit (SAM-6, I_T nexus loss).
    pub fn nexus_loss(&self) {
        for unit in self.current().units.iter().flatten() {
            unit.attention.raise(SenseCode::I_T_NEXUS_LOSS_OCCURRED);
        }
    }

    /// What a power-on or a reset of the whole machine does: every logical unit goes through a
    /// hard reset (SAM-6, Hard reset), with none of its commands in flight, and says so.
    pub fn hard_reset(&self) {
        for unit in self.current().units.iter().flatten() {
            unit.lun.reset();
            unit.attention.raise(SenseCode::SCSI_BUS_RESET_OCCURRED);
        }
    }

    /// Makes everything stable that was written to any logical unit; waits for it.
    ///
    /// # Errors
    /// [`FlushError`] of the first logical unit that fails; all are tried.
    pub fn flush(&self) -> Result<(), FlushError> {
        let map = self.current();
        let mut result = Ok(());
        for (target, units) in (0..=u8::MAX).zip(&map.targets) {
            let attached = (0..=Lun::MAX).zip(&units.units);
            for (lun, unit) in attached.filter_map(|(lun, unit)| Some((lun, unit.as_ref()?))) {
                let flushed = unit.lun.flush();
                result = result.and(flushed.map_err(|source| FlushError { target, lun, source }));
            }
        }
        result
    }

    /// The longest READ or WRITE that every logical unit takes, in bytes.
    #[must_use]
    pub fn max_transfer(&self) -> Option<u64> {
        self.current().units.iter().flatten().map(|unit| unit.lun.max_transfer()).min()
    }

    /// The most segments that every logical unit takes in one command.
    #[must_use]
    pub fn max_segments(&self) -> Option<u32> {
        self.current().units.iter().flatten().map(|unit| unit.lun.max_segments()).min()
    }

    /// Changes with every change of the map.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn snapshot(&self) -> (Arc<Map>, u64) {
        let map = self.lock();
        (Arc::clone(&map), self.generation())
    }

    fn current(&self) -> Arc<Map> {
        Arc::clone(&self.lock())
    }

    fn publish(&self, map: Map) {
        let mut current = self.lock();
        *current = Arc::new(map);
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    fn tell(&self, event: BusEvent) {
        let sink = lock(&self.events).clone();
        if let Some(sink) = sink {
            sink.event(event);
        }
    }

    fn begin_change(&self) -> MutexGuard<'_, ()> {
        lock(&self.changes)
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Map>> {
        lock(&self.map)
    }
}

/// A logical unit's way to its initiator.
#[derive(Debug)]
struct Reporter {
    bus: Weak<Bus>,
    unit: Weak<Unit>,
    address: LunAddress,
}

impl UnitEvents for Reporter {
    fn label(&self) -> String {
        match self.address.lun {
            Lun::Unit(number) => format!("{}-{number}", self.address.target),
            _ => String::new(),
        }
    }

    fn attention(&self, code: SenseCode) {
        if let Some(unit) = self.unit.upgrade() {
            unit.attention.raise(code);
        }
    }

    fn parameters_changed(&self, code: SenseCode) {
        if let Some(bus) = self.bus.upgrade() {
            bus.tell(BusEvent::Changed(self.address, code));
        }
    }

    fn set_present(&self, present: bool) {
        let (Some(bus), Some(unit)) = (self.bus.upgrade(), self.unit.upgrade()) else { return };
        if unit.hidden.swap(!present, Ordering::AcqRel) == present {
            // Raised on the unit itself too, which matters where it is back.
            bus.current()
                .target(self.address.target)
                .into_iter()
                .for_each(Target::raise_luns_changed);
            bus.tell(match present {
                true => BusEvent::Attached(self.address),
                false => BusEvent::Detached(self.address),
            });
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let map = self.current();
        let units = map
            .targets
            .iter()
            .enumerate()
            .map(|(target, units)| (target, units.numbers().collect::<Vec<_>>()));
        f.debug_map().entries(units).finish()
    }
}

//! The logical units of one SCSI domain, attached and detached while commands run.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::address::Lun;
use super::attention::Attention;
use super::gate::{Gate, Passage};
use super::lane::Lane;
use crate::lun::LogicalUnit;
use crate::scsi::sense::SenseCode;
use crate::task::UnitIndex;

/// A logical unit at its place.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) lun: Arc<dyn LogicalUnit>,
    pub(super) index: UnitIndex,
    pub(super) gate: Gate,
    pub(super) attention: Attention,
}

/// One target's logical units by number.
#[derive(Clone, Debug, Default)]
pub(super) struct Target {
    units: Vec<Option<Arc<Unit>>>,
}

impl Target {
    /// The numbers of its logical units, ascending.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u16> {
        (0..=Lun::MAX).zip(&self.units).filter(|(_, unit)| unit.is_some()).map(|(number, _)| number)
    }

    /// Its logical units.
    pub(super) fn units(&self) -> impl Iterator<Item = &Arc<Unit>> {
        self.units.iter().flatten()
    }

    /// Logical unit `number`.
    pub(super) fn unit(&self, number: u16) -> Option<&Arc<Unit>> {
        self.units.get(usize::from(number))?.as_ref()
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
}

impl Map {
    /// The target, if it has a logical unit.
    pub(super) fn target(&self, target: u8) -> Option<&Target> {
        self.targets.get(usize::from(target)).filter(|target| target.units().next().is_some())
    }

    /// The logical unit at a place in the bus.
    pub(super) fn at(&self, index: UnitIndex) -> Option<&Arc<Unit>> {
        self.units.get(index.0 as usize)?.as_ref()
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

    fn free_place(&mut self) -> UnitIndex {
        let free = self.units.iter().position(Option::is_none).unwrap_or_else(|| {
            self.units.push(None);
            self.units.len() - 1
        });
        // 256 targets of 16384 logical units fit.
        UnitIndex(u32::try_from(free).unwrap_or(u32::MAX))
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
    lanes: Vec<EventFd>,
}

impl Bus {
    /// A domain without logical units, for `lanes` request queues.
    ///
    /// # Errors
    /// When the host has no file descriptor left.
    pub fn new(lanes: u16) -> io::Result<Arc<Bus>> {
        let event = |_| EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC);
        let lanes = (0..lanes).map(event).collect::<Result<_, _>>()?;
        let (changes, map) = (Mutex::default(), Mutex::default());
        Ok(Arc::new(Bus { changes, map, generation: AtomicU64::new(0), lanes }))
    }

    /// The way in for request queue `index`, and the event that tells its thread to call
    /// [`Lane::resume`].
    ///
    /// # Errors
    /// When the host has no file descriptor left.
    pub fn lane(self: &Arc<Bus>, index: u16) -> io::Result<(Lane, EventFd)> {
        let index = usize::from(index);
        let event = self.lanes.get(index).ok_or(io::ErrorKind::NotFound)?.try_clone()?;
        Ok((Lane::new(Arc::clone(self), index), event))
    }

    /// Attaches `lun` at an address; the initiator hears of it by REPORTED LUNS DATA HAS CHANGED
    /// on the target's other logical units.
    ///
    /// # Errors
    /// [`AttachError`] when the address cannot be given.
    pub fn attach(
        &self,
        target: u8,
        number: u16,
        lun: Arc<dyn LogicalUnit>,
    ) -> Result<(), AttachError> {
        if number > Lun::MAX {
            return Err(AttachError::TooLarge(number));
        }
        let _change = self.begin_change();
        let mut map = Map::clone(&self.current());
        if map.target_mut(target).unit(number).is_some() {
            return Err(AttachError::Taken(target, number));
        }
        let index = map.free_place();
        let (gate, attention) = (Gate::new(self.lanes.len()), Attention::default());
        attention.raise(SenseCode::POWER_ON_OCCURRED);
        let unit = Arc::new(Unit { lun, index, gate, attention });
        map.target_mut(target).units().for_each(|other| {
            other.attention.raise(SenseCode::REPORTED_LUNS_DATA_HAS_CHANGED);
        });
        *map.target_mut(target).slot(number) = Some(Arc::clone(&unit));
        map.units[index.0 as usize] = Some(unit);
        self.publish(map);
        Ok(())
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
        map.units[unit.index.0 as usize] = None;
        let gone = unit.gate.exclude(timeout, || (self.publish(map), Passage::Gone));
        self.wake_lanes();
        gone.ok_or(DetachError::Busy(target, number))?;
        if let Some(target) = self.current().target(target) {
            target.units().for_each(|other| {
                other.attention.raise(SenseCode::REPORTED_LUNS_DATA_HAS_CHANGED);
            });
        }
        Ok(())
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
            for (lun, unit) in units.numbers().zip(units.units()) {
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

    fn begin_change(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_lanes(&self) {
        for lane in &self.lanes {
            if let Err(error) = lane.write(1) {
                log::error!("cannot wake a request queue: {error}");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Map>> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }
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

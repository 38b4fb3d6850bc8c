//! One request queue's way into the bus: its own view of the map, and its own shard of every
//! logical unit. All of it belongs to the queue's thread; nothing here is locked.

mod places;
mod shard;

use std::sync::Arc;

use self::places::Places;
use self::shard::{Parked, Shard};
use super::address::{Lun, LunAddress};
use super::bus::{Bus, Map, Unit};
use super::gate::Passage;
use super::management::{Management, Order};
use super::{gauntlet, responders};
use crate::engine::IoContext;
use crate::lun::Submitted;
use crate::task::{Answer, Response, ServiceResponse, Task, TaskAttribute, Ticket};

/// The way in and out.
#[derive(Debug)]
pub struct Lane {
    bus: Arc<Bus>,
    index: usize,
    map: Arc<Map>,
    generation: u64,
    /// What waits at the gate of each logical unit.
    shards: Vec<Shard>,
    /// What has passed a gate and is not settled yet.
    places: Places,
    /// Task management functions whose commands are being looked for.
    orders: Vec<Arc<Management>>,
    /// Task management functions that wait for nothing here but that answers be seen.
    acknowledged: Vec<Arc<Management>>,
}

impl Lane {
    pub(super) fn new(bus: Arc<Bus>, index: usize) -> Lane {
        let (map, generation) = bus.snapshot();
        let mut lane = Lane {
            bus,
            index,
            map,
            generation,
            shards: Vec::new(),
            places: Places::default(),
            orders: Vec::new(),
            acknowledged: Vec::new(),
        };
        lane.make_shards();
        lane
    }

    /// Takes `task` for `address`. Every answer, also one that comes at once, goes through
    /// [`Lane::settle`].
    pub fn submit(&mut self, address: LunAddress, task: Task, io: &mut IoContext) -> Submitted {
        if self.bus.generation() != self.generation {
            self.refresh();
        }
        self.route(address, task, io)
    }

    /// Counts the task out that `answer` ends.
    pub fn settle(&mut self, answer: Answer) -> (Ticket, Response) {
        let mut response = answer.response;
        if let Some(place) = self.places.close(answer.place()) {
            if let Some(unit) = self.map.at(place.unit) {
                unit.gate.leave(self.index, place.admission);
                if let Response::Status { sense: Some(sense), .. } = &mut response {
                    sense.descriptor_format = unit.lun.descriptor_sense();
                }
            }
            if let Some(why) = place.end.take() {
                response = Response::Failed(why);
            }
            self.acknowledged.append(&mut place.managements);
        }
        (answer.into_ticket(), response)
    }

    /// Begins to do what the bus woke the lane for. What the initiator has sent until now is to
    /// be submitted next: task management functions mean that too. Then follows
    /// [`Lane::attend`].
    pub fn listen(&mut self) {
        self.refresh();
        self.orders.append(&mut self.bus.take_orders(self.index));
    }

    /// Does what the bus woke the lane for: ends the commands that task management functions
    /// name, and lets those pass that wait at gates which have opened. Returns the answers.
    pub fn attend(&mut self, io: &mut IoContext) -> Vec<Answer> {
        let mut answers = Vec::new();
        for management in std::mem::take(&mut self.orders) {
            self.obey(&management, io, &mut answers);
            self.acknowledged.push(management);
        }
        for index in 0..self.shards.len() {
            self.resume(index, io, &mut answers);
        }
        answers
    }

    /// Tells task management functions that the initiator can see all answers that were settled.
    pub fn acknowledge(&mut self) {
        self.acknowledged.drain(..).for_each(|management| management.acknowledge());
    }

    /// Ends what waits at gates, because its queue stops, and has all else end as soon as it can.
    /// Returns the answers that there are at once.
    pub fn abandon(&mut self, io: &mut IoContext) -> Vec<Answer> {
        let mut answers = Vec::new();
        for shard in &mut self.shards {
            for parked in shard.take(|_| true) {
                let unit = self.map.find(parked.address);
                answers.push(end(parked, unit, self.index, ServiceResponse::TargetFailure));
            }
        }
        self.places.abort_all();
        io.cancel_aborted();
        answers
    }

    fn refresh(&mut self) {
        (self.map, self.generation) = self.bus.snapshot();
        self.make_shards();
    }

    fn make_shards(&mut self) {
        let places = self.map.places().max(self.shards.len());
        self.shards.resize_with(places, Shard::default);
    }

    fn route(&mut self, address: LunAddress, task: Task, io: &mut IoContext) -> Submitted {
        let Some(target) = self.map.target(address.target) else {
            return Submitted::Done(responders::no_target(task));
        };
        let unit = match address.lun {
            Lun::ReportLuns => return Submitted::Done(responders::well_known(target, task)),
            Lun::Unit(number) => target.unit(number),
            Lun::Unsupported => None,
        };
        let Some((unit, shard)) =
            unit.and_then(|unit| Some((unit, self.shards.get_mut(unit.index.0 as usize)?)))
        else {
            return Submitted::Done(responders::no_unit(target, address.lun, task));
        };
        if let Some(why) = end_of(&self.orders, unit, task.tag) {
            return Submitted::Done(task.answer(Response::Failed(why)));
        }
        let mut parked = Parked { address, task, in_line: false };
        match shard.admit(&mut parked, &unit.gate, self.index) {
            Ok(admission) => {
                self.places.open(&parked.task, unit.index, admission);
                gauntlet::run(target, unit, parked.task, io)
            }
            Err(Passage::Gone) => {
                self.refresh();
                self.route(address, parked.task, io)
            }
            Err(Passage::Quarantined) => Submitted::Done(responders::busy(parked.task)),
            Err(_) => {
                shard.park(parked);
                Submitted::Pending
            }
        }
    }

    /// Lets those pass, in their order, that wait at the gate of one logical unit.
    fn resume(&mut self, index: usize, io: &mut IoContext, answers: &mut Vec<Answer>) {
        while let Some(shard) = self.shards.get_mut(index)
            && let Some(first) = shard.first()
        {
            let unit = self.map.find(first.address);
            let admission = match unit {
                Some(unit) => shard::pass(first, &unit.gate, self.index),
                None => Err(Passage::Gone),
            };
            if admission == Err(Passage::Closed) {
                return;
            }
            let Some(Parked { address, task, .. }) = shard.take_first() else { return };
            let submitted = match (admission, unit, self.map.target(address.target)) {
                (Ok(admission), Some(unit), Some(target)) => {
                    self.places.open(&task, unit.index, admission);
                    gauntlet::run(target, unit, task, io)
                }
                (Err(Passage::Quarantined), ..) => Submitted::Done(responders::busy(task)),
                _ => self.route(address, task, io),
            };
            if let Submitted::Done(answer) = submitted {
                answers.push(answer);
            }
        }
    }

    fn obey(
        &mut self,
        management: &Arc<Management>,
        io: &mut IoContext,
        answers: &mut Vec<Answer>,
    ) {
        let named = |tag| management.names(tag);
        for unit in management.units() {
            // A logical unit that is gone has no commands, and another may have its place.
            let current = self.map.at(unit.index).is_some_and(|there| Arc::ptr_eq(there, unit));
            let Some(shard) = self.shards.get_mut(unit.index.0 as usize).filter(|_| current) else {
                continue;
            };
            match management.order() {
                Order::Look => {
                    if shard.has(named) || self.places.has(unit.index, named) {
                        management.note_found();
                    }
                }
                Order::End(why) => {
                    let parked = shard.take(named).into_iter();
                    answers.extend(parked.map(|parked| end(parked, Some(unit), self.index, why)));
                    self.places.abort(unit.index, named, why, management);
                }
            }
        }
        io.cancel_aborted();
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.acknowledged.append(&mut self.orders);
        self.acknowledged.append(&mut self.bus.close_lane(self.index));
        self.acknowledge();
    }
}

/// How a command of `unit` ends that came after `orders` which name it, if one of them ends it.
fn end_of(orders: &[Arc<Management>], unit: &Arc<Unit>, tag: u64) -> Option<ServiceResponse> {
    orders.iter().filter(|order| order.names(tag)).find_map(|management| match management.order() {
        Order::End(why) if management.is_about(unit) => Some(why),
        _ => None,
    })
}

/// Answers a command that waited at the gate of `unit`.
fn end(parked: Parked, unit: Option<&Arc<Unit>>, lane: usize, why: ServiceResponse) -> Answer {
    if let Some(unit) = unit.filter(|_| parked.in_line) {
        unit.gate.step_out(lane);
    }
    parked.task.answer(Response::Failed(why))
}

//! One request queue's way into the bus: its own view of the map, and its own shard of every
//! logical unit. All of it belongs to the queue's thread; nothing here is locked.

mod places;
mod shard;

use std::sync::Arc;

use self::places::Places;
use self::shard::{Next, Place, Shard};
use super::address::{Lun, LunAddress};
use super::bus::{Bus, Map, Target, Unit};
use super::gate::{Admission, Passage};
use super::management::{Management, Order};
use super::{gauntlet, responders};
use crate::engine::IoContext;
use crate::lun::Submitted;
use crate::task::{Answer, Response, SenseData, ServiceResponse, Task, TaskAttribute, Ticket};

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
    /// Answers to what waited for a logical unit that is gone.
    displaced: Vec<Answer>,
    /// Task management functions whose commands are being looked for.
    orders: Vec<Arc<Management>>,
    /// Task management functions that wait for nothing here but that answers be seen.
    acknowledged: Vec<Arc<Management>>,
    /// Commands may still run of which nobody will say that they have ended.
    leaked: bool,
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
            displaced: Vec::new(),
            orders: Vec::new(),
            acknowledged: Vec::new(),
            leaked: false,
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
        let place = self.places.close(answer.place());
        let (ticket, mut response) = answer.into_parts();
        if let Some(place) = place {
            if let Some(unit) = self.map.at(place.unit) {
                unit.gate.leave(self.index, place.admission);
                if let Response::Status { sense: Some(SenseData::Own(sense)), .. } = &mut response {
                    sense.descriptor_format = unit.lun.descriptor_sense();
                }
            }
            if let Some(why) = place.end.take() {
                response = Response::Failed(why);
            }
            self.acknowledged.append(&mut place.managements);
        }
        (ticket, response)
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
        answers.append(&mut self.displaced);
        answers
    }

    /// Tells task management functions that the initiator can see all answers that were settled.
    pub fn acknowledge(&mut self) {
        self.acknowledged.drain(..).for_each(|management| management.acknowledge());
    }

    /// Ends what waits at gates, because its queue stops, and has all else end as soon as it can.
    /// Returns the answers that there are at once.
    pub fn abandon(&mut self, io: &mut IoContext) -> Vec<Answer> {
        let mut answers = std::mem::take(&mut self.displaced);
        for shard in &mut self.shards {
            let tasks = shard.clear(self.index).into_iter();
            answers.extend(tasks.map(|task| end(task, ServiceResponse::TargetFailure)));
        }
        self.places.abort_all();
        io.cancel_aborted();
        self.map.units().for_each(|unit| unit.lun.cancel_aborted());
        answers
    }

    /// Commands of the lane go on and nobody waits for them: from now on every task management
    /// function fails for want of its acknowledgement.
    pub fn leak(&mut self) {
        self.leaked = true;
        self.bus.leak_lane(self.index);
    }

    /// Looks at the map as it is now. What waits for a logical unit that is gone finds nothing
    /// there, even if there is another at its address.
    fn refresh(&mut self) {
        (self.map, self.generation) = self.bus.snapshot();
        self.make_shards();
        for shard in &mut self.shards {
            let Some(Place { address, unit }) = shard.at().cloned() else { continue };
            if self.map.at(unit.index).is_some_and(|there| Arc::ptr_eq(there, &unit)) {
                continue;
            }
            let tasks = shard.clear(self.index).into_iter();
            self.displaced.extend(tasks.map(|task| match self.map.target(address.target) {
                Some(target) => responders::no_unit(target, address.lun, task),
                None => responders::no_target(task),
            }));
        }
    }

    fn make_shards(&mut self) {
        let places = self.map.places().max(self.shards.len());
        self.shards.resize_with(places, Shard::default);
    }

    fn route(&mut self, address: LunAddress, mut task: Task, io: &mut IoContext) -> Submitted {
        let Some(target) = self.map.target(address.target) else {
            return Submitted::Done(match address {
                // Also the initiator's way to ask without naming a target: always answered.
                LunAddress { target: 0, lun: Lun::ReportLuns } => {
                    responders::well_known(&Target::default(), task)
                }
                _ => responders::no_target(task),
            });
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
            return Submitted::Done(end(task, why));
        }
        if unit.lun.runs_alone(&task.cdb) {
            task.attribute = TaskAttribute::Ordered;
        }
        match shard.admit(task.attribute, unit, self.index) {
            Ok(admission) => {
                self.places.open(&task, unit.index, admission);
                gauntlet::run(target, unit, task, io)
            }
            Err(Passage::Gone) => {
                self.refresh();
                self.route(address, task, io)
            }
            Err(Passage::Quarantined) => Submitted::Done(responders::busy(task)),
            Err(_) => {
                let at = Place { address, unit: Arc::clone(unit) };
                self.park(at, task, io)
            }
        }
    }

    /// Has a command wait, unless it is first and may pass after all.
    fn park(&mut self, at: Place, task: Task, io: &mut IoContext) -> Submitted {
        let index = at.unit.index.0 as usize;
        let Some(shard) = self.shards.get_mut(index) else {
            return Submitted::Done(end(task, ServiceResponse::TargetFailure));
        };
        let first = shard.is_empty();
        shard.park(task, at);
        let mut answers = Vec::new();
        if first {
            self.resume(index, io, &mut answers);
        }
        answers.pop().map_or(Submitted::Pending, Submitted::Done)
    }

    /// Lets those pass, in their order, that wait at the gate of one logical unit.
    fn resume(&mut self, index: usize, io: &mut IoContext, answers: &mut Vec<Answer>) {
        while let Some(shard) = self.shards.get_mut(index) {
            match shard.next(self.index) {
                Next::Start(at, tasks, admission) => {
                    for task in tasks {
                        if let Submitted::Done(answer) = self.start(&at, task, admission, io) {
                            answers.push(answer);
                        }
                    }
                }
                Next::Refuse(task) => answers.push(responders::busy(task)),
                Next::Wait => return,
                Next::Gone => return self.refresh(),
            }
        }
    }

    fn start(
        &mut self,
        at: &Place,
        task: Task,
        admission: Admission,
        io: &mut IoContext,
    ) -> Submitted {
        self.places.open(&task, at.unit.index, admission);
        match self.map.target(at.address.target) {
            Some(target) => gauntlet::run(target, &at.unit, task, io),
            None => Submitted::Done(responders::no_target(task)),
        }
    }

    fn obey(
        &mut self,
        management: &Arc<Management>,
        io: &mut IoContext,
        answers: &mut Vec<Answer>,
    ) {
        for unit in management.units() {
            let shard = self.shards.get_mut(unit.index.0 as usize);
            let waits_there =
                |shard: &&mut Shard| shard.at().is_some_and(|place| Arc::ptr_eq(&place.unit, unit));
            let Some(shard) = shard.filter(waits_there) else { continue };
            match management.order() {
                Order::Look if shard.has(|tag| management.names(tag)) => management.note_found(),
                Order::Look => {}
                Order::End(why) => {
                    let tasks = shard.take(self.index, |tag| management.names(tag)).into_iter();
                    answers.extend(tasks.map(|task| end(task, why)));
                }
            }
        }
        // What has passed a gate belongs to the logical unit that the map has at its place.
        let named = |index, tag| {
            let unit = self.map.at(index).filter(|unit| management.is_about(unit));
            unit.is_some() && management.names(tag)
        };
        match management.order() {
            Order::Look if self.places.has(named) => management.note_found(),
            Order::Look => {}
            Order::End(why) => {
                self.places.abort(named, why, management);
                io.cancel_aborted();
                management.units().iter().for_each(|unit| unit.lun.cancel_aborted());
            }
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if self.leaked {
            return;
        }
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

/// Answers a command that was not carried out.
fn end(task: Task, why: ServiceResponse) -> Answer {
    task.answer(Response::Failed(why))
}

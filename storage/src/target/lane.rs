//! One request queue's way into the bus: its own view of the map, and its own shard of every
//! logical unit. All of it belongs to the queue's thread; nothing here is locked.

use std::collections::VecDeque;
use std::sync::Arc;

use super::address::{Lun, LunAddress};
use super::bus::{Bus, Map};
use super::gate::Passage;
use super::{gauntlet, responders};
use crate::engine::IoContext;
use crate::lun::Submitted;
use crate::task::{Answer, Response, ServiceResponse, Task, Ticket, UnitIndex};

/// Commands of this lane that wait at the gate of one logical unit, in order of arrival.
type Parked = VecDeque<(LunAddress, Task)>;

/// The way in and out.
#[derive(Debug)]
pub struct Lane {
    bus: Arc<Bus>,
    index: usize,
    map: Arc<Map>,
    generation: u64,
    parked: Vec<Parked>,
}

impl Lane {
    pub(super) fn new(bus: Arc<Bus>, index: usize) -> Lane {
        let (map, generation) = bus.snapshot();
        let mut lane = Lane { bus, index, map, generation, parked: Vec::new() };
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
    pub fn settle(&mut self, mut answer: Answer) -> (Ticket, Response) {
        let unit = answer.take_unit().and_then(|index| self.map.at(index));
        if let Some(unit) = unit {
            unit.gate.leave(self.index);
            if let Response::Status { sense: Some(sense), .. } = &mut answer.response {
                sense.descriptor_format = unit.lun.descriptor_sense();
            }
        }
        let response = answer.response;
        (answer.into_ticket(), response)
    }

    /// Lets those pass that wait at gates which have opened; returns what they answer at once.
    pub fn resume(&mut self, io: &mut IoContext) -> Vec<Answer> {
        self.refresh();
        let routed =
            self.take_parked().into_iter().map(|(address, task)| self.route(address, task, io));
        let done = |submitted| match submitted {
            Submitted::Done(answer) => Some(answer),
            Submitted::Pending => None,
        };
        routed.filter_map(done).collect()
    }

    /// Ends those that wait at gates, because their queue stops; returns their answers.
    pub fn abandon(&mut self) -> Vec<Answer> {
        let failed = Response::Failed(ServiceResponse::TargetFailure);
        self.take_parked().into_iter().map(|(_, task)| task.answer(failed)).collect()
    }

    fn take_parked(&mut self) -> Vec<(LunAddress, Task)> {
        self.parked.iter_mut().flat_map(std::mem::take).collect()
    }

    fn refresh(&mut self) {
        (self.map, self.generation) = self.bus.snapshot();
        self.make_shards();
    }

    fn make_shards(&mut self) {
        let places = self.map.places().max(self.parked.len());
        self.parked.resize_with(places, VecDeque::new);
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
        match unit {
            None => Submitted::Done(responders::no_unit(target, address.lun, task)),
            Some(unit) => match unit.gate.enter(self.index) {
                Passage::Open => gauntlet::run(target, unit, task, io),
                Passage::Closed => {
                    let index = unit.index;
                    self.park(index, address, task)
                }
                Passage::Gone => {
                    self.refresh();
                    self.route(address, task, io)
                }
            },
        }
    }

    fn park(&mut self, unit: UnitIndex, address: LunAddress, task: Task) -> Submitted {
        if let Some(parked) = self.parked.get_mut(unit.0 as usize) {
            parked.push_back((address, task));
        }
        // The gate opens before the lane's event is written, and this thread sees the event only
        // after this: `resume` cannot miss the task.
        Submitted::Pending
    }
}

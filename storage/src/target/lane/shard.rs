//! What waits at the gate of one logical unit, in order.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::target::address::LunAddress;
use crate::target::bus::Unit;
use crate::target::gate::{Admission, Passage};
use crate::task::{Task, TaskAttribute};

/// A command that waits.
#[derive(Debug)]
struct Parked {
    task: Task,
    /// It is ORDERED and stands in the gate's line.
    in_line: bool,
}

/// Where commands wait.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) address: LunAddress,
    pub(super) unit: Arc<Unit>,
}

/// One lane's commands that wait at one gate: HEAD OF QUEUE ones first, the others as they came.
#[derive(Debug, Default)]
pub(super) struct Shard {
    parked: VecDeque<Parked>,
    /// Whose gate it is, while a command waits.
    at: Option<Place>,
    /// SIMPLE commands may have a place in the gate's line.
    shares: bool,
}

/// What becomes of the commands that are first.
#[derive(Debug)]
pub(super) enum Next {
    /// They are counted in at the gate, and start.
    Start(Place, Vec<Task>, Admission),
    /// One is told to come again later.
    Refuse(Task),
    /// They wait, if there are any.
    Wait,
    /// Their logical unit is gone.
    Gone,
}

impl Shard {
    /// Lets a new command pass the gate of `unit`. One that others of its lane wait before, or
    /// that has to wait for others, does not.
    pub(super) fn admit(
        &self,
        attribute: TaskAttribute,
        unit: &Unit,
        lane: usize,
    ) -> Result<Admission, Passage> {
        let (passage, admission) = match attribute {
            TaskAttribute::Simple if self.is_empty() => (unit.gate.enter(lane), Admission::Simple),
            TaskAttribute::HeadOfQueue => (unit.gate.enter_at_head(lane), Admission::Head),
            _ => return Err(Passage::Closed),
        };
        if passage == Passage::Open { Ok(admission) } else { Err(passage) }
    }

    /// Has a command wait; [`Shard::next`] says whether it has to.
    pub(super) fn park(&mut self, task: Task, at: Place) {
        self.at.get_or_insert(at);
        let parked = Parked { task, in_line: false };
        match parked.task.attribute {
            TaskAttribute::HeadOfQueue => self.parked.push_front(parked),
            _ => self.parked.push_back(parked),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parked.is_empty()
    }

    /// Where its commands wait, if there are any.
    pub(super) fn at(&self) -> Option<&Place> {
        self.at.as_ref()
    }

    /// Lets those pass that are first, if they may.
    pub(super) fn next(&mut self, lane: usize) -> Next {
        let Some(at) = self.at.clone() else { return Next::Wait };
        let gate = &at.unit.gate;
        let simple = self.leading_simple();
        if simple == 0 && std::mem::take(&mut self.shares) {
            gate.waive(lane);
        }
        let Some(first) = self.parked.front_mut() else {
            self.at = None;
            return Next::Wait;
        };
        let (passage, admission) = match first.task.attribute {
            TaskAttribute::Simple => {
                let commands = u32::try_from(simple).unwrap_or(u32::MAX);
                (gate.share(lane, commands), Admission::Simple)
            }
            TaskAttribute::HeadOfQueue => (gate.enter_at_head(lane), Admission::Head),
            TaskAttribute::Ordered => {
                if !std::mem::replace(&mut first.in_line, true) {
                    gate.line_up(lane);
                }
                (gate.take_turn(lane), Admission::Turn)
            }
        };
        self.shares = passage == Passage::Closed && simple > 0;
        match passage {
            Passage::Open => {
                let tasks = self.parked.drain(..simple.max(1)).map(|parked| parked.task);
                Next::Start(at, tasks.collect(), admission)
            }
            Passage::Closed => Next::Wait,
            Passage::Gone => Next::Gone,
            Passage::Quarantined => match self.parked.pop_front() {
                Some(parked) => Next::Refuse(parked.step_out(&at.unit, lane)),
                None => Next::Wait,
            },
        }
    }

    /// How many SIMPLE commands are first.
    fn leading_simple(&self) -> usize {
        let simple = |parked: &&Parked| parked.task.attribute == TaskAttribute::Simple;
        self.parked.iter().take_while(simple).count()
    }

    /// Whether a command waits whose tag is `named`.
    pub(super) fn has(&self, named: impl Fn(u64) -> bool) -> bool {
        self.parked.iter().any(|parked| named(parked.task.tag))
    }

    /// Takes the commands out whose tags are `named`.
    pub(super) fn take(&mut self, lane: usize, named: impl Fn(u64) -> bool) -> Vec<Task> {
        let Some(Place { unit, .. }) = &self.at else { return Vec::new() };
        let (taken, left): (VecDeque<Parked>, _) =
            self.parked.drain(..).partition(|parked| named(parked.task.tag));
        self.parked = left;
        taken.into_iter().map(|parked| parked.step_out(unit, lane)).collect()
    }

    /// Takes all commands out; another logical unit may have the shard.
    pub(super) fn clear(&mut self, lane: usize) -> Vec<Task> {
        let tasks = self.take(lane, |_| true);
        if let Some(Place { unit, .. }) = self.at.take()
            && std::mem::take(&mut self.shares)
        {
            unit.gate.waive(lane);
        }
        tasks
    }
}

impl Parked {
    /// The command, which waits for no turn any more.
    fn step_out(self, unit: &Unit, lane: usize) -> Task {
        if self.in_line {
            unit.gate.step_out(lane);
        }
        self.task
    }
}

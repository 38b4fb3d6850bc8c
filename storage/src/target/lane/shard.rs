//! What waits at the gate of one logical unit, in order.

use std::collections::VecDeque;

use super::TaskAttribute;
use crate::target::address::LunAddress;
use crate::target::gate::{Admission, Gate, Passage};
use crate::task::Task;

/// A command that waits.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) address: LunAddress,
    pub(super) task: Task,
    /// It is ORDERED and stands in the gate's line.
    pub(super) in_line: bool,
}

/// One lane's commands that wait at one gate: HEAD OF QUEUE ones first, the others as they came.
#[derive(Debug, Default)]
pub(super) struct Shard(VecDeque<Parked>);

impl Shard {
    /// Lets a new command pass `gate`, unless it has to wait for others of its lane.
    pub(super) fn admit(
        &self,
        new: &mut Parked,
        gate: &Gate,
        lane: usize,
    ) -> Result<Admission, Passage> {
        let first = self.0.is_empty() || new.task.attribute == TaskAttribute::HeadOfQueue;
        if first { pass(new, gate, lane) } else { Err(Passage::Closed) }
    }

    /// Has a command wait.
    pub(super) fn park(&mut self, parked: Parked) {
        match parked.task.attribute {
            TaskAttribute::HeadOfQueue => self.0.push_front(parked),
            _ => self.0.push_back(parked),
        }
    }

    /// The command whose turn is next.
    pub(super) fn first(&mut self) -> Option<&mut Parked> {
        self.0.front_mut()
    }

    pub(super) fn take_first(&mut self) -> Option<Parked> {
        self.0.pop_front()
    }

    /// Whether a command waits whose tag is `named`.
    pub(super) fn has(&self, named: impl Fn(u64) -> bool) -> bool {
        self.0.iter().any(|parked| named(parked.task.tag))
    }

    /// Takes the commands out whose tags are `named`.
    pub(super) fn take(&mut self, named: impl Fn(u64) -> bool) -> VecDeque<Parked> {
        let (taken, left) = self.0.drain(..).partition(|parked| named(parked.task.tag));
        self.0 = left;
        taken
    }
}

/// Lets a command pass `gate`, by its attribute. An ORDERED one that cannot is in line from now
/// on.
pub(super) fn pass(parked: &mut Parked, gate: &Gate, lane: usize) -> Result<Admission, Passage> {
    let (passage, admission) = match parked.task.attribute {
        TaskAttribute::Simple => (gate.enter(lane), Admission::Simple),
        TaskAttribute::HeadOfQueue => (gate.enter_at_head(lane), Admission::Head),
        TaskAttribute::Ordered => {
            if !std::mem::replace(&mut parked.in_line, true) {
                gate.line_up(lane);
            }
            (gate.take_turn(lane), Admission::Turn)
        }
    };
    match passage {
        Passage::Open => Ok(admission),
        Passage::Closed => Err(Passage::Closed),
        gone => {
            if std::mem::take(&mut parked.in_line) {
                gate.step_out(lane);
            }
            Err(gone)
        }
    }
}

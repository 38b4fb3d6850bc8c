//! A command on its way to the device and back, in a thread that may block.

use std::sync::Arc;

use super::counters::Event;
use super::outcome::Ending;
use super::route::{Direction, Plan};
use super::unit::{Patience, Unit};
use crate::engine::workers::Job;
use crate::host::{Data, Request};
use crate::scsi::status::Status;
use crate::task::{Response, ServiceResponse, Task};

/// A command and what is to be done with it.
#[derive(Debug)]
pub(super) struct Forward {
    pub(super) unit: Arc<Unit>,
    pub(super) task: Task,
    pub(super) plan: Plan,
}

impl Job for Forward {
    fn carry_out(mut self) {
        self.unit.counters.count(Event::Command);
        let before = self.task.buffer_len();
        let len = u32::try_from(self.plan.len).unwrap_or(u32::MAX);
        let response = padded(self.send().response, before.saturating_sub(len));
        if !is_success(&response) {
            self.unit.counters.count(Event::Error);
        }
        self.task.answer(response).deliver();
    }

    fn is_aborted(&self) -> bool {
        self.task.is_aborted()
    }

    fn cancel(self) {
        self.task.answer(Response::Failed(ServiceResponse::Aborted)).deliver();
    }
}

impl Forward {
    fn send(&mut self) -> Ending {
        let Forward { unit, task, plan } = self;
        let Task { data_in, data_out, .. } = task;
        let aborted = || false;
        let patience = Patience { idempotent: plan.idempotent, aborted: &aborted };
        let cdb = plan.cdb.0.get(..plan.cdb_len).unwrap_or(&plan.cdb.0);
        let len = u32::try_from(plan.len).unwrap_or(u32::MAX);
        unit.persist(&patience, len, |host| {
            let execute =
                |data: Data<'_>| host.execute(Request { cdb, data, timeout: plan.timeout });
            match plan.direction {
                Direction::None => execute(Data::None),
                Direction::In => data_in.with_part(0, plan.len, |part| execute(Data::In(part))),
                Direction::Out => data_out.with_part(0, plan.len, |part| execute(Data::Out(part))),
            }
        })
    }
}

/// The response with `more` bytes that were never meant to be moved.
fn padded(response: Response, more: u32) -> Response {
    match response {
        Response::Status { status, sense, resid } => {
            Response::Status { status, sense, resid: resid.saturating_add(more) }
        }
        failed @ Response::Failed(_) => failed,
    }
}

fn is_success(response: &Response) -> bool {
    matches!(response, Response::Status { status: Status::GOOD | Status::CONDITION_MET, .. })
}

//! A command on its way to the device and back, in a thread that may block.

use std::ops::Range;
use std::sync::Arc;

use super::bounce::{bounce_in, bounce_out};
use super::counters::Event;
use super::fixup::Fixup;
use super::outcome::has_answered;
use super::retry::BackOff;
use super::route::{Manner, Plan, Then, Way};
use super::split::{Piece, Pieces};
use super::unit::{Patience, Unit};
use super::watch::Watched;
use crate::buffer::lend;
use crate::engine::workers::Job;
use crate::host::{Completion, Data, Request};
use crate::scsi::cdb::Cdb;
use crate::scsi::sense::SenseCode;
use crate::scsi::status::Status;
use crate::scsi::wire::{put_u32, u32_at};
use crate::task::{Response, SenseData, ServiceResponse, Task};

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
        let response = self.response();
        let response = self.stopped(response);
        let more = before.saturating_sub(length(self.plan.len));
        self.settle(&response);
        self.task.answer(with_residual(response, more)).deliver();
    }

    fn is_aborted(&self) -> bool {
        self.task.is_aborted()
    }

    fn cancel(self) {
        self.task.answer(Response::Failed(ServiceResponse::Aborted)).deliver();
    }
}

impl Forward {
    fn response(&mut self) -> Response {
        match std::mem::replace(&mut self.plan.manner, Manner::Direct) {
            Manner::Direct => {
                let Plan { cdb, cdb_len, len, .. } = self.plan;
                self.send(&cdb, cdb_len, 0..len)
            }
            Manner::Pieces(pieces) => self.in_pieces(pieces),
            Manner::Edited(fixup) => self.edited(&fixup),
            Manner::Filtered => self.filtered(),
            Manner::Observed => self.observed(),
            Manner::Judged => self.judged(),
        }
    }

    /// A device that does not know SYNCHRONIZE CACHE has nothing to make stable before it stops.
    fn stopped(&self, response: Response) -> Response {
        match response {
            Response::Status { sense: Some(SenseData::Device(sense)), resid, .. }
                if self.plan.then == Then::Stop
                    && SenseCode::of(&sense) == Some(SenseCode::INVALID_COMMAND_OPERATION_CODE) =>
            {
                Response::good(resid)
            }
            response => response,
        }
    }

    /// What follows from how it ended, before the initiator hears of that.
    fn settle(&mut self, response: &Response) {
        if !is_success(response) {
            return self.unit.counters.count(Event::Error);
        }
        match self.plan.then {
            Then::Nothing => {}
            Then::Stop => self.unit.set_stopped(true),
            Then::Examine => self.unit.examine(),
        }
    }

    /// A READ or WRITE that is longer than the host carries: ascending, one after the other, until
    /// one does not end as it should.
    fn in_pieces(&mut self, pieces: Pieces) -> Response {
        self.unit.counters.count(Event::Split);
        for piece in pieces {
            let end = usize::try_from(piece.bytes.end).unwrap_or(usize::MAX);
            let left = length(self.plan.len.saturating_sub(end));
            let response = with_residual(self.piece(&piece), left);
            if !is_good(&response, left) {
                return response;
            }
        }
        Response::good(0)
    }

    /// Sends a piece again while the device has no room for it: the initiator does not know that
    /// there are pieces.
    fn piece(&mut self, piece: &Piece) -> Response {
        let mut back_off = BackOff::new(self.plan.timeout);
        let at = |offset| usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = at(piece.bytes.start)..at(piece.bytes.end);
        loop {
            let patience = self.patience();
            if patience.is_over() {
                return Response::Failed(ServiceResponse::Aborted);
            }
            let response = self.send(&piece.cdb, piece.cdb_len, bytes.clone());
            if !has_no_room(&response) || !self.unit.pause(&mut back_off, &patience) {
                return response;
            }
            self.unit.counters.count(Event::Retried);
        }
    }

    /// Sends a command whose data goes between the device and these bytes of the task's buffer.
    fn send(&mut self, cdb: &Cdb, cdb_len: usize, bytes: Range<usize>) -> Response {
        let patience = self.patience();
        let Forward { unit, task, plan } = self;
        let cdb = cdb.0.get(..cdb_len).unwrap_or(&cdb.0);
        let (at, len) = (bytes.start, bytes.len());
        let (limits, timeout) = (&plan.view.limits, plan.timeout);
        let ending = unit.persist(&patience, length(len), |host| {
            let execute = |data: Data<'_>| host.execute(Request { cdb, data, timeout });
            match plan.way {
                Way::Nowhere => execute(Data::None),
                Way::In => task.data_in.with_part(at, len, |part| match limits.carries(part) {
                    true => execute(Data::In(part)),
                    false => bounce_in(&unit.room, part, || patience.is_over(), execute),
                }),
                Way::Out => task.data_out.with_part(at, len, |part| match limits.carries(part) {
                    true => execute(Data::Out(part)),
                    false => bounce_out(&unit.room, part, || patience.is_over(), execute),
                }),
            }
        });
        ending.response
    }

    fn edited(&mut self, fixup: &Fixup) -> Response {
        let (view, unit) = (Arc::clone(&self.plan.view), Arc::clone(&self.unit));
        let context = view.context(&unit.spec);
        let edit = |completion: &mut Completion, data: &mut Vec<u8>| {
            fixup.apply(&context, completion, data);
        };
        self.receive(&fixup.cdb, fixup.len, edit).0
    }

    /// REPORT SUPPORTED OPERATION CODES says nothing of what is not allowed.
    fn filtered(&mut self) -> Response {
        /// Longer than the list of any device, of which some take no more than 16 bits here.
        const LONGEST: usize = 32 << 10;
        const ALLOCATION_LENGTH: usize = 6;
        let (view, wanted, cdb) = (Arc::clone(&self.plan.view), self.plan.len, self.plan.cdb);
        let carried = usize::try_from(view.limits.hard).unwrap_or(usize::MAX);
        let len = LONGEST.min(carried);
        let mut whole = cdb;
        put_u32(&mut whole.0, ALLOCATION_LENGTH, length(len));
        self.receive(&whole, len, |completion, data| {
            if is_success_of(completion.status) {
                view.policy.filter_supported(&cdb, data);
            }
            data.truncate(wanted);
            completion.resid = i32::try_from(wanted - data.len()).unwrap_or(i32::MAX);
        })
        .0
    }

    /// READ CAPACITY, where the block size is looked at: the medium may be another one than before.
    fn observed(&mut self) -> Response {
        let (cdb, len) = (self.plan.cdb, self.plan.len);
        let (response, data) = self.receive(&cdb, len, |_, _| {});
        let offset = if cdb.opcode() == super::route::READ_CAPACITY_10 { 4 } else { 8 };
        let known = self.plan.view.facts.medium.map_or(0, |medium| medium.block_size);
        if is_success(&response) && data.len() >= offset + 4 && u32_at(&data, offset) != known {
            self.unit.examine();
        }
        response
    }

    /// Takes the response into `len` bytes of memory of our own, and gives the initiator what
    /// `edit` makes of it.
    fn receive(
        &mut self,
        cdb: &Cdb,
        len: usize,
        edit: impl Fn(&mut Completion, &mut Vec<u8>),
    ) -> (Response, Vec<u8>) {
        let plan = &self.plan;
        let cdb = cdb.0.get(..plan.cdb_len).unwrap_or(&cdb.0);
        let mut data = Vec::new();
        let ending = self.unit.persist(&self.patience(), length(plan.len), |host| {
            data = vec![0; len];
            let timeout = plan.timeout;
            let mut completion =
                lend(&mut data, |buf| host.execute(Request { cdb, data: Data::In(buf), timeout }))?;
            let missing = usize::try_from(completion.resid).unwrap_or(0);
            data.truncate(len.saturating_sub(missing));
            if has_answered(&completion) {
                edit(&mut completion, &mut data);
            }
            Ok(completion)
        });
        if matches!(ending.response, Response::Status { .. }) {
            self.task.data_in.write(&data);
        }
        (ending.response, data)
    }

    /// The parameter list is read once: what is judged is what is sent.
    fn judged(&mut self) -> Response {
        let plan = &self.plan;
        let mut list = vec![0; plan.len];
        self.task.data_out.read(&mut list);
        if let Err(sense) = plan.view.policy.judge_parameters(&plan.cdb, &list) {
            self.unit.refused(&plan.cdb, &sense);
            return Response::check_condition(sense, length(plan.len));
        }
        let order = self.unit.watch().order(&plan.cdb, &list);
        let cdb = plan.cdb.0.get(..plan.cdb_len).unwrap_or(&plan.cdb.0);
        let ending = self.unit.persist(&self.patience(), length(plan.len), |host| {
            lend(&mut list, |buf| {
                host.execute(Request { cdb, data: Data::Out(buf), timeout: plan.timeout })
            })
        });
        if let (Some(order), Response::Status { status, .. }) = (order, &ending.response) {
            self.unit.watch().ended(order, *status);
        }
        ending.response
    }

    fn patience(&self) -> Patience {
        Patience::new(&self.unit, self.plan.idempotent, self.task.abort_flag())
    }
}

/// The response with `more` bytes that were not moved either.
fn with_residual(response: Response, more: u32) -> Response {
    match response {
        Response::Status { status, sense, resid } => {
            Response::Status { status, sense, resid: resid.saturating_add(more) }
        }
        failed @ Response::Failed(_) => failed,
    }
}

fn is_success(response: &Response) -> bool {
    matches!(response, Response::Status { status, .. } if is_success_of(*status))
}

/// Whether the command is done but for `left` bytes, whatever the device says besides.
fn is_good(response: &Response, left: u32) -> bool {
    matches!(response, Response::Status { status: Status::GOOD, resid, .. } if *resid == left)
}

fn is_success_of(status: Status) -> bool {
    matches!(status, Status::GOOD | Status::CONDITION_MET)
}

fn has_no_room(response: &Response) -> bool {
    let full = |status: Status| matches!(status, Status::BUSY | Status::TASK_SET_FULL);
    matches!(response, Response::Status { status, .. } if full(*status))
}

fn length(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

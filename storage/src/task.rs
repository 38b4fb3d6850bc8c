//! A SCSI command on its way, and its one answer.
//!
//! A [`Task`] is owned by whoever works on it and ends in exactly one [`Answer`]: `Task::answer`
//! consumes it, and a task that is dropped instead answers TARGET FAILURE by itself and logs a
//! bug. An answer is handed up the call chain where it was found at once, or delivered to the
//! task's [`ReplySink`] from whichever thread found it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::buffer::DataBuf;
use crate::scsi::cdb::Cdb;
use crate::scsi::sense::{Sense, SenseCode};
use crate::scsi::status::Status;

/// Where answers go that were not found at once. Takes them from any thread.
pub trait ReplySink: Send + Sync {
    /// Takes the answer of one task; whoever reads the sink settles it.
    fn complete(&self, answer: Answer);
}

/// What the target says about a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// The command ended with a status.
    Status {
        /// The status.
        status: Status,
        /// Why, for CHECK CONDITION.
        sense: Option<SenseData>,
        /// Bytes of the data buffers that were not transferred.
        resid: u32,
    },
    /// The command could not be delivered, or was taken back: there is no status.
    Failed(ServiceResponse),
}

impl Response {
    /// GOOD, with `resid` bytes of the buffers untouched.
    #[must_use]
    pub fn good(resid: u32) -> Response {
        Response::Status { status: Status::GOOD, sense: None, resid }
    }

    /// CHECK CONDITION with `sense`, and `resid` bytes of the buffers untouched.
    #[must_use]
    pub fn check_condition(sense: impl Into<Sense>, resid: u32) -> Response {
        Response::Status {
            status: Status::CHECK_CONDITION,
            sense: Some(SenseData::Own(sense.into())),
            resid,
        }
    }
}

/// Sense data on its way to the initiator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SenseData {
    /// Made here, in the format that the logical unit has been told to use.
    Own(Sense),
    /// As a device sent it, byte for byte.
    Device(Box<[u8]>),
}

impl SenseData {
    /// What it says, as far as it is sense data.
    #[must_use]
    pub fn code(&self) -> Option<SenseCode> {
        match self {
            SenseData::Own(sense) => Some(sense.code),
            SenseData::Device(bytes) => SenseCode::of(bytes),
        }
    }
}

/// Why there is no status (SAM-6, Service response; the transports' names for it).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceResponse {
    /// Nothing answers at that address.
    BadTarget,
    /// The command moves more data than its buffers hold.
    Overrun,
    /// The target failed, through no fault of the command.
    TargetFailure,
    /// A task management function of its own initiator ended the command.
    Aborted,
    /// A reset ended the command; the initiator may send it again.
    Reset,
    /// What carries commands cannot take this one now; the initiator may send it again.
    Busy,
    /// The way to the device broke; nobody knows whether the command was carried out.
    TransportFailure,
    /// The nexus lost its right to the device, as by a reservation.
    NexusFailure,
    /// Something failed that has no name here.
    Failure,
}

/// How a command stands to the others of its logical unit (SAM-6, Task attributes).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TaskAttribute {
    /// In any order, behind older ORDERED commands.
    #[default]
    Simple,
    /// After all older commands, and before all younger ones.
    Ordered,
    /// At once, and before all younger commands.
    HeadOfQueue,
}

/// A command, its buffers, and the obligation to answer.
#[derive(Debug)]
pub struct Task {
    /// The command.
    pub cdb: Cdb,
    /// What the initiator sends.
    pub data_out: DataBuf,
    /// Where the initiator wants what it receives.
    pub data_in: DataBuf,
    /// The initiator's name for the command, by which task management functions mean it.
    pub tag: u64,
    /// How it stands to others.
    pub attribute: TaskAttribute,
    ticket: Ticket,
}

impl Task {
    /// A task for which `ticket` is answered.
    #[must_use]
    pub fn new(ticket: Ticket, cdb: Cdb, data_out: DataBuf, data_in: DataBuf) -> Task {
        let (tag, attribute) = (0, TaskAttribute::default());
        Task { cdb, data_out, data_in, tag, attribute, ticket: ticket.arm() }
    }

    /// The same task under the initiator's name for it, and with its place among others.
    #[must_use]
    pub fn tagged(self, tag: u64, attribute: TaskAttribute) -> Task {
        Task { tag, attribute, ..self }
    }

    /// Whether the initiator wants no more of it: whoever works on it stops where it can, and
    /// answers whatever it likes.
    #[must_use]
    pub fn is_aborted(&self) -> bool {
        self.ticket.abort.is_set()
    }

    /// Aborts the task, wherever it is by then.
    pub(crate) fn abort_flag(&self) -> &Arc<AbortFlag> {
        &self.ticket.abort
    }

    /// The place that the task takes up.
    pub(crate) fn place(&self) -> u32 {
        self.ticket.token.place
    }

    /// Bytes in both buffers: the residual of a command that moves none.
    #[must_use]
    pub fn buffer_len(&self) -> u32 {
        let len = self.data_out.len().saturating_add(self.data_in.len());
        u32::try_from(len).unwrap_or(u32::MAX)
    }

    /// Ends the task with `bytes` as its data-in, cut to `allocation_length` (SPC-6, Allocation
    /// length).
    #[must_use = "an answer is handed up or delivered"]
    pub fn answer_data(mut self, bytes: &[u8], allocation_length: usize) -> Answer {
        let bytes = bytes.get(..allocation_length).unwrap_or(bytes);
        if self.data_in.len() < bytes.len() {
            return self.answer(Response::Failed(ServiceResponse::Overrun));
        }
        let moved = self.data_in.write(bytes);
        let resid = self.buffer_len().saturating_sub(u32::try_from(moved).unwrap_or(u32::MAX));
        self.answer(Response::good(resid))
    }

    /// Ends the task with CHECK CONDITION and no data moved.
    #[must_use = "an answer is handed up or delivered"]
    pub fn answer_sense(self, sense: impl Into<Sense>) -> Answer {
        let resid = self.buffer_len();
        self.answer(Response::check_condition(sense, resid))
    }

    /// Ends the task.
    #[must_use = "an answer is handed up or delivered"]
    pub fn answer(self, response: Response) -> Answer {
        Answer { ticket: self.ticket.disarm(), response }
    }
}

/// Says that a task was aborted, to whoever works on it.
#[derive(Debug, Default)]
pub(crate) struct AbortFlag(AtomicBool);

impl AbortFlag {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The end of a task.
#[derive(Debug)]
pub struct Answer {
    ticket: Ticket,
    /// What the target says.
    pub response: Response,
}

impl Answer {
    /// Sends the answer to the task's sink.
    pub fn deliver(mut self) {
        if let Some(sink) = self.ticket.sink.clone() {
            self.ticket.armed = false;
            sink.complete(self);
        }
    }

    /// The place that the task took up.
    pub(crate) fn place(&self) -> u32 {
        self.ticket.token.place
    }

    /// Whose answer it is, and what it says. The ticket may serve for another task.
    #[must_use]
    pub fn into_parts(self) -> (Ticket, Response) {
        (self.ticket, self.response)
    }
}

/// A task's name, which whoever reads its sink chose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Token {
    /// The place that the task takes up.
    pub place: u32,
    /// How many tasks had the place before, so that a late answer is told apart.
    pub generation: u32,
}

/// Names a task to the sink that takes its answer. Made once for each place in a queue and moved
/// from task to task, so that no reference is counted while commands run.
pub struct Ticket {
    sink: Option<Arc<dyn ReplySink>>,
    token: Token,
    abort: Arc<AbortFlag>,
    armed: bool,
}

impl Ticket {
    /// A ticket for answers to `sink`.
    #[must_use]
    pub fn new(sink: Arc<dyn ReplySink>) -> Ticket {
        Ticket { sink: Some(sink), token: Token::default(), abort: Arc::default(), armed: false }
    }

    /// The same ticket under the name that its next task is to have.
    #[must_use]
    pub fn with_token(mut self, token: Token) -> Ticket {
        self.token = token;
        self
    }

    /// The task's name.
    #[must_use]
    pub fn token(&self) -> Token {
        self.token
    }

    fn arm(mut self) -> Ticket {
        self.abort.0.store(false, Ordering::Relaxed);
        self.armed = true;
        self
    }

    fn disarm(mut self) -> Ticket {
        self.armed = false;
        self
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Some(sink) = self.sink.take().filter(|_| self.armed) else { return };
        log::error!("bug: task {:?} was dropped without an answer", self.token);
        let ticket = Ticket {
            sink: Some(Arc::clone(&sink)),
            token: self.token,
            abort: Arc::clone(&self.abort),
            armed: false,
        };
        let response = Response::Failed(ServiceResponse::TargetFailure);
        sink.complete(Answer { ticket, response });
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket({:?})", self.token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<(u32, Response)>>);

    impl ReplySink for Recorder {
        fn complete(&self, answer: Answer) {
            let (ticket, response) = answer.into_parts();
            self.0.lock().unwrap().push((ticket.token().place, response));
        }
    }

    fn task(sink: &Arc<Recorder>, place: u32) -> Task {
        let ticket = Ticket::new(Arc::clone(sink) as Arc<dyn ReplySink>)
            .with_token(Token { place, generation: 0 });
        Task::new(ticket, Cdb::new(&[0]), DataBuf::empty(), DataBuf::empty())
    }

    #[test]
    fn a_task_answers_exactly_once() {
        let sink = Arc::new(Recorder::default());
        task(&sink, 1).answer(Response::good(0)).deliver();
        assert_eq!(*sink.0.lock().unwrap(), [(1, Response::good(0))]);
    }

    #[test]
    fn a_dropped_task_answers_target_failure() {
        let sink = Arc::new(Recorder::default());
        drop(task(&sink, 2));
        let failure = Response::Failed(ServiceResponse::TargetFailure);
        assert_eq!(*sink.0.lock().unwrap(), [(2, failure)]);
    }

    #[test]
    fn an_answer_found_at_once_skips_the_sink() {
        let sink = Arc::new(Recorder::default());
        let answer = task(&sink, 3).answer(Response::good(0));
        assert_eq!(answer.into_parts().0.token().place, 3);
        assert!(sink.0.lock().unwrap().is_empty());
    }
}

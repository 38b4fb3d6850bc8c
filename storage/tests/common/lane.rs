//! One request queue in front of one logical unit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use storage::engine::IoContext;
use storage::lun::{LogicalUnit, Submitted};
use storage::scsi::sense::SenseCode;
use storage::target::address::{Lun, LunAddress};
use storage::target::{Bus, Function, Lane, Outcome};
use storage::task::{Answer, Response};
use vmm_sys_util::eventfd::EventFd;

use super::Initiator;

/// Where the logical unit is.
pub const AT: LunAddress = LunAddress { target: 0, lun: Lun::Unit(0) };

/// The queue, whose answers come from threads.
pub struct Queue {
    pub bus: Arc<Bus>,
    lane: Lane,
    wake: EventFd,
    io: IoContext,
    pub initiator: Initiator,
}

impl Queue {
    /// In front of `lun`, after the unit attention of its power-on.
    pub fn before(lun: Arc<dyn LogicalUnit>) -> Queue {
        let mut queue = Queue::of(lun);
        let (response, _) = queue.run(&[0; 6], &[], 0);
        assert_eq!(response, Response::check_condition(SenseCode::POWER_ON_OCCURRED, 0));
        queue
    }

    /// In front of `lun`.
    pub fn of(lun: Arc<dyn LogicalUnit>) -> Queue {
        let bus = Bus::new(1).unwrap();
        bus.attach(0, 0, lun).unwrap();
        Queue::on(bus)
    }

    pub fn on(bus: Arc<Bus>) -> Queue {
        let (lane, wake) = bus.lane(0).unwrap();
        let mut io = IoContext::inline();
        let initiator = Initiator::new(&mut io);
        Queue { bus, lane, wake, io, initiator }
    }

    /// Sends a command to an address.
    pub fn submit_to(&mut self, at: LunAddress, cdb: &[u8], out: &[u8], room: usize) -> u32 {
        let (place, task) = self.initiator.task(cdb, out, room);
        if let Submitted::Done(answer) = self.lane.submit(at, task, &mut self.io) {
            self.settle(answer);
        }
        place
    }

    /// Sends a command, by whose number its answer is found.
    pub fn submit(&mut self, cdb: &[u8], out: &[u8], room: usize) -> u32 {
        self.submit_to(AT, cdb, out, room)
    }

    /// Takes the answers that have come, and does what the bus wants.
    pub fn attend(&mut self) {
        let answers: Vec<Answer> =
            std::mem::take(&mut *self.initiator.inbox.answers.lock().unwrap());
        answers.into_iter().for_each(|answer| self.settle(answer));
        if self.wake.read().is_ok() {
            self.lane.listen();
            for answer in self.lane.attend(&mut self.io) {
                self.settle(answer);
            }
        }
        self.lane.acknowledge();
    }

    fn settle(&mut self, answer: Answer) {
        let (ticket, response) = self.lane.settle(answer);
        self.initiator.finish(ticket.token().place, response);
    }

    /// Attends until `done`.
    pub fn attend_until(&mut self, mut done: impl FnMut(&mut Queue) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < Duration::from_secs(60), "it does not come about");
            self.attend();
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    /// Waits for the answer to a command.
    pub fn answer(&mut self, place: u32) -> (Response, Vec<u8>) {
        self.attend_until(|queue| queue.initiator.answered.contains_key(&place));
        self.initiator.answered.remove(&place).unwrap()
    }

    pub fn is_answered(&mut self, place: u32) -> bool {
        self.attend();
        self.initiator.answered.contains_key(&place)
    }

    /// Sends a command and waits for its answer.
    pub fn run(&mut self, cdb: &[u8], out: &[u8], room: usize) -> (Response, Vec<u8>) {
        let place = self.submit(cdb, out, room);
        self.answer(place)
    }

    /// Begins a function; its outcome comes by the receiver.
    pub fn manage(&self, function: Function) -> std::sync::mpsc::Receiver<Outcome> {
        let (sender, outcome) = std::sync::mpsc::channel();
        self.bus.manage(function, AT, Box::new(move |outcome| sender.send(outcome).unwrap()));
        outcome
    }

    /// Attends until a function has ended.
    pub fn outcome(&mut self, receiver: &std::sync::mpsc::Receiver<Outcome>) -> Outcome {
        let mut outcome = None;
        self.attend_until(|_| {
            outcome = receiver.try_recv().ok();
            outcome.is_some()
        });
        outcome.unwrap()
    }
}

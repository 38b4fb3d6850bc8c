//! Commands that wait, and whoever makes them wait: several lanes, logical units that come and go,
//! and task management functions among them.

mod common;

use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use common::Initiator;
use storage::engine::IoContext;
use storage::lun::{LogicalUnit, Submitted};
use storage::target::address::{Lun, LunAddress};
use storage::target::{Bus, Function, Lane, Outcome};
use storage::task::{Answer, Response, ServiceResponse, Task, TaskAttribute};
use vmm_sys_util::eventfd::EventFd;

const LONG: Duration = Duration::from_secs(20);
const AT: LunAddress = LunAddress { target: 0, lun: Lun::Unit(0) };
/// Exempt from unit attentions.
const INQUIRY: &[u8] = &[0x12, 0, 0, 0, 96, 0];

/// A logical unit that keeps its tasks until they are let go.
#[derive(Debug, Default)]
struct Keeper(Mutex<Vec<Task>>);

impl LogicalUnit for Keeper {
    fn submit(&self, task: Task, _: &mut IoContext) -> Submitted {
        self.0.lock().unwrap().push(task);
        Submitted::Pending
    }

    fn max_transfer(&self) -> u64 {
        u64::MAX
    }
}

impl Keeper {
    /// The tags of what is inside.
    fn inside(&self) -> Vec<u64> {
        self.0.lock().unwrap().iter().map(|task| task.tag).collect()
    }

    fn take(&self) -> Vec<Task> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

/// A lane and its initiator, which names its commands by their places.
struct Queue {
    lane: Lane,
    wake: EventFd,
    io: IoContext,
    initiator: Initiator,
}

impl Queue {
    fn of(bus: &Arc<Bus>, index: u16) -> Queue {
        let (lane, wake) = bus.lane(index).unwrap();
        let mut io = IoContext::inline();
        let initiator = Initiator::new(&mut io);
        Queue { lane, wake, io, initiator }
    }

    fn submit(&mut self, attribute: TaskAttribute) -> u32 {
        let (place, task) = self.initiator.task(INQUIRY, &[], 256);
        let task = task.tagged(place.into(), attribute);
        if let Submitted::Done(answer) = self.lane.submit(AT, task, &mut self.io) {
            self.settle(answer);
        }
        place
    }

    fn settle(&mut self, answer: Answer) {
        let (ticket, response) = self.lane.settle(answer);
        self.initiator.finish(ticket.token().place, response);
    }

    fn attend(&mut self) {
        self.lane.listen();
        self.finish_attending();
    }

    fn finish_attending(&mut self) {
        for answer in self.lane.attend(&mut self.io) {
            self.settle(answer);
        }
        self.lane.acknowledge();
    }

    /// Ends everything that `keeper` has, all of this queue.
    fn let_go(&mut self, keeper: &Keeper) {
        for task in keeper.take() {
            self.settle(task.answer(Response::good(0)));
        }
        self.lane.acknowledge();
    }

    fn answer_to(&self, place: u32) -> Option<Response> {
        self.initiator.answered.get(&place).map(|(response, _)| response.clone())
    }

    fn end(&mut self) {
        for answer in self.lane.abandon(&mut self.io) {
            self.settle(answer);
        }
    }
}

fn new_bus(lanes: u16) -> (Arc<Bus>, Arc<Keeper>) {
    let bus = Bus::new(lanes).unwrap();
    let keeper = Arc::new(Keeper::default());
    bus.attach(0, 0, Arc::clone(&keeper) as _).unwrap();
    // Keeps the target there.
    bus.attach(0, 1, Arc::new(Keeper::default())).unwrap();
    (bus, keeper)
}

fn manage(bus: &Bus, function: Function, at: LunAddress) -> mpsc::Receiver<Outcome> {
    let (sender, outcome) = mpsc::channel();
    bus.manage(function, at, Box::new(move |outcome| sender.send(outcome).unwrap()));
    outcome
}

/// Begins to detach the logical unit, and waits until that keeps commands out.
fn begin_detach(bus: &Arc<Bus>, queue: &mut Queue, keeper: &Keeper) -> thread::JoinHandle<()> {
    let other = Arc::clone(bus);
    let detaching = thread::spawn(move || other.detach(0, 0, LONG).unwrap());
    let inside = keeper.inside().len();
    let start = Instant::now();
    while {
        queue.submit(TaskAttribute::Simple);
        keeper.inside().len() > inside
    } {
        let task = keeper.0.lock().unwrap().pop().unwrap();
        queue.settle(task.answer(Response::good(0)));
        assert!(start.elapsed() < LONG);
        thread::yield_now();
    }
    detaching
}

fn not_there() -> Response {
    // What an INQUIRY hears of a logical unit that is not there is GOOD, and its data says so.
    Response::good(256 - 96)
}

#[test]
fn what_waits_for_a_logical_unit_that_goes_is_answered_however_late_that_is_seen() {
    let (bus, keeper) = new_bus(1);
    let mut queue = Queue::of(&bus, 0);
    queue.submit(TaskAttribute::Simple);
    let detaching = begin_detach(&bus, &mut queue, &keeper);
    let parked = queue.submit(TaskAttribute::Simple);
    // The lane looks while the logical unit is there, and goes on when it is not.
    queue.lane.listen();
    queue.let_go(&keeper);
    detaching.join().unwrap();
    queue.finish_attending();
    queue.attend();
    assert_eq!(queue.answer_to(parked), Some(not_there()));
    assert!(queue.initiator.is_idle());
}

#[test]
fn what_waits_for_a_logical_unit_never_reaches_the_one_that_replaces_it() {
    for attribute in [TaskAttribute::Simple, TaskAttribute::Ordered, TaskAttribute::HeadOfQueue] {
        let (bus, keeper) = new_bus(1);
        let mut queue = Queue::of(&bus, 0);
        queue.submit(TaskAttribute::Simple);
        let detaching = begin_detach(&bus, &mut queue, &keeper);
        let parked = queue.submit(attribute);
        queue.let_go(&keeper);
        detaching.join().unwrap();
        bus.attach(5, 5, Arc::new(Keeper::default())).unwrap();
        let new = Arc::new(Keeper::default());
        bus.attach(0, 0, Arc::clone(&new) as _).unwrap();
        let outcome = manage(&bus, Function::AbortTask(parked.into()), AT);
        queue.attend();
        assert_eq!(outcome.try_recv(), Ok(Outcome::Complete));
        assert_eq!(queue.answer_to(parked), Some(not_there()), "{attribute:?}");
        let later = queue.submit(TaskAttribute::Ordered);
        assert_eq!(new.inside(), [u64::from(later)], "the new one works");
        queue.let_go(&new);
    }
}

#[test]
fn a_function_for_the_well_known_unit_waits_until_rings_were_looked_at() {
    let (bus, _) = new_bus(1);
    let mut queue = Queue::of(&bus, 0);
    let at = LunAddress { target: 0, lun: Lun::ReportLuns };
    let outcome = manage(&bus, Function::AbortTaskSet, at);
    assert!(outcome.try_recv().is_err());
    queue.attend();
    assert_eq!(outcome.try_recv(), Ok(Outcome::Complete));
}

#[test]
fn functions_do_not_pile_up_on_a_command_that_does_not_end() {
    let (bus, keeper) = new_bus(1);
    let mut queue = Queue::of(&bus, 0);
    queue.submit(TaskAttribute::Simple);
    let stuck = bus.manage(Function::AbortTaskSet, AT, Box::new(|_| ())).unwrap();
    queue.attend();
    stuck.expire();
    for function in [Function::LogicalUnitReset, Function::NexusReset, Function::AbortTask(0)] {
        assert_eq!(manage(&bus, function, AT).try_recv(), Ok(Outcome::Failed));
    }
    let query = manage(&bus, Function::QueryTask(0), AT);
    queue.attend();
    assert_eq!(query.try_recv(), Ok(Outcome::Succeeded));
    queue.let_go(&keeper);
    let place = queue.submit(TaskAttribute::Simple);
    assert_eq!(keeper.inside(), [u64::from(place)], "the quarantine has ended");
    queue.let_go(&keeper);
}

#[test]
fn a_stream_of_ordered_commands_does_not_keep_others_out() {
    let (bus, keeper) = new_bus(2);
    let [mut stream, mut other] = [0, 1].map(|lane| Queue::of(&bus, lane));
    stream.submit(TaskAttribute::Ordered);
    stream.submit(TaskAttribute::Ordered);
    let waits = other.submit(TaskAttribute::Simple);
    let second = other.submit(TaskAttribute::Simple);
    stream.submit(TaskAttribute::Ordered);
    // Before those that came later, after those that came earlier.
    for ordered in [0, 1] {
        assert_eq!(keeper.inside(), [ordered]);
        stream.let_go(&keeper);
        stream.submit(TaskAttribute::Ordered);
        stream.attend();
        other.attend();
    }
    assert_eq!(keeper.inside(), [u64::from(waits), u64::from(second)]);
    other.let_go(&keeper);
    stream.attend();
    assert_eq!(keeper.inside(), [2], "the stream goes on");
    stream.let_go(&keeper);
    stream.end();
}

#[test]
fn simple_commands_that_are_ended_give_their_place_in_line_up() {
    let (bus, keeper) = new_bus(2);
    let [mut stream, mut other] = [0, 1].map(|lane| Queue::of(&bus, lane));
    stream.submit(TaskAttribute::Ordered);
    let waits = other.submit(TaskAttribute::Simple);
    stream.submit(TaskAttribute::Ordered);
    let outcome = manage(&bus, Function::AbortTask(waits.into()), AT);
    // Both lanes name their first command 0.
    other.attend();
    assert_eq!(other.answer_to(waits), Some(Response::Failed(ServiceResponse::Aborted)));
    stream.attend();
    stream.let_go(&keeper);
    assert_eq!(outcome.try_recv(), Ok(Outcome::Complete));
    stream.attend();
    assert_eq!(keeper.inside(), [1]);
    stream.let_go(&keeper);
    other.submit(TaskAttribute::Simple);
    assert_eq!(keeper.inside().len(), 1, "and nobody is in line");
    other.let_go(&keeper);
}

#[test]
fn the_head_of_the_queue_hears_of_the_end_of_a_reset_before_ordered_commands_have_run() {
    let (bus, keeper) = new_bus(2);
    let [mut first, mut second] = [0, 1].map(|lane| Queue::of(&bus, lane));
    let outcome = manage(&bus, Function::LogicalUnitReset, AT);
    second.attend();
    let head = second.submit(TaskAttribute::HeadOfQueue);
    first.lane.listen();
    for answer in first.lane.attend(&mut first.io) {
        first.settle(answer);
    }
    first.submit(TaskAttribute::Ordered);
    while second.wake.read().is_ok() {}
    first.lane.acknowledge();
    assert_eq!(outcome.try_recv(), Ok(Outcome::Complete));
    assert!(second.wake.read().is_ok(), "its lane is woken");
    second.attend();
    assert_eq!(keeper.inside(), [u64::from(head)]);
    second.let_go(&keeper);
    first.attend();
    first.let_go(&keeper);
}

#[test]
fn functions_fail_for_ever_where_commands_have_leaked() {
    let (bus, keeper) = new_bus(1);
    let mut queue = Queue::of(&bus, 0);
    queue.submit(TaskAttribute::Simple);
    let before = manage(&bus, Function::AbortTaskSet, AT);
    queue.lane.leak();
    queue.let_go(&keeper);
    drop(queue);
    assert!(before.try_recv().is_err());
    let again = bus.lane(0).unwrap();
    let after = manage(&bus, Function::AbortTaskSet, AT);
    drop(again);
    assert!(after.try_recv().is_err());
}

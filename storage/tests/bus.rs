//! Commands through a lane: who is addressed, what comes first, and attaching and detaching
//! under way.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use common::Initiator;
use storage::backend::{Geometry, Medium, Memory};
use storage::engine::IoContext;
use storage::lun::disk::Disk;
use storage::lun::{LogicalUnit, Submitted, UnitEvents};
use storage::scsi::sense::SenseCode;
use storage::scsi::status::Status;
use storage::target::address::{Lun, LunAddress};
use storage::target::{
    AttachError, Bus, BusEvent, DetachError, EventSink, Function, Lane, Outcome,
};
use storage::task::{Answer, Response, SenseData, ServiceResponse, Task};
use storage::testing::disk_spec;
use vmm_sys_util::eventfd::EventFd;

const TEST_UNIT_READY: &[u8] = &[0, 0, 0, 0, 0, 0];
const REQUEST_SENSE: &[u8] = &[3, 0, 0, 0, 252, 0];
const INQUIRY: &[u8] = &[0x12, 0, 0, 0, 96, 0];
const REPORT_LUNS: &[u8] = &[0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
const LONG: Duration = Duration::from_secs(60);

fn disk() -> Arc<dyn LogicalUnit> {
    let geometry = Geometry { blocks: 8, block_size: 512 };
    Arc::new(Disk::new(Medium::new("test", Box::new(Memory::new(geometry))), &disk_spec()))
}

/// One queue's view of a bus.
struct Queue {
    bus: Arc<Bus>,
    lane: Lane,
    wake: EventFd,
    io: IoContext,
    initiator: Initiator,
}

impl Queue {
    fn new(units: &[(u8, u16)]) -> Queue {
        let bus = Bus::new(1).unwrap();
        for &(target, number) in units {
            bus.attach(target, number, disk()).unwrap();
        }
        Queue::on(bus)
    }

    fn on(bus: Arc<Bus>) -> Queue {
        Queue::of(bus, 0)
    }

    fn of(bus: Arc<Bus>, index: u16) -> Queue {
        let (lane, wake) = bus.lane(index).unwrap();
        let mut io = IoContext::inline();
        let initiator = Initiator::new(&mut io);
        Queue { bus, lane, wake, io, initiator }
    }

    fn submit(&mut self, target: u8, lun: Lun, cdb: &[u8]) -> u32 {
        let (place, task) = self.initiator.task(cdb, &[], 256);
        let address = LunAddress { target, lun };
        if let Submitted::Done(answer) = self.lane.submit(address, task, &mut self.io) {
            self.settle(answer);
        }
        place
    }

    /// Does what the bus woke the queue for; what is in the initiator's ring has been submitted.
    fn attend(&mut self) {
        self.lane.listen();
        for answer in self.lane.attend(&mut self.io) {
            self.settle(answer);
        }
        self.lane.acknowledge();
    }

    fn settle(&mut self, answer: Answer) {
        let (ticket, response) = self.lane.settle(answer);
        self.initiator.finish(ticket.token().place, response);
    }

    fn run(&mut self, target: u8, lun: Lun, cdb: &[u8]) -> (Response, Vec<u8>) {
        let place = self.submit(target, lun, cdb);
        self.initiator.answered.remove(&place).expect("answered at once")
    }

    /// Takes a unit attention away.
    fn clear(&mut self, target: u8, number: u16) {
        let attention = self.run(target, Lun::Unit(number), TEST_UNIT_READY).0;
        assert_eq!(attention, Response::check_condition(SenseCode::POWER_ON_OCCURRED, 256));
        assert_eq!(self.run(target, Lun::Unit(number), TEST_UNIT_READY).0, Response::good(256));
    }
}

fn check(code: SenseCode) -> Response {
    Response::check_condition(code, 256)
}

#[test]
fn a_target_without_logical_units_does_not_answer() {
    let mut queue = Queue::new(&[(1, 0)]);
    let nobody = Response::Failed(ServiceResponse::BadTarget);
    for target in [0, 2, 255] {
        assert_eq!(queue.run(target, Lun::Unit(0), INQUIRY).0, nobody);
    }
    for target in [2, 255] {
        assert_eq!(queue.run(target, Lun::ReportLuns, REPORT_LUNS).0, nobody);
    }
}

#[test]
fn the_first_targets_well_known_unit_is_always_there() {
    let mut queue = Queue::new(&[(1, 0)]);
    let (response, data) = queue.run(0, Lun::ReportLuns, REPORT_LUNS);
    assert_eq!((response, &data[..8]), (Response::good(256 - 8), &[0; 8][..]));
}

#[test]
fn a_missing_logical_unit_says_so() {
    let mut queue = Queue::new(&[(0, 1)]);
    for lun in [Lun::Unit(0), Lun::Unit(2), Lun::Unit(Lun::MAX), Lun::Unsupported] {
        let (response, data) = queue.run(0, lun, INQUIRY);
        assert_eq!((response, data[0]), (Response::good(256 - 96), 0x7f));
        let (response, data) = queue.run(0, lun, REQUEST_SENSE);
        assert_eq!((response, data[2], data[12]), (Response::good(256 - 18), 5, 0x25));
        let refused = check(SenseCode::LOGICAL_UNIT_NOT_SUPPORTED);
        assert_eq!(queue.run(0, lun, TEST_UNIT_READY).0, refused);
        assert_eq!(queue.run(0, lun, &[0xff]).0, refused);
    }
    assert_eq!(
        queue.run(0, Lun::Unit(2), REPORT_LUNS).0,
        check(SenseCode::LOGICAL_UNIT_NOT_SUPPORTED)
    );
}

#[test]
fn all_sense_data_of_a_logical_unit_has_the_format_that_it_was_told() {
    let mut queue = Queue::new(&[(0, 0), (0, 1)]);
    queue.clear(0, 0);
    // MODE SELECT(6) of the Control page with D_SENSE.
    let list = [0, 0, 0, 0, 0x0a, 10, 0x04, 0x10, 0, 0, 0, 0, 0, 0, 0, 0];
    let (_, task) = queue.initiator.task(&[0x15, 0x10, 0, 0, 16, 0], &list, 0);
    let address = LunAddress { target: 0, lun: Lun::Unit(0) };
    let Submitted::Done(answer) = queue.lane.submit(address, task, &mut queue.io) else { panic!() };
    queue.settle(answer);
    let mut format = |target, number| match queue.run(target, Lun::Unit(number), &[0xff]).0 {
        Response::Status { sense: Some(SenseData::Own(sense)), .. } => sense.descriptor_format,
        other => panic!("{other:?}"),
    };
    assert!(format(0, 0));
    // A unit attention of another one, a refusal there, and one without a logical unit.
    assert!(!format(0, 1) && !format(0, 1) && !format(0, 2));
}

#[test]
fn report_luns_lists_the_target_in_both_formats() {
    let mut queue = Queue::new(&[(0, 300), (0, 1), (3, 9)]);
    let list =
        [[0, 0, 0, 16, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0, 0], [0x41, 0x2c, 0, 0, 0, 0, 0, 0]]
            .concat();
    for lun in [Lun::Unit(0), Lun::Unit(1), Lun::ReportLuns] {
        let (response, data) = queue.run(0, lun, REPORT_LUNS);
        assert_eq!(response, Response::good(256 - 24));
        assert_eq!(data[..24], list);
    }
    let well_known = [&REPORT_LUNS[..2], &[1], &REPORT_LUNS[3..]].concat();
    let (_, data) = queue.run(0, Lun::ReportLuns, &well_known);
    assert_eq!(data[..16], [0, 0, 0, 8, 0, 0, 0, 0, 0xc1, 1, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn the_first_command_hears_of_power_on_once() {
    let mut queue = Queue::new(&[(0, 0)]);
    for exempt in [INQUIRY, REPORT_LUNS] {
        assert!(matches!(
            queue.run(0, Lun::Unit(0), exempt).0,
            Response::Status { sense: None, .. }
        ));
    }
    queue.clear(0, 0);
}

#[test]
fn request_sense_returns_the_attention_and_clears_it() {
    let mut queue = Queue::new(&[(0, 0)]);
    let (_, data) = queue.run(0, Lun::Unit(0), REQUEST_SENSE);
    assert_eq!((data[2], data[12], data[13]), (6, 0x29, 1));
    assert_eq!(queue.run(0, Lun::Unit(0), TEST_UNIT_READY).0, Response::good(256));
}

#[test]
fn request_sense_without_room_leaves_the_attention_alone() {
    let mut queue = Queue::new(&[(0, 0)]);
    let (place, task) = queue.initiator.task(REQUEST_SENSE, &[], 17);
    if let Submitted::Done(answer) = queue.lane.submit(AT, task, &mut queue.io) {
        queue.settle(answer);
    }
    let overrun = Response::Failed(ServiceResponse::Overrun);
    assert_eq!(queue.initiator.answered[&place].0, overrun);
    queue.clear(0, 0);
}

#[test]
fn attaching_tells_the_siblings_and_report_luns_clears_it() {
    let mut queue = Queue::new(&[(0, 0), (0, 1), (5, 0)]);
    [(0, 0), (0, 1), (5, 0)].into_iter().for_each(|(target, lun)| {
        queue.run(target, Lun::Unit(lun), REQUEST_SENSE);
    });
    queue.bus.attach(0, 2, disk()).unwrap();
    assert_eq!(queue.run(5, Lun::Unit(0), TEST_UNIT_READY).0, Response::good(256));
    let changed = check(SenseCode::REPORTED_LUNS_DATA_HAS_CHANGED);
    assert_eq!(queue.run(0, Lun::Unit(0), TEST_UNIT_READY).0, changed);
    queue.run(0, Lun::Unit(0), REPORT_LUNS);
    assert_eq!(queue.run(0, Lun::Unit(1), TEST_UNIT_READY).0, Response::good(256));
    queue.clear(0, 2);
}

#[test]
fn an_address_is_given_once() {
    let queue = Queue::new(&[(0, 0)]);
    assert_eq!(queue.bus.attach(0, 0, disk()), Err(AttachError::Taken(0, 0)));
    let above = Lun::MAX + 1;
    assert_eq!(queue.bus.attach(0, above, disk()), Err(AttachError::TooLarge(above)));
    assert_eq!(queue.bus.detach(0, 1, LONG), Err(DetachError::Missing(0, 1)));
}

/// A logical unit that keeps its tasks, and what it is given besides.
#[derive(Default)]
struct Stalled(Mutex<Vec<Task>>, Mutex<Option<Arc<dyn UnitEvents>>>, Mutex<Vec<ResetDone>>);

type ResetDone = Box<dyn FnOnce() + Send>;

impl std::fmt::Debug for Stalled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stalled")
    }
}

impl Stalled {
    /// Its way to the initiator.
    fn events(&self) -> Arc<dyn UnitEvents> {
        Arc::clone(self.1.lock().unwrap().as_ref().unwrap())
    }
}

impl LogicalUnit for Stalled {
    fn submit(&self, task: Task, _: &mut IoContext) -> Submitted {
        self.0.lock().unwrap().push(task);
        Submitted::Pending
    }

    fn attached(&self, events: Arc<dyn UnitEvents>) {
        *self.1.lock().unwrap() = Some(events);
    }

    fn begin_reset(&self, done: ResetDone) {
        self.2.lock().unwrap().push(done);
    }

    fn max_transfer(&self) -> u64 {
        u64::MAX
    }
}

#[test]
fn detaching_waits_for_commands_and_parks_new_ones() {
    let bus = Bus::new(1).unwrap();
    let stalled = Arc::new(Stalled::default());
    bus.attach(0, 0, Arc::clone(&stalled) as _).unwrap();
    bus.attach(0, 1, disk()).unwrap();
    let mut queue = Queue::on(Arc::clone(&bus));
    queue.run(0, Lun::Unit(0), REQUEST_SENSE);
    let running = queue.submit(0, Lun::Unit(0), TEST_UNIT_READY);

    let detached = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            bus.detach(0, 0, LONG).unwrap();
            detached.store(true, Ordering::SeqCst);
        });
        // Once the gate is closed a command waits instead of reaching the logical unit.
        let parked = loop {
            let place = queue.submit(0, Lun::Unit(0), TEST_UNIT_READY);
            if stalled.0.lock().unwrap().len() == 1 {
                break place;
            }
            let task = stalled.0.lock().unwrap().pop().unwrap();
            queue.settle(task.answer(Response::good(0)));
        };
        assert!(!detached.load(Ordering::SeqCst));
        assert!(!queue.initiator.answered.contains_key(&parked));

        let task = stalled.0.lock().unwrap().pop().unwrap();
        queue.settle(task.answer(Response::good(0)));
        assert_eq!(queue.initiator.answered[&running].0, Response::good(0));
        while queue.wake.read().is_err() {
            thread::yield_now();
        }
        queue.attend();
        let gone = check(SenseCode::LOGICAL_UNIT_NOT_SUPPORTED);
        assert_eq!(queue.initiator.answered[&parked].0, gone);
    });
    assert!(detached.load(Ordering::SeqCst));
    let (_, data) = queue.run(0, Lun::Unit(0), INQUIRY);
    assert_eq!(data[0], 0x7f);
}

#[test]
fn detaching_gives_up_on_a_command_that_does_not_end() {
    let bus = Bus::new(1).unwrap();
    let stalled = Arc::new(Stalled::default());
    bus.attach(0, 0, Arc::clone(&stalled) as _).unwrap();
    let mut queue = Queue::on(Arc::clone(&bus));
    queue.run(0, Lun::Unit(0), REQUEST_SENSE);
    let place = queue.submit(0, Lun::Unit(0), TEST_UNIT_READY);
    assert_eq!(bus.detach(0, 0, Duration::from_millis(1)), Err(DetachError::Busy(0, 0)));
    let task = stalled.0.lock().unwrap().pop().unwrap();
    queue.settle(task.answer(Response::good(7)));
    assert_eq!(queue.initiator.answered[&place].0, Response::good(7));
    bus.detach(0, 0, LONG).unwrap();
}

#[test]
fn a_place_is_used_again() {
    let mut queue = Queue::new(&[(0, 0)]);
    queue.bus.detach(0, 0, LONG).unwrap();
    queue.bus.attach(0, 7, disk()).unwrap();
    queue.clear(0, 7);
    let nothing = check(SenseCode::LOGICAL_UNIT_NOT_SUPPORTED);
    assert_eq!(queue.run(0, Lun::Unit(0), TEST_UNIT_READY).0, nothing);
}

/// Two queues in front of one logical unit that keeps its tasks.
fn two_queues() -> (Arc<Bus>, Arc<Stalled>, [Queue; 2]) {
    let bus = Bus::new(2).unwrap();
    let stalled = Arc::new(Stalled::default());
    bus.attach(0, 0, Arc::clone(&stalled) as _).unwrap();
    let mut queues = [0, 1].map(|lane| Queue::of(Arc::clone(&bus), lane));
    queues[0].run(0, Lun::Unit(0), REQUEST_SENSE);
    (bus, stalled, queues)
}

const AT: LunAddress = LunAddress { target: 0, lun: Lun::Unit(0) };

/// Begins a function; its outcome comes by the receiver.
fn manage(bus: &Bus, function: Function) -> mpsc::Receiver<Outcome> {
    let (sender, outcome) = mpsc::channel();
    bus.manage(function, AT, Box::new(move |outcome| sender.send(outcome).unwrap()));
    outcome
}

#[test]
fn a_function_waits_for_the_commands_of_every_queue() {
    let (bus, stalled, [mut first, mut second]) = two_queues();
    let places = [&mut first, &mut second].map(|queue| queue.submit(0, Lun::Unit(0), &[0; 6]));
    let outcome = manage(&bus, Function::AbortTaskSet);
    first.attend();
    assert!(outcome.try_recv().is_err(), "the second queue has not looked");
    second.attend();
    let tasks = std::mem::take(&mut *stalled.0.lock().unwrap());
    assert!(tasks.iter().all(Task::is_aborted));
    let [one, other] = <[Task; 2]>::try_from(tasks).unwrap();
    second.settle(other.answer(Response::good(0)));
    second.lane.acknowledge();
    assert!(outcome.try_recv().is_err(), "the first queue's command runs");
    first.settle(one.answer(Response::good(0)));
    assert!(outcome.try_recv().is_err(), "nobody has seen its answer");
    first.lane.acknowledge();
    assert_eq!(outcome.try_recv(), Ok(Outcome::Complete));
    let aborted = Response::Failed(ServiceResponse::Aborted);
    assert_eq!(first.initiator.answered[&places[0]].0, aborted);
    assert_eq!(second.initiator.answered[&places[1]].0, aborted);
}

#[test]
fn a_command_that_a_function_finds_on_its_way_never_starts() {
    let (bus, stalled, [mut first, mut second]) = two_queues();
    let outcome = manage(&bus, Function::AbortTaskSet);
    first.lane.listen();
    let place = first.submit(0, Lun::Unit(0), &[0; 6]);
    let answered = &first.initiator.answered[&place].0;
    assert_eq!(*answered, Response::Failed(ServiceResponse::Aborted));
    assert!(stalled.0.lock().unwrap().is_empty());
    first.attend();
    second.attend();
    assert_eq!(outcome.try_recv(), Ok(Outcome::Complete));
}

#[test]
fn a_reset_waits_until_the_logical_unit_is_reset() {
    let (bus, stalled, [mut first, mut second]) = two_queues();
    let outcome = manage(&bus, Function::LogicalUnitReset);
    first.attend();
    second.attend();
    let mut begun = std::mem::take(&mut *stalled.2.lock().unwrap());
    assert_eq!(begun.len(), 1);
    let parked = first.submit(0, Lun::Unit(0), TEST_UNIT_READY);
    assert!(outcome.try_recv().is_err(), "the device is yet to be reset");
    assert!(stalled.0.lock().unwrap().is_empty(), "a command passed the reset");
    begun.pop().unwrap()();
    assert_eq!(outcome.try_recv(), Ok(Outcome::Complete));
    first.attend();
    let reset = check(SenseCode::BUS_DEVICE_RESET_FUNCTION_OCCURRED);
    assert_eq!(first.initiator.answered[&parked].0, reset);
}

#[test]
fn only_a_reset_of_the_logical_unit_resets_it() {
    let (bus, stalled, [first, second]) = two_queues();
    let functions = [Function::AbortTaskSet, Function::ClearTaskSet, Function::NexusReset];
    let outcomes = functions.map(|function| manage(&bus, function));
    drop((first, second));
    assert!(outcomes.iter().all(|outcome| outcome.try_recv() == Ok(Outcome::Complete)));
    assert!(stalled.2.lock().unwrap().is_empty());
}

/// Hides one of two logical units.
fn hidden(queue: &mut Queue, stalled: &Stalled, heard: &Heard) {
    queue.clear(0, 1);
    stalled.events().set_present(false);
    let at = LunAddress { target: 0, lun: Lun::Unit(0) };
    assert_eq!(std::mem::take(&mut *heard.0.lock().unwrap()), [BusEvent::Detached(at)]);
}

#[test]
fn what_is_out_of_sight_looks_absent() {
    let (bus, stalled, [mut queue, _]) = two_queues();
    let heard = Arc::new(Heard::default());
    bus.attach(0, 1, disk()).unwrap();
    bus.listen(Some(Arc::clone(&heard) as _));
    hidden(&mut queue, &stalled, &heard);
    let (response, data) = queue.run(0, Lun::Unit(0), INQUIRY);
    assert_eq!((response, data[0]), (Response::good(256 - 96), 0x7f));
    let absent = check(SenseCode::LOGICAL_UNIT_NOT_SUPPORTED);
    assert_eq!(queue.run(0, Lun::Unit(0), TEST_UNIT_READY).0, absent);
    let changed = check(SenseCode::REPORTED_LUNS_DATA_HAS_CHANGED);
    assert_eq!(queue.run(0, Lun::Unit(1), TEST_UNIT_READY).0, changed);
    let (_, list) = queue.run(0, Lun::Unit(1), REPORT_LUNS);
    assert_eq!(list[..16], [0, 0, 0, 8, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    stalled.events().set_present(false);
    assert!(heard.0.lock().unwrap().is_empty(), "it was out of sight before");

    stalled.events().set_present(true);
    let at = LunAddress { target: 0, lun: Lun::Unit(0) };
    assert_eq!(*heard.0.lock().unwrap(), [BusEvent::Attached(at)]);
    for number in [0, 1] {
        assert_eq!(queue.run(0, Lun::Unit(number), TEST_UNIT_READY).0, changed);
    }
    let (_, list) = queue.run(0, Lun::Unit(1), REPORT_LUNS);
    assert_eq!(list[..8], [0, 0, 0, 16, 0, 0, 0, 0]);
    assert!(stalled.0.lock().unwrap().is_empty());
}

#[test]
fn a_target_whose_logical_units_are_out_of_sight_does_not_answer() {
    let (bus, stalled, [mut queue, _]) = two_queues();
    stalled.events().set_present(false);
    let nobody = Response::Failed(ServiceResponse::BadTarget);
    assert_eq!(queue.run(0, Lun::Unit(0), INQUIRY).0, nobody);
    let (_, list) = queue.run(0, Lun::ReportLuns, REPORT_LUNS);
    assert_eq!(list[..8], [0; 8]);
    drop(bus);
}

#[test]
fn functions_reach_the_commands_of_what_is_out_of_sight() {
    for function in [Function::AbortTaskSet, Function::NexusReset] {
        let (bus, stalled, [mut queue, other]) = two_queues();
        drop(other);
        let running = queue.submit(0, Lun::Unit(0), TEST_UNIT_READY);
        stalled.events().set_present(false);
        let outcome = manage(&bus, function);
        queue.attend();
        assert!(outcome.try_recv().is_err(), "its command runs");
        let task = stalled.0.lock().unwrap().pop().unwrap();
        assert!(task.is_aborted());
        queue.settle(task.answer(Response::good(0)));
        queue.lane.acknowledge();
        assert_eq!(outcome.try_recv(), Ok(Outcome::Complete));
        assert!(queue.initiator.answered.contains_key(&running));
    }
}

#[test]
fn what_a_device_says_reaches_the_initiator_byte_by_byte() {
    let (_bus, stalled, [mut queue, _]) = two_queues();
    for sense in [vec![0x72, 3, 0x11, 0, 0, 0, 0, 244], vec![0xa5; 252], vec![0]] {
        let place = queue.submit(0, Lun::Unit(0), TEST_UNIT_READY);
        let task = stalled.0.lock().unwrap().pop().unwrap();
        let said = Response::Status {
            status: Status::CHECK_CONDITION,
            sense: Some(SenseData::Device(sense.into())),
            resid: 7,
        };
        queue.settle(task.answer(said.clone()));
        assert_eq!(queue.initiator.answered[&place].0, said);
    }
}

#[test]
fn a_logical_units_own_attention_comes_once_and_its_events_at_once() {
    let (bus, stalled, [mut queue, _]) = two_queues();
    let heard = Arc::new(Heard::default());
    bus.listen(Some(Arc::clone(&heard) as _));
    let code = SenseCode::CAPACITY_DATA_HAS_CHANGED;
    (0..2).for_each(|_| stalled.events().attention(code));
    assert_eq!(queue.run(0, Lun::Unit(0), TEST_UNIT_READY).0, check(code));
    queue.submit(0, Lun::Unit(0), TEST_UNIT_READY);
    let task = stalled.0.lock().unwrap().pop().expect("one attention, once");
    queue.settle(task.answer(Response::good(0)));
    assert!(heard.0.lock().unwrap().is_empty());
    stalled.events().parameters_changed(code);
    let at = LunAddress { target: 0, lun: Lun::Unit(0) };
    assert_eq!(*heard.0.lock().unwrap(), [BusEvent::Changed(at, code)]);
    assert_eq!(stalled.events().label(), "0-0");
}

#[test]
fn queues_that_nobody_serves_hold_no_function_up() {
    let (bus, stalled, [first, second]) = two_queues();
    let outcome = manage(&bus, Function::LogicalUnitReset);
    stalled.2.lock().unwrap().drain(..).for_each(|done| done());
    drop(first);
    assert!(outcome.try_recv().is_err());
    drop(second);
    assert_eq!(outcome.try_recv(), Ok(Outcome::Complete));
    assert_eq!(manage(&bus, Function::AbortTaskSet).try_recv(), Ok(Outcome::Complete));
}

#[test]
fn events_go_to_whoever_listens() {
    let bus = Bus::new(1).unwrap();
    let heard = Arc::new(Heard::default());
    bus.attach(0, 3, disk()).unwrap();
    bus.listen(Some(Arc::clone(&heard) as _));
    let at = LunAddress { target: 7, lun: Lun::Unit(300) };
    bus.attach(7, 300, disk()).unwrap();
    bus.changed(7, 300, SenseCode::CAPACITY_DATA_HAS_CHANGED);
    bus.changed(7, 301, SenseCode::CAPACITY_DATA_HAS_CHANGED);
    bus.detach(7, 300, LONG).unwrap();
    bus.listen(None);
    bus.detach(0, 3, LONG).unwrap();
    let changed = BusEvent::Changed(at, SenseCode::CAPACITY_DATA_HAS_CHANGED);
    let expected = [BusEvent::Attached(at), changed, BusEvent::Detached(at)];
    assert_eq!(*heard.0.lock().unwrap(), expected);
}

#[derive(Default)]
struct Heard(Mutex<Vec<BusEvent>>);

impl EventSink for Heard {
    fn event(&self, event: BusEvent) {
        self.0.lock().unwrap().push(event);
    }
}

#[test]
fn many_are_attached_at_once_or_none() {
    let bus = Bus::new(1).unwrap();
    let one = disk();
    let all = |target| (0..=Lun::MAX).map(move |number| (target, number));
    let luns = |target| all(target).map(|(target, number)| (target, number, Arc::clone(&one)));
    bus.attach_all(luns(0).chain(luns(255))).unwrap();
    let again = luns(7).chain([(255, 3, disk())]);
    assert_eq!(bus.attach_all(again), Err(AttachError::Taken(255, 3)));
    let mut queue = Queue::on(bus);
    queue.clear(255, Lun::MAX);
    queue.clear(0, 0);
    let nobody = Response::Failed(ServiceResponse::BadTarget);
    assert_eq!(queue.run(7, Lun::Unit(0), INQUIRY).0, nobody);
}

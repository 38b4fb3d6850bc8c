//! Task management functions over real rings: whatever state a command is in, once its function
//! has succeeded not a byte of the guest's memory is written for it any more.
#![expect(clippy::cast_possible_truncation, reason = "the numbers of a test are small")]
#![expect(unsafe_code, reason = "asks the host for a ring")]

mod host;
mod ring;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use host::{
    BUFFERS, CONTROL, EVENT_IDX, GOOD, Host, LONG, REQUEST, RESPONSE, VERSION_1, data_at, disk,
    outcome, response_at,
};
use ring::{RING_LEN, Ring, command, readable, transfer_10, writable};
use storage::backend::{Backend, Geometry, Medium};
use storage::buffer::DataBuf;
use storage::engine::Pool;
use storage::lun::disk::Disk;
use storage::target::Bus;
use storage::testing::disk_spec;

const ABORT_TASK: u8 = 0;
const ABORT_TASK_SET: u8 = 1;
const CLEAR_ACA: u8 = 2;
const CLEAR_TASK_SET: u8 = 3;
const NEXUS_RESET: u8 = 4;
const LOGICAL_UNIT_RESET: u8 = 5;
const QUERY_TASK: u8 = 6;
const QUERY_TASK_SET: u8 = 7;

const COMPLETE: u8 = 0;
const FAILED: u8 = 9;
const SUCCEEDED: u8 = 10;
const REJECTED: u8 = 11;
const INCORRECT_LUN: u8 = 12;

const ABORTED: u8 = 2;
const BAD_TARGET: u8 = 3;
const RESET: u8 = 4;

const SIMPLE: u8 = 0;
const ORDERED: u8 = 1;
const HEAD_OF_QUEUE: u8 = 2;

/// The command that the functions are about: its logical unit, place and tag.
const LUN: u8 = 1;
const PLACE: u16 = 5;
const TAG: u64 = 0x1122_3344_5566_7788;
/// Another logical unit whose commands end when the test says so, and a command to it.
const OTHER_LUN: u8 = 2;
const OTHER: u16 = 6;
const OTHER_TAG: u64 = 9;

const GEOMETRY: Geometry = Geometry { blocks: 64, block_size: 512 };

/// What stalls a backend: how many calls are inside, and whether they may go on.
#[derive(Debug, Default)]
struct Stall {
    state: Mutex<(u32, bool)>,
    changed: Condvar,
}

impl Stall {
    /// Blocks until released.
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.0 += 1;
        self.changed.notify_all();
        let mut state = self.changed.wait_while(state, |state| !state.1).unwrap();
        state.0 -= 1;
    }

    fn wait_for(&self, inside: u32) {
        let state = self.state.lock().unwrap();
        let wait = self.changed.wait_timeout_while(state, LONG, |state| state.0 < inside);
        assert!(!wait.unwrap().1.timed_out(), "the command does not reach the backend");
    }

    fn release(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

/// A medium whose transfers take until they are released.
#[derive(Debug)]
struct Slow(Arc<Stall>);

impl Backend for Slow {
    fn geometry(&self) -> Geometry {
        GEOMETRY
    }

    fn read(&self, _: u64, data: &mut DataBuf) -> io::Result<()> {
        self.0.pass();
        data.write(&vec![0x77; data.len()]);
        data.advance(data.len());
        Ok(())
    }

    fn write(&self, _: u64, data: &mut DataBuf) -> io::Result<()> {
        self.0.pass();
        data.advance(data.len());
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn raw_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// A medium that is the end of a pipe with nothing in it, which a ring waits for.
#[derive(Debug)]
struct Empty(OwnedFd);

impl Backend for Empty {
    fn geometry(&self) -> Geometry {
        GEOMETRY
    }

    fn read(&self, _: u64, _: &mut DataBuf) -> io::Result<()> {
        unreachable!("the ring reads")
    }

    fn write(&self, _: u64, _: &mut DataBuf) -> io::Result<()> {
        unreachable!("nobody writes")
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn raw_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }
}

fn over(backend: impl Backend + 'static) -> Arc<Disk> {
    Arc::new(Disk::new(Medium::new("test", Box::new(backend)), &disk_spec()))
}

fn host_has_ring() -> bool {
    let mut parameters = [0_u8; 120];
    // SAFETY: the kernel fills the 120 bytes of struct io_uring_params.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) };
    if fd >= 0 {
        // SAFETY: nobody else has the descriptor.
        unsafe { libc::close(fd as i32) };
    }
    fd >= 0
}

/// A READ of one block.
fn read(lun: u8, tag: u64, attribute: u8) -> [u8; 51] {
    let mut request = command(lun, &transfer_10(0x28, 0, 1));
    request[8..16].copy_from_slice(&tag.to_le_bytes());
    request[16] = attribute;
    request
}

/// Makes a request available without a doorbell; its buffers are filled first.
fn push(host: &mut Host, place: u16, request: &[u8]) {
    let segments = host.place(place, request, &[], 512);
    fill(host, place);
    host.request.push_indirect(place, &segments);
}

fn start(host: &mut Host, place: u16, request: &[u8]) {
    push(host, place, request);
    host.kick(REQUEST);
}

const UNTOUCHED: u8 = 0xee;

fn fill(host: &Host, place: u16) {
    host.put(response_at(place), &[UNTOUCHED; RESPONSE as usize]);
    host.put(data_at(place), &[UNTOUCHED; 512]);
}

fn is_untouched(host: &Host, place: u16) -> bool {
    let all = [host.get(response_at(place), RESPONSE as usize), host.get(data_at(place), 512)];
    all.concat().iter().all(|&byte| byte == UNTOUCHED)
}

/// Asks for a function; its answer comes in the control ring.
fn ask(host: &mut Host, function: u8, target: u8, lun: u8, tag: u64) {
    let mut request = [0; 24];
    request[4] = function;
    request[8..12].copy_from_slice(&[1, target, 0x40, lun]);
    request[16..].copy_from_slice(&tag.to_le_bytes());
    host.put(BUFFERS, &request);
    host.control.push(0, &[readable(BUFFERS, 24), writable(BUFFERS + 0x100, 1)]);
    host.kick(CONTROL);
}

fn answer(host: &mut Host) -> u8 {
    assert_eq!(host.wait(CONTROL), (0, 1));
    host.get(BUFFERS + 0x100, 1)[0]
}

fn manage(host: &mut Host, function: u8) -> u8 {
    ask(host, function, 0, LUN, TAG);
    answer(host)
}

/// Waits for the end of the command at `place`: its response code.
fn ended(host: &mut Host, place: u16) -> u8 {
    assert_eq!(host.wait(REQUEST).0, place);
    host.get(response_at(place), 12)[11]
}

/// Long enough for a device that answers too early to be caught.
fn does_nothing(host: &mut Host, queue: u16) {
    std::thread::sleep(Duration::from_millis(10));
    assert_eq!(host.used(queue), None);
}

/// Where a command is when a function names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unpopped,
    Parked,
    InRing,
    InPool,
    BeforePool,
    Answered,
}

const STATES: [State; 6] = [
    State::Unpopped,
    State::Parked,
    State::InRing,
    State::InPool,
    State::BeforePool,
    State::Answered,
];

/// A host with a command in `state`; what stalls its logical unit, and the other one.
struct Scene {
    host: Host,
    stall: Arc<Stall>,
    other: Arc<Stall>,
    /// The other end of the pipe.
    _pipe: Option<File>,
}

impl Scene {
    fn new(state: State, tmf_timeout: Duration) -> Scene {
        let (stall, other) = (Arc::<Stall>::default(), Arc::<Stall>::default());
        let bus = Bus::new(1).unwrap();
        let mut pipe = None;
        let unit = match state {
            State::InRing => {
                let (reader, writer) = io::pipe().unwrap();
                pipe = Some(File::from(OwnedFd::from(writer)));
                over(Empty(reader.into()))
            }
            _ => over(Slow(Arc::clone(&stall))),
        };
        bus.attach(0, LUN.into(), unit).unwrap();
        bus.attach(0, OTHER_LUN.into(), over(Slow(Arc::clone(&other)))).unwrap();
        let mut host = Host::on(bus, Pool::new(1), tmf_timeout);
        host.activate(VERSION_1 | EVENT_IDX);
        host.take_attention(LUN);
        host.take_attention(OTHER_LUN);
        let mut scene = Scene { host, stall, other, _pipe: pipe };
        scene.bring_about(state);
        scene
    }

    fn bring_about(&mut self, state: State) {
        let request = read(LUN, TAG, SIMPLE);
        match state {
            State::Unpopped => push(&mut self.host, PLACE, &request),
            State::InRing => {
                start(&mut self.host, PLACE, &request);
                does_nothing(&mut self.host, REQUEST);
            }
            State::InPool => {
                start(&mut self.host, PLACE, &request);
                self.stall.wait_for(1);
            }
            State::BeforePool => {
                start(&mut self.host, OTHER, &read(OTHER_LUN, OTHER_TAG, SIMPLE));
                self.other.wait_for(1);
                start(&mut self.host, PLACE, &request);
                does_nothing(&mut self.host, REQUEST);
            }
            State::Parked => {
                start(&mut self.host, OTHER, &read(LUN, OTHER_TAG, ORDERED));
                self.stall.wait_for(1);
                start(&mut self.host, PLACE, &request);
                does_nothing(&mut self.host, REQUEST);
            }
            State::Answered => {
                self.stall.release();
                start(&mut self.host, PLACE, &request);
                assert_eq!(ended(&mut self.host, PLACE), 0);
            }
        }
    }
}

/// Whether something that cannot be taken back stands between the function and its end.
fn has_to_wait(function: u8, state: State) -> bool {
    match state {
        State::InPool => true,
        // The ORDERED command before it runs.
        State::Parked => function != ABORT_TASK,
        _ => false,
    }
}

#[test]
fn what_a_function_ends_touches_no_memory_afterwards() {
    let states = STATES.into_iter().filter(|&state| state != State::InRing || host_has_ring());
    for state in states {
        for (function, end) in [
            (ABORT_TASK, ABORTED),
            (ABORT_TASK_SET, ABORTED),
            (CLEAR_TASK_SET, ABORTED),
            (LOGICAL_UNIT_RESET, RESET),
            (NEXUS_RESET, RESET),
        ] {
            println!("function {function}, {state:?}");
            let mut scene = Scene::new(state, LONG);
            let host = &mut scene.host;
            let waits = has_to_wait(function, state)
                || function == NEXUS_RESET && state == State::BeforePool;
            ask(host, function, 0, LUN, TAG);
            if waits {
                does_nothing(host, CONTROL);
                scene.stall.release();
                scene.other.release();
            }
            assert_eq!(answer(host), COMPLETE);
            // Everything that it named is answered by now.
            let mut codes = Vec::new();
            while let Some((place, _)) = host.used(REQUEST) {
                codes.push((place, host.get(response_at(place), 12)[11]));
            }
            let expected = match state {
                State::Answered => vec![],
                State::Parked | State::BeforePool if waits => vec![(OTHER, end), (PLACE, end)],
                _ => vec![(PLACE, end)],
            };
            codes.sort_unstable_by_key(|&(place, _)| std::cmp::Reverse(place));
            assert_eq!(codes, expected, "function {function}, {state:?}");

            fill(host, PLACE);
            scene.stall.release();
            scene.other.release();
            let resets = end == RESET;
            if resets {
                let code = if function == NEXUS_RESET { 7 } else { 3 };
                assert_eq!(end_other(host, state, waits), ());
                assert_eq!(host.take_attention(LUN), code);
            } else {
                end_other(host, state, waits);
            }
            start(host, OTHER, &read(OTHER_LUN, OTHER_TAG, SIMPLE));
            host.wait(REQUEST);
            assert!(is_untouched(host, PLACE), "function {function}, {state:?}");
        }
    }
}

/// Lets the command end that the function did not name.
fn end_other(host: &mut Host, state: State, waited: bool) {
    if matches!(state, State::Parked | State::BeforePool) && !waited {
        assert_eq!(ended(host, OTHER), 0);
    }
}

#[test]
fn queries_tell_what_is_there_and_leave_it_alone() {
    let states = STATES.into_iter().filter(|&state| state != State::InRing || host_has_ring());
    for state in states {
        for function in [QUERY_TASK, QUERY_TASK_SET] {
            let mut scene = Scene::new(state, LONG);
            let host = &mut scene.host;
            let expected = if state == State::Answered { COMPLETE } else { SUCCEEDED };
            assert_eq!(manage(host, function), expected, "{function}, {state:?}");
            ask(host, QUERY_TASK, 0, LUN, TAG + 1);
            assert_eq!(answer(host), COMPLETE, "no command has that tag");
            does_nothing(host, REQUEST);
            scene.stall.release();
            scene.other.release();
            let others = usize::from(matches!(state, State::Parked | State::BeforePool));
            let commands = match state {
                State::Answered => 0,
                State::InRing => {
                    assert_eq!(manage(host, ABORT_TASK), COMPLETE);
                    1
                }
                _ => 1 + others,
            };
            for _ in 0..commands {
                let (place, _) = host.wait(REQUEST);
                let expected = if state == State::InRing { ABORTED } else { 0 };
                assert_eq!(host.get(response_at(place), 12)[11], expected);
            }
        }
    }
}

#[test]
fn a_function_names_only_what_it_says() {
    let mut scene = Scene::new(State::BeforePool, LONG);
    let host = &mut scene.host;
    ask(host, ABORT_TASK, 0, LUN, OTHER_TAG);
    assert_eq!(answer(host), COMPLETE, "another logical unit's tag");
    does_nothing(host, REQUEST);
    assert_eq!(manage(host, CLEAR_ACA), REJECTED);
    for (target, lun, code) in [(9, LUN, BAD_TARGET), (0, 77, INCORRECT_LUN)] {
        for function in [ABORT_TASK, ABORT_TASK_SET, LOGICAL_UNIT_RESET, QUERY_TASK_SET] {
            ask(host, function, target, lun, TAG);
            assert_eq!(answer(host), code);
        }
    }
    ask(host, LOGICAL_UNIT_RESET, 0, LUN, 0);
    assert_eq!(answer(host), COMPLETE);
    assert_eq!(ended(host, PLACE), RESET);
    scene.other.release();
    assert_eq!(ended(host, OTHER), 0, "its logical unit was not reset");
    let (_, response) = host.run(&command(OTHER_LUN, &[0; 6]), &[], 0);
    assert_eq!(outcome(&response), GOOD, "nor has it an attention");
}

#[test]
fn what_does_not_end_fails_the_function_and_is_quarantined_until_it_does() {
    for (function, end) in [(ABORT_TASK, ABORTED), (LOGICAL_UNIT_RESET, RESET)] {
        let mut scene = Scene::new(State::InPool, Duration::from_millis(20));
        let host = &mut scene.host;
        assert_eq!(manage(host, function), FAILED);
        let (_, response) = host.run(&command(LUN, &[0; 6]), &[], 0);
        assert_eq!(outcome(&response), (8, 0, 0), "BUSY");
        let (_, response) = host.run(&command(OTHER_LUN, &[0; 6]), &[], 0);
        assert_eq!(outcome(&response), GOOD, "others go on");
        assert_eq!(manage(host, function), FAILED, "still");
        scene.stall.release();
        assert_eq!(ended(host, PLACE), end);
        // The quarantine ends with the command's answer, or soon after it.
        let attention = loop {
            let (_, response) = host.run(&command(LUN, &[0; 6]), &[], 0);
            match outcome(&response) {
                (8, 0, 0) => std::thread::yield_now(),
                (status, ..) => break (status, response[12 + 13]),
            }
        };
        if end == RESET {
            assert_eq!(attention, (2, 3), "the reset has taken place all the same");
        } else {
            assert_eq!(attention.0, 0);
        }
    }
}

#[test]
fn functions_do_not_wait_for_each_other() {
    let mut scene = Scene::new(State::InPool, LONG);
    let host = &mut scene.host;
    ask(host, LOGICAL_UNIT_RESET, 0, LUN, 0);
    does_nothing(host, CONTROL);
    let mut request = [0; 24];
    request[4] = LOGICAL_UNIT_RESET;
    request[8..12].copy_from_slice(&[1, 0, 0x40, OTHER_LUN]);
    host.put(BUFFERS + 0x200, &request);
    host.control.push(8, &[readable(BUFFERS + 0x200, 24), writable(BUFFERS + 0x300, 1)]);
    host.kick(CONTROL);
    assert_eq!(host.wait(CONTROL), (8, 1));
    assert_eq!(host.get(BUFFERS + 0x300, 1), [COMPLETE]);
    scene.stall.release();
    assert_eq!(answer(host), COMPLETE);
}

#[test]
fn a_reset_of_the_device_takes_functions_along() {
    let mut scene = Scene::new(State::InPool, LONG);
    let host = &mut scene.host;
    ask(host, LOGICAL_UNIT_RESET, 0, LUN, 0);
    does_nothing(host, CONTROL);
    scene.stall.release();
    host.reset();
    host.request = Ring::new(&host.memory, 4 * RING_LEN, host::QUEUE_SIZE);
    host.control = Ring::new(&host.memory, 5 * RING_LEN, host::QUEUE_SIZE);
    host.activate(VERSION_1);
    assert!([3, 7].contains(&host.take_attention(LUN)), "the gate is open again");
}

/// Commands to one logical unit with these attributes; the order in which they end, while the
/// first of them is held up in the backend until all have been sent.
fn order_of(attributes: &[u8]) -> Vec<u16> {
    let bus = Bus::new(1).unwrap();
    let stall = Arc::<Stall>::default();
    bus.attach(0, LUN.into(), over(Slow(Arc::clone(&stall)))).unwrap();
    let mut host = Host::on(bus, Pool::new(1), LONG);
    host.activate(VERSION_1);
    host.take_attention(LUN);
    for (place, &attribute) in (0..).zip(attributes) {
        start(&mut host, place, &read(LUN, place.into(), attribute));
        if place == 0 {
            stall.wait_for(1);
        }
    }
    does_nothing(&mut host, REQUEST);
    stall.release();
    attributes.iter().map(|_| host.wait(REQUEST).0).collect()
}

#[test]
fn ordered_commands_wait_for_older_ones_and_younger_ones_for_them() {
    // With one thread, the pool would keep the order anyway: a command at the head of the queue
    // overtakes those that wait at the gate, and nothing else does.
    assert_eq!(order_of(&[SIMPLE, ORDERED, SIMPLE]), [0, 1, 2]);
    assert_eq!(order_of(&[SIMPLE, ORDERED, SIMPLE, HEAD_OF_QUEUE]), [0, 3, 1, 2]);
    assert_eq!(order_of(&[ORDERED, SIMPLE, ORDERED, SIMPLE]), [0, 1, 2, 3]);
    assert_eq!(order_of(&[ORDERED, ORDERED, HEAD_OF_QUEUE]), [0, 2, 1]);
    assert_eq!(order_of(&[HEAD_OF_QUEUE, SIMPLE, ORDERED, SIMPLE]), [0, 1, 2, 3]);
}

#[test]
fn an_ordered_command_runs_alone() {
    let bus = Bus::new(1).unwrap();
    let stall = Arc::<Stall>::default();
    bus.attach(0, LUN.into(), over(Slow(Arc::clone(&stall)))).unwrap();
    bus.attach(0, 0, Arc::new(disk())).unwrap();
    let mut host = Host::on(bus, Pool::new(4), LONG);
    host.activate(VERSION_1);
    host.take_attention(LUN);
    start(&mut host, 0, &read(LUN, 0, SIMPLE));
    start(&mut host, 1, &read(LUN, 1, SIMPLE));
    stall.wait_for(2);
    start(&mut host, 2, &read(LUN, 2, ORDERED));
    start(&mut host, 3, &read(LUN, 3, SIMPLE));
    does_nothing(&mut host, REQUEST);
    assert_eq!(stall.state.lock().unwrap().0, 2, "neither reaches the backend");
    stall.release();
    let mut ends: Vec<u16> = (0..4).map(|_| host.wait(REQUEST).0).collect();
    ends[..2].sort_unstable();
    assert_eq!(ends, [0, 1, 2, 3]);
}

#[test]
fn an_ordered_command_that_is_ended_keeps_nobody_waiting() {
    let bus = Bus::new(1).unwrap();
    let stall = Arc::<Stall>::default();
    bus.attach(0, LUN.into(), over(Slow(Arc::clone(&stall)))).unwrap();
    let mut host = Host::on(bus, Pool::new(4), LONG);
    host.activate(VERSION_1);
    host.take_attention(LUN);
    start(&mut host, 0, &read(LUN, 0, SIMPLE));
    stall.wait_for(1);
    start(&mut host, PLACE, &read(LUN, TAG, ORDERED));
    start(&mut host, 2, &read(LUN, 2, SIMPLE));
    does_nothing(&mut host, REQUEST);
    assert_eq!(manage(&mut host, ABORT_TASK), COMPLETE);
    assert_eq!(ended(&mut host, PLACE), ABORTED);
    stall.wait_for(2);
    stall.release();
}

#[test]
fn what_is_sent_during_a_reset_runs_after_it() {
    let mut scene = Scene::new(State::InPool, LONG);
    let host = &mut scene.host;
    ask(host, LOGICAL_UNIT_RESET, 0, LUN, 0);
    does_nothing(host, CONTROL);
    start(host, OTHER, &read(LUN, OTHER_TAG, SIMPLE));
    does_nothing(host, REQUEST);
    scene.stall.release();
    assert_eq!(answer(host), COMPLETE);
    assert_eq!(ended(host, PLACE), RESET);
    assert_eq!(ended(host, OTHER), 0);
    let response = host.get(response_at(OTHER), RESPONSE as usize);
    assert_eq!((response[10], response[12 + 12], response[12 + 13]), (2, 0x29, 3));
}

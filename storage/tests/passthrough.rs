//! Commands to a SCSI device of the host, through a lane: what reaches the device, and what comes
//! back.

mod common;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use common::lane::Queue;
use common::transfer_16;
use proptest::prelude::*;
use storage::host::sysfs::Ports;
use storage::host::{Completion, HostLimits, HostStatus, OpenError, Request, ScsiHost};
use storage::lun::LogicalUnit;
use storage::lun::passthrough::Passthrough;
use storage::lun::passthrough::counters::Counts;
use storage::lun::passthrough::device::Device;
use storage::lun::passthrough::policy::Preset;
use storage::lun::passthrough::presence::Place;
use storage::lun::spec::PassthroughSpec;
use storage::scsi::sense::{Sense, SenseCode};
use storage::scsi::status::Status;
use storage::target::Function;
use storage::task::{Response, SenseData, ServiceResponse};
use storage::testing::{FakeDevice, FakeHost, Outcome};

const TEST_UNIT_READY: &[u8] = &[0, 0, 0, 0, 0, 0];
const REQUEST_SENSE: &[u8] = &[3, 0, 0, 0, 252, 0];
const INQUIRY: &[u8] = &[0x12, 0, 0, 0, 36, 0];
const START: &[u8] = &[0x1b, 0, 0, 0, 1, 0];
const STOP: &[u8] = &[0x1b, 0, 0, 0, 0, 0];
const READ_CAPACITY_16: &[u8] = &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0];
const READ: u8 = 0x88;
const WRITE: u8 = 0x8a;

fn spec() -> PassthroughSpec {
    PassthroughSpec::new("/dev/sg0".as_ref())
}

fn cluster() -> PassthroughSpec {
    let mut spec = spec();
    spec.policy.preset = Preset::Cluster;
    spec
}

fn allowing(command: &str) -> PassthroughSpec {
    let mut spec = spec();
    spec.policy.allow.push(command.parse().unwrap());
    spec
}

struct Bench {
    host: Arc<FakeHost>,
    lun: Arc<Passthrough>,
    queue: Queue,
}

impl Bench {
    /// A queue in front of `device`, whose power-on has been told of.
    fn new(device: FakeDevice, spec: &PassthroughSpec) -> Bench {
        let host = Arc::new(FakeHost::new(device));
        let way = Arc::clone(&host) as Arc<dyn ScsiHost>;
        let lun = Arc::new(Passthrough::new(spec, way.into()).unwrap());
        host.take_sent();
        let queue = Queue::before(Arc::clone(&lun) as _);
        Bench { host, lun, queue }
    }

    fn disk() -> Bench {
        Bench::new(FakeDevice::default(), &spec())
    }

    fn run(&mut self, cdb: &[u8], out: &[u8], room: usize) -> (Response, Vec<u8>) {
        self.queue.run(cdb, out, room)
    }

    fn response(&mut self, cdb: &[u8], room: usize) -> Response {
        self.run(cdb, &[], room).0
    }

    fn counts(&self) -> Counts {
        self.lun.unit().counters.read()
    }
}

impl Drop for Bench {
    /// A test that fails leaves no command behind for which the logical unit would wait.
    fn drop(&mut self) {
        // The script may have a reset fail.
        while std::thread::panicking() && self.host.reset_logical_unit().is_err() {}
    }
}

/// A disk behind a host that carries 8 KiB.
fn narrow() -> FakeDevice {
    let mut device = FakeDevice::default();
    device.limits.max_bytes = 8 << 10;
    device.limits.max_hw_bytes = 8 << 10;
    device
}

fn numbered(len: usize) -> Vec<u8> {
    (0..=250).cycle().take(len).collect()
}

fn status(status: Status, resid: u32) -> Response {
    Response::Status { status, sense: None, resid }
}

#[test]
fn what_is_written_is_read() {
    let mut bench = Bench::disk();
    let data = numbered(8 * 512);
    let write = transfer_16(WRITE, false, 5, 8);
    assert_eq!(bench.run(&write, &data, 0), (Response::good(0), vec![]));
    let read = transfer_16(READ, false, 5, 8);
    assert_eq!(bench.run(&read, &[], 8 * 512), (Response::good(0), data));
    let (response, data) = bench.run(INQUIRY, &[], 36);
    assert_eq!((response, &data[8..11]), (Response::good(0), &b"VMM"[..]));
    let sent = bench.host.take_cdbs();
    assert_eq!(sent, [write.to_vec(), read.to_vec(), INQUIRY.to_vec()]);
    assert_eq!(bench.counts(), Counts { commands: 3, ..Counts::default() });
}

#[test]
fn every_status_comes_with_its_sense_and_residual() {
    let mut bench = Bench::disk();
    let descriptors: Vec<u8> = [0x72, 1, 0, 0x1d, 0, 0, 0, 244].into_iter().chain(0..244).collect();
    let read = transfer_16(READ, false, 0, 1);
    for byte in 0..=u8::MAX {
        for sense in [vec![], vec![0x70, 0, 5, 0, 0, 0, 0, 10], descriptors.clone()] {
            let (status, data) = (Status(byte), sense.clone());
            bench.host.next(Outcome::End(Completion {
                status,
                sense,
                resid: 500,
                host_status: HostStatus::OK,
            }));
            let sense = (!data.is_empty()).then(|| SenseData::Device(data.into()));
            let expected = Response::Status { status, sense, resid: 500 };
            assert_eq!(bench.response(&read, 512), expected, "{byte:#x}");
        }
    }
}

#[test]
fn a_residual_counts_what_the_command_does_not_ask_for_too() {
    let mut bench = Bench::disk();
    assert_eq!(bench.response(INQUIRY, 100), Response::good(64));
    let short = Completion { resid: 16, ..Completion::default() };
    bench.host.next(Outcome::End(short));
    assert_eq!(bench.response(&transfer_16(READ, false, 0, 1), 1000), Response::good(504));
    for (resid, seen) in [(-5, 0), (i32::MAX, 512)] {
        bench.host.next(Outcome::End(Completion { resid, ..Completion::default() }));
        let write = transfer_16(WRITE, false, 0, 1);
        assert_eq!(bench.run(&write, &[0; 512], 0).0, Response::good(seen));
    }
    // A command without data leaves a buffer that the initiator has for it.
    assert_eq!(bench.response(TEST_UNIT_READY, 9), Response::good(9));
    assert_eq!(bench.host.take_sent().pop().unwrap().data_in, 0);
}

#[test]
fn buffers_that_are_too_short_are_an_overrun_and_nothing_is_sent() {
    let mut bench = Bench::disk();
    let overrun = Response::Failed(ServiceResponse::Overrun);
    let one = transfer_16(READ, false, 0, 1);
    assert_eq!(bench.response(&one, 511), overrun);
    assert_eq!(bench.run(&one, &[0; 512], 0).0, overrun, "the wrong way");
    assert_eq!(bench.run(&transfer_16(WRITE, false, 0, 1), &[0; 511], 0).0, overrun);
    assert_eq!(bench.response(&transfer_16(READ, false, 0, u32::MAX), 512), overrun);
    assert_eq!(bench.response(INQUIRY, 35), overrun);
    assert!(bench.host.take_sent().is_empty());
    assert_eq!(bench.response(&transfer_16(READ, false, 0, 0), 0), Response::good(0));
}

#[test]
fn blocks_count_as_long_as_they_are_from_the_first_command_on() {
    let mut device = FakeDevice { block_size: 4096, ..FakeDevice::default() };
    device.store = vec![0; 1 << 20];
    let mut bench = Bench::new(device, &spec());
    let overrun = Response::Failed(ServiceResponse::Overrun);
    assert_eq!(bench.response(&transfer_16(READ, false, 0, 1), 512), overrun);
    assert_eq!(bench.response(&transfer_16(READ, false, 0, 1), 4096), Response::good(0));
    assert_eq!(bench.host.take_sent().pop().unwrap().data_in, 4096);
}

#[test]
fn what_the_host_refuses_is_not_retryable_and_what_it_lacks_is_busy() {
    let mut bench = Bench::disk();
    for (errno, expected) in [
        (libc::EPERM, Response::check_condition(SenseCode::INVALID_COMMAND_OPERATION_CODE, 36)),
        (libc::EINVAL, Response::check_condition(SenseCode::INVALID_FIELD_IN_CDB, 36)),
        (libc::ENOMEM, status(Status::BUSY, 36)),
        (libc::EDOM, status(Status::TASK_SET_FULL, 36)),
    ] {
        bench.host.on(0x12, Outcome::Errno(errno));
        assert_eq!(bench.response(INQUIRY, 36), expected, "{errno}");
    }
}

#[test]
fn commands_of_32_bytes_go_as_they_are() {
    let mut spec = spec();
    spec.policy.preset = Preset::Full;
    let mut bench = Bench::new(FakeDevice::default(), &spec);
    let mut cdb = [0; 32];
    (cdb[0], cdb[7], cdb[9]) = (0x7f, 24, 9);
    cdb[31] = 1;
    bench.host.on(0x7f, Outcome::data(&[7; 512]));
    let (response, data) = bench.run(&cdb, &[], 512);
    assert_eq!((response, data), (Response::good(0), vec![7; 512]));
    assert_eq!(bench.host.take_cdbs(), [cdb.to_vec()]);
}

#[test]
fn each_kind_of_command_has_its_time() {
    let mut device = FakeDevice::default();
    device.inquiry[2] = 6;
    // SYNCHRONIZE CACHE(10) in 3 seconds, WRITE(10) in 90, READ(10) unknown.
    let descriptor = |opcode, seconds| {
        let timeouts = [0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, seconds];
        [[opcode, 0, 0, 0, 0, 2, 0, 10].as_slice(), &timeouts].concat()
    };
    let list = [descriptor(0x35, 3), descriptor(0x2a, 90), descriptor(0x28, 0)].concat();
    device.supported = Some([&[0, 0, 0, 60], list.as_slice()].concat());
    let commands: [(&[u8], usize, u64); 4] = [
        (&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0], 512, 90),
        (&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], 0, 60),
        (TEST_UNIT_READY, 0, 30),
        (INQUIRY, 0, 30),
    ];
    for own in [None, Some(Duration::from_secs(20)), Some(Duration::from_secs(1))] {
        let spec = PassthroughSpec { timeout: own, ..spec() };
        let mut bench = Bench::new(device.clone(), &spec);
        for (cdb, out, seconds) in commands {
            bench.run(cdb, &vec![0; out], 512);
            let timeout = bench.host.take_sent().pop().unwrap().timeout;
            let own = own.map(|own| own.max(Duration::from_secs(7)));
            assert_eq!(timeout, own.unwrap_or(Duration::from_secs(seconds)), "{cdb:x?}");
        }
        // It has a reason to take longer than others, and the device says how long.
        bench.run(&common::SYNCHRONIZE_CACHE, &[], 0);
        assert_eq!(bench.host.take_sent().pop().unwrap().timeout, Duration::from_secs(7));
    }
}

#[test]
fn a_time_limit_of_the_users_does_not_shorten_what_takes_long() {
    let spec = PassthroughSpec { timeout: Some(Duration::from_secs(10)), ..spec() };
    let mut bench = Bench::new(FakeDevice::of_type(1), &spec);
    const REWIND: &[u8] = &[1, 0, 0, 0, 0, 0];
    bench.response(REWIND, 0);
    assert!(bench.host.take_sent().pop().unwrap().timeout > Duration::from_secs(600));
    // WRITE SAME from block 0 to the end of the medium, and UNMAP.
    let mut bench = Bench::new(FakeDevice::default(), &spec);
    let write_same = [0x93, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let unmap = [0x42, 0, 0, 0, 0, 0, 0, 0, 8, 0];
    for (cdb, len) in [(&write_same[..], 512), (&unmap, 8)] {
        bench.run(cdb, &vec![0; len], 0);
        assert!(bench.host.take_sent().pop().unwrap().timeout > Duration::from_secs(600));
    }
}

#[test]
fn a_stuck_command_holds_up_neither_its_queue_nor_another_logical_unit() {
    let mut bench = Bench::disk();
    let other = Arc::new(FakeHost::default());
    let way = Arc::clone(&other) as Arc<dyn ScsiHost>;
    bench.queue.bus.attach(0, 1, Arc::new(Passthrough::new(&spec(), way.into()).unwrap())).unwrap();
    let (stuck, hold) = Outcome::stuck();
    bench.host.on(0x12, stuck);
    let first = bench.queue.submit(INQUIRY, &[], 36);
    hold.wait_for_arrival();
    let at = storage::target::address::LunAddress {
        target: 0,
        lun: storage::target::address::Lun::Unit(1),
    };
    let second = bench.queue.submit_to(at, INQUIRY, &[], 36);
    assert_eq!(bench.queue.answer(second).0, Response::good(0));
    // Its own other commands pass it too.
    assert_eq!(bench.response(INQUIRY, 36), Response::good(0));
    assert!(!bench.queue.is_answered(first));
    hold.release();
    assert_eq!(bench.queue.answer(first).0, Response::good(0));
}

#[test]
fn no_more_commands_are_at_the_device_than_it_takes() {
    let spec = PassthroughSpec { queue_depth: Some(1), ..spec() };
    let mut bench = Bench::new(FakeDevice::default(), &spec);
    let (stuck, hold) = Outcome::stuck();
    bench.host.next(stuck);
    let mut waiting = vec![bench.queue.submit(INQUIRY, &[], 36)];
    hold.wait_for_arrival();
    waiting.extend((0..1024).map(|_| bench.queue.submit(INQUIRY, &[], 36)));
    assert_eq!(bench.host.take_sent().len(), 1);
    let full = bench.queue.submit(INQUIRY, &[], 36);
    assert_eq!(bench.queue.answer(full).0, status(Status::TASK_SET_FULL, 36));
    hold.release();
    for place in waiting {
        assert_eq!(bench.queue.answer(place).0, Response::good(0));
    }
}

#[test]
fn an_abort_ends_what_waits_and_waits_for_what_runs() {
    let spec = PassthroughSpec { queue_depth: Some(1), ..spec() };
    let mut bench = Bench::new(FakeDevice::default(), &spec);
    let (stuck, hold) = Outcome::stuck();
    bench.host.next(stuck);
    let running = bench.queue.submit(INQUIRY, &[], 36);
    hold.wait_for_arrival();
    let waiting = bench.queue.submit(INQUIRY, &[], 36);
    let outcome = bench.queue.manage(Function::AbortTaskSet);
    let aborted = Response::Failed(ServiceResponse::Aborted);
    assert_eq!(bench.queue.answer(waiting).0, aborted);
    assert!(outcome.try_recv().is_err() && !bench.queue.is_answered(running));
    hold.release();
    assert_eq!(bench.queue.answer(running).0, aborted);
    assert_eq!(bench.queue.outcome(&outcome), storage::target::Outcome::Complete);
    assert_eq!(bench.host.take_sent().len(), 1, "what waited was never sent");
}

#[test]
fn a_reset_reaches_the_device_by_a_private_nexus_alone() {
    for (spec, private) in [
        (cluster(), true),
        (spec(), false),
        (allowing("PERSISTENT RESERVE OUT"), true),
        (allowing("89"), true),
        (allowing("PERSISTENT RESERVE IN"), false),
        (PassthroughSpec { force: true, ..cluster() }, false),
        (PassthroughSpec { shared_nexus: true, ..cluster() }, false),
    ] {
        let mut bench = Bench::new(FakeDevice::default(), &spec);
        let (stuck, hold) = Outcome::stuck();
        bench.host.next(stuck);
        let running = bench.queue.submit(TEST_UNIT_READY, &[], 0);
        hold.wait_for_arrival();
        let outcome = bench.queue.manage(Function::LogicalUnitReset);
        if !private {
            bench.queue.attend();
            assert!(outcome.try_recv().is_err(), "its command runs");
            hold.release();
        }
        assert_eq!(bench.queue.answer(running).0, Response::Failed(ServiceResponse::Reset));
        assert_eq!(bench.queue.outcome(&outcome), storage::target::Outcome::Complete);
        assert_eq!(bench.host.resets(), usize::from(private));
        let reset = SenseCode::BUS_DEVICE_RESET_FUNCTION_OCCURRED;
        assert_eq!(bench.response(TEST_UNIT_READY, 0), Response::check_condition(reset, 0));
    }
}

#[test]
fn a_reset_that_the_host_refuses_waits_for_the_commands() {
    let mut bench = Bench::new(FakeDevice::default(), &cluster());
    bench.host.next_reset(libc::EPERM);
    let (stuck, hold) = Outcome::stuck();
    bench.host.next(stuck);
    let running = bench.queue.submit(TEST_UNIT_READY, &[], 0);
    hold.wait_for_arrival();
    let outcome = bench.queue.manage(Function::LogicalUnitReset);
    bench.queue.attend_until(|_| bench.host.resets() == 1);
    bench.queue.attend();
    assert!(outcome.try_recv().is_err() && !bench.queue.is_answered(running));
    hold.release();
    assert_eq!(bench.queue.outcome(&outcome), storage::target::Outcome::Complete);
}

#[test]
fn without_a_path_what_can_be_repeated_is_held() {
    let mut bench = Bench::disk();
    let lost = [
        Outcome::host(HostStatus::NO_CONNECT),
        Outcome::host(HostStatus::TRANSPORT_DISRUPTED),
        Outcome::host(HostStatus::TRANSPORT_FAILFAST),
        Outcome::host(HostStatus::TRANSPORT_MARGINAL),
    ];
    lost.into_iter().for_each(|outcome| bench.host.on(READ, outcome));
    let read = transfer_16(READ, false, 0, 1);
    assert_eq!(bench.response(&read, 512), Response::good(0));
    let sent = bench.host.take_cdbs().into_iter().filter(|cdb| cdb[0] == READ).count();
    assert_eq!((sent, bench.counts().retried), (5, 4));
}

#[test]
fn what_cannot_be_repeated_fails_once_and_so_does_all_without_a_path_timeout() {
    let failed = Response::Failed(ServiceResponse::TransportFailure);
    let spec = PassthroughSpec { path_timeout: Duration::ZERO, ..cluster() };
    let mut bench = Bench::new(FakeDevice::default(), &spec);
    bench.host.on(READ, Outcome::host(HostStatus::TRANSPORT_DISRUPTED));
    assert_eq!(bench.response(&transfer_16(READ, false, 0, 1), 512), failed);

    let mut bench = Bench::new(FakeDevice::default(), &cluster());
    const COMPARE_AND_WRITE: &[u8] = &[0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0];
    bench.host.on(0x89, Outcome::host(HostStatus::TRANSPORT_DISRUPTED));
    assert_eq!(bench.run(COMPARE_AND_WRITE, &[0; 1024], 0).0, failed);
    assert_eq!(bench.counts().retried, 0);
}

#[test]
fn what_was_not_sent_is_held_too_and_without_a_path_timeout_a_lost_path() {
    const COMPARE_AND_WRITE: &[u8] = &[0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0];
    let failed = Response::Failed(ServiceResponse::TransportFailure);
    let bench = |path_timeout| {
        let spec = PassthroughSpec { path_timeout, ..cluster() };
        let mut bench = Bench::new(FakeDevice::default(), &spec);
        bench.host.on(0x89, Outcome::host(HostStatus::TRANSPORT_DISRUPTED));
        bench.host.on(0x89, Outcome::End(Completion::default()));
        (0..6).for_each(|_| bench.host.on(0x12, Outcome::host(HostStatus::TRANSPORT_FAILFAST)));
        assert_eq!(bench.run(COMPARE_AND_WRITE, &[0; 1024], 0).0, failed);
        bench
    };
    let mut held = bench(Duration::from_secs(3600));
    assert_eq!(held.run(COMPARE_AND_WRITE, &[0; 1024], 0).0, Response::good(1024));
    let sent = held.host.take_cdbs().iter().filter(|cdb| cdb[0] == 0x89).count();
    assert_eq!(sent, 2);
    let mut at_once = bench(Duration::ZERO);
    assert_eq!(at_once.run(COMPARE_AND_WRITE, &[0; 1024], 0).0, failed);
}

#[test]
fn a_path_that_does_not_come_back_is_told_in_time() {
    let spec = PassthroughSpec { path_timeout: Duration::from_millis(50), ..spec() };
    let mut bench = Bench::new(FakeDevice::default(), &spec);
    (0..50).for_each(|_| bench.host.on(READ, Outcome::host(HostStatus::TRANSPORT_DISRUPTED)));
    let failed = Response::Failed(ServiceResponse::TransportFailure);
    assert_eq!(bench.response(&transfer_16(READ, false, 0, 1), 512), failed);
    assert!(bench.counts().retried > 0);
}

#[test]
fn an_abort_ends_a_command_that_is_held() {
    let spec = PassthroughSpec { path_timeout: Duration::from_secs(3600), ..spec() };
    let mut bench = Bench::new(FakeDevice::default(), &spec);
    for _ in 0..1000 {
        bench.host.on(READ, Outcome::host(HostStatus::BUS_BUSY));
    }
    let held = bench.queue.submit(&transfer_16(READ, false, 0, 1), &[], 512);
    let lun = Arc::clone(&bench.lun);
    bench.queue.attend_until(|_| lun.unit().counters.read().retried > 0);
    let outcome = bench.queue.manage(Function::AbortTaskSet);
    assert_eq!(bench.queue.outcome(&outcome), storage::target::Outcome::Complete);
    assert_eq!(bench.queue.answer(held).0, Response::Failed(ServiceResponse::Aborted));
}

#[test]
fn a_timeout_or_reset_of_the_hosts_is_a_reset_to_the_initiator() {
    for host_status in [HostStatus::TIME_OUT, HostStatus::RESET] {
        let mut bench = Bench::disk();
        bench.host.next(Outcome::host(host_status));
        let reset = Response::Failed(ServiceResponse::Reset);
        assert_eq!(bench.response(TEST_UNIT_READY, 0), reset);
        let code = SenseCode::BUS_DEVICE_RESET_FUNCTION_OCCURRED;
        assert_eq!(bench.response(TEST_UNIT_READY, 0), Response::check_condition(code, 0));
        assert_eq!(bench.response(TEST_UNIT_READY, 0), Response::good(0));
    }
}

#[test]
fn a_reset_that_the_device_has_told_of_is_not_told_again() {
    let mut bench = Bench::disk();
    bench.host.next(Outcome::check(SenseCode::BUS_DEVICE_RESET_FUNCTION_OCCURRED));
    assert!(matches!(
        bench.response(TEST_UNIT_READY, 0),
        Response::Status { status: Status::CHECK_CONDITION, .. }
    ));
    bench.host.next(Outcome::host(HostStatus::RESET));
    bench.response(TEST_UNIT_READY, 0);
    assert_eq!(bench.response(TEST_UNIT_READY, 0), Response::good(0));
}

#[test]
fn a_transfer_that_is_too_long_for_the_host_goes_in_pieces() {
    let mut bench = Bench::new(narrow(), &spec());
    let data = numbered(100 * 512);
    let write = transfer_16(WRITE, true, 3, 100);
    assert_eq!(bench.run(&write, &data, 0), (Response::good(0), vec![]));
    let sent = bench.host.take_sent();
    assert!(sent.len() >= 7 && sent.iter().all(|it| it.data_out.len() <= 8 << 10));
    assert!(sent.iter().all(|it| it.cdb[1] == 8), "FUA stays");
    let whole: Vec<u8> = sent.into_iter().flat_map(|it| it.data_out).collect();
    assert_eq!(whole, data);
    let read = transfer_16(READ, false, 3, 100);
    assert_eq!(
        bench.run(&read, &[], 100 * 512 + 7),
        (Response::good(7), [data, vec![0; 7]].concat())
    );
    assert_eq!((bench.counts().split, bench.counts().commands), (2, 2));
}

#[test]
fn pieces_stop_at_the_first_that_fails() {
    let sense = Sense { information: Some(20), ..SenseCode::UNRECOVERED_READ_ERROR.into() };
    for (outcome, sense_len, resid, pieces) in [
        (Outcome::check(sense), 18, 100 * 512 - (8 << 10), 2),
        (Outcome::status(Status::RESERVATION_CONFLICT), 0, 100 * 512 - (8 << 10), 2),
    ] {
        let mut bench = Bench::new(narrow(), &spec());
        bench.host.next(Outcome::alter(|_| ()));
        bench.host.next(outcome);
        let response = bench.response(&transfer_16(READ, false, 0, 100), 100 * 512);
        let Response::Status { status, sense, resid: seen } = response else { panic!() };
        assert_ne!(status, Status::GOOD);
        let len = sense.map_or(0, |sense| match sense {
            SenseData::Device(bytes) => bytes.len(),
            SenseData::Own(_) => panic!(),
        });
        assert_eq!((len, seen), (sense_len, resid));
        assert_eq!(bench.host.take_sent().len(), pieces);
    }
}

#[test]
fn a_piece_that_comes_short_ends_the_command_there() {
    let mut bench = Bench::new(narrow(), &spec());
    bench.host.next(Outcome::alter(|completion| completion.resid = 512));
    let response = bench.response(&transfer_16(READ, false, 0, 100), 100 * 512);
    assert_eq!(response, Response::good(100 * 512 - (8 << 10) + 512));
    assert_eq!(bench.host.take_sent().len(), 1);
}

#[test]
fn a_piece_that_is_good_is_followed_by_the_next_whatever_else_the_device_says() {
    let mut bench = Bench::new(narrow(), &spec());
    let talks = |completion: &mut Completion| completion.sense = vec![0x70, 0, 1, 0, 0, 0, 0, 10];
    bench.host.next(Outcome::alter(talks));
    assert_eq!(bench.response(&transfer_16(READ, false, 0, 32), 32 * 512), Response::good(0));
    assert_eq!(bench.host.take_sent().len(), 2);
}

#[test]
fn pieces_that_find_no_room_are_sent_again() {
    let mut bench = Bench::new(narrow(), &spec());
    bench.host.next(Outcome::status(Status::BUSY));
    bench.host.next(Outcome::alter(|_| ()));
    bench.host.next(Outcome::status(Status::TASK_SET_FULL));
    let read = transfer_16(READ, false, 0, 32);
    assert_eq!(bench.response(&read, 32 * 512), Response::good(0));
    assert_eq!(bench.counts().retried, 2);
    // A command that goes as a whole is the initiator's to send again.
    bench.host.next(Outcome::status(Status::BUSY));
    assert_eq!(bench.response(&transfer_16(READ, false, 0, 1), 512), status(Status::BUSY, 512));
}

#[test]
fn an_abort_comes_between_two_pieces() {
    let mut bench = Bench::new(narrow(), &spec());
    let (stuck, hold) = Outcome::stuck();
    bench.host.next(stuck);
    let long = bench.queue.submit(&transfer_16(WRITE, false, 0, 100), &[1; 100 * 512], 0);
    hold.wait_for_arrival();
    let outcome = bench.queue.manage(Function::AbortTaskSet);
    bench.queue.attend();
    hold.release();
    assert_eq!(bench.queue.answer(long).0, Response::Failed(ServiceResponse::Aborted));
    assert_eq!(bench.queue.outcome(&outcome), storage::target::Outcome::Complete);
    assert_eq!(bench.host.take_sent().len(), 1);
}

#[test]
fn what_cannot_be_split_is_refused_where_it_says_how_long_it_is() {
    let mut bench = Bench::new(narrow(), &cluster());
    let mut verify = transfer_16(0x8f, false, 0, 100);
    verify[1] = 2;
    let refused = Response::check_condition(Sense::invalid_field(10, None), 100 * 512);
    assert_eq!(bench.run(&verify, &[0; 100 * 512], 0).0, refused);
    assert!(bench.host.take_sent().is_empty());
}

#[test]
fn memory_that_the_host_cannot_reach_is_gone_round() {
    let mut device = FakeDevice::default();
    device.limits.max_segments = 2;
    let mut bench = Bench::new(device, &spec());
    let data = numbered(4096);
    // The initiator's memory begins anywhere, in two segments: three pages.
    for _ in 0..8 {
        assert_eq!(bench.run(&transfer_16(WRITE, false, 0, 8), &data, 0).0, Response::good(0));
        let read = transfer_16(READ, false, 0, 8);
        assert_eq!(bench.run(&read, &[], 4096), (Response::good(0), data.clone()));
    }
}

#[test]
fn a_stop_is_the_initiators_own() {
    let mut bench = Bench::disk();
    assert_eq!(bench.response(STOP, 0), Response::good(0));
    assert_eq!(bench.host.take_cdbs(), [common::SYNCHRONIZE_CACHE.to_vec()]);
    let stopped = SenseCode::INITIALIZING_COMMAND_REQUIRED;
    let read = transfer_16(READ, false, 0, 1);
    assert_eq!(bench.response(TEST_UNIT_READY, 0), Response::check_condition(stopped, 0));
    assert_eq!(bench.response(&read, 512), Response::check_condition(stopped, 512));
    let (response, data) = bench.run(REQUEST_SENSE, &[], 252);
    assert_eq!((response, data[2], data[12]), (Response::good(234), 2, 4));
    assert!(bench.host.take_sent().is_empty());
    assert_eq!(bench.response(INQUIRY, 36), Response::good(0));
    assert_eq!(bench.response(START, 0), Response::good(0));
    assert_eq!(bench.response(&read, 512), Response::good(0));
    assert!(bench.host.take_cdbs().iter().all(|cdb| cdb[0] != 0x1b));
}

#[test]
fn a_device_without_a_cache_and_a_zoned_one_stop_too() {
    let mut bench = Bench::new(FakeDevice::of_type(0x14), &spec());
    bench.host.on(0x35, Outcome::check(SenseCode::INVALID_COMMAND_OPERATION_CODE));
    assert_eq!(bench.response(STOP, 0), Response::good(0));
    bench.host.take_sent();
    let (response, data) = bench.run(REQUEST_SENSE, &[], 252);
    assert_eq!((response, data[2], data[12]), (Response::good(234), 2, 4));
    assert!(bench.host.take_sent().is_empty());
    let mut bench = Bench::disk();
    bench.host.on(0x35, Outcome::Errno(libc::EPERM));
    assert_ne!(bench.response(STOP, 0), Response::good(0), "nobody knows of a cache");
}

#[test]
fn a_stop_that_cannot_make_stable_what_was_written_fails() {
    let mut bench = Bench::disk();
    bench.host.on(0x35, Outcome::check(SenseCode::WRITE_ERROR));
    let Response::Status { status, .. } = bench.response(STOP, 0) else { panic!() };
    assert_eq!(status, Status::CHECK_CONDITION);
    assert_eq!(bench.response(TEST_UNIT_READY, 0), Response::good(0));
    assert_eq!(bench.response(&[0x1b, 0, 0, 0, 4, 0], 0), Response::good(0));
    assert_ne!(bench.response(TEST_UNIT_READY, 0), Response::good(0));
    bench.lun.reset();
    assert_eq!(bench.response(TEST_UNIT_READY, 0), Response::good(0));
}

#[test]
fn the_policy_refuses_before_anything_is_sent() {
    let mut bench = Bench::disk();
    let refused = Response::check_condition(SenseCode::INVALID_COMMAND_OPERATION_CODE, 0);
    for opcode in [0x5f, 0x89, 0x83, 0xc1] {
        let cdb = [opcode, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(bench.response(&cdb, 0), refused, "{opcode:#x}");
    }
    assert!(bench.host.take_sent().is_empty());
    assert_eq!(bench.counts().refused, 4);
}

/// A host that lets this process send only what reads.
#[derive(Debug)]
struct Unprivileged(Arc<FakeHost>);

impl ScsiHost for Unprivileged {
    fn execute(&self, request: Request<'_>) -> io::Result<Completion> {
        match self.carries(request.cdb) {
            true => self.0.execute(request),
            false => Err(io::Error::from_raw_os_error(libc::EPERM)),
        }
    }

    fn reset_logical_unit(&self) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(libc::EPERM))
    }

    fn carries(&self, cdb: &[u8]) -> bool {
        ![0x35, 0x5e, 0x5f].contains(&cdb[0])
    }

    fn limits(&self) -> io::Result<HostLimits> {
        self.0.limits()
    }
}

#[test]
fn what_the_host_does_not_let_through_is_not_offered() {
    const SUPPORTED: &[u8] = &[0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
    let mut device = FakeDevice::default();
    let descriptor = |opcode| [opcode, 0, 0, 0, 0, 0, 0, 10];
    let list = [[0, 0, 0, 16].as_slice(), &descriptor(0x28), &descriptor(0x35)].concat();
    device.supported = Some(list);
    let host = Arc::new(FakeHost::new(device));
    let way: Arc<dyn ScsiHost> = Arc::new(Unprivileged(Arc::clone(&host)));
    let lun = Passthrough::new(&cluster(), way.into()).unwrap();
    let mut queue = Queue::before(Arc::new(lun));
    let refused = Response::check_condition(SenseCode::INVALID_COMMAND_OPERATION_CODE, 0);
    assert_eq!(queue.run(&common::SYNCHRONIZE_CACHE, &[], 0).0, refused);
    let (response, data) = queue.run(SUPPORTED, &[], 256);
    let Response::Status { status: Status::GOOD, resid, .. } = response else { panic!() };
    let len = usize::try_from(u32::from_be_bytes([data[0], data[1], data[2], data[3]])).unwrap();
    assert_eq!(4 + len + resid as usize, 256);
    let opcodes: Vec<u8> = data[4..4 + len].chunks(8).map(|descriptor| descriptor[0]).collect();
    assert!(opcodes.contains(&0x28) && !opcodes.contains(&0x35), "{opcodes:x?}");
}

#[test]
fn another_device_in_its_place_gets_no_command() {
    for lost in [
        HostStatus::NO_CONNECT,
        HostStatus::TRANSPORT_DISRUPTED,
        HostStatus::TRANSPORT_FAILFAST,
        HostStatus::TRANSPORT_MARGINAL,
    ] {
        let mut bench = Bench::new(FakeDevice::default(), &cluster());
        // It has another designator, and says so only when it is asked.
        bench.host.device().set_vpd(&[0, 0x83, 0, 12, 1, 3, 0, 8, 0x50, 9, 9, 9, 9, 9, 9, 9]);
        bench.host.on(READ, Outcome::host(lost));
        let gone = Response::check_condition(SenseCode::LOGICAL_UNIT_NOT_SUPPORTED, 512);
        assert_eq!(bench.response(&transfer_16(READ, false, 0, 1), 512), gone);
        let sent = bench.host.take_cdbs();
        assert_eq!(sent.iter().filter(|cdb| cdb[0] == READ).count(), 1);
        let nobody = Response::Failed(ServiceResponse::BadTarget);
        assert_eq!(bench.response(INQUIRY, 36), nobody, "it looks absent");
        let outcome = bench.queue.manage(Function::LogicalUnitReset);
        assert_eq!(bench.queue.outcome(&outcome), storage::target::Outcome::Complete);
        assert_eq!(bench.host.resets(), 0, "it keeps its commands");
        bench.host.take_sent();
        assert!(bench.lun.flush().is_err());
        assert!(bench.host.take_cdbs().iter().all(|cdb| cdb[0] == INQUIRY[0]));
    }
}

#[test]
fn what_is_not_the_device_that_is_expected_is_not_opened() {
    let open = |expect: &str| {
        let spec = PassthroughSpec { expect: Some(expect.parse().unwrap()), ..spec() };
        let way = Arc::new(FakeHost::default()) as Arc<dyn ScsiHost>;
        Passthrough::new(&spec, way.into()).map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(open("naa.5001405000000001"), Ok(()));
    assert!(open("naa.5001405000000002").unwrap_err().starts_with("is not naa.5001405000000002"));
}

#[test]
fn a_list_that_is_judged_is_the_list_that_is_sent() {
    const REGISTER: &[u8] = &[0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0];
    let mut bench = Bench::new(FakeDevice::default(), &cluster());
    bench.host.on(0x5f, Outcome::End(Completion { resid: -1, ..Completion::default() }));
    let mut list = [0; 24];
    list[15] = 7;
    assert_eq!(bench.run(REGISTER, &list, 0).0, Response::good(0));
    let orders = |bench: &Bench| {
        let sent = bench.host.take_sent().into_iter();
        sent.filter(|it| it.cdb[0] == 0x5f).map(|it| it.data_out).collect::<Vec<_>>()
    };
    assert_eq!(orders(&bench), [list]);
    const SPEC_I_PT: u8 = 8;
    list[20] = SPEC_I_PT;
    let Response::Status { status, sense, .. } = bench.run(REGISTER, &list, 0).0 else { panic!() };
    assert_eq!(status, Status::CHECK_CONDITION);
    let code = sense.unwrap().code().unwrap();
    assert_eq!(code, SenseCode::INVALID_FIELD_IN_PARAMETER_LIST);
    assert!(orders(&bench).is_empty());
}

#[test]
fn pages_are_edited_as_a_whole_and_then_cut() {
    let mut bench = Bench::disk();
    let (response, data) = bench.run(&[0x12, 1, 0xb0, 0, 64, 0], &[], 64);
    assert_eq!((response, data[1]), (Response::good(0), 0xb0), "a page that it does not have");
    assert_eq!(data[8..12], [0, 0, 4, 0]);
    let (response, data) = bench.run(&[0x12, 1, 0, 0, 5, 0], &[], 255);
    assert_eq!((response, &data[..6]), (Response::good(250), &[0, 0, 0, 4, 0, 0][..]));
}

#[test]
fn a_medium_that_the_policy_protects_says_so() {
    const MODE_SENSE: &[u8] = &[0x1a, 0, 0x3f, 0, 252, 0];
    let mut protected = spec();
    protected.policy.preset = Preset::ReadOnly;
    for (spec, expected) in [(spec(), 0), (protected, 0x80)] {
        let mut bench = Bench::new(FakeDevice::default(), &spec);
        let (_, data) = bench.run(MODE_SENSE, &[], 252);
        assert_eq!(data[2] & 0x80, expected);
    }
}

#[test]
fn what_an_examination_is_told_reaches_the_initiator() {
    let mut bench = Bench::new(FakeDevice::default(), &allowing("MODE SELECT(6)"));
    let device = Arc::clone(&bench.host);
    bench.host.on(
        0x15,
        Outcome::call(move |_| {
            device.device().attentions.push_back(SenseCode::MODE_PARAMETERS_CHANGED);
            Ok(Completion::default())
        }),
    );
    assert_eq!(bench.run(&[0x15, 0x10, 0, 0, 4, 0], &[0; 4], 0).0, Response::good(0));
    let told = Response::check_condition(SenseCode::MODE_PARAMETERS_CHANGED, 0);
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while bench.response(TEST_UNIT_READY, 0) != told {
        assert!(std::time::Instant::now() < deadline, "it is lost");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_block_size_that_has_changed_is_noticed_by_the_capacity() {
    let mut bench = Bench::disk();
    bench.host.device().block_size = 4096;
    let (response, data) = bench.run(READ_CAPACITY_16, &[], 32);
    assert_eq!((response, &data[8..12]), (Response::good(0), &[0, 0, 16, 0][..]));
    bench.host.take_sent();
    let overrun = Response::Failed(ServiceResponse::Overrun);
    assert_eq!(bench.response(&transfer_16(READ, false, 0, 1), 512), overrun);
    assert_eq!(bench.response(READ_CAPACITY_16, 32), Response::good(0));
    assert_eq!(bench.host.take_sent().len(), 1, "it is known now");
}

#[test]
fn sense_of_our_own_has_the_format_that_the_device_was_told() {
    let mut spec = spec();
    spec.policy.preset = Preset::Full;
    let mut bench = Bench::new(FakeDevice::default(), &spec);
    let descriptor =
        |bench: &mut Bench| match bench.response(&[0x28, 0xe0, 0, 0, 0, 0, 0, 0, 1, 4], 512) {
            Response::Status { sense: Some(SenseData::Own(sense)), .. } => sense.descriptor_format,
            other => panic!("{other:?}"),
        };
    assert!(!descriptor(&mut bench));
    bench.host.device().mode_pages.get_mut(&0x0a).unwrap()[2] = 4;
    bench.host.on(0x15, Outcome::End(Completion { resid: -1, ..Completion::default() }));
    assert_eq!(bench.run(&[0x15, 0x10, 0, 0, 4, 0], &[0; 4], 0).0, Response::good(0));
    assert!(descriptor(&mut bench));
}

#[test]
fn the_end_makes_stable_what_a_disk_may_have_been_given() {
    let flushed = |bench: &Bench| {
        let result = bench.lun.flush();
        (result.is_ok(), bench.host.take_cdbs().len())
    };
    assert_eq!(flushed(&Bench::disk()), (true, 1));
    let read_only = PassthroughSpec { read_only: true, ..spec() };
    assert_eq!(flushed(&Bench::new(FakeDevice::default(), &read_only)), (true, 0));
    assert_eq!(flushed(&Bench::new(FakeDevice::of_type(1), &spec())), (true, 0));
    let bench = Bench::disk();
    bench.host.device().attentions.push_back(SenseCode::MICROCODE_HAS_BEEN_CHANGED);
    assert_eq!(flushed(&bench), (true, 2));
    bench.host.next(Outcome::check(SenseCode::INVALID_COMMAND_OPERATION_CODE));
    assert_eq!(flushed(&bench), (true, 1), "it has no cache");
    bench.host.next(Outcome::check(SenseCode::WRITE_ERROR));
    assert_eq!(flushed(&bench), (false, 1));
    bench.host.device().gone = true;
    assert_eq!(flushed(&bench), (false, 1));
}

#[test]
fn a_drive_without_a_medium_opens() {
    let mut device = FakeDevice::of_type(5);
    device.ready = false;
    let mut bench = Bench::new(device, &spec());
    let Response::Status { sense: Some(sense), .. } = bench.response(TEST_UNIT_READY, 0) else {
        panic!()
    };
    assert_eq!(sense.code(), Some(SenseCode::MEDIUM_NOT_PRESENT));
    // Nobody knows how long a block is: the buffer says how much there is to read.
    bench.host.device().ready = true;
    assert_eq!(bench.response(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], 512), Response::good(0));
}

/// What a device may do.
fn outcome() -> impl Strategy<Value = Outcome> {
    let bytes = prop::collection::vec(any::<u8>(), 0..300);
    let completion = (any::<u8>(), bytes, any::<i32>(), prop_oneof![Just(0), any::<u16>()]);
    prop_oneof![
        3 => completion.prop_map(|(status, sense, resid, host)| Outcome::End(Completion {
            status: Status(status),
            sense,
            resid,
            host_status: HostStatus(host),
        })),
        1 => (1..150).prop_map(Outcome::Errno),
        1 => prop::collection::vec(any::<u8>(), 0..600).prop_map(|data| Outcome::data(&data)),
    ]
}

proptest! {
    /// A queue that is dropped checks that every command was answered, and no answer comes twice.
    #[test]
    fn whatever_the_initiator_sends_and_the_device_answers_there_is_one_answer(
        device_type in 0..0x20u8,
        preset in prop_oneof![Just(Preset::ReadOnly), Just(Preset::DiskRw), Just(Preset::Full)],
        commands in prop::collection::vec(
            (any::<[u8; 32]>(), 0..3000usize, 0..3000usize, outcome()),
            1..12,
        ),
    ) {
        let mut spec = PassthroughSpec { path_timeout: Duration::from_millis(2), ..spec() };
        spec.policy.preset = preset;
        let mut bench = Bench::new(FakeDevice::of_type(device_type), &spec);
        for (cdb, out, room, outcome) in commands {
            bench.host.next(outcome);
            let (out, room) = if cdb[31] & 1 == 0 { (0, room) } else { (out, 0) };
            let (response, _) = bench.run(&cdb, &vec![0; out], room);
            if let Response::Status { resid, .. } = response {
                prop_assert!(resid as usize <= out + room);
            }
        }
    }
}

#[test]
fn the_end_of_a_logical_unit_waits_for_no_other_process() {
    let host = Arc::new(FakeHost::default());
    let way = Arc::clone(&host) as Arc<dyn ScsiHost>;
    let lun = Passthrough::new(&spec(), way.into()).unwrap();
    assert!(!host.is_closed());
    drop(lun);
    assert!(host.is_closed());
}

#[test]
fn initiators_that_fence_each_other_have_no_nexus_in_common() {
    let open = |spec: &PassthroughSpec, initiator: &str| {
        let host: Arc<dyn ScsiHost> = Arc::new(FakeHost::default());
        let target = Some("naa.5001405000000077".into());
        let ports = Ports { initiator: Some(initiator.into()), target };
        let place = Place { ports, ..Place::default() };
        Passthrough::new(spec, Device { host, place })
    };
    let (one, other) = ("naa.5001405000000078", "naa.5001405000000079");
    let first = open(&cluster(), one).unwrap();
    let second = open(&cluster(), one);
    assert!(matches!(second, Err(OpenError::InUse(None))), "{second:?}");
    open(&cluster(), other).unwrap();
    // Those that do not fence.
    open(&spec(), one).unwrap();
    open(&PassthroughSpec { shared_nexus: true, ..cluster() }, one).unwrap();
    drop(first);
    open(&cluster(), one).unwrap();
}

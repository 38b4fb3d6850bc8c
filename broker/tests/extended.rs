//! The storage crate's client and this broker, with what they have beyond qemu-pr-helper.

mod common;

use std::fs;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use broker::policy::file;
use common::{Does, Rig, ends, good, is_hung_up, soon};
use storage::host::broker::Broker;
use storage::host::broker::protocol::{EXTENDED, Header, Kind, Vport};
use storage::host::{Completion, Data, HostStatus, Request};
use storage::scsi::status::Status;
use storage::testing::OwnedBuf;

const CLUSTER: &str = r#"
[[rule]]
user = "any"
lu = ["naa.5001405000000001"]
allow = ["persistent-reservations", "compare-and-write", "logical-unit-reset", "9e/12"]
"#;

const TIMEOUT: Duration = Duration::from_secs(30);

fn send(rig: &Rig, broker: &Broker, cdb: &[u8], bytes: &[u8]) -> Completion {
    let mut memory = OwnedBuf::holding(bytes);
    // SAFETY: the buffer outlives the call.
    #[expect(unsafe_code, reason = "a buffer is lent")]
    let buf = unsafe { memory.lend() };
    let request = Request { cdb, data: Data::Out(&buf), timeout: TIMEOUT };
    broker.execute(rig.device().as_fd(), request).unwrap()
}

fn ask(rig: &Rig, broker: &Broker, cdb: &[u8]) -> std::io::Result<Completion> {
    broker.execute(rig.device().as_fd(), Request { cdb, data: Data::None, timeout: TIMEOUT })
}

fn compare_and_write() -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[13]) = (0x89, 1);
    cdb
}

fn code(completion: &Completion) -> (u8, u8, u8) {
    assert_eq!(completion.status, Status::CHECK_CONDITION);
    (completion.sense[2], completion.sense[12], completion.sense[13])
}

#[test]
fn commands_of_other_kinds_come_through_whole() {
    let rig = Rig::new(CLUSTER);
    let broker = Broker::new(&rig.socket());
    let blocks: Vec<u8> = (0..=255).cycle().take(2 * 255 * 4096).collect();
    let miscompare = vec![0x72, 0x0e, 0x1d, 0, 0, 0, 0, 0];
    rig.unit.will(ends(2, HostStatus::OK, &miscompare));
    let completion = send(&rig, &broker, &compare_and_write(), &blocks);
    assert_eq!(completion.sense, miscompare);
    assert_eq!(rig.unit.seen(), [(compare_and_write().to_vec(), blocks)]);
    rig.unit.will(ends(0, HostStatus::TRANSPORT_DISRUPTED, &[]));
    let completion = send(&rig, &broker, &compare_and_write(), &[0; 1024]);
    assert_eq!(completion.host_status, HostStatus::TRANSPORT_DISRUPTED);
    rig.unit.will(Does::Fail(libc::ENODEV));
    let error = ask(&rig, &broker, &compare_and_write()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
}

#[test]
fn data_from_the_device_comes_with_its_residual() {
    let rig = Rig::new(CLUSTER);
    let broker = Broker::new(&rig.socket());
    rig.unit.will(good(b"0123456789"));
    let mut memory = OwnedBuf::zeroed(&[4, 4, 56]);
    // SAFETY: the buffer outlives the call.
    #[expect(unsafe_code, reason = "a buffer is lent")]
    let mut buf = unsafe { memory.lend() };
    let mut cdb = [0; 16];
    (cdb[0], cdb[1], cdb[13]) = (0x9e, 0x12, 64);
    let request = Request { cdb: &cdb, data: Data::In(&mut buf), timeout: TIMEOUT };
    let completion = broker.execute(rig.device().as_fd(), request).unwrap();
    assert_eq!((completion.status, completion.resid), (Status::GOOD, 54));
    assert_eq!(&memory.bytes()[..11], b"0123456789\0");
}

#[test]
fn refusals_say_what_is_wrong() {
    let rig = Rig::new(CLUSTER);
    let broker = Broker::new(&rig.socket());
    assert_eq!(code(&ask(&rig, &broker, &[0x9c; 16]).unwrap()), (5, 0x20, 0));
    // Another service action of an opcode that is allowed.
    let other =
        ask(&rig, &broker, &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    assert_eq!((code(&other), &other.sense[15..18]), ((5, 0x24, 0), &[0xcc, 0, 1][..]));
    let register_and_move = [0x5f, 7, 0, 0, 0, 0, 0, 0, 24, 0];
    assert_eq!(code(&send(&rig, &broker, &register_and_move, &[0; 24])), (5, 0x24, 0));
    let mut list = [0; 28];
    list[20] = 0x08;
    let spec_i_pt = send(&rig, &broker, &[0x5f, 0, 0, 0, 0, 0, 0, 0, 28, 0], &list);
    assert_eq!((code(&spec_i_pt), &spec_i_pt.sense[15..18]), ((5, 0x26, 0), &[0x8b, 0, 20][..]));
    let read_only = rig.open("device", false);
    let cdb = compare_and_write();
    let request = Request { cdb: &cdb, data: Data::None, timeout: TIMEOUT };
    let refused = broker.execute(read_only.as_fd(), request).unwrap();
    assert_eq!(code(&refused), (5, 0x20, 0));
    assert!(rig.unit.seen().is_empty());
}

#[test]
fn another_device_or_one_without_a_name_is_refused() {
    let rig = Rig::new(&CLUSTER.replace("5000000001", "5000000002"));
    let broker = Broker::new(&rig.socket());
    assert_eq!(code(&ask(&rig, &broker, &compare_and_write()).unwrap()), (5, 0x20, 0));
    assert!(!broker.can(rig.device().as_fd(), &compare_and_write()));
    let rig = Rig::new(CLUSTER);
    *rig.unit.nameless.lock().unwrap() = true;
    let broker = Broker::new(&rig.socket());
    assert_eq!(code(&ask(&rig, &broker, &compare_and_write()).unwrap()), (5, 0x20, 0));
}

#[test]
fn what_can_be_sent_is_known_without_sending_it() {
    let rig = Rig::new(CLUSTER);
    let broker = Broker::new(&rig.socket());
    let (device, read_only) = (rig.device(), rig.open("device", false));
    for (cdb, can) in [
        (&[0x5e, 3][..], true),
        (&[0x5f, 6], true),
        (&[0x5f, 7], false),
        (&[0x89], true),
        (&[0x9e, 0x12], true),
        (&[0x9e, 0x10], false),
        (&[0x9c], false),
    ] {
        assert_eq!(broker.can(device.as_fd(), cdb), can, "{cdb:x?}");
    }
    let other = Broker::new(&rig.socket());
    assert!(other.can(read_only.as_fd(), &[0x5e, 0]));
    assert!(!other.can(read_only.as_fd(), &[0x5f, 0]));
    assert!(rig.unit.seen().is_empty());
}

#[test]
fn a_new_policy_counts_at_once() {
    let rig = Rig::new(CLUSTER);
    let broker = Broker::new(&rig.socket());
    assert_eq!(ask(&rig, &broker, &compare_and_write()).unwrap().status, Status::GOOD);
    rig.server.set_policy(broker::policy::Policy::default());
    assert_eq!(code(&ask(&rig, &broker, &compare_and_write()).unwrap()), (5, 0x20, 0));
}

#[test]
fn a_reset_takes_a_rule_and_a_writable_device() {
    let rig = Rig::new(CLUSTER);
    let broker = Broker::new(&rig.socket());
    broker.reset_logical_unit(rig.device().as_fd()).unwrap();
    assert_eq!(*rig.unit.resets.lock().unwrap(), 1);
    let read_only = rig.open("device", false);
    let refused = broker.reset_logical_unit(read_only.as_fd()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
    let rig = Rig::new(&CLUSTER.replace("\"logical-unit-reset\", ", ""));
    let broker = Broker::new(&rig.socket());
    let refused = broker.reset_logical_unit(rig.device().as_fd()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
    assert_eq!(*rig.unit.resets.lock().unwrap(), 0);
}

#[test]
fn virtual_ports_are_created_by_rule_only() {
    let policy = "[[rule]]\nuser = \"any\"\nparents = \"50:01:43:80:12:34:56:78\"\n\
                  vports = \"2100000000000001:2000000000000001\"\n";
    let rig = Rig::new(policy);
    for (number, name) in [(5, "0x5001438012345678"), (6, "0x5001438012345679")] {
        let adapter = rig.folder.path().join(format!("sys/class/fc_host/host{number}"));
        fs::create_dir_all(&adapter).unwrap();
        fs::write(adapter.join("port_name"), name).unwrap();
        fs::write(adapter.join("vport_create"), "").unwrap();
        fs::write(adapter.join("vport_delete"), "").unwrap();
    }
    let broker = Broker::new(&rig.socket());
    let vport = Vport { host: 5, wwpn: 0x2100_0000_0000_0001, wwnn: 0x2000_0000_0000_0001 };
    broker.create_vport(&vport).unwrap();
    broker.delete_vport(&vport).unwrap();
    let adapter = rig.folder.path().join("sys/class/fc_host/host5");
    for attribute in ["vport_create", "vport_delete"] {
        let written = fs::read_to_string(adapter.join(attribute)).unwrap();
        assert_eq!(written, "2100000000000001:2000000000000001");
    }
    for other in
        [Vport { wwpn: 1, ..vport }, Vport { wwnn: 1, ..vport }, Vport { host: 6, ..vport }]
    {
        let refused = broker.create_vport(&other).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied, "{other:?}");
    }
    let none = broker.create_vport(&Vport { host: 7, ..vport }).unwrap_err();
    assert_eq!(none.raw_os_error(), Some(libc::ENODEV));
}

#[test]
fn a_violation_hangs_up() {
    let rig = Rig::new(CLUSTER);
    let device = rig.device();
    let cdb = compare_and_write().to_vec();
    let direction = storage::host::broker::protocol::Direction::None;
    let header = Header { kind: Kind::Command, cdb, direction, len: 0, timeout: TIMEOUT };
    let after = |bytes: &[u8], with_device: bool| {
        let channel = rig.hello(EXTENDED);
        channel.send(bytes, with_device.then_some(device.as_fd()), soon()).unwrap();
        is_hung_up(&channel)
    };
    assert!(after(&header.to_bytes(), false), "no descriptor");
    let vport = Header::of(Kind::CreateVport, b"host5 x");
    assert!(after(&[&vport.to_bytes()[..], b"host5 x"].concat(), false), "no virtual port");
    let mut malformed = header.to_bytes();
    malformed[0] = 9;
    assert!(after(&malformed, true), "an unknown kind");
    assert!(after(&[0xff; Header::LEN], true), "nonsense");
    let claimed = Header { direction: storage::host::broker::protocol::Direction::Out, ..header };
    let mut bytes = Header { len: 1, ..claimed }.to_bytes();
    bytes[4..8].copy_from_slice(&u32::MAX.to_be_bytes());
    assert!(after(&bytes, true), "4 GiB of data");
    assert!(rig.unit.seen().is_empty());
}

#[test]
fn no_client_has_the_host_recover_from_errors_for_the_asking() {
    let rig = Rig::new(&format!("{CLUSTER}[limits]\ntimeout_seconds = 60\n"));
    let broker = Broker::new(&rig.socket());
    for (wanted, given) in [(0, 7), (30, 30), (100, 60)] {
        let (cdb, timeout) = (compare_and_write(), Duration::from_secs(wanted));
        let request = Request { cdb: &cdb, data: Data::None, timeout };
        broker.execute(rig.device().as_fd(), request).unwrap();
        assert_eq!(*rig.unit.timeout.lock().unwrap(), Duration::from_secs(given));
    }
}

#[test]
fn a_client_that_exceeds_its_rate_waits() {
    let rig = Rig::new(CLUSTER);
    let broker = Broker::new(&rig.socket());
    ask(&rig, &broker, &compare_and_write()).unwrap();
    // Of a policy that has been read again everything holds.
    let policy = format!("{CLUSTER}[limits]\nrequests_per_second = 10\n");
    rig.server.set_policy(file::parse("policy", &policy).unwrap());
    let start = Instant::now();
    for _ in 0..15 {
        ask(&rig, &broker, &compare_and_write()).unwrap();
    }
    assert!(start.elapsed() >= Duration::from_millis(400), "{:?}", start.elapsed());
}

#[test]
fn a_client_is_not_held_up_by_its_own_hung_command() {
    let rig = Rig::new(CLUSTER);
    let broker = Broker::new(&rig.socket());
    rig.unit.will(Does::Hang);
    thread::scope(|scope| {
        let stuck = scope.spawn(|| ask(&rig, &broker, &compare_and_write()));
        rig.unit.await_seen(1);
        broker.reset_logical_unit(rig.device().as_fd()).unwrap();
        rig.unit.will(good(&[]));
        assert_eq!(stuck.join().unwrap().unwrap().status, Status::GOOD);
    });
}

#[test]
fn a_client_that_gives_up_waits_no_longer() {
    let rig = Rig::new(CLUSTER);
    let broker = Broker::new(&rig.socket());
    rig.unit.will(Does::Hang);
    thread::scope(|scope| {
        let stuck = scope.spawn(|| ask(&rig, &broker, &compare_and_write()));
        rig.unit.await_seen(1);
        broker.close();
        let error = stuck.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
        rig.unit.will(good(&[]));
    });
    let error = ask(&rig, &broker, &compare_and_write()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
}

//! The protocol of qemu-pr-helper, byte by byte, as QEMU speaks it.

mod common;

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use common::{Does, Rig, ends, good, is_hung_up, reply, soon};
use storage::host::HostStatus;
use storage::host::broker::channel::Channel;

const ALL: &str = "[[rule]]\nuser = \"any\"\nlu = \"any\"\nallow = [\"persistent-reservations\"]\n";

fn cdb(bytes: &[u8]) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[..bytes.len()].copy_from_slice(bytes);
    cdb
}

fn read_keys(len: u16) -> [u8; 16] {
    let [high, low] = len.to_be_bytes();
    cdb(&[0x5e, 0, 0, 0, 0, 0, 0, high, low])
}

const REGISTER: [u8; 10] = [0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0];

#[test]
fn a_report_comes_back_behind_104_bytes() {
    let rig = Rig::new(ALL);
    rig.unit.will(good(&[0, 0, 0, 7, 0, 0, 0, 0]));
    let channel = rig.hello(0);
    for _ in 0..2 {
        channel.send(&read_keys(8192), Some(rig.device().as_fd()), soon()).unwrap();
        let mut bytes = [0xff; 112];
        channel.receive(&mut bytes, soon()).unwrap();
        assert_eq!(bytes[..8], [0, 0, 0, 0, 0, 0, 0, 8]);
        assert!(bytes[8..104].iter().all(|&byte| byte == 0));
        assert_eq!(bytes[104..], [0, 0, 0, 7, 0, 0, 0, 0]);
    }
    let sent = (read_keys(8192)[..10].to_vec(), vec![]);
    assert_eq!(rig.unit.seen(), [sent.clone(), sent]);
}

#[test]
fn a_parameter_list_follows_its_command() {
    let rig = Rig::new(ALL);
    let channel = rig.hello(0);
    let list: Vec<u8> = (0..24).map(|byte| if byte == 20 { 1 } else { byte }).collect();
    channel.send(&cdb(&REGISTER), Some(rig.device().as_fd()), soon()).unwrap();
    channel.send(&list, None, soon()).unwrap();
    let (status, _, data) = reply(&channel);
    assert_eq!((status, data.len()), (0, 0));
    assert_eq!(rig.unit.seen(), [(REGISTER.to_vec(), list)]);
}

#[test]
fn lengths_of_nothing_are_served() {
    let rig = Rig::new(ALL);
    rig.unit.will(good(&[1, 2, 3]));
    let channel = rig.hello(0);
    channel.send(&read_keys(0), Some(rig.device().as_fd()), soon()).unwrap();
    assert_eq!(reply(&channel).2, []);
    channel.send(&cdb(&[0x5f]), Some(rig.device().as_fd()), soon()).unwrap();
    assert_eq!(reply(&channel).0, 0);
    assert_eq!(rig.unit.seen().len(), 2);
}

#[test]
fn what_the_device_says_comes_through() {
    let rig = Rig::new(ALL);
    let channel = rig.hello(0);
    let ask = |does: Does| {
        rig.unit.will(does);
        channel.send(&read_keys(8), Some(rig.device().as_fd()), soon()).unwrap();
        let (status, sense, data) = reply(&channel);
        assert!(data.is_empty());
        (status, sense)
    };
    assert_eq!(ask(ends(0x18, HostStatus::OK, &[])).0, 0x18);
    let sense: Vec<u8> = (0..96).collect();
    assert_eq!(ask(ends(2, HostStatus::OK, &sense)), (2, sense));
    let code = |(status, sense): (u8, Vec<u8>)| (status, sense[2], sense[12], sense[13]);
    assert_eq!(code(ask(ends(0, HostStatus::NO_CONNECT, &[]))), (2, 0xb, 0x08, 0x00));
    assert_eq!(code(ask(ends(0, HostStatus::TIME_OUT, &[]))), (2, 0xb, 0x08, 0x01));
    assert_eq!(code(ask(Does::Fail(19))), (2, 0xb, 0x08, 0x00));
    // Of what the older kernels say in both places, the status counts.
    assert_eq!(ask(ends(0x18, HostStatus(0x11), &[])).0, 0x18);
}

#[test]
fn a_device_that_is_open_for_reading_is_not_changed() {
    let rig = Rig::new(ALL);
    let channel = rig.hello(0);
    let device = rig.open("device", false);
    channel.send(&cdb(&REGISTER), Some(device.as_fd()), soon()).unwrap();
    channel.send(&[0; 24], None, soon()).unwrap();
    let (status, sense, _) = reply(&channel);
    assert_eq!((status, sense[2], sense[12], sense[13]), (2, 5, 0x20, 0));
    channel.send(&read_keys(8), Some(device.as_fd()), soon()).unwrap();
    assert_eq!(reply(&channel).0, 0);
    assert_eq!(rig.unit.seen().len(), 1);
}

#[test]
fn what_no_rule_allows_is_no_command() {
    let rig = Rig::new("");
    let channel = rig.hello(0);
    channel.send(&read_keys(8), Some(rig.device().as_fd()), soon()).unwrap();
    let (status, sense, _) = reply(&channel);
    let expected = [0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0];
    assert_eq!((status, &sense[..18]), (2, &expected[..]));
    assert!(rig.unit.seen().is_empty());
}

#[test]
fn a_violation_hangs_up() {
    let rig = Rig::new(ALL);
    let device = rig.device();
    let fd = Some(device.as_fd());
    let after = |bytes: &[u8], fd| {
        let channel = rig.hello(0);
        channel.send(bytes, fd, soon()).unwrap();
        is_hung_up(&channel)
    };
    assert!(after(&read_keys(8), None), "no descriptor");
    assert!(after(&read_keys(8193), fd), "too much asked for");
    assert!(after(&cdb(&[0x12, 0, 0, 0, 36]), fd), "another command");
    assert!(after(&cdb(&[0x5f, 0, 0, 0, 0, 0x80, 0, 0, 24]), fd), "too long a list");
    assert!(after(&cdb(&[0x5f, 0, 0, 0, 0, 0, 1, 0, 24]), fd), "a list beyond its low bytes");
    let channel = rig.hello(0);
    channel.send(&read_keys(8)[..8], fd, soon()).unwrap();
    channel.send(&read_keys(8)[8..], fd, soon()).unwrap();
    assert!(is_hung_up(&channel), "two descriptors");
    let channel = rig.hello(0);
    channel.send(&cdb(&REGISTER), fd, soon()).unwrap();
    channel.send(&[0; 24], fd, soon()).unwrap();
    assert!(is_hung_up(&channel), "a descriptor with a parameter list");
    for features in [1, 0x4000_0000, u32::MAX] {
        assert!(is_hung_up(&rig.hello(features)), "{features:x}");
    }
    assert!(rig.unit.seen().is_empty());
}

#[test]
fn what_is_no_device_is_refused_and_not_touched() {
    let rig = Rig::new(ALL);
    let channel = rig.hello(0);
    let (mut reader, writer) = io::pipe().unwrap();
    for fd in [reader.as_fd(), writer.as_fd(), channel.as_fd(), rig.folder_fd().as_fd()] {
        channel.send(&read_keys(8), Some(fd), soon()).unwrap();
        let (status, sense, _) = reply(&channel);
        assert_eq!((status, sense[2], sense[12]), (2, 5, 0x20));
    }
    drop(writer);
    // The broker has kept no end of it.
    assert_eq!(io::Read::read(&mut reader, &mut [0]).unwrap(), 0);
}

#[test]
fn a_client_that_goes_away_in_the_middle_does_no_harm() {
    let rig = Rig::new(ALL);
    for len in 0..16 {
        let channel = rig.hello(0);
        channel.send(&read_keys(8)[..len], Some(rig.device().as_fd()), soon()).unwrap();
    }
    for _ in 0..4 {
        // Asks and does not wait for the answer.
        rig.hello(0).send(&read_keys(8), Some(rig.device().as_fd()), soon()).unwrap();
        drop(UnixStream::connect(rig.socket()).unwrap());
    }
    let channel = rig.hello(0);
    channel.send(&read_keys(8), Some(rig.device().as_fd()), soon()).unwrap();
    assert_eq!(reply(&channel).0, 0);
}

#[test]
fn a_hung_device_holds_up_no_other() {
    let rig = Rig::new(ALL);
    let other = rig.add("other");
    rig.unit.will(Does::Hang);
    let device = rig.device();
    // As many as the device is given at a time, and one more.
    let stuck: Vec<Channel> = (0..8).map(|_| rig.hello(0)).collect();
    for channel in &stuck {
        channel.send(&read_keys(8), Some(device.as_fd()), soon()).unwrap();
    }
    rig.unit.await_seen(8);
    let late = rig.hello(0);
    late.send(&read_keys(8), Some(device.as_fd()), soon()).unwrap();
    assert_eq!(reply(&late).0, 0x08, "BUSY");
    // Who may not send it takes up no room there, and hears of none.
    let reader = rig.open("device", false);
    late.send(&[0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0], Some(reader.as_fd()), soon())
        .unwrap();
    late.send(&[0; 24], None, soon()).unwrap();
    assert_eq!(reply(&late).0, 0x02, "CHECK CONDITION");
    other.will(good(b"other"));
    late.send(&read_keys(8), Some(rig.open("other", true).as_fd()), soon()).unwrap();
    assert_eq!(reply(&late).2, b"other");
    rig.unit.will(good(b"done"));
    for channel in &stuck {
        assert_eq!(reply(channel).2, b"done");
    }
    late.send(&read_keys(8), Some(device.as_fd()), soon()).unwrap();
    assert_eq!(reply(&late).2, b"done");
}

#[test]
fn clients_are_bounded() {
    let limits = "[limits]\nconnections_per_client = 3\n";
    let rig = Rig::new(&format!("{ALL}{limits}"));
    let mut kept: Vec<Channel> = (0..3).map(|_| rig.hello(0)).collect();
    let refused = Channel::connect(&rig.socket()).unwrap();
    assert!(is_hung_up(&refused));
    kept.pop();
    // The place is free once the server has noticed.
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let channel = Channel::connect(&rig.socket()).unwrap();
        if channel.receive(&mut [0; 4], soon()).is_ok() {
            break;
        }
        assert!(Instant::now() < end);
    }
}

#[test]
fn a_server_that_ends_answers_what_is_under_way() {
    let rig = Rig::new(ALL);
    rig.unit.will(Does::Hang);
    let (idle, busy) = (rig.hello(0), rig.hello(0));
    busy.send(&read_keys(8), Some(rig.device().as_fd()), soon()).unwrap();
    rig.unit.await_seen(1);
    assert!(!rig.server.stop(Duration::from_millis(1)));
    assert!(is_hung_up(&idle));
    rig.unit.will(good(b"done"));
    assert!(rig.server.stop(Duration::from_secs(60)));
    assert_eq!(reply(&busy).2, b"done");
    assert!(is_hung_up(&busy));
    assert!(is_hung_up(&Channel::connect(&rig.socket()).unwrap()), "nobody is let in");
}

//! Clients that send anything.

mod common;

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use common::{Rig, good, reply, soon};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use storage::host::broker::channel::Channel;
use storage::host::broker::protocol::{EXTENDED, Header};

const ALL: &str = "[[rule]]\nuser = \"any\"\nlu = \"any\"\nallow = [\"persistent-reservations\"]\n\
     [limits]\nrequests_per_second = 100000\n";

fn read_keys() -> [u8; 16] {
    [0x5e, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0]
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// What looks like a request more often than chance would have it.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let plain = (prop::sample::select(vec![0x5e, 0x5f]), any::<[u8; 15]>());
    let plain = plain.prop_map(|(opcode, rest)| [&[opcode][..], &rest].concat());
    let header = (1u8..6, 0u8..34, 0u8..4, any::<[u8; 8]>(), any::<[u8; 32]>());
    let header = header.prop_map(|(kind, cdb_len, direction, lengths, cdb)| {
        let mut bytes = [&[kind, cdb_len, direction, 0][..], &lengths, &cdb].concat();
        (bytes[4], bytes[5]) = (0, 0);
        assert_eq!(bytes.len(), Header::LEN);
        bytes
    });
    let nonsense = prop::collection::vec(any::<u8>(), 0..200);
    let one = prop_oneof![plain, header, nonsense];
    prop::collection::vec(one, 0..4).prop_map(|frames| frames.concat())
}

/// One after the other: the first counts the descriptors of this process.
#[test]
fn clients_that_send_anything_harm_neither_the_broker_nor_others() {
    nothing_that_is_sent_harms_the_broker();
    a_client_that_stops_in_the_middle_holds_up_no_other();
}

fn nothing_that_is_sent_harms_the_broker() {
    let rig = Rig::new(ALL);
    rig.unit.will(good(&[1; 64]));
    let (reader, writer) = io::pipe().unwrap();
    let device = rig.device();
    let before = descriptors();
    let case = (any::<bool>(), 0usize..4, 0usize..20, frames());
    let mut runner = TestRunner::new(Config::with_cases(400));
    let outcome = runner.run(&case, |(extended, fd, split, bytes)| {
        let channel = rig.hello(if extended { EXTENDED } else { 0 });
        let fd = [None, Some(device.as_fd()), Some(reader.as_fd()), Some(writer.as_fd())][fd];
        let (first, second) = bytes.split_at(split.min(bytes.len()));
        // It may hang up at any point.
        let _ = channel.send(first, fd, soon());
        let _ = channel.send(second, fd, soon());
        Ok(())
    });
    outcome.unwrap();
    // All that was let in goes again, and leaves nothing open.
    let end = Instant::now() + Duration::from_secs(120);
    while descriptors() > before {
        assert!(Instant::now() < end, "{} descriptors, {before} before", descriptors());
        thread::sleep(Duration::from_millis(20));
    }
    for (cdb, list) in rig.unit.seen() {
        assert!(matches!(cdb[0], 0x5e | 0x5f), "{cdb:x?}");
        assert!(cdb[0] == 0x5e || list.get(20).is_none_or(|flags| flags & 8 == 0));
    }
    let channel = rig.hello(0);
    channel.send(&read_keys(), Some(device.as_fd()), soon()).unwrap();
    assert_eq!(reply(&channel).2, [1; 8]);
}

fn a_client_that_stops_in_the_middle_holds_up_no_other() {
    let rig = Rig::new(ALL);
    let slow: Vec<Channel> = (0..40)
        .map(|len| {
            let channel = rig.hello(0);
            channel.send(&read_keys()[..len % 16], Some(rig.device().as_fd()), soon()).unwrap();
            channel
        })
        .collect();
    // And one that does not read.
    rig.unit.will(good(&[1; 8192]));
    let deaf = rig.hello(0);
    let channel = rig.hello(0);
    for _ in 0..3 {
        deaf.send(&read_keys(), Some(rig.device().as_fd()), soon()).unwrap();
        channel.send(&read_keys(), Some(rig.device().as_fd()), soon()).unwrap();
        assert_eq!(reply(&channel).0, 0);
    }
    drop(slow);
}

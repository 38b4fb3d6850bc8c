//! A virtio-scsi controller as its driver sees it, over real rings.
#![expect(clippy::cast_possible_truncation, reason = "the numbers of a test are small")]

mod host;
mod ring;

use std::time::Duration;

use devices::virtio::VirtioDevice;
use host::{
    BUFFERS, CONTROL, EVENT_IDX, GOOD, Host, MEMORY, QUEUE_SIZE, REQUEST, RESPONSE, VERSION_1,
    data_at, outcome, response_at,
};
use ring::{RING_LEN, Ring, command, readable, transfer_10, writable};

#[test]
fn what_is_written_is_read_with_and_without_event_idx() {
    for features in [VERSION_1, VERSION_1 | EVENT_IDX] {
        let mut host = Host::new(features);
        let data: Vec<u8> = (0..=255).cycle().take(4096).collect();
        let (len, response) = host.run(&command(0, &transfer_10(0x2a, 5, 8)), &data, 0);
        assert_eq!((outcome(&response), len), (GOOD, 12));
        let (len, response) = host.run(&command(0, &transfer_10(0x28, 5, 8)), &[], 4096);
        assert_eq!((outcome(&response), len), (GOOD, RESPONSE + 4096));
        assert_eq!(host.get(data_at(0), 4096), data);
    }
}

#[test]
fn framing_does_not_matter() {
    let mut host = Host::new(VERSION_1);
    let data = vec![0x5a; 1024];
    host.run(&command(0, &transfer_10(0x2a, 0, 2)), &data, 0);
    host.put(BUFFERS, &command(0, &transfer_10(0x28, 0, 2)));
    // Header, response and data in pieces that fit no boundary; all in direct descriptors.
    let pieces = [
        readable(BUFFERS, 7),
        readable(BUFFERS + 7, 44),
        writable(response_at(0), 100),
        writable(response_at(0) + 100, 300),
        writable(data_at(0), 0),
        writable(data_at(0), 833),
    ];
    host.request.push(3, &pieces);
    host.kick(REQUEST);
    assert_eq!(host.wait(REQUEST), (3, RESPONSE + 1024));
    assert_eq!(outcome(&host.get(response_at(0), 12)), (0, 0, 101));
    let read = [host.get(response_at(0) + 108, 292), host.get(data_at(0), 732)].concat();
    assert_eq!(read, data);
}

#[test]
fn residuals_tell_what_was_not_moved() {
    let mut host = Host::new(VERSION_1);
    let (len, response) = host.run(&command(0, &[0x12, 0, 0, 0, 36, 0]), &[], 255);
    assert_eq!((outcome(&response), len), ((0, 0, 255 - 36), RESPONSE + 36));
    let (_, response) = host.run(&command(0, &transfer_10(0x28, 0, 8)), &[], 4095);
    assert_eq!(response[11], 1, "OVERRUN");
    let (len, response) = host.run(&command(0, &[0xff]), &[], 255);
    assert_eq!((outcome(&response), response[0], len), ((2, 0, 255), 18, 30));
}

#[test]
fn nobody_answers_at_other_addresses() {
    let mut host = Host::new(VERSION_1);
    let mut request = command(0, &[0x12, 0, 0, 0, 36, 0]);
    request[1] = 9;
    assert_eq!(host.run(&request, &[], 36).1[11], 3, "BAD_TARGET");
    request[..2].copy_from_slice(&[0, 0]);
    assert_eq!(host.run(&request, &[], 36).1[11], 3, "BAD_TARGET");
    let (_, response) = host.run(&command(5, &[0x12, 0, 0, 0, 36, 0]), &[], 36);
    assert_eq!((outcome(&response), host.get(data_at(0), 1)), (GOOD, vec![0x7f]));
}

#[test]
fn a_full_ring_is_answered_and_interrupted_for_once() {
    let mut host = Host::new(VERSION_1 | EVENT_IDX);
    let _ = host.interrupts.read();
    host.request.interrupt_after(QUEUE_SIZE);
    for index in 0..QUEUE_SIZE {
        let cdb = transfer_10(0x2a, u32::from(index), 1);
        let segments = host.place(index, &command(0, &cdb), &[index as u8; 512], 0);
        host.request.push_indirect(index, &segments);
    }
    host.kick(REQUEST);
    let mut heads: Vec<u16> = (0..QUEUE_SIZE).map(|_| host.wait(REQUEST).0).collect();
    heads.sort_unstable();
    assert_eq!(heads, (0..QUEUE_SIZE).collect::<Vec<_>>());
    for index in 0..QUEUE_SIZE {
        assert_eq!(outcome(&host.get(response_at(index), 12)), GOOD);
    }
    host.request.interrupt_after(QUEUE_SIZE);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(host.interrupts.read().unwrap_or(0), 1);
}

#[test]
fn broken_requests_fail_and_the_queue_goes_on() {
    let mut host = Host::new(VERSION_1);
    let short = host.run(&[1, 0, 0x40], &[], 0).1;
    assert_eq!(short[11], 9, "FAILURE");
    let base = BUFFERS;
    host.put(base, &command(0, &[0; 6]));
    let outside = [readable(base, 51), writable(MEMORY - 4, 108)];
    let wrapping = [readable(base, 51), writable(u64::MAX - 4, 108)];
    let outside_first = [readable(MEMORY + 4096, 51), writable(response_at(0), 108)];
    let outside_later = [readable(base, 51), readable(MEMORY, 1), writable(response_at(0), 108)];
    let outside_only = [readable(MEMORY, 51)];
    let wrong_order = [writable(response_at(0), 108), readable(base, 51)];
    let nothing_to_write = [readable(base, 51)];
    let both_ways = [readable(base, 52), writable(response_at(0), 108), writable(data_at(0), 1)];
    for broken in [
        &outside[..],
        &outside_first,
        &outside_later,
        &outside_only,
        &wrapping,
        &wrong_order,
        &nothing_to_write,
        &both_ways,
    ] {
        host.request.push(0, broken);
        host.kick(REQUEST);
        let (head, len) = host.wait(REQUEST);
        assert_eq!(head, 0);
        assert!(len <= 108);
    }
    // A chain that leads back to itself, and a WRITE in one that leads nowhere.
    host.request.put_descriptor(RING_LEN, 0, readable(base, 51), 1, 0);
    host.request.publish(0);
    host.kick(REQUEST);
    assert_eq!(host.wait(REQUEST).0, 0);
    host.put(base, &command(0, &transfer_10(0x2a, 0, 1)));
    host.put(base + 0x1000, &[0xab; 512]);
    host.request.put_descriptor(RING_LEN, 0, readable(base, 51), 1, 1);
    host.request.put_descriptor(RING_LEN, 1, readable(base + 0x1000, 512), 1, 60000);
    host.request.publish(0);
    host.kick(REQUEST);
    assert_eq!(host.wait(REQUEST).0, 0);
    let (_, response) = host.run(&command(0, &transfer_10(0x28, 0, 1)), &[], 512);
    assert_eq!(
        (outcome(&response), host.get(data_at(0), 1)),
        (GOOD, vec![0]),
        "nothing is written"
    );
    // With room for the response, but nobody knows for what else.
    host.request.put_descriptor(RING_LEN, 0, readable(base, 51), 1, 1);
    host.request.put_descriptor(RING_LEN, 1, writable(response_at(0), 108), 1, 60000);
    host.request.publish(0);
    host.kick(REQUEST);
    assert_eq!(host.wait(REQUEST).0, 0);
    assert_eq!(host.get(response_at(0), 12)[11], 9, "FAILURE");
    let (_, response) = host.run(&command(0, &[0; 6]), &[], 0);
    assert_eq!(outcome(&response), GOOD);
}

#[test]
fn a_command_is_read_once() {
    let mut host = Host::new(VERSION_1);
    // The response overlays the request, the data its own header: what is written there must not
    // change what is done.
    host.put(BUFFERS, &command(0, &[0x12, 0, 0, 0, 36, 0]));
    host.request.push(0, &[readable(BUFFERS, 51), writable(BUFFERS, 108), writable(BUFFERS, 36)]);
    host.kick(REQUEST);
    assert_eq!(host.wait(REQUEST), (0, RESPONSE + 36));
    assert_eq!(outcome(&host.get(BUFFERS, 12)), GOOD);
}

#[test]
fn unknown_requests_are_refused_and_notifications_are_none() {
    let mut host = Host::new(VERSION_1);
    let ask = |host: &mut Host, request: &[u8], room: u32| {
        host.put(BUFFERS, request);
        let segments = [readable(BUFFERS, request.len() as u32), writable(BUFFERS + 0x100, room)];
        host.control.push(0, &segments);
        host.kick(CONTROL);
        let (_, len) = host.wait(CONTROL);
        host.get(BUFFERS + 0x100, len as usize)
    };
    let unknown = [&[0, 0, 0, 0, 8][..], &[0; 3], &[1, 0, 0x40, 0], &[0; 12]].concat();
    assert_eq!(ask(&mut host, &unknown, 1), [11]);
    let mut query = [0; 16];
    query[0] = 1;
    assert_eq!(ask(&mut host, &query, 5), [0, 0, 0, 0, 0]);
    assert_eq!(ask(&mut host, &[9, 0, 0, 0], 1), [9]);
}

#[test]
fn a_broken_ring_needs_a_reset_and_works_after_it() {
    let ways: [(_, fn(&mut Host)); 4] = [
        ("requests", |host| host.request.skip(QUEUE_SIZE + 1)),
        ("a head", |host| host.request.publish(QUEUE_SIZE)),
        ("functions", |host| host.control.skip(QUEUE_SIZE + 1)),
        ("a function", |host| host.control.publish(QUEUE_SIZE)),
    ];
    for (what, break_it) in ways {
        let mut host = Host::new(VERSION_1);
        break_it(&mut host);
        host.kick(REQUEST);
        host.kick(CONTROL);
        assert!(host.comes_to_need_reset(), "{what}");
        host.reset();
        host.request = Ring::new(&host.memory, 4 * RING_LEN, QUEUE_SIZE);
        host.control = Ring::new(&host.memory, 5 * RING_LEN, QUEUE_SIZE);
        host.activate(VERSION_1);
        host.take_attention(0);
    }
}

#[test]
fn a_reset_ends_everything_and_the_device_starts_again() {
    let mut host = Host::new(VERSION_1);
    host.reset();
    let segments = host.place(0, &command(0, &[0; 6]), &[], 0);
    host.request.push_indirect(0, &segments);
    host.kick(REQUEST);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(host.get(response_at(0), 1), [0xee], "a stopped device writes nothing");
    host.request = Ring::new(&host.memory, 4 * RING_LEN, QUEUE_SIZE);
    host.control = Ring::new(&host.memory, 5 * RING_LEN, QUEUE_SIZE);
    host.activate(VERSION_1);
    assert_eq!(host.take_attention(0), 7, "the nexus was lost");
    let (_, response) = host.run(&command(0, &[0; 6]), &[], 0);
    assert_eq!(outcome(&response), GOOD);
}

#[test]
fn the_configuration_space_says_what_is_there() {
    let host = Host::new(VERSION_1);
    let read = |offset: u64, len: usize| {
        let mut bytes = [0xff; 8];
        host.controller.read_config(offset, &mut bytes[..len]);
        u64::from_le_bytes(bytes) & (u64::MAX >> (64 - 8 * len))
    };
    let fields = [(0, 1), (4, 62), (8, 32768), (12, 64), (16, 16), (20, 96), (24, 32), (32, 16383)];
    for (offset, value) in fields {
        assert_eq!(read(offset, 4), value, "at {offset}");
    }
    assert_eq!((read(28, 2), read(30, 2)), (0, 255));
    assert_eq!(read(36, 4), 0);
    assert_eq!(host.controller.queue_sizes(), [64; 3]);
}

#[test]
fn the_driver_may_change_the_sizes_until_reset() {
    let mut host = Host::new(VERSION_1);
    host.controller.write_config(20, &18_u32.to_le_bytes());
    host.controller.write_config(24, &16_u32.to_le_bytes());
    host.controller.write_config(0, &9_u32.to_le_bytes());
    let mut config = [0; 36];
    host.controller.read_config(0, &mut config);
    assert_eq!((config[0], config[20], config[24]), (1, 18, 16));
    host.reset();
    host.controller.read_config(0, &mut config);
    assert_eq!((config[20], config[24]), (96, 32));
}

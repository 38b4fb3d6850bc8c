//! A virtio-scsi controller as its driver sees it, over real rings.
#![expect(clippy::cast_possible_truncation, reason = "the numbers of a test are small")]

mod ring;

use std::sync::Arc;
use std::time::{Duration, Instant};

use devices::interrupt::Interrupt;
use devices::virtio::scsi::{Controller, ControllerSpec};
use devices::virtio::{Activation, ActiveQueue, VirtioDevice};
use ring::{RING_LEN, Ring, Segment, command, readable, transfer_10, writable};
use storage::backend::{Geometry, Medium, Memory};
use storage::engine::Pool;
use storage::lun::disk::Disk;
use storage::target::Bus;
use storage::testing::disk_spec;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const CONTROL: u16 = 0;
const REQUEST: u16 = 2;
const QUEUE_SIZE: u16 = 64;
const MEMORY: u64 = 16 << 20;
/// Where the buffers of a test begin, a place of 64 KiB for each request.
const BUFFERS: u64 = 8 << 20;
const PLACE: u64 = 0x1_0000;
const RESPONSE: u32 = 108;

const EVENT_IDX: u64 = 1 << 29;
const VERSION_1: u64 = 1 << 32;

struct Interrupts(EventFd);

impl Interrupt for Interrupts {
    fn queue(&self, _: u16) {
        self.0.write(1).unwrap();
    }

    fn config(&self) {}
}

/// A controller with one disk of 1 MiB at LUN 0, and its driver.
struct Host {
    controller: Controller,
    memory: Arc<GuestMemoryMmap>,
    request: Ring,
    control: Ring,
    kicks: [EventFd; 3],
    interrupts: EventFd,
}

fn disk() -> Disk {
    let geometry = Geometry { blocks: 2048, block_size: 512 };
    Disk::new(Medium::new("test", Box::new(Memory::new(geometry))), &disk_spec())
}

impl Host {
    fn new(features: u64) -> Host {
        let bus = Bus::new(1).unwrap();
        bus.attach(0, 0, Arc::new(disk())).unwrap();
        let spec = ControllerSpec { id: "scsi0".into(), request_queues: 1, queue_size: QUEUE_SIZE };
        let controller = Controller::new(spec, bus, Pool::new(2));
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY as usize)]);
        let memory = Arc::new(memory.unwrap());
        let mut host = Host {
            controller,
            request: Ring::new(&memory, RING_LEN, QUEUE_SIZE),
            control: Ring::new(&memory, 2 * RING_LEN, QUEUE_SIZE),
            memory,
            kicks: std::array::from_fn(|_| EventFd::new(EFD_NONBLOCK).unwrap()),
            interrupts: EventFd::new(EFD_NONBLOCK).unwrap(),
        };
        host.activate(features);
        let (_, response) = host.run(&command(0, &[0; 6]), &[], 0);
        assert_eq!((response[10], response[12 + 12]), (2, 0x29), "the power-on attention");
        host
    }

    fn activate(&mut self, features: u64) {
        let event_idx = features & EVENT_IDX != 0;
        let event_queue = Ring::new(&self.memory, 3 * RING_LEN, QUEUE_SIZE);
        let rings = [&self.control, &event_queue, &self.request];
        let queue = |(index, ring): (usize, &Ring)| ActiveQueue {
            index: index as u16,
            queue: ring.device_queue(event_idx),
            kick: self.kicks[index].try_clone().unwrap(),
        };
        let activation = Activation {
            memory: Arc::clone(&self.memory),
            interrupt: Arc::new(Interrupts(self.interrupts.try_clone().unwrap())),
            queues: rings.into_iter().enumerate().map(queue).collect(),
            features,
        };
        self.controller.activate(activation).unwrap();
    }

    fn reset(&mut self) {
        self.controller.begin_reset();
        self.controller.finish_reset();
    }

    fn kick(&self, queue: u16) {
        self.kicks[usize::from(queue)].write(1).unwrap();
    }

    fn wait(&mut self, queue: u16) -> (u16, u32) {
        let start = Instant::now();
        loop {
            let ring = if queue == CONTROL { &mut self.control } else { &mut self.request };
            if let Some(used) = ring.pop_used() {
                return used;
            }
            assert!(start.elapsed() < Duration::from_secs(30), "the device does not answer");
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    fn put(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    fn get(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    /// Issues one request as Linux frames it; returns the used length and the response.
    fn run(&mut self, request: &[u8], out: &[u8], in_len: u32) -> (u32, Vec<u8>) {
        let segments = self.place(0, request, out, in_len);
        self.request.push_indirect(0, &segments);
        self.kick(REQUEST);
        let (head, len) = self.wait(REQUEST);
        assert_eq!(head, 0);
        (len, self.get(response_at(0), RESPONSE as usize))
    }

    /// Lays a request out in place `index`.
    fn place(&self, index: u16, request: &[u8], out: &[u8], in_len: u32) -> Vec<Segment> {
        let base = BUFFERS + u64::from(index) * PLACE;
        self.put(base, request);
        self.put(base + 0x1000, out);
        self.put(response_at(index), &[0xee; RESPONSE as usize]);
        let mut segments = vec![readable(base, request.len() as u32)];
        segments.extend((!out.is_empty()).then(|| readable(base + 0x1000, out.len() as u32)));
        segments.push(writable(response_at(index), RESPONSE));
        segments.extend((in_len > 0).then(|| writable(data_at(index), in_len)));
        segments
    }
}

fn response_at(index: u16) -> u64 {
    BUFFERS + u64::from(index) * PLACE + 0x800
}

fn data_at(index: u16) -> u64 {
    BUFFERS + u64::from(index) * PLACE + 0x8000
}

/// status_qualifier, status and response of a response without sense data, and its resid.
fn outcome(response: &[u8]) -> (u8, u8, u32) {
    (response[10], response[11], u32::from_le_bytes(response[4..8].try_into().unwrap()))
}

const GOOD: (u8, u8, u32) = (0, 0, 0);

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
    // A chain that leads back to itself.
    host.request.put_descriptor(RING_LEN, 0, readable(base, 51), 1, 0);
    host.request.publish(0);
    host.kick(REQUEST);
    assert_eq!(host.wait(REQUEST).0, 0);
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
fn task_management_is_refused_and_notifications_are_none() {
    let mut host = Host::new(VERSION_1);
    let ask = |host: &mut Host, request: &[u8], room: u32| {
        host.put(BUFFERS, request);
        let segments = [readable(BUFFERS, request.len() as u32), writable(BUFFERS + 0x100, room)];
        host.control.push(0, &segments);
        host.kick(CONTROL);
        let (_, len) = host.wait(CONTROL);
        host.get(BUFFERS + 0x100, len as usize)
    };
    let mut abort = [0; 24];
    abort[8..12].copy_from_slice(&[1, 0, 0x40, 0]);
    assert_eq!(ask(&mut host, &abort, 1), [11]);
    let mut query = [0; 16];
    query[0] = 1;
    assert_eq!(ask(&mut host, &query, 5), [0, 0, 0, 0, 0]);
    assert_eq!(ask(&mut host, &[9, 0, 0, 0], 1), [9]);
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

//! A virtio-scsi controller between a bus and a driver that has its rings in guest memory.
#![allow(dead_code, reason = "each test uses a part")]
#![expect(clippy::cast_possible_truncation, reason = "the numbers of a test are small")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use devices::interrupt::Interrupt;
use devices::virtio::scsi::{Controller, ControllerSpec};
use devices::virtio::{Activation, ActiveQueue, VirtioDevice};
use storage::backend::{Geometry, Medium, Memory};
use storage::engine::Pool;
use storage::lun::disk::Disk;
use storage::target::Bus;
use storage::testing::disk_spec;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::ring::{RING_LEN, Ring, Segment, command, readable, writable};

pub const CONTROL: u16 = 0;
pub const EVENTS: u16 = 1;
pub const REQUEST: u16 = 2;
pub const QUEUE_SIZE: u16 = 64;
pub const MEMORY: u64 = 16 << 20;
/// Where the buffers of a test begin, a place of 64 KiB for each request.
pub const BUFFERS: u64 = 8 << 20;
pub const PLACE: u64 = 0x1_0000;
pub const RESPONSE: u32 = 108;

/// What a device that hangs takes longer than.
pub const LONG: Duration = Duration::from_secs(20);

pub const HOTPLUG: u64 = 1 << 1;
pub const CHANGE: u64 = 1 << 2;
pub const EVENT_IDX: u64 = 1 << 29;
pub const VERSION_1: u64 = 1 << 32;

/// Counts interrupts, and remembers a broken device.
struct Interrupts(EventFd, Arc<AtomicBool>);

impl Interrupt for Interrupts {
    fn queue(&self, _: u16) {
        self.0.write(1).unwrap();
    }

    fn config(&self) {}

    fn needs_reset(&self) {
        self.1.store(true, Ordering::SeqCst);
    }
}

/// A controller and its driver.
pub struct Host {
    pub controller: Controller,
    pub bus: Arc<Bus>,
    pub memory: Arc<GuestMemoryMmap>,
    pub request: Ring,
    pub control: Ring,
    pub events: Ring,
    kicks: [EventFd; 3],
    pub interrupts: EventFd,
    broken: Arc<AtomicBool>,
}

/// A disk of 1 MiB.
pub fn disk() -> Disk {
    let geometry = Geometry { blocks: 2048, block_size: 512 };
    Disk::new(Medium::new("test", Box::new(Memory::new(geometry))), &disk_spec())
}

impl Host {
    /// A controller with a disk at target 0 LUN 0, whose power-on attention is taken.
    pub fn new(features: u64) -> Host {
        let bus = Bus::new(1).unwrap();
        bus.attach(0, 0, Arc::new(disk())).unwrap();
        let mut host = Host::on(bus, Pool::new(2), Duration::from_secs(60));
        host.activate(features);
        host.take_attention(0);
        host
    }

    /// A controller in front of `bus`, not yet active.
    pub fn on(bus: Arc<Bus>, pool: Arc<Pool>, tmf_timeout: Duration) -> Host {
        let spec = ControllerSpec {
            id: "scsi0".into(),
            request_queues: 1,
            queue_size: QUEUE_SIZE,
            tmf_timeout,
        };
        let controller = Controller::new(spec, Arc::clone(&bus), pool);
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY as usize)]);
        let memory = Arc::new(memory.unwrap());
        let ring = |place: u64| Ring::new(&memory, place * RING_LEN, QUEUE_SIZE);
        Host {
            controller,
            bus,
            request: ring(1),
            control: ring(2),
            events: ring(3),
            memory,
            kicks: std::array::from_fn(|_| EventFd::new(EFD_NONBLOCK).unwrap()),
            interrupts: EventFd::new(EFD_NONBLOCK).unwrap(),
            broken: Arc::default(),
        }
    }

    /// Takes the unit attention of `lun` away, a reset-class one.
    pub fn take_attention(&mut self, lun: u8) -> u8 {
        let (_, response) = self.run(&command(lun, &[0; 6]), &[], 0);
        assert_eq!((response[10], response[12 + 12]), (2, 0x29), "an attention");
        response[12 + 13]
    }

    pub fn activate(&mut self, features: u64) {
        let event_idx = features & EVENT_IDX != 0;
        let rings = [&self.control, &self.events, &self.request];
        let queue = |(index, ring): (usize, &Ring)| ActiveQueue {
            index: index as u16,
            queue: ring.device_queue(event_idx),
            kick: self.kicks[index].try_clone().unwrap(),
        };
        let interrupts = self.interrupts.try_clone().unwrap();
        let activation = Activation {
            memory: Arc::clone(&self.memory),
            interrupt: Arc::new(Interrupts(interrupts, Arc::clone(&self.broken))),
            queues: rings.into_iter().enumerate().map(queue).collect(),
            features,
        };
        self.controller.activate(activation).unwrap();
    }

    /// Whether the device says that it needs a reset, before `LONG` has passed.
    pub fn comes_to_need_reset(&self) -> bool {
        let start = Instant::now();
        while !self.broken.load(Ordering::SeqCst) && start.elapsed() < LONG {
            std::thread::sleep(Duration::from_micros(50));
        }
        self.broken.load(Ordering::SeqCst)
    }

    /// Resets the controller, returning when it has stopped.
    pub fn reset(&mut self) {
        self.controller.begin_reset();
        self.controller.finish_reset();
    }

    pub fn kick(&self, queue: u16) {
        self.kicks[usize::from(queue)].write(1).unwrap();
    }

    /// The next used chain of `queue`, if there is one.
    pub fn used(&mut self, queue: u16) -> Option<(u16, u32)> {
        match queue {
            CONTROL => self.control.pop_used(),
            EVENTS => self.events.pop_used(),
            _ => self.request.pop_used(),
        }
    }

    /// Waits for the next used chain of `queue`.
    pub fn wait(&mut self, queue: u16) -> (u16, u32) {
        let start = Instant::now();
        loop {
            if let Some(used) = self.used(queue) {
                return used;
            }
            assert!(start.elapsed() < LONG, "the device does not answer");
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    pub fn put(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    pub fn get(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    /// Issues one request as Linux frames it; returns the used length and the response.
    pub fn run(&mut self, request: &[u8], out: &[u8], in_len: u32) -> (u32, Vec<u8>) {
        let segments = self.place(0, request, out, in_len);
        self.request.push_indirect(0, &segments);
        self.kick(REQUEST);
        let (head, len) = self.wait(REQUEST);
        assert_eq!(head, 0);
        (len, self.get(response_at(0), RESPONSE as usize))
    }

    /// Lays a request out in place `index`.
    pub fn place(&self, index: u16, request: &[u8], out: &[u8], in_len: u32) -> Vec<Segment> {
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

pub fn response_at(index: u16) -> u64 {
    BUFFERS + u64::from(index) * PLACE + 0x800
}

pub fn data_at(index: u16) -> u64 {
    BUFFERS + u64::from(index) * PLACE + 0x8000
}

/// status_qualifier, status and response of a response without sense data, and its resid.
pub fn outcome(response: &[u8]) -> (u8, u8, u32) {
    (response[10], response[11], u32::from_le_bytes(response[4..8].try_into().unwrap()))
}

pub const GOOD: (u8, u8, u32) = (0, 0, 0);

//! A driver of virtio-scsi on a transport: registers, rings, and requests of any kind.
#![allow(dead_code, reason = "each test uses a part")]

use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use devices::virtio::scsi::{Controller, ControllerSpec};
use storage::backend::{Backend, Geometry, Medium, Memory};
use storage::buffer::DataBuf;
use storage::engine::Pool;
use storage::lun::disk::Disk;
use storage::target::Bus;
use storage::testing::disk_spec;
use vm_memory::{Bytes, GuestAddress};

use crate::guest::Probe;
use crate::guest::device::VERSION_1;
use crate::guest::machine::{Machine, Mechanism};
use crate::guest::registers::{DRIVER_OK, LIMIT, NEEDS_RESET, RUNNING, Registers};
use crate::ring::{RING_LEN, Ring, Segment, command, readable, transfer_10, writable};

pub(crate) const CONTROL: u16 = 0;
pub(crate) const EVENT: u16 = 1;
pub(crate) const REQUEST: u16 = 2;
pub(crate) const QUEUE_SIZE: u16 = 64;
/// Where the buffers of requests are, above the rings.
pub(crate) const HEADER: u64 = 8 << 20;
pub(crate) const RESPONSE: u64 = HEADER + 0x1000;
pub(crate) const DATA: u64 = HEADER + 0x1_0000;
pub(crate) const RESPONSE_LEN: u32 = 108;
pub(crate) const HEADER_LEN: u32 = 51;

const READ_10: u8 = 0x28;
const WRITE_10: u8 = 0x2a;

/// What holds a medium up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stall(Arc<(Mutex<Stalled>, Condvar)>);

#[derive(Debug, Default)]
struct Stalled {
    closed: bool,
    waiting: usize,
}

impl Stall {
    /// Holds up what comes from now on.
    pub(crate) fn close(&self) {
        self.0.0.lock().unwrap().closed = true;
    }

    pub(crate) fn open(&self) {
        self.0.0.lock().unwrap().closed = false;
        self.0.1.notify_all();
    }

    /// Waits until `count` transfers are held up.
    pub(crate) fn wait_for(&self, count: usize) {
        let (stalled, changed) = &*self.0;
        let held = stalled.lock().unwrap();
        let few = |stalled: &mut Stalled| stalled.waiting < count;
        let (_held, timeout) = changed.wait_timeout_while(held, LIMIT, few).unwrap();
        assert!(!timeout.timed_out(), "no transfer comes");
    }

    fn pass(&self) {
        let (stalled, changed) = &*self.0;
        let mut held = stalled.lock().unwrap();
        held.waiting += 1;
        changed.notify_all();
        held = changed.wait_while(held, |stalled| stalled.closed).unwrap();
        held.waiting -= 1;
    }
}

/// A medium in memory that can be held up.
#[derive(Debug)]
struct Stallable(Memory, Stall);

impl Backend for Stallable {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }

    fn read(&self, offset: u64, data: &mut DataBuf) -> std::io::Result<()> {
        self.1.pass();
        self.0.read(offset, data)
    }

    fn write(&self, offset: u64, data: &mut DataBuf) -> std::io::Result<()> {
        self.1.pass();
        self.0.write(offset, data)
    }

    fn flush(&self) -> std::io::Result<()> {
        self.0.flush()
    }

    fn raw_fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The device gave the chain at this head back, having written so many bytes.
    Used(u16, u32),
    /// The device wants to be reset.
    NeedsReset,
}

/// A controller with one disk of 1 MiB at LUN 0 of target 0, and its driver.
pub(crate) struct Host {
    pub(crate) registers: Box<dyn Registers>,
    pub(crate) stall: Stall,
    pub(crate) control: Ring,
    pub(crate) request: Ring,
}

impl Host {
    /// A controller that was found, and does not run yet.
    pub(crate) fn probe(probe: Probe) -> Host {
        let (stall, bus) = (Stall::default(), Bus::new(1).unwrap());
        let memory = Memory::new(Geometry { blocks: 2048, block_size: 512 });
        let medium = Medium::new("test", Box::new(Stallable(memory, stall.clone())));
        bus.attach(0, 0, Arc::new(Disk::new(medium, &disk_spec()))).unwrap();
        let spec = ControllerSpec {
            id: "scsi0".into(),
            request_queues: 1,
            queue_size: QUEUE_SIZE,
            tmf_timeout: LIMIT,
        };
        let controller = Controller::new(spec, bus, Pool::new(2));
        let registers = probe(Machine::new(Mechanism::Ecam), Box::new(controller));
        eprintln!("over {}", registers.transport());
        let ring = |index| Ring::new(&registers.machine().memory, index * RING_LEN, QUEUE_SIZE);
        Host { stall, control: ring(1), request: ring(3), registers }
    }

    /// Resets the device and starts it with empty rings.
    pub(crate) fn start(&mut self, features: u64) {
        self.registers.negotiate(VERSION_1 | features);
        let memory = Arc::clone(&self.registers.machine().memory);
        let empty = vec![0; usize::try_from(3 * RING_LEN).unwrap()];
        memory.write_slice(&empty, GuestAddress(RING_LEN)).unwrap();
        self.control = Ring::new(&memory, RING_LEN, QUEUE_SIZE);
        let event = Ring::new(&memory, 2 * RING_LEN, QUEUE_SIZE);
        self.request = Ring::new(&memory, 3 * RING_LEN, QUEUE_SIZE);
        let rings = [(CONTROL, &self.control), (EVENT, &event), (REQUEST, &self.request)];
        for (index, ring) in rings {
            self.registers.set_up_queue(index, QUEUE_SIZE, ring.areas());
        }
        self.registers.add_status(DRIVER_OK);
        assert_eq!(self.registers.status(), RUNNING);
    }

    pub(crate) fn put(&self, address: u64, bytes: &[u8]) {
        self.registers.machine().memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    pub(crate) fn get(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.registers.machine().memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    pub(crate) fn kick(&self) {
        self.registers.notify(REQUEST);
    }

    /// Waits for the end of a request.
    pub(crate) fn end(&mut self) -> End {
        let start = Instant::now();
        loop {
            if let Some((head, len)) = self.request.pop_used() {
                return End::Used(head, len);
            }
            if self.registers.status() & NEEDS_RESET != 0 {
                return End::NeedsReset;
            }
            assert!(start.elapsed() < LIMIT, "the device hangs");
            std::thread::sleep(std::time::Duration::from_micros(50));
        }
    }

    /// Sends `cdb` to LUN 0 with `out`, or with room for `in_len` bytes; leaves its end open.
    pub(crate) fn send(&mut self, cdb: &[u8], out: &[u8], in_len: u32) {
        self.put(HEADER, &command(0, cdb));
        self.put(RESPONSE, &[0xee; RESPONSE_LEN as usize]);
        let mut segments = vec![readable(HEADER, HEADER_LEN)];
        if !out.is_empty() {
            self.put(DATA, out);
            segments.push(readable(DATA, u32::try_from(out.len()).unwrap()));
        }
        segments.push(writable(RESPONSE, RESPONSE_LEN));
        segments.extend((in_len > 0).then(|| writable(DATA, in_len)));
        self.request.push(0, &segments);
        self.kick();
    }

    /// Sends `cdb`, and returns the status and response bytes of its answer.
    pub(crate) fn run(&mut self, cdb: &[u8], out: &[u8], in_len: u32) -> (u8, u8) {
        self.send(cdb, out, in_len);
        assert!(matches!(self.end(), End::Used(0, 12..)));
        let response = self.get(RESPONSE, 12);
        (response[10], response[11])
    }

    /// Sends whatever chain, and waits for its end.
    pub(crate) fn try_chain(&mut self, segments: &[Segment]) -> End {
        self.request.push(0, segments);
        self.kick();
        self.end()
    }

    pub(crate) fn write(&mut self, lba: u32, data: &[u8]) {
        let blocks = u16::try_from(data.len() / 512).unwrap();
        assert_eq!(self.run(&transfer_10(WRITE_10, lba, blocks), data, 0), (0, 0));
    }

    pub(crate) fn read(&mut self, lba: u32, blocks: u16) -> Vec<u8> {
        let len = u32::from(blocks) * 512;
        assert_eq!(self.run(&transfer_10(READ_10, lba, blocks), &[], len), (0, 0));
        self.get(DATA, usize::try_from(len).unwrap())
    }

    /// Begins a READ of block 0 that the medium holds up.
    pub(crate) fn begin_stalled_read(&mut self) {
        self.stall.close();
        self.send(&transfer_10(READ_10, 0, 1), &[], 512);
        self.stall.wait_for(1);
    }

    /// Resets the device, starts it, and takes what it has to tell of the past.
    pub(crate) fn restart(&mut self, features: u64) {
        self.start(features);
        for _ in 0..8 {
            if self.run(&[0; 6], &[], 0) == (0, 0) {
                return;
            }
        }
        panic!("the disk does not come to be ready");
    }

    /// After a reset, the device serves an honest driver as if nothing had been.
    pub(crate) fn works_again(&mut self) {
        self.restart(0);
        let data: Vec<u8> = (0..=255).cycle().skip(7).take(1024).collect();
        self.write(100, &data);
        self.put(DATA, &[0; 1024]);
        assert_eq!(self.read(100, 2), data);
        assert_eq!(self.registers.status(), RUNNING);
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // What goes with it waits for its requests.
        self.stall.open();
    }
}

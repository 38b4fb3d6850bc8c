//! The driver's side of a split virtqueue, and of virtio-scsi requests on it.
#![allow(dead_code, reason = "each test and benchmark uses a part")]

use std::sync::Arc;

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Bytes that a ring takes from its base, up to 256 entries and their indirect tables.
pub const RING_LEN: u64 = 0x2_0000;

/// A buffer of a request.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    pub address: u64,
    pub len: u32,
    pub writable: bool,
}

pub fn readable(address: u64, len: u32) -> Segment {
    Segment { address, len, writable: false }
}

pub fn writable(address: u64, len: u32) -> Segment {
    Segment { address, len, writable: true }
}

/// A virtqueue in guest memory at `base`.
pub struct Ring {
    pub memory: Arc<GuestMemoryMmap>,
    base: u64,
    size: u16,
    next_avail: u16,
    last_used: u16,
}

impl Ring {
    pub fn new(memory: &Arc<GuestMemoryMmap>, base: u64, size: u16) -> Ring {
        Ring { memory: Arc::clone(memory), base, size, next_avail: 0, last_used: 0 }
    }

    fn avail(&self) -> u64 {
        self.base + 16 * u64::from(self.size)
    }

    fn used(&self) -> u64 {
        (self.avail() + 6 + 2 * u64::from(self.size)).next_multiple_of(4)
    }

    /// Where its descriptor, driver and device areas are.
    pub fn areas(&self) -> [u64; 3] {
        [self.base, self.avail(), self.used()]
    }

    /// The device's side of it.
    pub fn device_queue(&self, event_idx: bool) -> Queue {
        let mut queue = Queue::new(self.size).unwrap();
        let half = |value: u64| u32::try_from(value & u64::from(u32::MAX)).ok();
        let halves = |address: u64| (half(address), half(address >> 32));
        let (low, high) = halves(self.base);
        queue.set_desc_table_address(low, high);
        let (low, high) = halves(self.avail());
        queue.set_avail_ring_address(low, high);
        let (low, high) = halves(self.used());
        queue.set_used_ring_address(low, high);
        queue.set_size(self.size);
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        queue
    }

    fn put<T: vm_memory::ByteValued>(&self, address: u64, value: T) {
        self.memory.write_obj(value, GuestAddress(address)).unwrap();
    }

    fn get<T: vm_memory::ByteValued>(&self, address: u64) -> T {
        self.memory.read_obj(GuestAddress(address)).unwrap()
    }

    pub fn put_descriptor(&self, table: u64, index: u16, segment: Segment, flags: u16, next: u16) {
        let at = table + 16 * u64::from(index);
        let write = if segment.writable { WRITE } else { 0 };
        self.put(at, segment.address);
        self.put(at + 8, segment.len);
        self.put(at + 12, flags | write);
        self.put(at + 14, next);
    }

    fn put_chain(&self, table: u64, first: u16, segments: &[Segment]) {
        for (index, segment) in (first..).zip(segments) {
            let last = usize::from(index - first) + 1 == segments.len();
            self.put_descriptor(table, index, *segment, if last { 0 } else { NEXT }, index + 1);
        }
    }

    /// Makes a chain available from descriptor `head` on.
    pub fn push(&mut self, head: u16, segments: &[Segment]) {
        self.put_chain(self.base, head, segments);
        self.publish(head);
    }

    /// Makes a chain available by one descriptor, with its table in a place of `head`'s own.
    pub fn push_indirect(&mut self, head: u16, segments: &[Segment]) {
        self.lay_out_indirect(head, segments);
        self.publish(head);
    }

    /// As [`Ring::push_indirect`], but leaves it to [`Ring::publish`] to make it available.
    pub fn lay_out_indirect(&mut self, head: u16, segments: &[Segment]) {
        let table = self.base + 0x4000 + u64::from(head) * 256;
        assert!(segments.len() <= 16, "the table of a head has 16 entries");
        self.put_chain(table, 0, segments);
        let len = 16 * u32::try_from(segments.len()).unwrap();
        self.put_descriptor(self.base, head, readable(table, len), INDIRECT, 0);
    }

    /// Makes whatever descriptor `head` begins available.
    pub fn publish(&mut self, head: u16) {
        self.put(self.avail() + 4 + 2 * u64::from(self.next_avail % self.size), head);
        self.next_avail = self.next_avail.wrapping_add(1);
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        self.put(self.avail() + 2, self.next_avail);
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    }

    /// Claims that `count` more chains are available.
    pub fn skip(&mut self, count: u16) {
        self.next_avail = self.next_avail.wrapping_add(count);
        self.put(self.avail() + 2, self.next_avail);
    }

    /// Whether the device wants a doorbell for what was pushed since `old`.
    pub fn wants_kick(&self, old: u16) -> bool {
        let event: u16 = self.get(self.used() + 4 + 8 * u64::from(self.size));
        let new = self.next_avail;
        new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
    }

    pub fn next_avail(&self) -> u16 {
        self.next_avail
    }

    /// Asks to be interrupted once `count` more chains are used.
    pub fn interrupt_after(&self, count: u16) {
        let event = self.last_used.wrapping_add(count).wrapping_sub(1);
        self.put(self.avail() + 4 + 2 * u64::from(self.size), event);
    }

    /// The next used chain: its head, and how much the device wrote.
    pub fn pop_used(&mut self) -> Option<(u16, u32)> {
        let index: u16 = self.get(self.used() + 2);
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        if index == self.last_used {
            return None;
        }
        let at = self.used() + 4 + 8 * u64::from(self.last_used % self.size);
        self.last_used = self.last_used.wrapping_add(1);
        let head: u32 = self.get(at);
        Some((u16::try_from(head).unwrap(), self.get(at + 4)))
    }
}

/// The head of a command request to target 0.
pub fn command(lun: u8, cdb: &[u8]) -> [u8; 51] {
    let mut request = [0; 51];
    request[..4].copy_from_slice(&[1, 0, 0x40, lun]);
    request[19..19 + cdb.len()].copy_from_slice(cdb);
    request
}

/// READ(10) or WRITE(10).
pub fn transfer_10(opcode: u8, lba: u32, blocks: u16) -> [u8; 10] {
    let ([a, b, c, d], [e, f]) = (lba.to_be_bytes(), blocks.to_be_bytes());
    [opcode, 0, a, b, c, d, 0, e, f, 0]
}

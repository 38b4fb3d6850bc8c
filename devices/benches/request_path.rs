//! From the available ring to the used ring on a medium that does nothing: what a command costs
//! before any host does I/O for it. The driver's own share, a few stores, is in the figures.

#[path = "../tests/ring/mod.rs"]
mod ring;

use std::hint::black_box;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use devices::interrupt::Interrupt;
use devices::virtio::ActiveQueue;
use devices::virtio::scsi::{RequestQueue, Setup, Sizes};
use ring::{RING_LEN, Ring, command, readable, transfer_10, writable};
use storage::backend::{Backend, Geometry, Medium};
use storage::buffer::DataBuf;
use storage::engine::IoContext;
use storage::lun::disk::Disk;
use storage::target::Bus;
use storage::testing::disk_spec;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const DEPTH: u16 = 32;
const BUFFERS: u64 = 1 << 20;
const PLACE: u64 = 0x4_0000;

/// A medium that takes and gives nothing.
#[derive(Debug)]
struct Null;

impl Backend for Null {
    fn geometry(&self) -> Geometry {
        Geometry { blocks: 1 << 20, block_size: 512 }
    }

    fn read(&self, _: u64, data: &mut DataBuf) -> io::Result<()> {
        data.advance(data.len());
        Ok(())
    }

    fn write(&self, _: u64, data: &mut DataBuf) -> io::Result<()> {
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

struct Silent;

impl Interrupt for Silent {
    fn queue(&self, index: u16) {
        black_box(index);
    }

    fn config(&self) {}
}

fn disk() -> Disk {
    Disk::new(Medium::new("null", Box::new(Null)), &disk_spec())
}

/// A queue and its driver; the power-on attention is taken.
fn queue() -> (RequestQueue, Ring) {
    let bus = Bus::new(1).expect("a bus");
    bus.attach(0, 0, Arc::new(disk())).expect("a free address");
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 64 << 20)]).expect("memory");
    let memory = Arc::new(memory);
    let event = || EventFd::new(EFD_NONBLOCK).expect("an event");
    let mut ring = Ring::new(&memory, RING_LEN, 256);
    let active = ActiveQueue { index: 2, queue: ring.device_queue(true), kick: event() };
    let setup = Setup {
        active,
        lane: 0,
        bus,
        io: IoContext::inline(),
        memory: Arc::clone(&memory),
        interrupt: Arc::new(Silent),
        sizes: Sizes::DEFAULT,
        stop: event(),
    };
    let mut queue = RequestQueue::new(setup).expect("a queue");
    lay_out(&mut ring, 0, &[0; 6], 0);
    ring.publish(0);
    queue.poll().expect("no host error");
    ring.pop_used().expect("an answer");
    (queue, ring)
}

/// Lays a request for place `index` out as Linux does: one indirect table, 4 KiB segments.
fn lay_out(ring: &mut Ring, index: u16, cdb: &[u8], in_len: u32) {
    let base = BUFFERS + u64::from(index) * PLACE;
    ring.memory.write_slice(&command(0, cdb), GuestAddress(base)).expect("within memory");
    let mut segments = vec![readable(base, 51), writable(base + 0x100, 108)];
    let data =
        (0..in_len / 4096).map(|page| writable(base + 0x1000 + u64::from(page) * 8192, 4096));
    segments.extend(data);
    ring.lay_out_indirect(index, &segments);
}

fn request_path(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("request_path");
    let cases: [(&str, Vec<u8>, u32); 3] = [
        ("test_unit_ready", vec![0; 6], 0),
        ("read_4k", transfer_10(0x28, 0, 8).to_vec(), 4096),
        ("read_56k_in_14_segments", transfer_10(0x28, 0, 112).to_vec(), 14 * 4096),
    ];
    group.throughput(Throughput::Elements(DEPTH.into()));
    for (name, cdb, in_len) in cases {
        let (mut queue, mut ring) = queue();
        (0..DEPTH).for_each(|index| lay_out(&mut ring, index, &cdb, in_len));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                (0..DEPTH).for_each(|index| ring.publish(index));
                queue.poll().expect("no host error");
                let answered = std::iter::from_fn(|| ring.pop_used()).count();
                assert_eq!(answered, usize::from(DEPTH));
            });
        });
    }
    group.finish();
}

criterion_group!(benches, request_path);
criterion_main!(benches);

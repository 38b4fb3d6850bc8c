//! A request queue whose driver writes anything: it must neither panic, nor hang, nor touch what
//! is not the guest's, and serve an honest driver afterwards.

mod ring;

use std::sync::Arc;

use devices::interrupt::Interrupt;
use devices::virtio::ActiveQueue;
use devices::virtio::scsi::{RequestQueue, Setup, Sizes};
use proptest::prelude::*;
use ring::{RING_LEN, Ring, Segment, command, readable, transfer_10, writable};
use storage::backend::{Geometry, Medium, Memory};
use storage::engine::IoContext;
use storage::lun::disk::Disk;
use storage::target::Bus;
use storage::testing::disk_spec;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const QUEUE_SIZE: u16 = 16;
const MEMORY: u64 = 1 << 20;

struct Silent;

impl Interrupt for Silent {
    fn queue(&self, _: u16) {}

    fn config(&self) {}
}

fn queue(memory: &Arc<GuestMemoryMmap>, bus: &Arc<Bus>, ring: &Ring) -> RequestQueue {
    let event = || EventFd::new(EFD_NONBLOCK).unwrap();
    let setup = Setup {
        active: ActiveQueue { index: 2, queue: ring.device_queue(true), kick: event() },
        lane: 0,
        bus: Arc::clone(bus),
        io: IoContext::inline(),
        memory: Arc::clone(memory),
        interrupt: Arc::new(Silent),
        sizes: Sizes::DEFAULT,
        stop: event(),
    };
    RequestQueue::new(setup).unwrap()
}

/// An address that is near something: requests, the rings themselves, the end of memory.
fn address() -> impl Strategy<Value = u64> {
    let bases = prop::sample::select(vec![0, RING_LEN, 0x8_0000, MEMORY - 64, MEMORY, u64::MAX]);
    (bases, 0u64..128).prop_map(|(base, offset)| base.wrapping_add(offset))
}

fn len() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => prop::sample::select(vec![0, 1, 16, 51, 108, 512, 4096]),
        1 => 0u32..2048,
        1 => any::<u32>(),
    ]
}

fn descriptor() -> impl Strategy<Value = (Segment, u16, u16)> {
    let segment = (address(), len(), any::<bool>()).prop_map(|(address, len, writable)| Segment {
        address,
        len,
        writable,
    });
    // NEXT, INDIRECT, and bits without a meaning.
    let flags = prop::sample::select(vec![0, 1, 1, 1, 4, 5, 0xfff8]);
    (segment, flags, 0u16..QUEUE_SIZE + 2)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whatever_is_in_the_ring_the_queue_survives(
        table in prop::collection::vec(descriptor(), usize::from(QUEUE_SIZE)),
        heads in prop::collection::vec(0u16..QUEUE_SIZE + 2, 1..12),
        skip in prop_oneof![3 => Just(0u16), 1 => any::<u16>()],
        header in prop::collection::vec(any::<u8>(), 64),
    ) {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let memory = Arc::new(memory);
        let bus = Bus::new(1).unwrap();
        let medium = Memory::new(Geometry { blocks: 64, block_size: 512 });
        bus.attach(0, 0, Arc::new(Disk::new(Medium::new("test", Box::new(medium)), &disk_spec())))
            .unwrap();

        let mut hostile = Ring::new(&memory, RING_LEN, QUEUE_SIZE);
        memory.write_slice(&header, GuestAddress(0x8_0000)).unwrap();
        for (index, (segment, flags, next)) in (0..).zip(table) {
            hostile.put_descriptor(RING_LEN, index, segment, flags, next);
        }
        let mut victim = queue(&memory, &bus, &hostile);
        for head in heads {
            hostile.publish(head);
        }
        hostile.skip(skip);
        // A ring that is broken ends the queue.
        drop(victim.poll().and_then(|()| victim.poll()));
        drop(victim);

        let mut honest = Ring::new(&memory, RING_LEN, QUEUE_SIZE);
        memory.write_slice(&[0; 4096], GuestAddress(RING_LEN)).unwrap();
        let mut survivor = queue(&memory, &bus, &honest);
        let request = command(0, &transfer_10(0x28, 1, 1));
        memory.write_slice(&request, GuestAddress(0x8_0000)).unwrap();
        let segments =
            [readable(0x8_0000, 51), writable(0x8_1000, 108), writable(0x8_2000, 512)];
        for _ in 0..2 {
            // The first may hear of the power-on.
            honest.push(0, &segments);
            survivor.poll().unwrap();
            prop_assert_eq!(honest.pop_used().map(|(head, _)| head), Some(0));
        }
        let mut response = [0xff; 12];
        memory.read_slice(&mut response, GuestAddress(0x8_1000)).unwrap();
        prop_assert_eq!(response, [0; 12]);
    }
}

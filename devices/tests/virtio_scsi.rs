//! A whole virtio-scsi controller as a hostile driver meets it, on every transport: by registers,
//! doorbells and real rings. Whatever it does ends with a response, a used chain or
//! `DEVICE_NEEDS_RESET`; and after a reset the controller serves an honest driver.

mod guest;
mod hba;
mod ring;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use guest::device::EVENT_IDX;
use guest::machine::MEMORY_SIZE;
use guest::registers::{DRIVER_OK, Events, NEEDS_RESET, RUNNING};
use guest::{TRANSPORTS, machine};
use hba::{DATA, End, HEADER, HEADER_LEN, Host, QUEUE_SIZE, REQUEST, RESPONSE, RESPONSE_LEN};
use ring::{RING_LEN, Ring, Segment, command, readable, transfer_10, writable};
use vm_memory::{Bytes, GuestAddress};

const INDIRECT_DESC: u64 = 1 << 28;
/// The request queue's descriptors.
const TABLE: u64 = 3 * RING_LEN;
const NEXT: u16 = 1;
const INDIRECT: u16 = 4;

const TEST_UNIT_READY: [u8; 6] = [0; 6];
/// VIRTIO_SCSI_S_FAILURE
const FAILURE: u8 = 9;

/// A controller that runs, on each transport in turn. Its disk has no unit attention left.
fn running() -> impl Iterator<Item = Host> {
    probed().map(|mut host| {
        host.works_again();
        host
    })
}

fn probed() -> impl Iterator<Item = Host> {
    TRANSPORTS.into_iter().map(Host::probe)
}

#[test]
fn what_is_written_is_read_whatever_was_negotiated() {
    for features in [0, EVENT_IDX, INDIRECT_DESC, EVENT_IDX | INDIRECT_DESC] {
        for mut host in running() {
            host.restart(features);
            let data: Vec<u8> = (0..=255).cycle().take(4096).collect();
            host.write(5, &data);
            host.put(DATA, &[0; 4096]);
            assert_eq!(host.read(5, 8), data);
            assert_eq!(host.registers.events(), Events { queue: true, config: false });
        }
    }
}

#[test]
fn broken_chains_are_given_back() {
    let header = readable(HEADER, HEADER_LEN);
    let response = writable(RESPONSE, RESPONSE_LEN);
    let chains: &[&[Segment]] = &[
        // Memory that is not the guest's.
        &[readable(MEMORY_SIZE, HEADER_LEN), response],
        &[readable(MEMORY_SIZE - 4, HEADER_LEN), response],
        &[header, writable(MEMORY_SIZE - 4, RESPONSE_LEN)],
        &[header, writable(u64::MAX - 4, RESPONSE_LEN)],
        &[header, response, writable(MEMORY_SIZE, 512)],
        &[header, readable(1 << 63, 512), response],
        &[header, response, writable(machine::ECAM, 512)],
        // Absurd lengths.
        &[readable(HEADER, u32::MAX), response],
        &[header, writable(RESPONSE, u32::MAX)],
        &[header, response, writable(0, u32::MAX), writable(0, u32::MAX)],
        // Short headers and responses.
        &[readable(HEADER, 0), response],
        &[readable(HEADER, 1), response],
        &[readable(HEADER, HEADER_LEN - 1), response],
        &[header, writable(RESPONSE, 0)],
        &[header, writable(RESPONSE, 11)],
        &[header],
        &[response],
        &[readable(HEADER, 0)],
        // Order.
        &[response, header],
        &[header, response, readable(DATA, 512)],
        &[header, readable(DATA, 512), response, writable(DATA, 512)],
    ];
    for mut host in running() {
        for chain in chains {
            host.put(HEADER, &command(0, &TEST_UNIT_READY));
            let End::Used(0, len) = host.try_chain(chain) else { panic!("{chain:?}") };
            assert!(len <= RESPONSE_LEN, "{len} bytes written of {chain:?}");
        }
        assert_eq!(host.run(&TEST_UNIT_READY, &[], 0), (0, 0), "the queue goes on");
        host.works_again();
    }
}

#[test]
fn chains_that_lead_nowhere_are_given_back() {
    let header = readable(HEADER, HEADER_LEN);
    for mut host in running() {
        host.put(HEADER, &command(0, &TEST_UNIT_READY));
        // Back to itself, out of the table, and around in a circle.
        for (first, second) in [(0, 0), (QUEUE_SIZE, 0), (u16::MAX, 0), (1, 0), (1, 1)] {
            host.request.put_descriptor(TABLE, 0, header, NEXT, first);
            host.request.put_descriptor(TABLE, 1, header, NEXT, second);
            host.request.publish(0);
            host.kick();
            assert!(matches!(host.end(), End::Used(0, 0..=RESPONSE_LEN)), "{first} {second}");
        }
        host.works_again();
    }
}

#[test]
fn indirect_tables_that_break_the_rules_are_given_back() {
    let place = 0x10_0000;
    for mut host in running() {
        host.start(INDIRECT_DESC);
        host.put(HEADER, &command(0, &TEST_UNIT_READY));
        let table = |segments: &[Segment], flags: u16| {
            for (index, segment) in (0..).zip(segments) {
                let next = if usize::from(index) + 1 < segments.len() { NEXT } else { 0 };
                host.request.put_descriptor(place, index, *segment, flags | next, index + 1);
            }
        };
        let whole = [readable(HEADER, HEADER_LEN), writable(RESPONSE, RESPONSE_LEN)];
        table(&whole, 0);
        let (good, nested) = (readable(place, 32), INDIRECT | NEXT);
        let heads = [
            (readable(place, 0), INDIRECT, 0),
            (readable(place, 15), INDIRECT, 0),
            (readable(place, 33), INDIRECT, 0),
            (readable(place, u32::MAX), INDIRECT, 0),
            (readable(place, 16 * 0x1_0000), INDIRECT, 0),
            (readable(MEMORY_SIZE - 16, 32), INDIRECT, 0),
            (readable(u64::MAX - 15, 32), INDIRECT, 0),
            (writable(place, 32), INDIRECT, 0),
            (good, nested, 0),
            (good, nested, QUEUE_SIZE),
        ];
        for (segment, flags, next) in heads {
            host.request.put_descriptor(TABLE, 0, segment, flags, next);
            host.request.publish(0);
            host.kick();
            assert!(matches!(host.end(), End::Used(0, 0..=RESPONSE_LEN)), "{segment:?} {flags}");
        }
        // A table in a table, a table that leads out of itself, and a long one.
        let table = |host: &Host, flags: u16, next: u16| {
            host.request.put_descriptor(place, 0, readable(HEADER, HEADER_LEN), flags, next);
            host.request.put_descriptor(TABLE, 0, good, INDIRECT, 0);
        };
        for (flags, next) in [(INDIRECT, 0), (INDIRECT | NEXT, 1), (NEXT, 2), (NEXT, 0)] {
            table(&host, flags, next);
            host.request.publish(0);
            host.kick();
            assert!(matches!(host.end(), End::Used(0, 0..=RESPONSE_LEN)), "{flags} {next}");
        }
        for index in 0..4096 {
            host.request.put_descriptor(place, index, readable(HEADER, 1), NEXT, index + 1);
        }
        host.request.put_descriptor(TABLE, 0, readable(place, 16 * 4096), INDIRECT, 0);
        host.request.publish(0);
        host.kick();
        assert!(matches!(host.end(), End::Used(0, 0..=RESPONSE_LEN)));
        host.works_again();
    }
}

#[test]
fn a_broken_ring_needs_a_reset() {
    for break_ring in [
        // More chains than the ring has places.
        |ring: &mut Ring| ring.skip(QUEUE_SIZE),
        |ring: &mut Ring| ring.skip(u16::MAX - 1),
        |ring: &mut Ring| ring.skip(0x8000),
        |ring: &mut Ring| (0..QUEUE_SIZE).for_each(|_| ring.publish(0)),
        // Chains that begin outside the table.
        |ring: &mut Ring| ring.publish(QUEUE_SIZE),
        |ring: &mut Ring| ring.publish(u16::MAX),
    ] {
        for mut host in running() {
            host.put(HEADER, &command(0, &TEST_UNIT_READY));
            let chain = [readable(HEADER, HEADER_LEN), writable(RESPONSE, RESPONSE_LEN)];
            host.request.push(0, &chain);
            break_ring(&mut host.request);
            let _ = host.registers.events();
            (0..3).for_each(|_| host.kick());
            while host.end() != End::NeedsReset {}
            assert_eq!(host.registers.status(), RUNNING | NEEDS_RESET);
            assert!(host.registers.events().config, "the driver is not told");
            host.works_again();
        }
    }
}

#[test]
fn doorbells_for_nothing_are_answered_with_nothing() {
    for mut host in running() {
        for _ in 0..2000 {
            host.kick();
        }
        host.registers.notify(0);
        host.registers.notify(1);
        host.registers.notify(QUEUE_SIZE);
        assert_eq!(host.run(&TEST_UNIT_READY, &[], 0), (0, 0));
    }
}

/// A header that changes after the doorbell is read as it was at one time: what is checked is
/// what is done. The one word that changes makes a READ of block 0, or an INQUIRY whose
/// allocation length would be an address beyond the end of the disk.
#[test]
fn a_header_that_changes_is_read_once() {
    let word = |cdb: [u8; 5]| u64::from_le_bytes([0, 0, 0, cdb[0], cdb[1], cdb[2], cdb[3], cdb[4]]);
    let words = [word([0x28, 0, 0, 0, 0]), word([0x12, 0, 0, 0, 36])];
    for mut host in running() {
        host.write(0, &[0x77; 512]);
        host.put(HEADER, &command(0, &transfer_10(0x28, 0, 1)));
        let (memory, done) = (host.registers.machine().memory.clone(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for word in words.iter().cycle() {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    memory.store(*word, GuestAddress(HEADER + 16), Ordering::Relaxed).unwrap();
                    std::hint::spin_loop();
                }
            });
            let chain = [
                readable(HEADER, HEADER_LEN),
                writable(RESPONSE, RESPONSE_LEN),
                writable(DATA, 512),
            ];
            let ends: Vec<_> = (0..2000)
                .map(|_| (host.try_chain(&chain), host.get(RESPONSE + 10, 2), host.get(DATA, 1)))
                .collect();
            done.store(true, Ordering::Relaxed);
            for (end, status, data) in ends {
                let len = if data == [0x77] { 512 } else { 36 };
                assert_eq!((end, status), (End::Used(0, RESPONSE_LEN + len), vec![0, 0]));
            }
        });
        host.works_again();
    }
}

/// Whatever the headers are made of, each request ends.
#[test]
fn headers_that_change_all_the_time_are_answered() {
    let headers = [
        command(0, &transfer_10(0x28, 8, 1)),
        command(0, &transfer_10(0x2a, 8, 1)),
        command(0, &transfer_10(0x28, 4096, 1)),
        command(5, &transfer_10(0x28, 8, 1)),
        command(0, &transfer_10(0x28, 8, 255)),
        [0xff; 51],
        [0; 51],
    ];
    for mut host in running() {
        host.write(8, &[0x77; 512]);
        let (memory, done) = (host.registers.machine().memory.clone(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for header in headers.iter().cycle() {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    memory.write_slice(header, GuestAddress(HEADER)).unwrap();
                }
            });
            let chain = [
                readable(HEADER, HEADER_LEN),
                writable(RESPONSE, RESPONSE_LEN),
                writable(DATA, 512),
            ];
            let ends: Vec<_> = (0..1000).map(|_| host.try_chain(&chain)).collect();
            done.store(true, Ordering::Relaxed);
            assert!(ends.iter().all(|end| matches!(end, End::Used(0, 12..))));
        });
        assert_eq!(host.read(8, 1), [0x77; 512], "nothing was to be written");
        host.works_again();
    }
}

#[test]
fn a_reset_with_io_in_flight_waits_for_it() {
    for mut host in running() {
        host.begin_stalled_read();
        let (registers, stall) = (&host.registers, &host.stall);
        std::thread::scope(|scope| {
            let reset = scope.spawn(|| registers.reset());
            std::thread::sleep(Duration::from_millis(20));
            assert!(!reset.is_finished(), "a request is with the medium");
            stall.open();
            reset.join().unwrap();
        });
        // From here on the memory is the driver's.
        host.put(RESPONSE, &[0xcc; 12]);
        host.put(DATA, &[0xcc; 512]);
        host.kick();
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(
            (host.get(RESPONSE, 12), host.get(DATA, 512)),
            (vec![0xcc; 12], vec![0xcc; 512])
        );
        host.works_again();
    }
}

#[test]
fn a_reset_on_pci_does_not_hold_the_processor() {
    let mut host = Host::probe(TRANSPORTS[0]);
    host.works_again();
    host.begin_stalled_read();
    let stall = host.stall.clone();
    let (seen, all_seen) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        // A processor that waits for the medium waits for this.
        scope.spawn(move || {
            let _ = all_seen.recv_timeout(Duration::from_secs(5));
            stall.open();
        });
        host.registers.set_status(0);
        for _ in 0..20 {
            assert_eq!(host.registers.status(), RUNNING);
            host.registers.write_config(20, &18u32.to_le_bytes());
            host.kick();
        }
        drop(seen);
    });
    host.registers.reset();
    let mut sense_size = [0; 4];
    host.registers.read_config(20, &mut sense_size);
    assert_eq!(u32::from_le_bytes(sense_size), 96);
    host.works_again();
}

#[test]
fn resets_at_any_time_are_survived() {
    for mut host in running() {
        for round in 0..100u16 {
            host.start(0);
            for index in 0..round % QUEUE_SIZE {
                host.put(HEADER, &command(0, &transfer_10(0x28, index.into(), 1)));
                let chain = [
                    readable(HEADER, HEADER_LEN),
                    writable(RESPONSE, RESPONSE_LEN),
                    writable(DATA, 512),
                ];
                let head = index % (QUEUE_SIZE / 4) * 4;
                host.request.push(head, &chain);
                if index % 3 == 0 {
                    host.kick();
                }
            }
            host.kick();
            host.registers.set_status(0);
        }
        host.works_again();
    }
}

#[test]
fn the_device_starts_with_whatever_queues_it_is_given() {
    for mut host in probed() {
        for enabled in 0..8u16 {
            host.registers.negotiate(guest::device::VERSION_1);
            for index in (0..3u16).filter(|index| enabled & 1 << index != 0) {
                let ring = Ring::new(
                    &host.registers.machine().memory,
                    (1 + u64::from(index)) * RING_LEN,
                    8,
                );
                host.registers.set_up_queue(index, 8, ring.areas());
            }
            host.registers.add_status(DRIVER_OK);
            assert_eq!(host.registers.status(), RUNNING);
            (0..3).for_each(|index| host.registers.notify(index));
        }
        host.works_again();
    }
}

#[test]
fn queues_on_top_of_one_another_are_survived() {
    for mut host in probed() {
        for areas in [[TABLE; 3], [0x2000, 0x2000, 0x2004], [HEADER, HEADER - 2, HEADER - 4]] {
            host.registers.negotiate(guest::device::VERSION_1 | EVENT_IDX);
            (0..3).for_each(|index| host.registers.set_up_queue(index, QUEUE_SIZE, areas));
            host.put(TABLE, &[1; 4096]);
            host.registers.add_status(DRIVER_OK);
            (0..3).for_each(|index| host.registers.notify(index));
        }
        host.works_again();
    }
}

#[test]
fn requests_before_driver_ok_wait_for_it() {
    for mut host in running() {
        host.registers.negotiate(guest::device::VERSION_1);
        let memory = host.registers.machine().memory.clone();
        host.put(TABLE, &vec![0; usize::try_from(RING_LEN).unwrap()]);
        host.request = Ring::new(&memory, TABLE, QUEUE_SIZE);
        host.registers.set_up_queue(REQUEST, QUEUE_SIZE, host.request.areas());
        host.send(&TEST_UNIT_READY, &[], 0);
        std::thread::sleep(Duration::from_millis(10));
        assert_eq!(host.get(RESPONSE, 1), [0xee]);
        host.registers.add_status(DRIVER_OK);
        host.kick();
        assert!(matches!(host.end(), End::Used(0, 12..)));
        assert_ne!(host.get(RESPONSE, 1), [0xee]);
    }
}

#[test]
fn a_disabled_queue_is_not_touched_and_the_others_go_on() {
    let mut host = Host::probe(TRANSPORTS[1]);
    host.works_again();
    host.begin_stalled_read();
    let (registers, stall) = (&host.registers, &host.stall);
    std::thread::scope(|scope| {
        let disable = scope.spawn(|| {
            registers.select_queue(REQUEST);
            registers.set_queue_ready(false);
            assert!(!registers.queue_ready());
        });
        std::thread::sleep(Duration::from_millis(20));
        assert!(!disable.is_finished(), "a request is with the medium");
        stall.open();
        disable.join().unwrap();
    });
    assert!(matches!(host.end(), End::Used(0, 12..)));
    host.send(&TEST_UNIT_READY, &[], 0);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(host.request.pop_used(), None);
    assert_eq!(host.get(RESPONSE, 1), [0xee]);

    // A request of an unknown type, on the control queue.
    host.put(HEADER, &[9, 0, 0, 0]);
    host.control.push(0, &[readable(HEADER, 4), writable(RESPONSE, 1)]);
    host.registers.notify(hba::CONTROL);
    let start = std::time::Instant::now();
    while host.control.pop_used().is_none() {
        assert!(start.elapsed() < guest::registers::LIMIT, "the control queue hangs");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(host.get(RESPONSE, 1), [FAILURE]);
    assert_eq!(host.registers.status(), RUNNING);
    host.works_again();

    // What serves the event queue serves the control queue.
    host.registers.select_queue(hba::EVENT);
    host.registers.set_queue_ready(false);
    assert!(!host.registers.queue_ready());
    assert_eq!(host.registers.status(), RUNNING | NEEDS_RESET);
    host.works_again();
}

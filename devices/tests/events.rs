//! The event queue: what the driver hears without having asked.

mod host;
mod ring;

use std::sync::Arc;

use host::{BUFFERS, CHANGE, EVENTS, HOTPLUG, Host, LONG, VERSION_1, disk};
use ring::writable;
use storage::scsi::sense::SenseCode;

const PLACE: u64 = 0x100;

/// Lends the device a buffer for an event.
fn lend(host: &mut Host, index: u16) {
    let at = BUFFERS + u64::from(index) * PLACE;
    host.put(at, &[0xee; 16]);
    host.events.push(index, &[writable(at, 16)]);
    host.kick(EVENTS);
}

/// Waits for an event, and checks that it came into buffer `index`.
fn event(host: &mut Host, index: u16) -> Vec<u8> {
    assert_eq!(host.wait(EVENTS), (index, 16));
    host.get(BUFFERS + u64::from(index) * PLACE, 16)
}

fn hears_nothing(host: &mut Host) {
    std::thread::sleep(std::time::Duration::from_millis(10));
    assert_eq!(host.used(EVENTS), None);
}

#[test]
fn logical_units_that_come_go_and_change_are_told() {
    let mut host = Host::new(VERSION_1 | HOTPLUG | CHANGE);
    (0..3).for_each(|index| lend(&mut host, index));
    host.bus.attach(2, 5, Arc::new(disk())).unwrap();
    assert_eq!(event(&mut host, 0), [1, 0, 0, 0, 1, 2, 0, 5, 0, 0, 0, 0, 1, 0, 0, 0]);
    host.bus.changed(2, 5, SenseCode::CAPACITY_DATA_HAS_CHANGED);
    assert_eq!(event(&mut host, 1), [3, 0, 0, 0, 1, 2, 0, 5, 0, 0, 0, 0, 0x2a, 9, 0, 0]);
    host.bus.detach(2, 5, LONG).unwrap();
    assert_eq!(event(&mut host, 2), [1, 0, 0, 0, 1, 2, 0, 5, 0, 0, 0, 0, 2, 0, 0, 0]);
}

#[test]
fn a_driver_without_the_feature_hears_nothing() {
    let mut host = Host::new(VERSION_1 | CHANGE);
    lend(&mut host, 0);
    host.bus.attach(0, 1, Arc::new(disk())).unwrap();
    hears_nothing(&mut host);
    host.bus.changed(0, 1, SenseCode::CAPACITY_DATA_HAS_CHANGED);
    assert_eq!(event(&mut host, 0)[0], 3);
}

#[test]
fn events_without_a_buffer_are_missed_and_the_driver_hears_so() {
    let mut host = Host::new(VERSION_1 | HOTPLUG);
    host.bus.attach(0, 1, Arc::new(disk())).unwrap();
    host.bus.attach(0, 2, Arc::new(disk())).unwrap();
    hears_nothing(&mut host);
    lend(&mut host, 0);
    assert_eq!(event(&mut host, 0)[..12], [0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0]);
    lend(&mut host, 1);
    host.bus.detach(0, 2, LONG).unwrap();
    assert_eq!(event(&mut host, 1)[..8], [1, 0, 0, 0, 1, 0, 0, 2], "nothing is missed any more");
}

#[test]
fn a_ring_of_events_that_is_broken_needs_a_reset() {
    let mut host = Host::new(VERSION_1 | HOTPLUG);
    host.events.skip(1000);
    host.kick(EVENTS);
    host.bus.attach(0, 1, Arc::new(disk())).unwrap();
    assert!(host.comes_to_need_reset());
}

//! What only MMIO has, for a virtio device: 32-bit registers, an interrupt status that is
//! acknowledged, and queues that can be disabled.

mod guest;

use std::time::Duration;

use guest::device::{QUEUE_SIZES, VERSION_1};
use guest::mmio::{BASE, Mmio, register};
use guest::registers::{ACKNOWLEDGE, AREAS, DRIVER_OK, QUEUE, READY, RUNNING, Registers};
use guest::{Guest, on_mmio};

/// A device that runs with queue 1, of 8 descriptors.
fn start() -> Guest<Mmio> {
    let driver = on_mmio();
    driver.start();
    driver
}

#[test]
fn the_window_says_that_it_is_a_modern_virtio_device() {
    let driver = on_mmio();
    assert_eq!(driver.get(register::VENDOR_ID), 0x1af4);
    assert_eq!(driver.queue_count(), 2);
    for (index, size) in (0..).zip(QUEUE_SIZES) {
        driver.select_queue(index);
        assert_eq!(driver.get(register::QUEUE_NUM_MAX), u32::from(size));
    }
}

#[test]
fn there_is_no_shared_memory_region() {
    let driver = on_mmio();
    for id in [0, 1, 255, u32::MAX] {
        driver.set(register::SHM_SEL, id);
        for register in [register::SHM_LEN, register::SHM_BASE] {
            assert_eq!(driver.get(register), u32::MAX);
            assert_eq!(driver.get(register + 4), u32::MAX);
        }
    }
}

#[test]
fn write_only_and_reserved_registers_read_as_zero() {
    let driver = start();
    driver.set(register::QUEUE_RESET, 1);
    for offset in [
        register::DEVICE_FEATURES_SEL,
        register::DRIVER_FEATURES,
        register::DRIVER_FEATURES_SEL,
        register::QUEUE_SEL,
        register::QUEUE_NUM,
        register::QUEUE_NOTIFY,
        register::INTERRUPT_ACK,
        register::QUEUE_DESC,
        register::QUEUE_DRIVER + 4,
        register::QUEUE_DEVICE,
        register::SHM_SEL,
        register::QUEUE_RESET,
        0x018,
        0x03c,
        0x0f8,
    ] {
        assert_eq!(driver.get(offset), 0, "{offset:#x}");
    }
}

#[test]
fn read_only_registers_take_no_writes() {
    let driver = start();
    for offset in [
        register::MAGIC_VALUE,
        register::VERSION,
        register::DEVICE_ID,
        register::DEVICE_FEATURES,
        register::QUEUE_NUM_MAX,
        register::INTERRUPT_STATUS,
        register::SHM_LEN,
        register::CONFIG_GENERATION,
    ] {
        let before = driver.get(offset);
        driver.set(offset, !before);
        assert_eq!(driver.get(offset), before, "{offset:#x}");
    }
    assert_eq!(driver.status(), RUNNING);
}

#[test]
fn registers_have_one_width() {
    let driver = start();
    assert_eq!(driver.read::<u8>(register::STATUS), 0);
    assert_eq!(driver.read::<u16>(register::STATUS), 0);
    assert_eq!(driver.read::<u64>(register::STATUS), 0);
    assert_eq!(driver.read::<u32>(register::STATUS + 2), 0);
    driver.write(register::STATUS, 0u8);
    driver.write(register::STATUS, 0u16);
    driver.write(register::STATUS, 0u64);
    driver.write(register::STATUS + 1, 0u32);
    driver.write(register::STATUS - 2, 0u32);
    assert_eq!(driver.status(), RUNNING);
    driver.device.interrupt(1);
    driver.write(register::INTERRUPT_ACK, 1u8);
    assert_eq!(driver.get(register::INTERRUPT_STATUS), 1);
}

#[test]
fn a_queue_selection_is_not_truncated() {
    let driver = on_mmio();
    for index in [0x1_0000, 0x1_0001, u32::MAX] {
        driver.set(register::QUEUE_SEL, index);
        assert_eq!(driver.get(register::QUEUE_NUM_MAX), 0, "{index:#x}");
    }
    driver.negotiate(VERSION_1);
    driver.place_queue(1, 8);
    driver.set_queue_ready(false);
    driver.set(register::QUEUE_NUM, 0x1_0010);
    driver.set_queue_ready(true);
    driver.add_status(DRIVER_OK);
    let inner = driver.device.inner();
    let queues = &inner.activation.as_ref().unwrap().queues;
    assert_eq!(virtio_queue::QueueT::size(&queues[0].queue), 8);
}

#[test]
fn a_queue_can_be_disabled_and_described_anew_before_driver_ok() {
    let driver = on_mmio();
    driver.negotiate(VERSION_1);
    driver.select_queue(1);
    for area in AREAS {
        driver.set_queue_area(area, 0x8_0000);
    }
    driver.set_queue_ready(true);
    assert!(driver.queue_ready());
    driver.set_queue_ready(false);
    assert!(!driver.queue_ready());
    for value in [2, 3, u32::MAX] {
        driver.set(register::QUEUE_READY, value);
        assert!(!driver.queue_ready(), "{value}");
    }
    driver.place_queue(1, 8);
    assert!(driver.queue_ready());
    driver.add_status(DRIVER_OK);
    driver.request(1, 0);
    assert!(driver.device.serve(1));
    assert_eq!(driver.used(1), (1, true));
    assert!(driver.device.inner().stopped_queues.is_empty());
}

#[test]
fn disabling_a_queue_of_a_device_that_runs_stops_it_until_reset() {
    let driver = start();
    driver.select_queue(0);
    driver.set_queue_ready(false);
    driver.select_queue(1);
    driver.set_queue_ready(false);
    assert!(!driver.queue_ready());
    driver.set_queue_ready(false);
    assert_eq!(driver.device.inner().stopped_queues, [1]);
    driver.set_queue_ready(true);
    assert!(!driver.queue_ready(), "a device that runs takes no further queues");
    assert_eq!((driver.status(), driver.active_queues()), (RUNNING, vec![]));
    driver.start();
    driver.request(1, 0);
    assert!(driver.device.serve(1));
    assert_eq!(driver.used(1), (1, true));
}

#[test]
fn events_stay_until_they_are_acknowledged() {
    let driver = start();
    driver.device.interrupt(1);
    assert_eq!((driver.pulses(), driver.get(register::INTERRUPT_STATUS)), (1, 1));
    driver.device.change_config([1; 16]);
    driver.device.interrupt(1);
    assert_eq!(driver.pulses(), 2, "an edge for each");
    assert_eq!(driver.get(register::INTERRUPT_STATUS), 3);
    assert_eq!(driver.get(register::INTERRUPT_STATUS), 3, "reading changes nothing");
    driver.set(register::INTERRUPT_ACK, 1);
    assert_eq!(driver.get(register::INTERRUPT_STATUS), 2);
    driver.set(register::INTERRUPT_ACK, !2);
    assert_eq!(driver.get(register::INTERRUPT_STATUS), 2);
    driver.set(register::INTERRUPT_ACK, u32::MAX);
    assert_eq!((driver.get(register::INTERRUPT_STATUS), driver.pulses()), (0, 0));
    driver.device.interrupt(1);
    driver.reset();
    assert_eq!(driver.get(register::INTERRUPT_STATUS), 0);
}

#[test]
fn events_can_be_handled_while_a_reset_waits() {
    let driver = start();
    driver.device.inner().stalled = true;
    std::thread::scope(|scope| {
        let reset = scope.spawn(|| driver.set_status(0));
        std::thread::sleep(Duration::from_millis(10));
        driver.device.interrupt(1);
        assert_eq!(driver.events(), QUEUE);
        assert!(!reset.is_finished());
        driver.device.unstall();
        reset.join().unwrap();
    });
    assert_eq!(driver.status(), 0, "a driver does not wait here");
}

#[test]
fn the_status_has_8_bits() {
    let driver = on_mmio();
    driver.set(register::STATUS, 0xffff_ff00 | u32::from(ACKNOWLEDGE));
    assert_eq!(driver.get(register::STATUS), u32::from(ACKNOWLEDGE));
    driver.negotiate(VERSION_1);
    assert_eq!(driver.get(register::STATUS), u32::from(READY));
}

#[test]
fn a_doorbell_is_a_32_bit_write_of_a_queue_s_number() {
    let driver = start();
    let platform = &driver.machine().platform;
    assert_eq!(platform.doorbells(), [BASE + register::QUEUE_NOTIFY; 2]);
    let write = |data: &[u8]| driver.machine().write(BASE + register::QUEUE_NOTIFY, data);
    write(&[1]);
    write(&[1, 0]);
    write(&[1, 0, 0, 0, 0, 0, 0, 0]);
    write(&[2, 0, 0, 0]);
    write(&[1, 0, 1, 0]);
    write(&[0xff; 4]);
    assert!(!driver.device.serve(1));
    assert_eq!(platform.rung(), 0);
    write(&[1, 0, 0, 0]);
    assert!(driver.device.serve(1));
    assert_eq!(platform.rung(), 1);
}

//! A virtio device as a driver meets it, the same on every transport: by register reads and
//! writes only, over real rings in guest memory.

mod guest;

use guest::device::{EVENT_IDX, FEATURE_0, QUEUE_SIZES, VERSION_1};
use guest::machine::MEMORY_SIZE;
use guest::registers::{
    ACKNOWLEDGE, AREAS, CONFIG, DRIVER, DRIVER_OK, FAILED, FEATURES_OK, LIMIT, NEEDS_RESET, NONE,
    QUEUE, READY, RUNNING,
};
use guest::{probed, rings, running};

use std::time::{Duration, Instant};

#[test]
fn a_request_goes_through() {
    for driver in running() {
        assert_eq!(driver.status(), RUNNING);
        for count in 0..20 {
            driver.request(1, count);
            assert!(driver.device.serve(1), "not kicked");
            assert_eq!(driver.used(1), (count + 1, true));
            assert_eq!(driver.events(), QUEUE);
        }
        assert_eq!(driver.machine().platform.rung(), 20, "not by a doorbell");
    }
}

#[test]
fn features_are_offered_in_windows_without_those_that_no_transport_has() {
    for driver in probed() {
        assert_eq!(driver.offered(), VERSION_1 | EVENT_IDX | FEATURE_0);
        for window in [2, 3, u32::MAX] {
            assert_eq!(driver.device_features(window), 0);
            driver.set_driver_features(window, u32::MAX);
        }
        driver.negotiate(VERSION_1 | FEATURE_0);
        driver.add_status(DRIVER_OK);
        let inner = driver.device.inner();
        assert_eq!(inner.activation.as_ref().unwrap().features, VERSION_1 | FEATURE_0);
    }
}

#[test]
fn features_that_are_not_acceptable_are_not_ok() {
    for features in [0, FEATURE_0, VERSION_1 | 2, VERSION_1 | 1 << 34, u64::MAX] {
        for driver in probed() {
            driver.add_status(ACKNOWLEDGE);
            driver.add_status(DRIVER);
            driver.accept(features);
            driver.add_status(FEATURES_OK);
            assert_eq!(driver.status(), ACKNOWLEDGE | DRIVER, "{features:#x}");
            driver.add_status(DRIVER_OK);
            assert_eq!(driver.status(), ACKNOWLEDGE | DRIVER, "{features:#x}");
            driver.accept(VERSION_1);
            driver.add_status(FEATURES_OK);
            assert_eq!(driver.status(), READY, "after a second thought");
        }
    }
}

#[test]
fn features_are_settled_by_features_ok() {
    for driver in probed() {
        driver.negotiate(VERSION_1);
        driver.accept(VERSION_1 | FEATURE_0);
        driver.add_status(DRIVER_OK);
        assert_eq!(driver.device.inner().activation.as_ref().unwrap().features, VERSION_1);
    }
}

#[test]
fn steps_of_initialisation_cannot_be_skipped() {
    for driver in probed() {
        driver.accept(VERSION_1);
        driver.set_status(DRIVER_OK);
        assert_eq!(driver.status(), 0);
        driver.set_status(DRIVER | FEATURES_OK | DRIVER_OK);
        assert_eq!(driver.status(), 0);
        driver.set_status(ACKNOWLEDGE | FEATURES_OK);
        assert_eq!(driver.status(), ACKNOWLEDGE);
        driver.set_status(ACKNOWLEDGE | DRIVER | DRIVER_OK);
        assert_eq!(driver.status(), ACKNOWLEDGE | DRIVER);
        assert_eq!(driver.device.inner().activations, 0);
    }
}

#[test]
fn status_bits_cannot_be_cleared_but_by_reset() {
    for driver in running() {
        driver.set_status(ACKNOWLEDGE);
        assert_eq!(driver.status(), RUNNING);
        driver.set_status(0x30 | NEEDS_RESET);
        assert_eq!(driver.status(), RUNNING, "bits that are not the driver's");
        driver.set_status(RUNNING);
        assert_eq!(driver.device.inner().activations, 1);
    }
}

#[test]
fn a_driver_that_failed_must_reset() {
    for driver in probed() {
        driver.negotiate(VERSION_1);
        driver.add_status(FAILED);
        driver.add_status(DRIVER_OK);
        assert_eq!(driver.status(), READY | FAILED);
        driver.negotiate(VERSION_1);
        driver.add_status(DRIVER_OK);
        assert_eq!(driver.status(), RUNNING);
    }
}

#[test]
fn doorbells_before_driver_ok_start_nothing() {
    for driver in probed() {
        driver.notify(0);
        driver.negotiate(VERSION_1);
        driver.place_queue(1, 8);
        driver.notify(1);
        assert_eq!((driver.device.inner().activations, driver.events()), (0, NONE));
        driver.add_status(DRIVER_OK);
        driver.request(1, 0);
        assert!(driver.device.serve(1));
        assert_eq!(driver.used(1), (1, true));
    }
}

#[test]
fn a_reset_stops_the_device_and_puts_the_registers_back() {
    for driver in running() {
        driver.device.interrupt(1);
        driver.device.change_config([1; 16]);
        let resets = driver.device.inner().resets;
        driver.set_status(0);
        assert_eq!(driver.status(), 0, "there is nothing to wait for");
        assert_eq!(driver.device.inner().resets, resets + 1);
        assert!(driver.device.inner().activation.is_none());
        let _ = driver.events();
        driver.select_queue(1);
        assert_eq!(driver.queue_size(), u32::from(QUEUE_SIZES[1]));
        assert!(!driver.queue_ready());
        // What the driver told is forgotten: nothing is accepted, no queue is described.
        driver.set_status(READY);
        assert_eq!(driver.status(), ACKNOWLEDGE | DRIVER);
        driver.negotiate(VERSION_1);
        driver.add_status(DRIVER_OK);
        assert_eq!((driver.active_queues(), driver.events()), (vec![], NONE));
        driver.start();
        assert_eq!((driver.status(), driver.active_queues()), (RUNNING, vec![1]));
        driver.request(1, 0);
        assert!(driver.device.serve(1));
        assert_eq!(driver.events(), QUEUE);
    }
}

#[test]
fn a_reset_is_possible_at_every_step() {
    for steps in 0..=4 {
        for driver in probed() {
            let bits = [ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK];
            driver.accept(VERSION_1);
            driver.place_queue(1, 8);
            bits.iter().take(steps).for_each(|bit| driver.add_status(*bit));
            driver.reset();
            driver.select_queue(1);
            assert!(!driver.queue_ready());
            driver.start();
            driver.request(1, 0);
            assert!(driver.device.serve(1));
            assert_eq!(driver.used(1), (1, true));
        }
    }
}

#[test]
fn an_impossible_queue_size_is_ignored() {
    for driver in probed() {
        driver.negotiate(VERSION_1);
        let [descriptor, driver_area, device, _] = rings(0);
        driver.select_queue(0);
        driver.set_queue_size(16);
        for size in [0u16, 3, 63, 128, 0x8000, 0xffff] {
            driver.set_queue_size(size);
        }
        for (area, address) in AREAS.into_iter().zip([descriptor, driver_area, device]) {
            driver.set_queue_area(area, address);
        }
        driver.set_queue_ready(true);
        driver.add_status(DRIVER_OK);
        let inner = driver.device.inner();
        let queues = &inner.activation.as_ref().unwrap().queues;
        assert_eq!(virtio_queue::QueueT::size(&queues[0].queue), 16);
    }
}

#[test]
fn the_smallest_queue_works() {
    for driver in probed() {
        driver.negotiate(VERSION_1);
        driver.place_queue(1, 1);
        driver.add_status(DRIVER_OK);
        driver.request(1, 0);
        assert!(driver.device.serve(1));
        assert_eq!(driver.used(1), (1, true));
    }
}

#[test]
fn a_queue_that_does_not_exist_has_no_size_and_takes_nothing() {
    for driver in probed() {
        driver.negotiate(VERSION_1);
        for index in [2u16, 255, 0xffff] {
            driver.place_queue(index, 8);
            assert_eq!(driver.queue_size(), 0);
            assert!(!driver.queue_ready());
        }
        driver.add_status(DRIVER_OK);
        assert!(driver.active_queues().is_empty());
        assert_eq!(driver.status(), RUNNING);
        driver.select_queue(5);
        driver.set_queue_ready(false);
        assert!(driver.device.inner().stopped_queues.is_empty());
    }
}

#[test]
fn an_enabled_queue_takes_no_changes() {
    for driver in probed() {
        driver.negotiate(VERSION_1);
        driver.place_queue(1, 8);
        driver.set_queue_size(4);
        for area in AREAS {
            driver.set_queue_area(area, 0x4_0000);
        }
        driver.add_status(DRIVER_OK);
        driver.set_queue_size(2);
        driver.set_queue_area(AREAS[0], 0x5_0000);
        driver.request(1, 0);
        assert!(driver.device.serve(1));
        assert_eq!(driver.used(1), (1, true));
    }
}

#[test]
fn a_device_that_runs_takes_no_further_queues() {
    for driver in running() {
        driver.place_queue(0, 8);
        assert!(!driver.queue_ready());
        assert_eq!(driver.active_queues(), [1]);
    }
}

#[test]
fn rings_outside_memory_or_unaligned_need_a_reset() {
    let [descriptor, driver_area, device_area] = AREAS;
    for (area, address) in [
        (driver_area, 0),
        (descriptor, MEMORY_SIZE - 16),
        (descriptor, !0xf),
        (descriptor, 8),
        (driver_area, 1 << 40),
        (driver_area, 1),
        (driver_area, u64::MAX - 1),
        (device_area, MEMORY_SIZE),
        (device_area, 2),
        (device_area, !3),
    ] {
        for driver in probed() {
            driver.negotiate(VERSION_1);
            let [descriptor, driver_area, device, _] = rings(1);
            driver.select_queue(1);
            for (area, address) in AREAS.into_iter().zip([descriptor, driver_area, device]) {
                driver.set_queue_area(area, address);
            }
            driver.set_queue_area(area, address);
            driver.set_queue_ready(true);
            driver.add_status(DRIVER_OK);
            assert_eq!(driver.status(), RUNNING | NEEDS_RESET, "{area:?} at {address:#x}");
            assert_eq!(driver.events(), CONFIG);
            assert_eq!(driver.device.inner().activations, 0);
            driver.start();
            assert_eq!(driver.status(), RUNNING);
        }
    }
}

#[test]
fn a_device_that_cannot_start_needs_a_reset() {
    for driver in probed() {
        driver.device.inner().refuse_activation = true;
        driver.negotiate(VERSION_1);
        driver.add_status(DRIVER_OK);
        assert_eq!((driver.status(), driver.events()), (RUNNING | NEEDS_RESET, CONFIG));
        driver.device.inner().refuse_activation = false;
        driver.negotiate(VERSION_1);
        driver.add_status(DRIVER_OK);
        assert_eq!(driver.status(), RUNNING);
    }
}

#[test]
fn a_device_that_gives_up_needs_a_reset() {
    for driver in running() {
        driver.device.needs_reset();
        assert_eq!((driver.status(), driver.events()), (RUNNING | NEEDS_RESET, CONFIG));
        let generation = driver.generation();
        assert_eq!(driver.generation(), generation);
        driver.add_status(DRIVER_OK);
        assert_eq!(driver.status(), RUNNING | NEEDS_RESET, "only a reset helps");
        driver.set_status(0);
        assert_eq!(driver.status(), 0);
        driver.start();
        assert_eq!(driver.status(), RUNNING);
    }
}

#[test]
fn the_device_configuration_is_accessible_at_every_width() {
    for driver in probed() {
        driver.device.inner().config = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
        for (offset, len, expected) in [
            (5, 1, &[5][..]),
            (2, 2, &[2, 3]),
            (4, 4, &[4, 5, 6, 7]),
            (8, 8, &[8, 9, 10, 11, 12, 13, 14, 15]),
            (14, 4, &[14, 15, 0, 0]),
            (0x200, 4, &[0; 4]),
        ] {
            let mut data = [0xff; 8];
            driver.read_config(offset, &mut data[..len]);
            assert_eq!(&data[..len], expected, "{len} bytes at {offset}");
        }
        for (offset, data) in [(0, &[0x11][..]), (2, &[0x22; 2]), (4, &[0x33; 4]), (8, &[0x44; 8])]
        {
            driver.write_config(offset, data);
        }
        driver.write_config(0x200, &[0x55; 4]);
        let config = driver.device.inner().config;
        assert_eq!(config[..8], [0x11, 1, 0x22, 0x22, 0x33, 0x33, 0x33, 0x33]);
        assert_eq!(config[8..], [0x44; 8]);
    }
}

#[test]
fn a_change_of_the_configuration_changes_its_generation_and_interrupts() {
    for driver in running() {
        for round in 0..600u16 {
            let before = driver.generation();
            assert_eq!(driver.generation(), before);
            driver.device.change_config([7; 16]);
            assert_eq!(driver.events(), CONFIG);
            let after = driver.generation();
            assert_ne!(after, before, "round {round}");
            assert_eq!(driver.generation(), after);
        }
    }
}

#[test]
fn events_of_both_kinds_are_told_apart() {
    for driver in running() {
        assert_eq!(driver.events(), NONE);
        driver.device.interrupt(1);
        driver.device.change_config([1; 16]);
        driver.device.interrupt(1);
        let both = guest::registers::Events { queue: true, config: true };
        assert_eq!((driver.events(), driver.events()), (both, NONE));
    }
}

#[test]
fn a_refused_doorbell_still_kicks() {
    for driver in guest::probed_without_doorbells() {
        assert!(driver.machine().platform.doorbells().is_empty());
        driver.negotiate(VERSION_1);
        driver.place_queue(0, 8);
        driver.place_queue(1, 8);
        driver.add_status(DRIVER_OK);
        driver.request(1, 0);
        assert!(driver.device.serve(1), "not kicked");
        assert!(!driver.device.serve(0), "the wrong queue was kicked");
        assert_eq!(driver.machine().platform.rung(), 0);
        driver.notify(7);
        assert!(!driver.device.serve(0) && !driver.device.serve(1), "there is no such queue");
    }
}

#[test]
fn a_reset_waits_for_the_device() {
    for driver in running() {
        driver.device.inner().stalled = true;
        std::thread::scope(|scope| {
            let reset = scope.spawn(|| driver.reset());
            std::thread::sleep(Duration::from_millis(20));
            assert!(!reset.is_finished(), "the device has not stopped");
            assert_eq!(driver.device.inner().resets, 1, "the one of its initialisation");
            // What the device still says goes to a driver that is gone.
            driver.device.interrupt(1);
            driver.device.change_config([1; 16]);
            driver.device.needs_reset();
            driver.device.unstall();
            reset.join().unwrap();
        });
        assert_eq!(driver.device.inner().resets, 2);
        let _ = driver.events();
        let generation = driver.generation();
        driver.start();
        assert_eq!((driver.status(), driver.events()), (RUNNING, NONE));
        assert_eq!(driver.generation(), generation);
        driver.request(1, 0);
        assert!(driver.device.serve(1));
        assert_eq!((driver.used(1), driver.events()), ((1, true), QUEUE));
    }
}

#[test]
fn dropping_the_machine_waits_for_the_device_and_gives_everything_back() {
    for driver in running() {
        let (device, platform) = (driver.device.clone(), driver.machine().platform.clone());
        device.inner().stalled = true;
        std::thread::scope(|scope| {
            let end = scope.spawn(|| drop(driver));
            std::thread::sleep(Duration::from_millis(20));
            assert!(!end.is_finished(), "the device has not stopped");
            device.unstall();
            let start = Instant::now();
            while !end.is_finished() {
                assert!(start.elapsed() < LIMIT);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        assert_eq!(device.inner().resets, 2);
        assert_eq!((platform.doorbells(), platform.vectors()), (vec![], 0));
    }
}

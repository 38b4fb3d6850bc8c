//! A virtio device over PCI as a driver meets it: by register reads and writes only, over real
//! rings in guest memory.

mod guest;

use guest::device::{EVENT_IDX, FEATURE_0, QUEUE_SIZES, VERSION_1};
use guest::driver::{
    ACKNOWLEDGE, BAR0, COMMAND, DRIVER, DRIVER_OK, Driver, FAILED, FEATURES_OK, NEEDS_RESET,
    NO_VECTOR, common, rings,
};
use guest::machine::{HIGH, LOW, Mechanism};

const READY: u8 = ACKNOWLEDGE | DRIVER | FEATURES_OK;
/// No interrupts.
const NONE: [u32; 0] = [];
const RUNNING: u8 = READY | DRIVER_OK;

#[test]
fn a_request_goes_through_by_either_configuration_mechanism() {
    for mechanism in [Mechanism::Ports, Mechanism::Ecam] {
        let driver = Driver::start(mechanism);
        assert_eq!(driver.status(), RUNNING);
        driver.request(1, 0);
        assert!(driver.device.serve(1), "not kicked");
        assert_eq!(driver.used(1), (1, true));
        driver.request(1, 1);
        assert!(driver.device.serve(1));
        assert_eq!(driver.used(1), (2, true));
    }
}

#[test]
fn the_function_says_that_it_is_a_modern_virtio_device() {
    let driver = Driver::probe(Mechanism::Ecam);
    assert_eq!(driver.pci::<u8>(0x08), 1, "revision");
    assert_eq!(driver.pci::<u16>(0x2c), 0x1af4, "subsystem vendor");
    assert!(driver.pci::<u16>(0x2e) >= 0x40, "subsystem");
    assert_eq!(driver.pci::<u8>(0x3d), 0, "interrupt pin");
    assert_eq!(driver.get::<u16>(common::NUM_QUEUES), 2);
    assert!((HIGH.base..HIGH.base + HIGH.size).contains(&driver.bar));
}

#[test]
fn features_are_offered_in_windows_without_those_that_the_transport_lacks() {
    let driver = Driver::probe(Mechanism::Ecam);
    assert_eq!(driver.offered(), VERSION_1 | EVENT_IDX | FEATURE_0);
    driver.set(common::DEVICE_FEATURE_SELECT, 2u32);
    assert_eq!(driver.get::<u32>(common::DEVICE_FEATURE), 0);
    driver.set(common::DRIVER_FEATURE_SELECT, u32::MAX);
    driver.set(common::DRIVER_FEATURE, u32::MAX);
    driver.negotiate(VERSION_1 | FEATURE_0);
    driver.add_status(DRIVER_OK);
    let inner = driver.device.inner();
    assert_eq!(inner.activation.as_ref().unwrap().features, VERSION_1 | FEATURE_0);
}

#[test]
fn features_that_are_not_acceptable_are_not_ok() {
    for features in [0, FEATURE_0, VERSION_1 | 2, VERSION_1 | 1 << 34, u64::MAX] {
        let driver = Driver::probe(Mechanism::Ecam);
        driver.add_status(ACKNOWLEDGE);
        driver.add_status(DRIVER);
        driver.accept(features);
        driver.add_status(FEATURES_OK);
        assert_eq!(driver.status(), ACKNOWLEDGE | DRIVER, "{features:#x}");
        driver.accept(VERSION_1);
        driver.add_status(FEATURES_OK);
        assert_eq!(driver.status(), READY, "after a second thought");
    }
}

#[test]
fn features_are_settled_by_features_ok() {
    let driver = Driver::probe(Mechanism::Ecam);
    driver.negotiate(VERSION_1);
    driver.accept(VERSION_1 | FEATURE_0);
    driver.set(common::DRIVER_FEATURE_SELECT, 0u32);
    assert_eq!(driver.get::<u32>(common::DRIVER_FEATURE), 0);
    driver.add_status(DRIVER_OK);
    assert_eq!(driver.device.inner().activation.as_ref().unwrap().features, VERSION_1);
}

#[test]
fn steps_of_initialisation_cannot_be_skipped() {
    let driver = Driver::probe(Mechanism::Ecam);
    driver.accept(VERSION_1);
    driver.set(common::DEVICE_STATUS, DRIVER_OK);
    assert_eq!(driver.status(), 0);
    driver.set(common::DEVICE_STATUS, ACKNOWLEDGE | FEATURES_OK);
    assert_eq!(driver.status(), ACKNOWLEDGE);
    driver.set(common::DEVICE_STATUS, ACKNOWLEDGE | DRIVER | DRIVER_OK);
    assert_eq!(driver.status(), ACKNOWLEDGE | DRIVER);
    assert_eq!(driver.device.inner().activations, 0);
}

#[test]
fn status_bits_cannot_be_cleared_but_by_reset() {
    let driver = Driver::start(Mechanism::Ecam);
    driver.set(common::DEVICE_STATUS, ACKNOWLEDGE);
    assert_eq!(driver.status(), RUNNING);
    driver.set(common::DEVICE_STATUS, 0x30 | NEEDS_RESET);
    assert_eq!(driver.status(), RUNNING, "bits that are not the driver's");
    assert_eq!(driver.device.inner().activations, 1);
}

#[test]
fn a_driver_that_failed_must_reset() {
    let driver = Driver::probe(Mechanism::Ecam);
    driver.negotiate(VERSION_1);
    driver.add_status(FAILED);
    driver.add_status(DRIVER_OK);
    assert_eq!(driver.status(), READY | FAILED);
    driver.negotiate(VERSION_1);
    driver.add_status(DRIVER_OK);
    assert_eq!(driver.status(), RUNNING);
}

#[test]
fn only_enabled_queues_are_activated() {
    let driver = Driver::start(Mechanism::Ecam);
    let inner = driver.device.inner();
    let queues = &inner.activation.as_ref().unwrap().queues;
    let indices: Vec<u16> = queues.iter().map(|queue| queue.index).collect();
    assert_eq!(indices, [1]);
}

#[test]
fn reset_stops_the_device_and_puts_the_registers_back() {
    let driver = Driver::start(Mechanism::Ecam);
    driver.enable_msix();
    driver.set(common::QUEUE_MSIX_VECTOR, 1u16);
    driver.set(common::CONFIG_MSIX_VECTOR, 0u16);
    driver.device.interrupt(1);
    let resets = driver.device.inner().resets;
    driver.set(common::DEVICE_STATUS, 0u8);
    assert_eq!(driver.device.inner().resets, resets + 1);
    assert!(driver.device.inner().activation.is_none());
    assert_eq!((driver.status(), driver.isr()), (0, 0));
    assert_eq!(driver.get::<u16>(common::CONFIG_MSIX_VECTOR), NO_VECTOR);
    driver.set(common::DRIVER_FEATURE_SELECT, 1u32);
    assert_eq!(driver.get::<u32>(common::DRIVER_FEATURE), 0);
    driver.set(common::QUEUE_SELECT, 1u16);
    assert_eq!(driver.get::<u16>(common::QUEUE_SIZE), QUEUE_SIZES[1]);
    assert_eq!(driver.get::<u16>(common::QUEUE_ENABLE), 0);
    assert_eq!(driver.get::<u16>(common::QUEUE_MSIX_VECTOR), NO_VECTOR);
    for area in [common::QUEUE_DESC, common::QUEUE_DRIVER, common::QUEUE_DEVICE] {
        assert_eq!(driver.get::<u64>(area), 0);
    }
    driver.negotiate(VERSION_1);
    driver.set_up_queue(1, 8);
    driver.add_status(DRIVER_OK);
    assert_eq!((driver.status(), driver.device.inner().activations), (RUNNING, 2));
}

#[test]
fn an_impossible_queue_size_is_ignored() {
    let driver = Driver::probe(Mechanism::Ecam);
    driver.negotiate(VERSION_1);
    driver.set(common::QUEUE_SELECT, 0u16);
    assert_eq!(driver.get::<u16>(common::QUEUE_SIZE), 64);
    for size in [0u16, 3, 63, 128, 0x8000, 0xffff] {
        driver.set(common::QUEUE_SIZE, size);
        assert_eq!(driver.get::<u16>(common::QUEUE_SIZE), 64, "{size}");
    }
    driver.set(common::QUEUE_SIZE, 1u16);
    assert_eq!(driver.get::<u16>(common::QUEUE_SIZE), 1);
}

#[test]
fn a_queue_that_does_not_exist_has_no_size_and_takes_nothing() {
    let driver = Driver::probe(Mechanism::Ecam);
    driver.negotiate(VERSION_1);
    for index in [2u16, 255, 0xffff] {
        driver.set_up_queue(index, 8);
        driver.set(common::QUEUE_MSIX_VECTOR, 0u16);
        assert_eq!(driver.get::<u16>(common::QUEUE_SELECT), index);
        assert_eq!(driver.get::<u16>(common::QUEUE_SIZE), 0);
        assert_eq!(driver.get::<u16>(common::QUEUE_ENABLE), 0);
        assert_eq!(driver.get::<u64>(common::QUEUE_DESC), 0);
        assert_eq!(driver.get::<u16>(common::QUEUE_MSIX_VECTOR), NO_VECTOR);
    }
    driver.add_status(DRIVER_OK);
    assert!(driver.device.inner().activation.as_ref().unwrap().queues.is_empty());
}

#[test]
fn queues_are_settled_by_being_enabled_and_by_driver_ok() {
    let driver = Driver::start(Mechanism::Ecam);
    let [descriptor, ..] = rings(1);
    driver.set(common::QUEUE_SELECT, 1u16);
    driver.set(common::QUEUE_SIZE, 4u16);
    driver.set(common::QUEUE_DESC, 0x4_0000u64);
    driver.set(common::QUEUE_ENABLE, 0u16);
    assert_eq!(driver.get::<u16>(common::QUEUE_SIZE), 8);
    assert_eq!(driver.get::<u64>(common::QUEUE_DESC), descriptor);
    assert_eq!(driver.get::<u16>(common::QUEUE_ENABLE), 1);
    driver.set_up_queue(0, 8);
    assert_eq!(driver.get::<u16>(common::QUEUE_SIZE), 64);
    assert_eq!(driver.get::<u16>(common::QUEUE_ENABLE), 0);
}

#[test]
fn an_enabled_queue_takes_no_changes_before_driver_ok_either() {
    let driver = Driver::probe(Mechanism::Ecam);
    driver.negotiate(VERSION_1);
    driver.set(common::QUEUE_SELECT, 1u16);
    for not_one in [0u16, 2, 0xffff] {
        driver.set(common::QUEUE_ENABLE, not_one);
        assert_eq!(driver.get::<u16>(common::QUEUE_ENABLE), 0);
    }
    driver.set_up_queue(1, 8);
    driver.set(common::QUEUE_SIZE, 4u16);
    driver.set(common::QUEUE_DEVICE, 0x4_0000u64);
    driver.set(common::QUEUE_ENABLE, 0u16);
    assert_eq!(driver.get::<u16>(common::QUEUE_SIZE), 8);
    assert_eq!(driver.get::<u64>(common::QUEUE_DEVICE), rings(1)[2]);
    assert_eq!(driver.get::<u16>(common::QUEUE_ENABLE), 1);
}

#[test]
fn queue_addresses_are_written_whole_or_by_halves() {
    let driver = Driver::probe(Mechanism::Ecam);
    driver.negotiate(VERSION_1);
    for area in [common::QUEUE_DESC, common::QUEUE_DRIVER, common::QUEUE_DEVICE] {
        driver.set(area + 4, 0x1122_3344u32);
        driver.set(area, 0x5566_7780u32);
        assert_eq!(driver.get::<u64>(area), 0x1122_3344_5566_7780);
        driver.set(area, 0x8877_6655_4433_2210u64);
        assert_eq!(driver.get::<u32>(area + 4), 0x8877_6655);
        driver.set(area, 0xffu8);
        driver.set(area + 2, 0xffffu16);
        assert_eq!(driver.get::<u64>(area), 0x8877_6655_4433_2210, "not a driver's width");
    }
}

#[test]
fn rings_outside_memory_or_unaligned_need_a_reset() {
    for (area, address) in [
        (common::QUEUE_DESC, 0xf_fff0u64),
        (common::QUEUE_DESC, !0xf),
        (common::QUEUE_DESC, 8),
        (common::QUEUE_DRIVER, 1 << 40),
        (common::QUEUE_DRIVER, 1),
        (common::QUEUE_DEVICE, 0x10_0000),
        (common::QUEUE_DEVICE, 2),
    ] {
        let driver = Driver::probe(Mechanism::Ecam);
        driver.enable_msix();
        driver.negotiate(VERSION_1);
        driver.set(common::CONFIG_MSIX_VECTOR, 0u16);
        driver.set(common::QUEUE_SELECT, 1u16);
        driver.set(area, address);
        driver.set(common::QUEUE_ENABLE, 1u16);
        driver.add_status(DRIVER_OK);
        assert_eq!(driver.status(), RUNNING | NEEDS_RESET, "{area} at {address:#x}");
        assert_eq!(driver.machine.platform.interrupts(), [0x40]);
        assert_eq!(driver.device.inner().activations, 0);
    }
}

#[test]
fn a_device_that_cannot_start_needs_a_reset() {
    let driver = Driver::probe(Mechanism::Ecam);
    driver.enable_msix();
    driver.device.inner().refuse_activation = true;
    driver.negotiate(VERSION_1);
    driver.set(common::CONFIG_MSIX_VECTOR, 2u16);
    driver.add_status(DRIVER_OK);
    assert_eq!(driver.status(), RUNNING | NEEDS_RESET);
    assert_eq!(driver.machine.platform.interrupts(), [0x42]);
    driver.device.inner().refuse_activation = false;
    driver.negotiate(VERSION_1);
    driver.add_status(DRIVER_OK);
    assert_eq!(driver.status(), RUNNING);
}

#[test]
fn a_device_that_gives_up_needs_a_reset() {
    let driver = Driver::start(Mechanism::Ecam);
    driver.enable_msix();
    driver.set(common::CONFIG_MSIX_VECTOR, 0u16);
    driver.device.needs_reset();
    assert_eq!(driver.status(), RUNNING | NEEDS_RESET);
    assert_eq!(driver.machine.platform.interrupts(), [0x40]);
    driver.set(common::DEVICE_STATUS, 0u8);
    assert_eq!(driver.status(), 0);
}

#[test]
fn used_buffers_interrupt_by_the_queue_s_vector() {
    let driver = Driver::start(Mechanism::Ecam);
    driver.enable_msix();
    driver.set(common::QUEUE_SELECT, 1u16);
    driver.device.interrupt(1);
    assert_eq!(driver.machine.platform.interrupts(), NONE, "no vector");
    driver.set(common::QUEUE_MSIX_VECTOR, 2u16);
    assert_eq!(driver.get::<u16>(common::QUEUE_MSIX_VECTOR), 2);
    driver.device.interrupt(1);
    assert_eq!(driver.machine.platform.interrupts(), [0x42]);
    driver.set(common::QUEUE_MSIX_VECTOR, 3u16);
    assert_eq!(driver.get::<u16>(common::QUEUE_MSIX_VECTOR), NO_VECTOR, "there are three");
    driver.device.interrupt(1);
    assert_eq!(driver.machine.platform.interrupts(), NONE);
    assert_eq!((driver.pending(), driver.isr()), (0, 0));
}

#[test]
fn a_masked_interrupt_is_pending_until_it_is_unmasked() {
    let driver = Driver::start(Mechanism::Ports);
    driver.enable_msix();
    driver.set(common::QUEUE_SELECT, 1u16);
    driver.set(common::QUEUE_MSIX_VECTOR, 1u16);
    driver.mask_vector(1, true);
    driver.device.interrupt(1);
    assert_eq!(driver.machine.platform.interrupts(), NONE);
    assert_eq!(driver.pending(), 0b10);
    driver.mask_vector(1, false);
    assert_eq!(driver.machine.platform.interrupts(), [0x41]);
    assert_eq!(driver.pending(), 0);
}

#[test]
fn without_msix_interrupts_show_in_the_isr_status_until_it_is_read() {
    let driver = Driver::start(Mechanism::Ecam);
    let interrupt_status = || driver.pci::<u16>(0x06) & 1 << 3 != 0;
    assert!(!interrupt_status());
    driver.device.interrupt(1);
    assert!(interrupt_status());
    assert_eq!((driver.isr(), driver.isr()), (1, 0));
    assert!(!interrupt_status());
    driver.device.change_config([1; 16]);
    driver.device.interrupt(1);
    assert_eq!((driver.isr(), driver.isr()), (3, 0));
    driver.enable_msix();
    driver.device.interrupt(1);
    assert_eq!(driver.isr(), 0);
    driver.disable_msix();
    driver.device.interrupt(1);
    assert_eq!(driver.isr(), 1);
    assert_eq!(driver.machine.platform.interrupts(), NONE);
}

#[test]
fn the_device_configuration_is_accessible_at_every_width() {
    let driver = Driver::probe(Mechanism::Ecam);
    driver.device.inner().config = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    assert_eq!(driver.config::<u8>(5), 5);
    assert_eq!(driver.config::<u16>(2), 0x0302);
    assert_eq!(driver.config::<u32>(4), 0x0706_0504);
    assert_eq!(driver.config::<u64>(8), 0x0f0e_0d0c_0b0a_0908);
    assert_eq!(driver.config::<u32>(14), 0x0f0e, "past the end");
    driver.set_config(0, 0x11u8);
    driver.set_config(2, 0x2222u16);
    driver.set_config(4, 0x3333_3333u32);
    driver.set_config(8, 0x4444_4444_4444_4444u64);
    let config = driver.device.inner().config;
    assert_eq!(config[..8], [0x11, 1, 0x22, 0x22, 0x33, 0x33, 0x33, 0x33]);
    assert_eq!(config[8..], [0x44; 8]);
}

#[test]
fn a_change_of_the_configuration_changes_its_generation_and_interrupts() {
    let driver = Driver::start(Mechanism::Ecam);
    driver.enable_msix();
    driver.set(common::CONFIG_MSIX_VECTOR, 0u16);
    let before = driver.get::<u8>(common::CONFIG_GENERATION);
    assert_eq!(driver.get::<u8>(common::CONFIG_GENERATION), before);
    driver.device.change_config([7; 16]);
    assert_eq!(driver.machine.platform.interrupts(), [0x40]);
    let after = driver.get::<u8>(common::CONFIG_GENERATION);
    assert_ne!(after, before);
    assert_eq!(driver.get::<u8>(common::CONFIG_GENERATION), after);
}

#[test]
fn doorbells_follow_the_region() {
    let mut driver = Driver::start(Mechanism::Ecam);
    let bells = |driver: &Driver| [driver.doorbell(0), driver.doorbell(1)];
    let first = bells(&driver);
    assert_eq!(driver.machine.platform.doorbells(), first);
    let home = driver.bar;
    driver.bar = LOW.base + 0x8_0000;
    driver.set_pci(BAR0, driver.bar);
    assert_eq!(driver.machine.platform.doorbells(), bells(&driver));
    assert_ne!(bells(&driver), first);
    driver.request(1, 0);
    assert!(driver.device.serve(1), "not kicked");
    assert_eq!(driver.status(), RUNNING);
    driver.set_pci(COMMAND, 0u16);
    assert!(driver.machine.platform.doorbells().is_empty());
    assert_eq!(driver.status(), 0xff, "decoding is off");
    driver.set_pci(BAR0, home);
    driver.bar = home;
    driver.set_pci(COMMAND, 0b110u16);
    assert_eq!(driver.machine.platform.doorbells(), first);
    assert_eq!(driver.status(), RUNNING);
}

#[test]
fn sizing_the_region_while_it_decodes_leaves_it_working() {
    let driver = Driver::start(Mechanism::Ports);
    driver.set_pci(BAR0, u64::MAX);
    let mask = driver.pci::<u64>(BAR0) & !0xf;
    driver.set_pci(BAR0, driver.bar);
    assert!(mask.wrapping_neg().is_power_of_two());
    assert_eq!(driver.machine.platform.doorbells(), [driver.doorbell(0), driver.doorbell(1)]);
    assert_eq!(driver.status(), RUNNING);
}

#[test]
fn a_refused_doorbell_still_kicks() {
    let driver = Driver::probe(Mechanism::Ecam);
    driver.machine.platform.refuse_doorbells();
    driver.set_pci(COMMAND, 0u16);
    driver.set_pci(COMMAND, 0b110u16);
    assert!(driver.machine.platform.doorbells().is_empty());
    driver.negotiate(VERSION_1);
    driver.set_up_queue(0, 8);
    driver.set_up_queue(1, 8);
    driver.add_status(DRIVER_OK);
    driver.request(1, 0);
    assert!(driver.device.serve(1), "not kicked");
    assert!(!driver.device.serve(0), "the wrong queue was kicked");
    driver.machine.write(driver.doorbell(1) + 4, &[2, 0]);
    driver.machine.write(driver.doorbell(1) + 2, &[1, 0]);
    assert!(!driver.device.serve(1));
}

#[test]
fn the_region_is_reachable_through_the_configuration_space() {
    let driver = Driver::start(Mechanism::Ports);
    let at = driver.pci_cfg;
    let point = |offset: u32, length: u32| {
        driver.set_pci(at + 4, 0u8);
        driver.set_pci(at + 8, offset);
        driver.set_pci(at + 12, length);
    };
    let status = u32::try_from(common::DEVICE_STATUS).unwrap();
    point(status, 1);
    assert_eq!(driver.pci::<u8>(at + 16), RUNNING);
    assert_eq!(driver.pci::<u32>(at + 16), u32::from(RUNNING));
    driver.set_pci(at + 16, 0u8);
    assert_eq!(driver.status(), 0);
    point(u32::try_from(common::QUEUE_SELECT).unwrap(), 2);
    driver.set_pci(at + 16, 1u32);
    assert_eq!(driver.get::<u16>(common::QUEUE_SELECT), 1);
    for (offset, length) in [(status, 2), (status + 2, 4), (0, 0), (0, 8), (0x4000, 4), (!3, 4)] {
        point(offset, length);
        driver.set_pci(at + 16, u32::MAX);
        let _ = driver.pci::<u32>(at + 16);
    }
    assert_eq!(driver.read::<u32>(0x4000), 0, "the MSI-X table is no virtio structure");
    driver.set_pci(at + 4, 1u8);
    driver.set_pci(at + 8, status);
    driver.set_pci(at + 12, 1u32);
    driver.set_pci(at + 16, ACKNOWLEDGE);
    assert_eq!(driver.status(), 0, "another region");
}

#[test]
fn dropping_the_machine_stops_the_device_and_silences_its_doorbells() {
    let driver = Driver::start(Mechanism::Ecam);
    let (device, platform) = (driver.device.clone(), driver.machine.platform.clone());
    let resets = device.inner().resets;
    drop(driver);
    assert_eq!(device.inner().resets, resets + 1);
    assert!(platform.doorbells().is_empty());
}

#[test]
fn random_accesses_to_the_region_are_harmless() {
    let driver = Driver::start(Mechanism::Ecam);
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    for _ in 0..20_000 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let page = (random >> 32) % 8 * 0x1000;
        let address = driver.bar + page + (random >> 40) % 0x48;
        let data = random.rotate_left(11).to_le_bytes();
        let mut value = [0; 8];
        let width = 1 << (random % 4);
        driver.machine.write(address, &data[..width]);
        driver.machine.read(address, &mut value[..width]);
    }
    driver.negotiate(VERSION_1);
}

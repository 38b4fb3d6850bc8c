//! What only PCI has, for a virtio device: configuration space, MSI-X, and a region that moves.

mod guest;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use devices::virtio::pci::VirtioPci;
use guest::device::{Control, QUEUE_SIZES, VERSION_1};
use guest::machine::{HIGH, LOW, Machine, Mechanism};
use guest::pci::{BAR0, COMMAND, NO_VECTOR, Pci, common};
use guest::registers::{ACKNOWLEDGE, DRIVER_OK, RUNNING, Registers};
use guest::{Guest, on_pci, rings};

/// No interrupts.
const SILENCE: [u32; 0] = [];

/// A device that runs with queue 1, of 8 descriptors, and MSI-X off.
fn start(mechanism: Mechanism) -> Guest<Pci> {
    let driver = on_pci(mechanism);
    driver.start();
    driver
}

#[test]
fn a_request_goes_through_by_either_configuration_mechanism() {
    for mechanism in [Mechanism::Ports, Mechanism::Ecam] {
        let driver = start(mechanism);
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
    let driver = on_pci(Mechanism::Ecam);
    assert_eq!(driver.pci::<u8>(0x08), 1, "revision");
    assert_eq!(driver.pci::<u16>(0x2c), 0x1af4, "subsystem vendor");
    assert!(driver.pci::<u16>(0x2e) >= 0x40, "subsystem");
    assert_eq!(driver.pci::<u8>(0x3d), 0, "interrupt pin");
    assert_eq!(driver.get::<u16>(common::NUM_QUEUES), 2);
    assert!((HIGH.base..HIGH.base + HIGH.size).contains(&driver.bar));
}

#[test]
fn a_queue_that_does_not_exist_has_no_registers() {
    let driver = on_pci(Mechanism::Ecam);
    driver.negotiate(VERSION_1);
    for index in [2u16, 255, 0xffff] {
        driver.place_queue(index, 8);
        driver.set(common::QUEUE_MSIX_VECTOR, 0u16);
        assert_eq!(driver.get::<u16>(common::QUEUE_SELECT), index);
        assert_eq!(driver.get::<u16>(common::QUEUE_SIZE), 0);
        assert_eq!(driver.get::<u16>(common::QUEUE_ENABLE), 0);
        assert_eq!(driver.get::<u64>(common::QUEUE_DESC), 0);
        assert_eq!(driver.get::<u16>(common::QUEUE_MSIX_VECTOR), NO_VECTOR);
    }
}

#[test]
fn a_queue_is_enabled_by_1_and_not_disabled() {
    let driver = on_pci(Mechanism::Ecam);
    driver.negotiate(VERSION_1);
    driver.set(common::QUEUE_SELECT, 1u16);
    for not_one in [0u16, 2, 0xffff] {
        driver.set(common::QUEUE_ENABLE, not_one);
        assert_eq!(driver.get::<u16>(common::QUEUE_ENABLE), 0);
    }
    driver.place_queue(1, 8);
    driver.set(common::QUEUE_SIZE, 4u16);
    driver.set(common::QUEUE_DEVICE, 0x4_0000u64);
    driver.set(common::QUEUE_ENABLE, 0u16);
    assert_eq!(driver.get::<u16>(common::QUEUE_SIZE), 8);
    assert_eq!(driver.get::<u64>(common::QUEUE_DEVICE), rings(1)[2]);
    assert_eq!(driver.get::<u16>(common::QUEUE_ENABLE), 1);
    driver.add_status(DRIVER_OK);
    driver.set(common::QUEUE_ENABLE, 0u16);
    assert_eq!(driver.get::<u16>(common::QUEUE_ENABLE), 1);
    assert!(driver.device.inner().stopped_queues.is_empty());
}

#[test]
fn queue_addresses_are_written_whole_or_by_halves() {
    let driver = on_pci(Mechanism::Ecam);
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
fn used_buffers_interrupt_by_the_queue_s_vector() {
    let driver = start(Mechanism::Ecam);
    driver.enable_msix();
    driver.set(common::QUEUE_SELECT, 1u16);
    driver.device.interrupt(1);
    assert_eq!(driver.machine().platform.interrupts(), SILENCE, "no vector");
    driver.set(common::QUEUE_MSIX_VECTOR, 2u16);
    assert_eq!(driver.get::<u16>(common::QUEUE_MSIX_VECTOR), 2);
    driver.device.interrupt(1);
    assert_eq!(driver.machine().platform.interrupts(), [0x42]);
    driver.set(common::QUEUE_MSIX_VECTOR, 3u16);
    assert_eq!(driver.get::<u16>(common::QUEUE_MSIX_VECTOR), NO_VECTOR, "there are three");
    driver.device.interrupt(1);
    assert_eq!(driver.machine().platform.interrupts(), SILENCE);
    assert_eq!((driver.pending(), driver.isr()), (0, 0));
}

#[test]
fn a_masked_interrupt_is_pending_until_it_is_unmasked() {
    let driver = start(Mechanism::Ports);
    driver.enable_msix();
    driver.set(common::QUEUE_SELECT, 1u16);
    driver.set(common::QUEUE_MSIX_VECTOR, 1u16);
    driver.mask_vector(1, true);
    driver.device.interrupt(1);
    assert_eq!(driver.machine().platform.interrupts(), SILENCE);
    assert_eq!(driver.pending(), 0b10);
    driver.mask_vector(1, false);
    assert_eq!(driver.machine().platform.interrupts(), [0x41]);
    assert_eq!(driver.pending(), 0);
}

#[test]
fn without_msix_interrupts_show_in_the_isr_status_until_it_is_read() {
    let driver = start(Mechanism::Ecam);
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
    assert_eq!(driver.machine().platform.interrupts(), SILENCE);
}

#[test]
fn sizing_the_region_while_it_decodes_leaves_it_working() {
    let driver = start(Mechanism::Ports);
    driver.set_pci(BAR0, u64::MAX);
    let mask = driver.pci::<u64>(BAR0) & !0xf;
    driver.set_pci(BAR0, driver.bar);
    assert!(mask.wrapping_neg().is_power_of_two());
    assert_eq!(driver.machine().platform.doorbells(), [driver.bell(0), driver.bell(1)]);
    assert_eq!(driver.status(), RUNNING);
}

#[test]
fn the_region_is_reachable_through_the_configuration_space() {
    let driver = start(Mechanism::Ports);
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
fn a_reset_is_not_done_before_the_device_has_stopped() {
    let driver = start(Mechanism::Ecam);
    driver.enable_msix();
    driver.select_queue(1);
    driver.set(common::QUEUE_MSIX_VECTOR, 1u16);
    driver.set(common::CONFIG_MSIX_VECTOR, 0u16);
    let resets = driver.device.inner().resets;
    driver.device.inner().stalled = true;
    // The write does not wait, and the driver polls.
    driver.set_status(0);
    for _ in 0..3 {
        assert_eq!(driver.status(), RUNNING);
    }
    assert!(driver.device.inner().activation.is_some());

    // Nothing is taken until then.
    driver.set_status(ACKNOWLEDGE);
    driver.set_status(0);
    driver.accept(VERSION_1 | 1);
    driver.place_queue(0, 8);
    driver.set(common::QUEUE_MSIX_VECTOR, 2u16);
    driver.write_config(0, &[0xcc; 4]);
    assert_eq!(driver.device.inner().config[0], 0);
    assert_eq!(driver.status(), RUNNING);

    // The last that the device does still concerns the old driver.
    driver.device.interrupt(1);
    driver.disable_msix();
    driver.device.interrupt(1);
    driver.device.needs_reset();
    driver.device.unstall();
    assert_eq!((driver.status(), driver.isr()), (0, 0));
    assert_eq!(driver.device.inner().resets, resets + 1);
    assert!(driver.device.inner().activation.is_none());
    driver.enable_msix();
    let _ = driver.machine().platform.interrupts();
    assert_eq!(driver.get::<u16>(common::CONFIG_MSIX_VECTOR), NO_VECTOR);
    assert_eq!(driver.get::<u16>(common::QUEUE_SELECT), 0);
    for window in [0u32, 1] {
        driver.set(common::DRIVER_FEATURE_SELECT, window);
        assert_eq!(driver.get::<u32>(common::DRIVER_FEATURE), 0);
    }
    for (queue, size) in (0u16..).zip(QUEUE_SIZES) {
        driver.select_queue(queue);
        assert_eq!(driver.get::<u16>(common::QUEUE_SIZE), size);
        assert_eq!(driver.get::<u16>(common::QUEUE_ENABLE), 0);
        assert_eq!(driver.get::<u16>(common::QUEUE_MSIX_VECTOR), NO_VECTOR);
        for area in [common::QUEUE_DESC, common::QUEUE_DRIVER, common::QUEUE_DEVICE] {
            assert_eq!(driver.get::<u64>(area), 0);
        }
    }
    driver.start();
    assert_eq!((driver.status(), driver.machine().platform.interrupts()), (RUNNING, vec![]));
    driver.request(1, 0);
    assert!(driver.device.serve(1));
}

#[test]
fn a_write_other_than_to_the_status_sees_that_the_reset_is_done() {
    let driver = start(Mechanism::Ecam);
    driver.device.inner().stalled = true;
    driver.set_status(0);
    driver.device.unstall();
    driver.select_queue(1);
    assert_eq!(driver.get::<u16>(common::QUEUE_SELECT), 1);
    assert_eq!(driver.status(), 0);
}

fn bells(driver: &Pci) -> [u64; 2] {
    [driver.bell(0), driver.bell(1)]
}

#[test]
fn doorbells_follow_the_region() {
    let mut driver = start(Mechanism::Ecam);
    let platform = Arc::clone(&driver.machine().platform);
    let (home, first) = (driver.bar, bells(&driver));
    assert_eq!(platform.doorbells(), first);
    driver.registers_mut().move_bar(LOW.base + 0x8_0000);
    assert_eq!(platform.doorbells(), bells(&driver));
    assert_ne!(bells(&driver), first);
    let rung = platform.rung();
    driver.request(1, 0);
    assert!(driver.device.serve(1), "not kicked");
    assert_eq!(platform.rung(), rung + 1, "not by a doorbell");
    driver.machine().write(first[1], &[1, 0]);
    assert!(!driver.device.serve(1), "by its old address");
    assert_eq!(driver.status(), RUNNING);
    driver.set_pci(COMMAND, 0u16);
    assert!(platform.doorbells().is_empty());
    assert_eq!(driver.status(), 0xff, "decoding is off");
    driver.machine().write(driver.bar + (first[1] - home), &[1, 0]);
    assert!(!driver.device.serve(1), "decoding is off");
    driver.registers_mut().move_bar(home);
    driver.set_pci(COMMAND, 0b110u16);
    assert_eq!(platform.doorbells(), first);
    assert_eq!(driver.status(), RUNNING);
    driver.request(1, 1);
    assert!(driver.device.serve(1));
    assert_eq!(driver.used(1), (2, true));
}

#[test]
fn a_region_that_moved_takes_notifications_as_accesses_where_there_are_no_doorbells() {
    let mut driver = start(Mechanism::Ecam);
    let old = driver.bell(1);
    driver.machine().platform.refuse_doorbells();
    driver.registers_mut().move_bar(HIGH.base + HIGH.size - 0x8000);
    driver.request(1, 0);
    assert!(driver.device.serve(1), "not kicked");
    assert_eq!(driver.machine().platform.rung(), 0);
    driver.machine().write(old, &[1, 0]);
    assert!(!driver.device.serve(1), "by its old address");
    driver.machine().write(driver.bell(1) + 4, &[2, 0]);
    driver.machine().write(driver.bell(1) + 2, &[1, 0]);
    assert!(!driver.device.serve(1), "there is no doorbell");
}

#[test]
fn a_region_moves_while_doorbells_ring() {
    let mut driver = start(Mechanism::Ecam);
    let homes = [driver.bar, LOW.base + 0x8_0000, HIGH.base + 0x4_0000];
    let offset = driver.bell(1) - driver.bar;
    let (machine, done) = (Arc::clone(&driver.machine), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                homes.iter().for_each(|home| machine.write(home + offset, &[1, 0]));
                std::thread::yield_now();
            }
        });
        for round in 0..300u16 {
            driver.registers_mut().move_bar(homes[usize::from(round % 3)]);
            driver.request(1, round);
            assert!(driver.device.serve(1), "not kicked");
            assert_eq!(driver.used(1), (round + 1, true));
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(driver.machine().platform.doorbells(), bells(&driver));
}

#[test]
fn regions_at_the_ends_of_the_address_space_are_harmless() {
    let mut driver = start(Mechanism::Ecam);
    let home = driver.bar;
    for address in [0, 0x1_0000, LOW.base - 0x8000, u64::MAX, u64::MAX << 32, 0xfee0_0000] {
        driver.registers_mut().move_bar(address);
        driver.machine().write(address & !0x7fff, &[0; 8]);
    }
    driver.registers_mut().move_bar(home);
    assert_eq!(driver.status(), RUNNING);
    driver.request(1, 0);
    assert!(driver.device.serve(1));
}

#[test]
fn overlapping_regions_are_harmless() {
    let machine = Arc::new(Machine::new(Mechanism::Ecam));
    let [one, two] = [Control::default(), Control::default()];
    let (first, mut second) =
        (Pci::probe(&machine, one.device()), Pci::probe(&machine, two.device()));
    let home = second.bar;
    for driver in [&first, &second] {
        driver.negotiate(VERSION_1);
        let [descriptor, avail, used, _] = rings(0);
        driver.set_up_queue(0, 8, [descriptor, avail, used]);
        driver.add_status(DRIVER_OK);
    }
    for at in [first.bar, first.bar + 0x4000, first.bar.wrapping_sub(0x4000)] {
        second.move_bar(at);
        for address in [first.bar, second.bar, first.bell(0), second.bell(0)] {
            machine.write(address, &[0; 2]);
            machine.read(address, &mut [0; 8]);
        }
    }
    second.move_bar(home);
    let mut expected = [bells(&first), bells(&second)].concat();
    expected.sort_unstable();
    // The first may have lost its own where they were the other's too, and works by accesses.
    assert!(machine.platform.doorbells().iter().all(|bell| expected.contains(bell)));
    for (driver, control) in [(&first, &one), (&second, &two)] {
        assert_eq!(driver.status(), RUNNING);
        control.serve(0);
        driver.notify(0);
        assert!(control.serve(0), "not kicked");
    }
}

#[test]
fn a_bus_of_248_devices_works_and_goes() {
    let machine = Arc::new(Machine::new(Mechanism::Ecam));
    for _ in 0..248 {
        let device = Control::default().device();
        let (memory, platform) = (machine.memory.clone(), machine.platform.clone());
        let function = VirtioPci::new(device, memory, platform).unwrap();
        machine.root.add(Arc::new(function)).unwrap();
    }
    let device = Control::default().device();
    let function = VirtioPci::new(device, machine.memory.clone(), machine.platform.clone());
    let refused = machine.root.add(Arc::new(function.unwrap())).unwrap_err();
    assert_eq!(refused.to_string(), "the PCI bus has 248 functions, and no room for another");
    let mut header = [0; 4];
    machine.read_config(31, 0x0c, &mut header);
    assert_eq!(header[2], 0x80, "multi-function");
    let platform = machine.platform.clone();
    assert_eq!(platform.vectors(), 248 * 3);
    drop(machine);
    assert_eq!((platform.vectors(), platform.doorbells()), (0, vec![]));
}

//! A controller whose driver accesses anything in any order, on every transport: it must neither
//! panic nor hang, and serve an honest driver after a reset.

mod guest;
mod hba;
mod ring;

use guest::TRANSPORTS;
use guest::device::{EVENT_IDX, VERSION_1};
use guest::machine::MEMORY_SIZE;
use guest::registers::{RUNNING, Registers};
use hba::Host;
use proptest::prelude::*;
use ring::RING_LEN;

/// What a driver does.
#[derive(Clone, Debug)]
enum Access {
    Read {
        offset: u64,
        width: usize,
    },
    Write {
        offset: u64,
        width: usize,
        value: u64,
    },
    /// To PCI configuration space, where there is one.
    Configure {
        offset: u8,
        width: usize,
        value: u64,
    },
    Notify(u16),
}

/// How far initialisation has come before.
#[derive(Clone, Copy, Debug)]
enum Before {
    Nothing,
    Negotiated,
    Running,
    /// With a request that the medium holds up for the time being.
    Busy,
}

fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![
        // The registers of either transport, and the configuration of the device behind MMIO's.
        6 => 0u64..0x128,
        // One of the pages of PCI's region.
        3 => (0u64..8, 0u64..0x48).prop_map(|(page, offset)| page * 0x1000 + offset),
        1 => 0u64..0x8000,
    ]
    .prop_flat_map(|offset| prop_oneof![Just(offset), Just(offset & !3)])
}

fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0u64..4,
        // Device status.
        2 => prop::sample::select(vec![0u64, 1, 3, 0xb, 0xf, 0x4f, 0x8f]),
        // Sizes and addresses.
        2 => prop::sample::select(vec![8, 64, 128, RING_LEN, 3 * RING_LEN, MEMORY_SIZE - 16, MEMORY_SIZE]),
        1 => prop::sample::select(vec![VERSION_1, VERSION_1 >> 32, EVENT_IDX]),
        1 => any::<u64>(),
    ]
}

fn width() -> impl Strategy<Value = usize> {
    prop_oneof![6 => Just(4), 1 => 1usize..=8]
}

fn access() -> impl Strategy<Value = Access> {
    let configure = (any::<u8>(), 1usize..=4, value());
    prop_oneof![
        3 => (offset(), width()).prop_map(|(offset, width)| Access::Read { offset, width }),
        6 => (offset(), width(), value())
            .prop_map(|(offset, width, value)| Access::Write { offset, width, value }),
        2 => configure.prop_map(|(offset, width, value)| {
            // Within a dword, as a bus has it.
            let width = width.min(usize::from(4 - offset % 4));
            Access::Configure { offset, width, value }
        }),
        1 => (0u16..5).prop_map(Access::Notify),
    ]
}

fn perform(registers: &dyn Registers, base: u64, access: &Access) {
    let machine = registers.machine();
    match *access {
        Access::Read { offset, width } => machine.read(base + offset, &mut [0; 8][..width]),
        Access::Write { offset, width, value } => {
            machine.write(base + offset, &value.to_le_bytes()[..width]);
        }
        Access::Configure { offset, width, value } => {
            machine.write_config(1, offset, &value.to_le_bytes()[..width]);
            machine.read_config(1, offset, &mut [0; 4][..width]);
        }
        Access::Notify(queue) => registers.notify(queue),
    }
}

fn prepare(host: &mut Host, before: Before) {
    match before {
        Before::Nothing => {}
        Before::Negotiated => host.registers.negotiate(VERSION_1),
        Before::Running => host.works_again(),
        Before::Busy => {
            host.works_again();
            host.begin_stalled_read();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn whatever_is_accessed_the_device_survives(
        before in prop::sample::select(vec![
            Before::Nothing, Before::Negotiated, Before::Running, Before::Busy,
        ]),
        accesses in prop::collection::vec(access(), 1..60),
    ) {
        for probe in TRANSPORTS {
            let mut host = Host::probe(probe);
            prepare(&mut host, before);
            let base = host.registers.window().0;
            std::thread::scope(|scope| {
                let (registers, stall) = (&*host.registers, &host.stall);
                // A vCPU may wait for what the medium holds up, but not for ever.
                scope.spawn(|| {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                    stall.open();
                });
                accesses.iter().for_each(|access| perform(registers, base, access));
            });
            host.registers.recover();
            host.works_again();
        }
    }

    /// The window of virtio-mmio answers at 32 bits alone.
    #[test]
    fn a_control_register_has_no_other_width(
        offset in 0u64..0x100, width in 1usize..=8, value in any::<u64>(),
    ) {
        prop_assume!(width != 4);
        let mut host = Host::probe(TRANSPORTS[1]);
        host.start(0);
        let (base, machine) = (host.registers.window().0, host.registers.machine());
        let mut read = [0xff; 8];
        machine.read(base + offset, &mut read[..width]);
        prop_assert_eq!(&read[..width], &[0; 8][..width]);
        machine.write(base + offset, &value.to_le_bytes()[..width]);
        prop_assert_eq!(host.registers.status(), RUNNING);
    }
}

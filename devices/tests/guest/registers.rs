//! What a driver does by registers, whatever the transport (virtio 1.2, 3.1).

use std::time::{Duration, Instant};

use devices::virtio::state::QueueArea;

use super::machine::Machine;

pub(crate) const ACKNOWLEDGE: u8 = 1;
pub(crate) const DRIVER: u8 = 2;
pub(crate) const DRIVER_OK: u8 = 4;
pub(crate) const FEATURES_OK: u8 = 8;
pub(crate) const NEEDS_RESET: u8 = 64;
pub(crate) const FAILED: u8 = 128;
pub(crate) const READY: u8 = ACKNOWLEDGE | DRIVER | FEATURES_OK;
pub(crate) const RUNNING: u8 = READY | DRIVER_OK;

/// Whatever must happen happens within this time.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) const AREAS: [QueueArea; 3] =
    [QueueArea::Descriptor, QueueArea::Driver, QueueArea::Device];

/// What the device told its driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Events {
    pub(crate) queue: bool,
    pub(crate) config: bool,
}

pub(crate) const NONE: Events = Events { queue: false, config: false };
pub(crate) const QUEUE: Events = Events { queue: true, config: false };
pub(crate) const CONFIG: Events = Events { queue: false, config: true };

/// A little-endian integer of a register's width.
pub(crate) trait Register: Sized {
    fn read(read: impl FnOnce(&mut [u8])) -> Self;
    fn bytes(self) -> Vec<u8>;
}

macro_rules! register {
    ($($type:ty),*) => {$(
        impl Register for $type {
            fn read(read: impl FnOnce(&mut [u8])) -> Self {
                let mut bytes = [0; size_of::<$type>()];
                read(&mut bytes);
                <$type>::from_le_bytes(bytes)
            }

            fn bytes(self) -> Vec<u8> {
                self.to_le_bytes().to_vec()
            }
        }
    )*};
}

register!(u8, u16, u32, u64);

/// The registers of a virtio device.
pub(crate) trait Registers: Send + Sync {
    fn transport(&self) -> &'static str;
    fn machine(&self) -> &Machine;
    /// Guest physical address and size of all registers.
    fn window(&self) -> (u64, u64);

    fn status(&self) -> u8;
    fn set_status(&self, status: u8);
    /// The 32 offered features in `window`.
    fn device_features(&self, window: u32) -> u32;
    fn set_driver_features(&self, window: u32, features: u32);
    fn queue_count(&self) -> u16;
    fn select_queue(&self, index: u16);
    /// The largest size of the selected queue, before another was written.
    fn queue_size(&self) -> u32;
    fn set_queue_size(&self, size: u16);
    fn set_queue_area(&self, area: QueueArea, address: u64);
    fn queue_ready(&self) -> bool;
    fn set_queue_ready(&self, ready: bool);
    fn generation(&self) -> u32;
    fn read_config(&self, offset: u64, data: &mut [u8]);
    fn write_config(&self, offset: u64, data: &[u8]);
    /// What to write where to notify of buffers in queue `index`.
    fn doorbell(&self, index: u16) -> (u64, Vec<u8>);
    /// Makes every event interrupt.
    fn map_interrupts(&self);
    /// Puts what is the transport's own back to what it was when the device was found.
    fn recover(&self);
    /// The interrupts since the last look, acknowledged.
    fn events(&self) -> Events;

    /// Adds bits to the device status, as a driver does.
    fn add_status(&self, bits: u8) {
        self.set_status(self.status() | bits);
    }

    /// Resets, and waits until it is done.
    fn reset(&self) {
        self.set_status(0);
        let start = Instant::now();
        while self.status() != 0 {
            assert!(start.elapsed() < LIMIT, "the reset does not end");
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    fn offered(&self) -> u64 {
        u64::from(self.device_features(0)) | u64::from(self.device_features(1)) << 32
    }

    fn accept(&self, features: u64) {
        for window in [0, 1] {
            let part = features >> (32 * window) & 0xffff_ffff;
            self.set_driver_features(window, u32::try_from(part).unwrap());
        }
    }

    /// From reset up to `FEATURES_OK`, which has to hold.
    fn negotiate(&self, features: u64) {
        self.reset();
        self.add_status(ACKNOWLEDGE);
        self.add_status(DRIVER);
        self.accept(features);
        self.add_status(FEATURES_OK);
        assert_eq!(self.status(), READY);
        self.map_interrupts();
    }

    /// Describes queue `index`, of `size` descriptors in these areas, and enables it.
    fn set_up_queue(&self, index: u16, size: u16, areas: [u64; 3]) {
        self.select_queue(index);
        self.set_queue_size(size);
        for (area, address) in AREAS.into_iter().zip(areas) {
            self.set_queue_area(area, address);
        }
        self.set_queue_ready(true);
    }

    fn notify(&self, index: u16) {
        let (address, bytes) = self.doorbell(index);
        self.machine().write(address, &bytes);
    }
}

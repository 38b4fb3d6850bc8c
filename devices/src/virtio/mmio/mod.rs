//! virtio over MMIO: a window of registers that are those of a [`State`].
//!
//! Follows virtio 1.2, 4.2, without the legacy interface. It only decodes: what a register means
//! is `state`'s business. Where the window lies and which line interrupts is told from outside.
//!
//! A driver does not wait for a reset here, nor for a queue that it disabled, as it does on PCI,
//! so the write itself takes until the device has stopped.

mod interrupt;

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use crate::bus::BusDevice;
use crate::platform::Platform;
use crate::virtio::VirtioDevice;
use crate::virtio::mmio::interrupt::MmioInterrupt;
use crate::virtio::state::{QueueArea, State, Transport};

/// Bytes of a device's window.
pub const WINDOW_SIZE: u64 = 0x1000;

/// "virt"
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
const VENDOR_ID: u32 = 0x1af4;

/// The registers (virtio 1.2, 4.2.2), all of 32 bits but for the last.
mod register {
    pub(super) const MAGIC_VALUE: u64 = 0x000;
    pub(super) const VERSION: u64 = 0x004;
    pub(super) const DEVICE_ID: u64 = 0x008;
    pub(super) const VENDOR_ID: u64 = 0x00c;
    pub(super) const DEVICE_FEATURES: u64 = 0x010;
    pub(super) const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub(super) const DRIVER_FEATURES: u64 = 0x020;
    pub(super) const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub(super) const QUEUE_SEL: u64 = 0x030;
    pub(super) const QUEUE_NUM_MAX: u64 = 0x034;
    pub(super) const QUEUE_NUM: u64 = 0x038;
    pub(super) const QUEUE_READY: u64 = 0x044;
    pub(super) const QUEUE_NOTIFY: u64 = 0x050;
    pub(super) const INTERRUPT_STATUS: u64 = 0x060;
    pub(super) const INTERRUPT_ACK: u64 = 0x064;
    pub(super) const STATUS: u64 = 0x070;
    pub(super) const QUEUE_DESC: u64 = 0x080;
    pub(super) const QUEUE_DRIVER: u64 = 0x090;
    pub(super) const QUEUE_DEVICE: u64 = 0x0a0;
    pub(super) const SHM_LEN_LOW: u64 = 0x0b0;
    pub(super) const SHM_BASE_HIGH: u64 = 0x0bc;
    pub(super) const CONFIG_GENERATION: u64 = 0x0fc;
    pub(super) const CONFIG: u64 = 0x100;
}

/// A virtio device in a window of registers.
pub struct VirtioMmio {
    state: Mutex<State>,
    interrupt: Arc<MmioInterrupt>,
    kicks: Arc<[EventFd]>,
    doorbells: Doorbells,
}

impl VirtioMmio {
    /// Puts `device` in a window of [`WINDOW_SIZE`] bytes at guest physical address `base`, with
    /// an edge-triggered interrupt that each write to `line` pulses. It will work in `memory`.
    ///
    /// # Errors
    /// When the host has no event left, or a queue size is no power of two.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: Arc<GuestMemoryMmap>,
        platform: Arc<dyn Platform>,
        base: u64,
        line: EventFd,
    ) -> io::Result<VirtioMmio> {
        let interrupt = Arc::new(MmioInterrupt::new(line));
        let transport = Arc::clone(&interrupt) as Arc<dyn Transport>;
        let state = State::new(device, memory, transport)?;
        let kicks = state.kicks();
        let address = base.wrapping_add(register::QUEUE_NOTIFY);
        let doorbells = Doorbells::new(platform, address, Arc::clone(&kicks));
        Ok(VirtioMmio { state: Mutex::new(state), interrupt, kicks, doorbells })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a register reads as; one that is write-only, reserved or of a feature that is not
    /// offered, as zero.
    fn read_register(&self, offset: u64) -> u32 {
        if offset == register::INTERRUPT_STATUS {
            return self.interrupt.status();
        }
        let mut state = self.state();
        match offset {
            register::MAGIC_VALUE => MAGIC,
            register::VERSION => VERSION,
            register::DEVICE_ID => state.device_type().0.into(),
            register::VENDOR_ID => VENDOR_ID,
            register::DEVICE_FEATURES => state.device_feature(),
            register::QUEUE_NUM_MAX => state.queue_max_size().into(),
            register::QUEUE_READY => state.queue_ready().into(),
            register::STATUS => state.status().0.into(),
            // There is no shared memory region, whichever is selected.
            register::SHM_LEN_LOW..=register::SHM_BASE_HIGH => u32::MAX,
            register::CONFIG_GENERATION => state.config_generation().into(),
            _ => 0,
        }
    }

    fn write_register(&self, offset: u64, value: u32) {
        match offset {
            register::QUEUE_NOTIFY => self.notify(value),
            register::INTERRUPT_ACK => self.interrupt.acknowledge(value),
            _ => write_state(&mut self.state(), offset, value),
        }
    }

    /// A notification that came as an access: where the platform has no doorbell for it.
    fn notify(&self, queue: u32) {
        let kick = usize::try_from(queue).ok().and_then(|index| self.kicks.get(index));
        if let Some(kick) = kick {
            // A full counter is a kick already.
            let _ = kick.write(1);
        }
    }
}

fn write_state(state: &mut State, offset: u64, value: u32) {
    match offset {
        register::DEVICE_FEATURES_SEL => state.select_device_feature(value),
        register::DRIVER_FEATURES => state.write_driver_feature(value),
        register::DRIVER_FEATURES_SEL => state.select_driver_feature(value),
        // No queue has the largest number.
        register::QUEUE_SEL => state.select_queue(u16::try_from(value).unwrap_or(u16::MAX)),
        // No size of that many bits is possible, and neither is 0.
        register::QUEUE_NUM => state.set_queue_size(u16::try_from(value).unwrap_or(0)),
        register::QUEUE_READY if value <= 1 => state.set_queue_ready(value == 1),
        register::STATUS => {
            let [status, ..] = value.to_le_bytes();
            state.write_status(status);
            state.finish_reset();
        }
        _ => {
            if let Some((area, high)) = queue_area(offset) {
                state.set_queue_area(area, high, value);
            }
        }
    }
}

/// The area whose address has its low or (`true`) high half at `offset`.
fn queue_area(offset: u64) -> Option<(QueueArea, bool)> {
    let area = match offset & !7 {
        register::QUEUE_DESC => QueueArea::Descriptor,
        register::QUEUE_DRIVER => QueueArea::Driver,
        register::QUEUE_DEVICE => QueueArea::Device,
        _ => return None,
    };
    offset.is_multiple_of(4).then_some((area, offset & 4 != 0))
}

impl BusDevice for VirtioMmio {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(offset) = offset.checked_sub(register::CONFIG) {
            self.state().read_config(offset, data);
        } else if let Ok(register) = <&mut [u8; 4]>::try_from(data) {
            *register = self.read_register(offset).to_le_bytes();
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(register::CONFIG) {
            self.state().write_config(offset, data);
        } else if let Ok(value) = data.try_into().map(u32::from_le_bytes) {
            self.write_register(offset, value);
        }
    }
}

impl fmt::Debug for VirtioMmio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.doorbells.address;
        f.debug_struct("VirtioMmio")
            .field("state", &self.state)
            .field("doorbells", &address)
            .finish_non_exhaustive()
    }
}

/// The doorbells as the platform has them: one address, and the queue is the value.
struct Doorbells {
    platform: Arc<dyn Platform>,
    address: u64,
    kicks: Arc<[EventFd]>,
}

impl Doorbells {
    fn new(platform: Arc<dyn Platform>, address: u64, kicks: Arc<[EventFd]>) -> Doorbells {
        for (queue, kick) in (0..).zip(kicks.iter()) {
            if let Err(error) = platform.add_doorbell(address, Some(queue), kick) {
                // It still works, as an access to the window.
                log::debug!("virtio doorbell {queue} at {address:#x} not registered: {error}");
            }
        }
        Doorbells { platform, address, kicks }
    }
}

impl Drop for Doorbells {
    fn drop(&mut self) {
        for (queue, kick) in (0..).zip(self.kicks.iter()) {
            let address = self.address;
            if let Err(error) = self.platform.remove_doorbell(address, Some(queue), kick) {
                log::debug!("virtio doorbell {queue} at {address:#x} not removed: {error}");
            }
        }
    }
}

//! virtio 1.2: devices, the transports that carry them, and the register state between the two.

mod chain;
pub mod mmio;
pub mod pci;
pub mod scsi;
pub mod state;

use std::fmt;
use std::sync::Arc;

use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use crate::interrupt::Interrupt;

/// A device type ID (virtio 1.2, 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceType(pub u16);

impl DeviceType {
    /// SCSI host (virtio 1.2, 5.6).
    pub const SCSI_HOST: DeviceType = DeviceType(8);
}

/// A queue that the driver enabled, handed to the device when it is activated.
#[derive(Debug)]
pub struct ActiveQueue {
    /// The queue's number, as [`Interrupt::queue`] wants it.
    pub index: u16,
    /// The ring, configured and ready.
    pub queue: Queue,
    /// Signalled when the driver rings the doorbell.
    pub kick: EventFd,
}

/// All that a device needs to work from `DRIVER_OK` until its reset.
pub struct Activation {
    /// The guest's memory.
    pub memory: Arc<GuestMemoryMmap>,
    /// The way to the driver.
    pub interrupt: Arc<dyn Interrupt>,
    /// The queues that the driver enabled, in ascending order; there may be gaps.
    pub queues: Vec<ActiveQueue>,
    /// The features that were negotiated.
    pub features: u64,
}

impl fmt::Debug for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Activation")
            .field("queues", &self.queues)
            .field("features", &self.features)
            .finish_non_exhaustive()
    }
}

/// A device could not start; the transport answers with `DEVICE_NEEDS_RESET`.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct ActivateError {
    /// What failed.
    pub what: &'static str,
    /// Why.
    pub source: std::io::Error,
}

/// A virtio device without its transport. The transport serialises all calls.
pub trait VirtioDevice: Send {
    /// What the device is.
    fn device_type(&self) -> DeviceType;

    /// The features it offers, `VIRTIO_F_VERSION_1` among them.
    fn features(&self) -> u64;

    /// The largest size of each queue; their number is the number of queues.
    fn queue_sizes(&self) -> Vec<u16>;

    /// Reads the device configuration; bytes past its end read as zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes the device configuration; what is read-only stays as it is.
    fn write_config(&mut self, offset: u64, data: &[u8]);

    /// Starts: spawns what serves the queues. Builds everything first, so that a failure leaves
    /// nothing running that a reset would not end.
    ///
    /// # Errors
    /// When the host lacks a resource for it.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;

    /// Stops serving queue `index`: returns once no thread of the device can touch it any more.
    fn stop_queue(&mut self, index: u16);

    /// Tells all threads of the device to stop, without waiting for them. Called on a device
    /// that is not active too.
    fn begin_reset(&mut self);

    /// Whether the reset that began is done: no thread of the device can touch guest memory any
    /// more, and the device is as new.
    fn reset_done(&mut self) -> bool;

    /// Waits until [`VirtioDevice::reset_done`].
    fn finish_reset(&mut self);
}

//! How a virtio device tells its driver something, whatever the transport.

/// The interrupts of one virtio device. Callable from any thread, on the hot path: an
/// implementation takes no lock unless the vector is masked.
pub trait Interrupt: Send + Sync {
    /// Queue `index` has used buffers (virtio 1.2, 2.3).
    fn queue(&self, index: u16);

    /// The device configuration, or the device's status, changed.
    fn config(&self);

    /// The device cannot go on until the driver resets it, for instance because a ring is
    /// corrupt: the driver sees `DEVICE_NEEDS_RESET` (virtio 1.2, 2.1.2).
    fn needs_reset(&self) {
        self.config();
    }
}

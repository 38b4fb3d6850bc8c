//! What devices need from the hypervisor, as values and eventfds; `vmm` implements it over KVM.

use std::io;

use vmm_sys_util::eventfd::EventFd;

/// An MSI message: what a device would write to raise the interrupt (PCI 3.0, 6.8.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsiMessage {
    /// Guest physical address of the write.
    pub address: u64,
    /// Value of the write.
    pub data: u32,
}

/// A message-signalled interrupt: writing `event` delivers the message last given to
/// [`Platform::route_msi`] for `id`.
#[derive(Debug)]
pub struct MsiVector {
    /// The platform's name for the vector.
    pub id: u32,
    /// Delivers one interrupt per write while the vector is routed.
    pub event: EventFd,
}

/// The hypervisor, as far as a device sees it.
pub trait Platform: Send + Sync {
    /// Reserves a vector, unrouted at first.
    ///
    /// # Errors
    /// When the host has no interrupt route or file descriptor left.
    fn allocate_msi(&self) -> io::Result<MsiVector>;

    /// Takes a vector back, unrouting it. Its event delivers nothing any more.
    fn free_msi(&self, vector: &MsiVector);

    /// Routes vector `id` to `message`, or unroutes it with `None`; a write to the event of an
    /// unrouted vector is lost.
    ///
    /// # Errors
    /// When the host refuses the route.
    fn route_msi(&self, id: u32, message: Option<MsiMessage>) -> io::Result<()>;

    /// Makes a guest's write at guest physical `address` signal `event` instead of reaching the
    /// bus: of any width with `datamatch` `None`, otherwise only a 32-bit write of that value.
    ///
    /// # Errors
    /// When the host refuses the registration.
    fn add_doorbell(&self, address: u64, datamatch: Option<u32>, event: &EventFd)
    -> io::Result<()>;

    /// Undoes [`Platform::add_doorbell`] with the same arguments.
    ///
    /// # Errors
    /// When there was no such doorbell.
    fn remove_doorbell(
        &self,
        address: u64,
        datamatch: Option<u32>,
        event: &EventFd,
    ) -> io::Result<()>;
}

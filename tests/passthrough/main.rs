//! SCSI devices of the host in a guest with a stock Debian kernel: what the guest sees is what the
//! host sees, but for the documented fixups.
//!
//! The test must be root's, on a machine that it may load modules on and that has no other SCSI
//! devices. `VMM_MONITOR=qemu` makes QEMU run the guests, to see what it does differently.

mod bytes;
mod changes;
mod common;
mod limits;
mod load;

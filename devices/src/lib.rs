//! Virtual devices: what a guest finds on its buses.
//!
//! Nothing here names KVM or the configuration: interrupts and doorbells are eventfds behind
//! [`platform::Platform`] and [`interrupt::Interrupt`], and every device is built from values.

pub mod bus;
pub mod interrupt;
pub mod pci;
pub mod platform;
pub mod pm;
pub mod pvpanic;
pub mod serial;
pub mod virtio;

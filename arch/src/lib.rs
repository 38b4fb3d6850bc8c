//! The machine as bytes and register values: what a guest finds when it starts.
//!
//! Pure: nothing here opens a file, issues an ioctl or knows a device. `vmm` puts the values in
//! their places.

#![forbid(unsafe_code)]

pub mod x86_64;

pub use x86_64::{acpi, boot, cpuid, layout, regs};

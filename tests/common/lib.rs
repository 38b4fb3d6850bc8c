//! What the tests of the whole share: guests to boot, images for them, and the `vmm` binary.

pub mod cpio;
pub mod footprint;
pub mod guest;
pub mod host;
pub mod image;
pub mod kvm;
pub mod passthrough;
pub mod qemu;
pub mod running;
pub mod scsi;
pub mod seccomp;
pub mod terminal;
pub mod tiny;

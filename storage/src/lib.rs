//! SCSI storage behind a virtual HBA.
//!
//! From top to bottom: [`target`] decides who is addressed and what comes before the logical
//! unit, [`lun`] what a command means, [`engine`] how it is carried out, [`backend`] and [`host`]
//! what carries it, and [`scsi`] has the words. [`task`] and [`buffer`] are what travels between them.
//!
//! Nothing here names virtio, KVM, a guest address or a configuration file.

pub mod backend;
pub mod buffer;
pub mod engine;
pub mod host;
pub mod lun;
pub mod scsi;
pub mod target;
pub mod task;
pub mod testing;

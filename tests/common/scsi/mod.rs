//! SCSI devices of the machine that a test runs on: made, found, spoken to, taken away.
//!
//! The test must be root's, and may load modules.

pub mod command;
pub mod device;
pub mod gadget;
pub mod lio;
pub mod scsi_debug;
pub mod tcmu;

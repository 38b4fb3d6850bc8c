//! The words of SCSI: status and sense, CDBs, the opcode table, and parameter data.
//!
//! Bytes in, bytes out; nothing here knows a device.

pub mod cdb;
pub mod command;
pub mod designator;
pub mod inquiry;
pub mod mode;
pub mod opcode;
pub mod sense;
pub mod start_stop;
pub mod status;
pub mod supported;
pub mod unmap;
pub mod vpd;
pub mod wire;

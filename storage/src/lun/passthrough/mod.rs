//! A SCSI device of the host as a logical unit: its commands, data, status and sense reach the
//! initiator unchanged, except where the initiator or the host would break.

use std::sync::Arc;

use super::LogicalUnit;
use super::spec::PassthroughSpec;
use crate::host::OpenError;

pub mod facts;
pub mod fixup;
pub mod limits;
pub mod policy;
pub mod split;

/// Opens the device, and takes it until it is dropped.
pub(super) fn open(_spec: &PassthroughSpec) -> Result<Arc<dyn LogicalUnit>, OpenError> {
    Err(OpenError::NotScsi)
}

/// Finds out whether [`open`] would succeed.
pub(super) fn check(_spec: &PassthroughSpec) -> Result<(), OpenError> {
    Err(OpenError::NotScsi)
}

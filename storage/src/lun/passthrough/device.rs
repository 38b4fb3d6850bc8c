//! A device of the host, opened as a specification says.

use std::path::Path;
use std::sync::Arc;

use super::presence::Place;
use crate::host::broker::Broker;
use crate::host::multipath::Multipath;
use crate::host::privileged::Privileged;
use crate::host::sg::SgDevice;
use crate::host::{OpenError, Options, ScsiHost};
use crate::lun::spec::PassthroughSpec;

/// The way to a device, and where the host has it.
#[derive(Debug)]
pub struct Device {
    /// The way to it.
    pub host: Arc<dyn ScsiHost>,
    /// Where it is.
    pub place: Place,
}

impl Device {
    /// Opens the device at `path`, and takes it until it is dropped.
    ///
    /// # Errors
    /// [`OpenError`] says why it cannot be used.
    pub fn open(spec: &PassthroughSpec, path: &Path) -> Result<Device, OpenError> {
        let options = options(spec);
        let device = Arc::new(SgDevice::open(path, &options)?);
        let place = Place::of(&device);
        let broker = spec.broker.as_deref().map(Broker::new).map(Arc::new);
        let host: Arc<dyn ScsiHost> = if device.legs().is_empty() {
            Arc::new(Privileged::new(device, broker))
        } else {
            Arc::new(Multipath::open(device, &options, broker.as_ref())?)
        };
        Ok(Device { host, place })
    }
}

/// How the device of `spec` is opened.
pub(super) fn options(spec: &PassthroughSpec) -> Options {
    let &PassthroughSpec { read_only, shared_nexus, force, .. } = spec;
    Options { read_only, shared_nexus, force }
}

impl From<Arc<dyn ScsiHost>> for Device {
    /// A way to a device that the host has nowhere.
    fn from(host: Arc<dyn ScsiHost>) -> Device {
        Device { host, place: Place::default() }
    }
}

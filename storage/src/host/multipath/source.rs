//! The paths that a map has on this host, opened.

use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::Path;
use crate::host::broker::Broker;
use crate::host::privileged::{Direct, Privileged};
use crate::host::sg::SgDevice;
use crate::host::{OpenError, Options};

/// A map, and those of its paths that are open.
#[derive(Debug)]
pub(super) struct Source {
    map: Arc<SgDevice>,
    options: Options,
    broker: Option<Arc<Broker>>,
    opened: Mutex<Vec<(PathBuf, Path)>>,
}

impl Source {
    /// That of `map`, which was opened with `options`.
    pub(super) fn new(
        map: Arc<SgDevice>,
        options: &Options,
        broker: Option<Arc<Broker>>,
    ) -> Source {
        // The device mapper has the paths, and this process has that.
        let options = Options { force: true, shared_nexus: true, ..*options };
        Source { map, options, broker, opened: Mutex::default() }
    }

    /// The paths that can be opened now, if they are others than at the last look. What is open
    /// stays so: as long as it is, the kernel gives its name to no other device.
    pub(super) fn look(&self) -> Option<Vec<Path>> {
        let legs = self.map.legs();
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let before = opened.len();
        opened.retain(|(node, _)| legs.contains(node));
        let mut changed = opened.len() != before;
        for node in legs {
            if opened.iter().any(|(open, _)| *open == node) {
                continue;
            }
            match self.open(&node) {
                Ok(path) => {
                    opened.push((node, path));
                    changed = true;
                }
                Err(error) => log::warn!(
                    "{}: no reservations by the path {}: it {error}",
                    self.map.node().display(),
                    node.display()
                ),
            }
        }
        changed.then(|| opened.iter().map(|(_, path)| path.clone()).collect())
    }

    fn open(&self, node: &FilePath) -> Result<Path, OpenError> {
        let device = SgDevice::open(node, &self.options)?;
        let initiator = device.ports().initiator;
        let device: Arc<dyn Direct> = Arc::new(device);
        Ok(Path { host: Arc::new(Privileged::new(device, self.broker.clone())), initiator })
    }
}

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
    legs: Mutex<Legs>,
}

#[derive(Debug, Default)]
struct Legs {
    opened: Vec<(PathBuf, Path)>,
    /// Those that could not be opened, which has been said.
    refused: Vec<PathBuf>,
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
        Source { map, options, broker, legs: Mutex::default() }
    }

    /// The paths that can be opened now, if they are others than at the last look. What is open
    /// stays so: as long as it is, the kernel gives its name to no other device.
    pub(super) fn look(&self) -> Option<Vec<Path>> {
        let nodes = self.map.legs();
        let mut legs = self.legs.lock().unwrap_or_else(PoisonError::into_inner);
        let Legs { opened, refused } = &mut *legs;
        let before = opened.len();
        opened.retain(|(node, _)| nodes.contains(node));
        refused.retain(|node| nodes.contains(node));
        let mut changed = opened.len() != before;
        for node in nodes {
            if opened.iter().any(|(open, _)| *open == node) {
                continue;
            }
            match self.open(&node) {
                Ok(path) => {
                    refused.retain(|it| *it != node);
                    opened.push((node, path));
                    changed = true;
                }
                Err(error) if !refused.contains(&node) => {
                    let map = self.map.node().display();
                    log::warn!("{map}: no reservations by the path {}: it {error}", node.display());
                    refused.push(node);
                }
                Err(_) => {}
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

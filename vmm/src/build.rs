//! Controllers from their specifications: opens the logical units, attaches them to a bus, and
//! puts a virtio-scsi controller in front of it, on the machine's PCI bus or in a window.

use std::io;
use std::sync::Arc;

use devices::virtio::mmio::VirtioMmio;
use devices::virtio::pci::VirtioPci;
use devices::virtio::scsi::{self, Controller};
use storage::engine::Pool;
use storage::lun::{self, OpenError};
use storage::target::{AttachError, Bus};

use crate::machine::{Machine, MachineError};
use crate::spec::{ControllerSpec, Transport};

/// Threads for image I/O that cannot go by ring, shared by all controllers.
const POOL_THREADS: usize = 8;

/// A controller could not be built.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildError {
    /// A logical unit cannot be opened.
    #[error("{controller}: target {target} lun {lun}")]
    Open {
        /// Whose it is.
        controller: String,
        /// Where it was to be.
        target: u8,
        /// Where it was to be.
        lun: u16,
        /// Why.
        source: OpenError,
    },
    /// A logical unit has no place.
    #[error("{controller}")]
    Attach {
        /// Whose it is.
        controller: String,
        /// Why.
        source: AttachError,
    },
    /// The host lacks descriptors or interrupt routes.
    #[error("{controller}: the host lacks a resource for it")]
    Host {
        /// What could not be made.
        controller: String,
        /// Why.
        source: io::Error,
    },
    /// The machine has no place for it.
    #[error(transparent)]
    Machine(#[from] MachineError),
}

impl BuildError {
    /// Whether the configuration asks for what cannot be, whatever the host.
    pub(crate) fn is_configuration(&self) -> bool {
        matches!(self, BuildError::Open { .. } | BuildError::Attach { .. })
    }
}

/// Gives `machine` a controller for each of `specs`.
///
/// # Errors
/// [`BuildError`] names the controller and says why.
pub(crate) fn controllers(machine: &Machine, specs: &[ControllerSpec]) -> Result<(), BuildError> {
    let pool = Pool::new(POOL_THREADS);
    specs.iter().try_for_each(|spec| add(machine, spec, &pool))
}

fn add(machine: &Machine, spec: &ControllerSpec, pool: &Arc<Pool>) -> Result<(), BuildError> {
    let host = |source| BuildError::Host { controller: spec.id.clone(), source };
    let bus = Bus::new(spec.request_queues).map_err(host)?;
    attach_all(&bus, spec)?;
    let controller = Controller::new(
        scsi::ControllerSpec {
            id: spec.id.clone(),
            request_queues: spec.request_queues,
            queue_size: spec.queue_size,
            tmf_timeout: spec.tmf_timeout,
        },
        bus,
        Arc::clone(pool),
    );
    let (memory, platform) = (machine.memory(), machine.platform());
    match spec.transport {
        Transport::Pci => {
            let function = VirtioPci::new(Box::new(controller), memory, platform).map_err(host)?;
            Ok(machine.add(Arc::new(function))?)
        }
        Transport::Mmio => machine.add_mmio(|base, line| {
            VirtioMmio::new(Box::new(controller), memory, platform, base, line).map_err(host)
        }),
    }
}

fn attach_all(bus: &Bus, spec: &ControllerSpec) -> Result<(), BuildError> {
    for at in &spec.luns {
        let controller = || spec.id.clone();
        let unit = lun::open(&at.spec).map_err(|source| BuildError::Open {
            controller: controller(),
            target: at.target,
            lun: at.lun,
            source,
        })?;
        bus.attach(at.target, at.lun, unit)
            .map_err(|source| BuildError::Attach { controller: controller(), source })?;
    }
    Ok(())
}

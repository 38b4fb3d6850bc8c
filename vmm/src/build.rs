//! Controllers from their specifications: opens the logical units and attaches them to a bus,
//! once, and puts a virtio-scsi controller in front of it, on the PCI bus of each machine or in a
//! window.

use std::io;
use std::sync::Arc;

use devices::virtio::mmio::VirtioMmio;
use devices::virtio::pci::VirtioPci;
use devices::virtio::scsi::{self, Controller};
use storage::engine::Pool;
use storage::lun::{self, OpenError};
use storage::target::{self, AttachError, Bus};

use crate::machine::{Machine, MachineError};
use crate::spec::{AddressedLun, ControllerSpec, Transport};

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

/// What was written to a logical unit may be lost.
#[derive(Debug, thiserror::Error)]
#[error("{controller}: what the guest wrote may be lost")]
pub(crate) struct FlushError {
    controller: String,
    source: target::FlushError,
}

/// A controller to be, with its logical units. It outlives the machines that it is put in.
#[derive(Debug)]
pub(crate) struct Hba {
    spec: ControllerSpec,
    bus: Arc<Bus>,
}

/// Opens the logical units of all controllers.
///
/// # Errors
/// [`BuildError`] names the controller and says why.
pub(crate) fn open(specs: &[ControllerSpec]) -> Result<Vec<Hba>, BuildError> {
    specs.iter().map(Hba::open).collect()
}

/// Makes everything stable that was written to any logical unit.
///
/// # Errors
/// [`FlushError`] of the first that fails; all are tried.
pub(crate) fn flush(hbas: &[Hba]) -> Result<(), FlushError> {
    hbas.iter().map(Hba::flush).fold(Ok(()), Result::and)
}

impl Hba {
    fn open(spec: &ControllerSpec) -> Result<Hba, BuildError> {
        let host = |source| BuildError::Host { controller: spec.id.clone(), source };
        let bus = Bus::new(spec.request_queues).map_err(host)?;
        attach_all(&bus, spec)?;
        Ok(Hba { spec: spec.clone(), bus })
    }

    /// Puts the controller in `machine`; image I/O that blocks goes to `pool`.
    ///
    /// # Errors
    /// [`BuildError`]
    pub(crate) fn add_to(&self, machine: &Machine, pool: &Arc<Pool>) -> Result<(), BuildError> {
        let host = |source| BuildError::Host { controller: self.spec.id.clone(), source };
        let controller = Controller::new(
            scsi::ControllerSpec {
                id: self.spec.id.clone(),
                request_queues: self.spec.request_queues,
                queue_size: self.spec.queue_size,
                tmf_timeout: self.spec.tmf_timeout,
            },
            Arc::clone(&self.bus),
            Arc::clone(pool),
        );
        let (memory, platform) = (machine.memory(), machine.platform());
        match self.spec.transport {
            Transport::Pci => {
                let function = VirtioPci::new(Box::new(controller), memory, platform);
                Ok(machine.add(Arc::new(function.map_err(host)?))?)
            }
            Transport::Mmio => machine.add_mmio(|base, line| {
                VirtioMmio::new(Box::new(controller), memory, platform, base, line).map_err(host)
            }),
        }
    }

    /// What a reset of the machine does to the logical units.
    pub(crate) fn hard_reset(&self) {
        self.bus.hard_reset();
    }

    fn flush(&self) -> Result<(), FlushError> {
        let failed = |source| FlushError { controller: self.spec.id.clone(), source };
        self.bus.flush().map_err(failed)
    }
}

fn attach_all(bus: &Arc<Bus>, spec: &ControllerSpec) -> Result<(), BuildError> {
    let controller = || spec.id.clone();
    let open = |at: &AddressedLun| match lun::open(&at.spec) {
        Ok(unit) => Ok((at.target, at.lun, unit)),
        Err(source) => Err(BuildError::Open {
            controller: controller(),
            target: at.target,
            lun: at.lun,
            source,
        }),
    };
    let units: Vec<_> = spec.luns.iter().map(open).collect::<Result<_, _>>()?;
    bus.attach_all(units).map_err(|source| BuildError::Attach { controller: controller(), source })
}

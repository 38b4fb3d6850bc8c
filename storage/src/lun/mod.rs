//! Logical units: what a command means.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::backend::{self, Backend, BlockDevice, Geometry, Medium, Options, RawFile};
use crate::engine::IoContext;
use crate::host;
use crate::scsi::cdb::Cdb;
use crate::scsi::opcode::Opcode;
use crate::scsi::sense::SenseCode;
use crate::task::{Answer, Task};

pub mod disk;
pub mod passthrough;
pub mod spec;

use disk::Disk;
use spec::{Backing, DiskSpec, LunSpec};

/// How a logical unit took a task.
#[derive(Debug)]
#[must_use = "an answer is handed up or delivered"]
pub enum Submitted {
    /// It is answered.
    Done(Answer),
    /// Its answer comes from [`IoContext::wait`], or through its sink.
    Pending,
}

/// A logical unit. It never waits: what takes time goes to the engine.
pub trait LogicalUnit: fmt::Debug + Send + Sync {
    /// Takes a task that has passed all that comes before the logical unit.
    fn submit(&self, task: Task, io: &mut IoContext) -> Submitted;

    /// It is attached: from now on `events` takes what its initiator should know.
    fn attached(&self, _events: Arc<dyn UnitEvents>) {}

    /// Whether no other command may run beside `cdb`.
    fn runs_alone(&self, cdb: &Cdb) -> bool {
        Opcode::runs_alone(cdb)
    }

    /// Ends what it can of aborted tasks that it has not given to the engine; they are answered
    /// like all others, the rest of them when they end by themselves.
    fn cancel_aborted(&self) {}

    /// A LOGICAL UNIT RESET has begun: what can end the commands that run is to be done now, without
    /// waiting for it. The function does not end before `done` is called, once, from any thread.
    fn begin_reset(&self, done: Box<dyn FnOnce() + Send>) {
        done();
    }

    /// A reset of the logical unit, with none of its commands in flight: what a reset puts back
    /// goes back (SAM-6, Logical unit reset).
    fn reset(&self) {}

    /// Makes everything stable that was written to it, and waits for that; called with none of its
    /// commands in flight, before the VMM ends.
    ///
    /// # Errors
    /// What the host says; writes may then be lost.
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    /// Whether the initiator wants its sense data in descriptor format (D_SENSE of the Control
    /// mode page).
    fn descriptor_sense(&self) -> bool {
        false
    }

    /// The longest READ or WRITE that it takes, in bytes.
    fn max_transfer(&self) -> u64;

    /// The most segments of memory that one command's data may be in.
    fn max_segments(&self) -> u32 {
        u32::MAX
    }
}

/// Takes what the initiator of a logical unit should know without having asked. Called from any
/// thread.
pub trait UnitEvents: fmt::Debug + Send + Sync {
    /// Target and number of the logical unit, for names and messages.
    fn label(&self) -> String {
        String::new()
    }

    /// Establishes a unit attention condition.
    fn attention(&self, code: SenseCode);

    /// Sends the initiator an event: the parameters of which `code` tells have changed.
    fn parameters_changed(&self, code: SenseCode);

    /// Takes the logical unit out of its initiator's sight, as if it were detached, or puts it
    /// back. Commands under way go on.
    fn set_present(&self, present: bool);
}

/// A logical unit cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("{}; {}", self.why(), self.remedy())]
pub struct OpenError {
    path: PathBuf,
    reason: Reason,
}

/// What is wrong with what a logical unit is to be on.
#[derive(Debug)]
pub enum Reason {
    /// With the medium of a disk.
    Medium(backend::OpenError),
    /// With a SCSI device of the host.
    Device(host::OpenError),
}

impl OpenError {
    /// That the SCSI device at `path` cannot be used, and why.
    #[must_use]
    pub fn device(path: &Path, reason: host::OpenError) -> OpenError {
        OpenError { path: path.into(), reason: Reason::Device(reason) }
    }

    /// What is wrong, as a sentence about its path.
    #[must_use]
    pub fn why(&self) -> String {
        let path = self.path.display();
        match &self.reason {
            Reason::Medium(reason) => format!("{path} {reason}"),
            Reason::Device(reason) => format!("{path} {reason}"),
        }
    }

    /// What to do about it, as a clause of its own.
    #[must_use]
    pub fn remedy(&self) -> String {
        match &self.reason {
            Reason::Medium(reason) => reason.remedy(&self.path),
            Reason::Device(reason) => reason.remedy(&self.path),
        }
    }

    /// What is wrong, as a value.
    #[must_use]
    pub fn reason(&self) -> &Reason {
        &self.reason
    }
}

/// Opens what `spec` describes, and takes it until it is dropped.
///
/// # Errors
/// [`OpenError`] names the file and says why it cannot be used.
pub fn open(spec: &LunSpec) -> Result<Arc<dyn LogicalUnit>, OpenError> {
    let path = spec.path();
    match spec {
        LunSpec::Disk(spec) => {
            let backend = backend_of(spec).map_err(|reason| on_medium(path, reason))?;
            let medium = Medium::new(path.display().to_string(), backend);
            Ok(Arc::new(Disk::new(medium, spec)))
        }
        LunSpec::Passthrough(spec) => {
            passthrough::open(spec).map_err(|reason| OpenError::device(path, reason))
        }
    }
}

/// Finds out whether [`open`] would succeed, and changes and takes nothing. Only a block device
/// that is not shared is claimed for the moment of the question.
///
/// # Errors
/// What [`open`] would say.
pub fn check(spec: &LunSpec) -> Result<(), OpenError> {
    match spec {
        LunSpec::Disk(spec) => {
            check_disk(spec).map_err(|reason| on_medium(spec.backing.path(), reason))
        }
        LunSpec::Passthrough(spec) => {
            passthrough::check(spec).map_err(|reason| OpenError::device(&spec.path, reason))
        }
    }
}

fn on_medium(path: &Path, reason: backend::OpenError) -> OpenError {
    OpenError { path: path.into(), reason: Reason::Medium(reason) }
}

fn check_disk(spec: &DiskSpec) -> Result<(), backend::OpenError> {
    let options = options(spec);
    let geometry = match &spec.backing {
        Backing::RawImage(path) => RawFile::check(path, &options)?,
        Backing::BlockDevice(path) => BlockDevice::check(path, &options)?,
    };
    physical(spec, geometry)
}

fn backend_of(spec: &DiskSpec) -> Result<Box<dyn Backend>, backend::OpenError> {
    let options = options(spec);
    let backend: Box<dyn Backend> = match &spec.backing {
        Backing::RawImage(path) => Box::new(RawFile::open(path, &options)?),
        Backing::BlockDevice(path) => Box::new(BlockDevice::open(path, &options)?),
    };
    physical(spec, backend.geometry())?;
    Ok(backend)
}

fn options(spec: &DiskSpec) -> Options {
    Options {
        read_only: spec.read_only,
        shared: spec.shared,
        direct: spec.direct,
        discard: spec.discard,
        block_size: spec.block_size,
    }
}

/// The backing may decide the size of a logical block, and the specification that of a physical
/// one.
fn physical(spec: &DiskSpec, geometry: Geometry) -> Result<(), backend::OpenError> {
    match spec.physical_block_size {
        Some(physical) if physical < geometry.block_size => {
            let block_size = geometry.block_size;
            Err(backend::OpenError::PhysicalBlock { physical, block_size })
        }
        _ => Ok(()),
    }
}

//! Logical units: what a command means.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::backend::{self, Backend, BlockDevice, Geometry, Medium, Options, RawFile};
use crate::engine::IoContext;
use crate::task::{Answer, Task};

pub mod disk;
pub mod spec;

use disk::Disk;
use spec::{Backing, LunSpec};

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
}

/// A logical unit cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("{}; {}", self.why(), self.remedy())]
pub struct OpenError {
    path: PathBuf,
    reason: backend::OpenError,
}

impl OpenError {
    /// What is wrong, as a sentence about its path.
    #[must_use]
    pub fn why(&self) -> String {
        format!("{} {}", self.path.display(), self.reason)
    }

    /// What to do about it, as a clause of its own.
    #[must_use]
    pub fn remedy(&self) -> String {
        self.reason.remedy(&self.path)
    }

    /// What is wrong, as a value.
    #[must_use]
    pub fn reason(&self) -> &backend::OpenError {
        &self.reason
    }
}

/// Opens what `spec` describes, and takes it until it is dropped.
///
/// # Errors
/// [`OpenError`] names the file and says why it cannot be used.
pub fn open(spec: &LunSpec) -> Result<Arc<dyn LogicalUnit>, OpenError> {
    let path = spec.backing.path();
    let backend = backend_of(spec).map_err(|reason| OpenError { path: path.into(), reason })?;
    let medium = Medium::new(path.display().to_string(), backend);
    Ok(Arc::new(Disk::new(medium, spec)))
}

/// Finds out whether [`open`] would succeed, and changes and takes nothing. Only a block device
/// that is not shared is claimed for the moment of the question.
///
/// # Errors
/// What [`open`] would say.
pub fn check(spec: &LunSpec) -> Result<(), OpenError> {
    let options = options(spec);
    let checked = match &spec.backing {
        Backing::RawImage(path) => RawFile::check(path, &options),
        Backing::BlockDevice(path) => BlockDevice::check(path, &options),
    };
    let failed = |reason| OpenError { path: spec.backing.path().into(), reason };
    checked.and_then(|geometry| physical(spec, geometry)).map_err(failed)
}

fn backend_of(spec: &LunSpec) -> Result<Box<dyn Backend>, backend::OpenError> {
    let options = options(spec);
    let backend: Box<dyn Backend> = match &spec.backing {
        Backing::RawImage(path) => Box::new(RawFile::open(path, &options)?),
        Backing::BlockDevice(path) => Box::new(BlockDevice::open(path, &options)?),
    };
    physical(spec, backend.geometry())?;
    Ok(backend)
}

fn options(spec: &LunSpec) -> Options {
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
fn physical(spec: &LunSpec, geometry: Geometry) -> Result<(), backend::OpenError> {
    match spec.physical_block_size {
        Some(physical) if physical < geometry.block_size => {
            let block_size = geometry.block_size;
            Err(backend::OpenError::PhysicalBlock { physical, block_size })
        }
        _ => Ok(()),
    }
}

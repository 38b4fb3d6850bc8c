//! Logical units: what a command means.

use std::fmt;
use std::io;
use std::sync::Arc;

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

    /// The longest READ or WRITE that it takes, in bytes.
    fn max_transfer(&self) -> u64;
}

/// A logical unit cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub struct OpenError {
    path: String,
    source: crate::backend::OpenError,
}

/// Opens what `spec` describes.
///
/// # Errors
/// [`OpenError`] names the file and says why it cannot be used.
pub fn open(spec: &LunSpec) -> Result<Arc<dyn LogicalUnit>, OpenError> {
    match &spec.backing {
        Backing::RawImage(path) | Backing::BlockDevice(path) => {
            let disk = Disk::open_raw(path, spec);
            let named = |source| OpenError { path: path.display().to_string(), source };
            Ok(Arc::new(disk.map_err(named)?))
        }
    }
}

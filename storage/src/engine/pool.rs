//! The threads of image I/O: what a ring cannot do.

use std::fmt;
use std::sync::Arc;

use super::Transfer;
use super::workers::{Capacity, Job, Refused, Workers};
use crate::backend::Medium;
use crate::lun::Submitted;

#[derive(Debug)]
struct ImageIo {
    transfer: Transfer,
    medium: Arc<Medium>,
}

/// At most `limit` threads, started as work needs them. Answers go to each task's sink. Dropping
/// the pool finishes what was started.
pub struct Pool {
    workers: Workers<ImageIo>,
    limit: usize,
}

impl Pool {
    /// A pool without threads yet.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Pool> {
        let capacity = Capacity { threads: limit, waiting: usize::MAX, stack: None };
        Arc::new(Pool { workers: Workers::new("image-io", capacity), limit })
    }

    /// Queues `transfer`; carries it out here if there is no thread to do it.
    pub(super) fn start(&self, transfer: Transfer, medium: Arc<Medium>) -> Submitted {
        match self.workers.start(ImageIo { transfer, medium }) {
            Ok(()) => Submitted::Pending,
            Err(Refused::NoThread(job) | Refused::Full(job)) => {
                Submitted::Done(job.transfer.carry_out_here(&job.medium))
            }
        }
    }

    /// Answers aborted tasks that no thread has begun with.
    pub(super) fn cancel_aborted(&self) {
        self.workers.cancel_aborted();
    }
}

impl Job for ImageIo {
    fn carry_out(self) {
        self.transfer.carry_out(&self.medium).deliver();
    }

    fn is_aborted(&self) -> bool {
        self.transfer.task.is_aborted()
    }

    fn cancel(self) {
        self.transfer.cancel().deliver();
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool(limit {})", self.limit)
    }
}

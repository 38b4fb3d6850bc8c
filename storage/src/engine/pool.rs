//! Threads that block so that a queue thread need not.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use super::Transfer;
use crate::backend::Medium;
use crate::lun::Submitted;

type Job = (Transfer, Arc<Medium>);

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    idle: usize,
    closed: bool,
    threads: Vec<JoinHandle<()>>,
}

/// At most `limit` threads, started as work needs them. Answers go to each task's sink. Dropping
/// the pool finishes what was started.
pub struct Pool {
    jobs: Arc<Shared>,
    limit: usize,
}

#[derive(Default)]
struct Shared {
    jobs: Mutex<Jobs>,
    work: Condvar,
}

impl Pool {
    /// A pool without threads yet.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Pool> {
        Arc::new(Pool { jobs: Arc::default(), limit })
    }

    /// Queues `transfer`; carries it out here if there is no thread to do it.
    pub(super) fn start(&self, transfer: Transfer, medium: Arc<Medium>) -> Submitted {
        let mut jobs = self.jobs.lock();
        if jobs.idle <= jobs.waiting.len() && jobs.threads.len() < self.limit {
            self.spawn(&mut jobs);
        }
        if jobs.threads.is_empty() {
            drop(jobs);
            return Submitted::Done(transfer.carry_out_here(&medium));
        }
        jobs.waiting.push_back((transfer, medium));
        drop(jobs);
        self.jobs.work.notify_one();
        Submitted::Pending
    }

    /// Answers aborted tasks that no thread has begun with.
    pub(super) fn cancel_aborted(&self) {
        let mut jobs = self.jobs.lock();
        let (aborted, waiting): (VecDeque<Job>, _) =
            jobs.waiting.drain(..).partition(|(transfer, _)| transfer.task.is_aborted());
        jobs.waiting = waiting;
        drop(jobs);
        for (transfer, _) in aborted {
            transfer.cancel().deliver();
        }
    }

    fn spawn(&self, jobs: &mut Jobs) {
        let shared = Arc::clone(&self.jobs);
        let name = format!("image-io-{}", jobs.threads.len());
        match Builder::new().name(name).spawn(move || shared.work()) {
            Ok(thread) => jobs.threads.push(thread),
            Err(error) => log::warn!("cannot start a thread for image I/O: {error}"),
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while let Some((transfer, medium)) = self.next() {
            transfer.carry_out(&medium).deliver();
        }
    }

    fn next(&self) -> Option<Job> {
        let mut jobs = self.lock();
        loop {
            if let Some(job) = jobs.waiting.pop_front() {
                return Some(job);
            }
            if jobs.closed {
                return None;
            }
            jobs.idle += 1;
            jobs = self.work.wait(jobs).unwrap_or_else(PoisonError::into_inner);
            jobs.idle -= 1;
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut jobs = self.jobs.lock();
        jobs.closed = true;
        let threads = std::mem::take(&mut jobs.threads);
        drop(jobs);
        self.jobs.work.notify_all();
        for thread in threads {
            if thread.join().is_err() {
                log::error!("bug: an image I/O thread panicked");
            }
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool(limit {})", self.limit)
    }
}

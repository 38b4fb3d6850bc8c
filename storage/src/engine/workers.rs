//! Threads that block so that a queue thread need not: whatever they do.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

/// What a thread does, and answers for.
pub(crate) trait Job: fmt::Debug + Send + 'static {
    /// Blocks until it is done, and answers.
    fn carry_out(self);

    /// Whether the initiator wants no more of it.
    fn is_aborted(&self) -> bool;

    /// Answers for it without having begun.
    fn cancel(self);
}

/// How many there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capacity {
    /// Threads, started as jobs need them.
    pub(crate) threads: usize,
    /// Jobs that wait for a thread.
    pub(crate) waiting: usize,
    /// Bytes of a thread's stack; `None` for the usual.
    pub(crate) stack: Option<usize>,
}

/// Why a job is handed back.
#[derive(Debug)]
pub(crate) enum Refused<J> {
    /// There is no thread, and none can be started.
    NoThread(J),
    /// As many wait as may.
    Full(J),
}

/// Threads and the jobs that wait for them. Dropping them finishes what was started.
pub(crate) struct Workers<J: Job> {
    jobs: Arc<Shared<J>>,
    capacity: Capacity,
}

struct Shared<J> {
    jobs: Mutex<Jobs<J>>,
    work: Condvar,
}

struct Jobs<J> {
    waiting: VecDeque<J>,
    under_way: usize,
    idle: usize,
    closed: bool,
    name: String,
    threads: Vec<JoinHandle<()>>,
}

impl<J: Job> Workers<J> {
    /// No threads yet; they are to be called `name` and a number.
    pub(crate) fn new(name: &str, capacity: Capacity) -> Workers<J> {
        let jobs = Jobs {
            waiting: VecDeque::new(),
            under_way: 0,
            idle: 0,
            closed: false,
            name: name.into(),
            threads: Vec::new(),
        };
        Workers {
            jobs: Arc::new(Shared { jobs: Mutex::new(jobs), work: Condvar::new() }),
            capacity,
        }
    }

    /// Calls the threads that are started from now on `name` and a number.
    pub(crate) fn rename(&self, name: &str) {
        name.clone_into(&mut self.jobs.lock().name);
    }

    /// Has a thread carry `job` out.
    ///
    /// # Errors
    /// [`Refused`] hands it back.
    pub(crate) fn start(&self, job: J) -> Result<(), Refused<J>> {
        let mut jobs = self.jobs.lock();
        if jobs.idle <= jobs.waiting.len() && jobs.threads.len() < self.capacity.threads {
            self.spawn(&mut jobs);
        }
        if jobs.threads.is_empty() {
            return Err(Refused::NoThread(job));
        }
        let most = self.capacity.threads.saturating_add(self.capacity.waiting);
        if jobs.waiting.len() + jobs.under_way >= most {
            return Err(Refused::Full(job));
        }
        jobs.waiting.push_back(job);
        drop(jobs);
        self.jobs.work.notify_one();
        Ok(())
    }

    /// Answers aborted jobs that no thread has begun with.
    pub(crate) fn cancel_aborted(&self) {
        let mut jobs = self.jobs.lock();
        let (aborted, waiting): (VecDeque<J>, _) = jobs.waiting.drain(..).partition(J::is_aborted);
        jobs.waiting = waiting;
        drop(jobs);
        aborted.into_iter().for_each(J::cancel);
    }

    fn spawn(&self, jobs: &mut Jobs<J>) {
        let shared = Arc::clone(&self.jobs);
        let name = format!("{}-{}", jobs.name, jobs.threads.len());
        let mut builder = Builder::new().name(name.clone());
        if let Some(stack) = self.capacity.stack {
            builder = builder.stack_size(stack);
        }
        match builder.spawn(move || shared.work()) {
            Ok(thread) => jobs.threads.push(thread),
            Err(error) => log::warn!("cannot start thread {name}: {error}"),
        }
    }
}

impl<J: Job> Shared<J> {
    /// What a job's answer says is visible before the job counts as done, so the initiator may
    /// find one place less than there is, never one more.
    fn work(&self) {
        while let Some(job) = self.next() {
            job.carry_out();
            self.lock().under_way -= 1;
        }
    }

    fn next(&self) -> Option<J> {
        let mut jobs = self.lock();
        loop {
            if let Some(job) = jobs.waiting.pop_front() {
                jobs.under_way += 1;
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

impl<J> Shared<J> {
    fn lock(&self) -> MutexGuard<'_, Jobs<J>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<J: Job> Drop for Workers<J> {
    fn drop(&mut self) {
        let mut jobs = self.jobs.lock();
        jobs.closed = true;
        let threads = std::mem::take(&mut jobs.threads);
        drop(jobs);
        self.jobs.work.notify_all();
        for thread in threads {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            if thread.join().is_err() {
                log::error!("bug: thread {name} panicked");
            }
        }
    }
}

impl<J: Job> fmt::Debug for Workers<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Workers({:?})", self.capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread;

    /// A job that waits until it is let go.
    #[derive(Debug)]
    struct Waiting {
        aborted: Arc<AtomicBool>,
        go: Receiver<()>,
        ends: Sender<Event>,
    }

    impl Job for Waiting {
        fn carry_out(self) {
            let name = thread::current().name().unwrap_or_default().to_owned();
            self.ends.send((name.clone(), "begins")).unwrap();
            let _ = self.go.recv();
            self.ends.send((name, "ends")).unwrap();
        }

        fn is_aborted(&self) -> bool {
            self.aborted.load(Ordering::SeqCst)
        }

        fn cancel(self) {
            self.ends.send((String::new(), "cancelled")).unwrap();
        }
    }

    /// Which thread, and what about its job.
    type Event = (String, &'static str);

    struct Bench {
        workers: Workers<Waiting>,
        ends: (Sender<Event>, Receiver<Event>),
    }

    impl Bench {
        fn new(threads: usize, waiting: usize) -> Bench {
            let stack = Some(128 << 10);
            let workers = Workers::new("job", Capacity { threads, waiting, stack });
            Bench { workers, ends: channel() }
        }

        /// Starts a job; it ends when the sender is dropped.
        fn start(&self, aborted: &Arc<AtomicBool>) -> Result<Sender<()>, Refused<Waiting>> {
            let (sender, go) = channel();
            let ends = self.ends.0.clone();
            self.workers.start(Waiting { aborted: Arc::clone(aborted), go, ends })?;
            Ok(sender)
        }

        fn next(&self) -> Event {
            self.ends.1.recv().unwrap()
        }
    }

    #[test]
    fn what_exceeds_the_threads_waits_and_what_exceeds_that_is_handed_back() {
        let (bench, alive) = (Bench::new(2, 1), Arc::default());
        bench.workers.rename("lun-0-1");
        let first = bench.start(&alive).unwrap();
        let second = bench.start(&alive).unwrap();
        let mut names = [bench.next().0, bench.next().0];
        names.sort();
        assert_eq!(names, ["lun-0-1-0", "lun-0-1-1"]);
        let third = bench.start(&alive).unwrap();
        assert!(matches!(bench.start(&alive), Err(Refused::Full(_))));
        drop(first);
        assert_eq!((bench.next().1, bench.next().1), ("ends", "begins"));
        drop((second, third));
        assert_eq!((bench.next().1, bench.next().1), ("ends", "ends"));
        drop(bench.start(&alive).unwrap());
    }

    #[test]
    fn only_what_has_not_begun_is_cancelled() {
        let bench = Bench::new(1, 8);
        let (aborted, alive) = (Arc::new(AtomicBool::new(true)), Arc::default());
        let running = bench.start(&aborted).unwrap();
        assert_eq!(bench.next().1, "begins");
        let stays = bench.start(&alive).unwrap();
        let _goes = bench.start(&aborted).unwrap();
        bench.workers.cancel_aborted();
        assert_eq!(bench.next().1, "cancelled");
        drop((running, stays));
        let ends = [bench.next().1, bench.next().1, bench.next().1];
        assert_eq!(ends, ["ends", "begins", "ends"]);
    }

    #[test]
    fn the_end_waits_for_all_jobs() {
        let (bench, alive) = (Bench::new(1, 8), Arc::default());
        let jobs = [(); 3].map(|()| bench.start(&alive).unwrap());
        drop(jobs);
        let Bench { workers, ends } = bench;
        drop(workers);
        assert_eq!(ends.1.try_iter().filter(|(_, what)| *what == "ends").count(), 3);
    }

    #[test]
    fn without_a_thread_a_job_is_handed_back() {
        assert!(matches!(Bench::new(0, 8).start(&Arc::default()), Err(Refused::NoThread(_))));
    }
}

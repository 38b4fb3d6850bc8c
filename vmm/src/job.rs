//! Work that may take its time or never end, as a disk may: a thread of its own does it, and the
//! main loop goes on and can give it up.

use std::io::{self, PipeReader};
use std::os::fd::{AsRawFd, RawFd};
use std::panic::resume_unwind;
use std::thread::{self, JoinHandle};

/// Work that has begun. Hung up, as a descriptor, once it is done.
#[derive(Debug)]
pub(crate) struct Job<T> {
    done: PipeReader,
    thread: JoinHandle<T>,
}

impl<T: Send + 'static> Job<T> {
    /// Begins.
    ///
    /// # Errors
    /// When the host cannot start a thread; the work has been dropped then.
    pub(crate) fn start(work: impl FnOnce() -> T + Send + 'static) -> io::Result<Self> {
        let (done, working) = io::pipe()?;
        let thread = thread::Builder::new().name("closing".to_owned()).spawn(move || {
            let _working = working;
            work()
        })?;
        Ok(Job { done, thread })
    }

    /// What came of it; waits for the end of the work.
    pub(crate) fn result(self) -> T {
        self.thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    }
}

impl<T> AsRawFd for Job<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.done.as_raw_fd()
    }
}

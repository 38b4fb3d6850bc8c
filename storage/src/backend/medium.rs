//! A backend while it is in use: one flush at a time, and none after one that failed.
//!
//! Linux reports a failed write-back once and then forgets the pages, so a second fdatasync that
//! succeeds proves nothing: after the first failure the medium takes no writes until it is opened
//! again. That holds for every error, also one that sounds as if nothing had been tried: ENOMEM may
//! be what a device below answered to the write-back. Of two flushes at the same time only one may hear of the failure. So they take turns,
//! and those that come while one is under way are all served by the next.

use std::io;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::Backend;

/// A backend, and whether what it acknowledged can still be made stable.
#[derive(Debug)]
pub struct Medium {
    name: String,
    backend: Box<dyn Backend>,
    lost_writes: AtomicBool,
    flushes: Mutex<Flushes>,
    flush_ended: Condvar,
}

/// Flushes are numbered in the order in which they start, from 1.
#[derive(Debug, Default)]
struct Flushes {
    under_way: bool,
    started: u64,
    /// The last one that made stable what was written before it started.
    succeeded: u64,
}

impl Flushes {
    fn start(&mut self) -> u64 {
        self.under_way = true;
        self.started += 1;
        self.started
    }
}

impl Medium {
    /// A medium that has lost nothing yet; `name` tells it apart in logs.
    #[must_use]
    pub fn new(name: impl Into<String>, backend: Box<dyn Backend>) -> Medium {
        Medium {
            name: name.into(),
            backend,
            lost_writes: AtomicBool::new(false),
            flushes: Mutex::default(),
            flush_ended: Condvar::new(),
        }
    }

    /// Its name in logs.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What carries the data.
    #[must_use]
    pub fn backend(&self) -> &dyn Backend {
        self.backend.as_ref()
    }

    /// Makes everything stable that was written before; waits for a flush that is under way.
    ///
    /// # Errors
    /// What the host says, and writes are lost; `EIO` where they were before.
    pub fn flush(&self) -> io::Result<()> {
        let mut flushes = self.lock();
        let covering = flushes.started + 1;
        while flushes.under_way {
            flushes = self.flush_ended.wait(flushes).unwrap_or_else(PoisonError::into_inner);
            if flushes.succeeded >= covering {
                return Ok(());
            }
        }
        if self.has_lost_writes() {
            return Err(lost());
        }
        let turn = FlushTurn { medium: self, number: flushes.start() };
        drop(flushes);
        turn.end(self.backend.flush())
    }

    /// [`Medium::flush`] for a thread that may itself have to end the flush that is under way:
    /// `None` while there is one.
    pub(crate) fn try_flush(&self) -> Option<io::Result<()>> {
        match FlushTurn::begin(self) {
            Some(turn) => Some(turn.end(self.backend.flush())),
            None => self.has_lost_writes().then(|| Err(lost())),
        }
    }

    /// Whether a flush failed.
    #[must_use]
    pub fn has_lost_writes(&self) -> bool {
        self.lost_writes.load(Ordering::Relaxed)
    }

    /// A flush that ends like this.
    #[cfg(test)]
    pub(crate) fn note_flush(&self, result: io::Result<()>) -> io::Result<()> {
        FlushTurn::begin(self).expect("it is its turn").end(result)
    }

    fn lock(&self) -> MutexGuard<'_, Flushes> {
        self.flushes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lost() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

/// The right to flush a medium, until it is dropped. Dropped without an end, it was not used.
#[derive(Debug)]
pub(crate) struct FlushTurn<M: Deref<Target = Medium>> {
    medium: M,
    number: u64,
}

impl<M: Deref<Target = Medium>> FlushTurn<M> {
    /// `None` where a flush is under way, or would prove nothing any more.
    pub(crate) fn begin(medium: M) -> Option<FlushTurn<M>> {
        let mut flushes = medium.lock();
        if flushes.under_way || medium.has_lost_writes() {
            return None;
        }
        let number = flushes.start();
        drop(flushes);
        Some(FlushTurn { medium, number })
    }

    /// Takes note of how the flush ended.
    pub(crate) fn end(self, result: io::Result<()>) -> io::Result<()> {
        match &result {
            Ok(()) => self.medium.lock().succeeded = self.number,
            Err(_) => self.medium.lost_writes.store(true, Ordering::Relaxed),
        }
        result
    }
}

impl<M: Deref<Target = Medium>> Drop for FlushTurn<M> {
    fn drop(&mut self) {
        self.medium.lock().under_way = false;
        self.medium.flush_ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Geometry, Memory};

    fn medium() -> Medium {
        let memory = Memory::new(Geometry { blocks: 1, block_size: 512 });
        Medium::new("test", Box::new(memory))
    }

    fn failure(errno: i32) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(errno))
    }

    #[test]
    fn flushes_take_turns() {
        let medium = medium();
        let turn = FlushTurn::begin(&medium).unwrap();
        assert!(FlushTurn::begin(&medium).is_none());
        assert!(medium.try_flush().is_none());
        drop(turn);
        medium.flush().unwrap();
        assert!(!medium.has_lost_writes());
    }

    #[test]
    fn after_a_failure_no_flush_succeeds() {
        for errno in 1..134 {
            let medium = medium();
            assert!(medium.note_flush(failure(errno)).is_err());
            assert!(medium.has_lost_writes());
            assert!(medium.flush().is_err());
            assert!(medium.try_flush().unwrap().is_err());
            assert!(FlushTurn::begin(&medium).is_none());
        }
    }

    /// Whoever comes while a flush is under way is not told of that one's success.
    #[test]
    fn a_flush_that_waited_has_one_of_its_own() {
        let medium = medium();
        let turn = FlushTurn::begin(&medium).unwrap();
        std::thread::scope(|scope| {
            let waiting: Vec<_> = (0..4).map(|_| scope.spawn(|| medium.flush())).collect();
            // Long enough for one of them to wait; if none does, nothing is shown.
            std::thread::sleep(std::time::Duration::from_millis(50));
            turn.end(Ok(())).unwrap();
            assert!(waiting.into_iter().all(|it| it.join().unwrap().is_ok()));
        });
        assert!((2..=5).contains(&medium.lock().succeeded), "{medium:?}");
    }
}

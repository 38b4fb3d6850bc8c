//! Waiting between attempts at a command: for how long, and who ends it early.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Pauses that grow, until the time is up. The clock is first read at the first pause.
#[derive(Debug)]
pub(super) struct BackOff {
    limit: Duration,
    end: Option<Instant>,
    next: Duration,
}

impl BackOff {
    const FIRST: Duration = Duration::from_millis(10);
    const LONGEST: Duration = Duration::from_secs(1);

    /// Pauses that end when `limit` has passed since the first began.
    pub(super) fn new(limit: Duration) -> BackOff {
        BackOff { limit, end: None, next: BackOff::FIRST }
    }

    /// How long to wait before the next attempt; `None` if there is to be none.
    pub(super) fn pause(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let end = *self.end.get_or_insert(now + self.limit);
        let left = end.checked_duration_since(now).filter(|left| !left.is_zero())?;
        let pause = self.next.min(left);
        self.next = self.next.saturating_mul(2).min(BackOff::LONGEST);
        Some(pause)
    }
}

/// Wakes those that wait before their time is up.
#[derive(Debug, Default)]
pub(super) struct Bell {
    strokes: Mutex<()>,
    rung: Condvar,
}

impl Bell {
    /// Has everybody who waits look whether to go on waiting.
    pub(super) fn ring(&self) {
        let _strokes = self.lock();
        self.rung.notify_all();
    }

    /// Waits for `pause`, or until `enough` is so, of which every ring is a reason to look. Returns
    /// whether it is.
    pub(super) fn wait(&self, pause: Duration, enough: impl Fn() -> bool) -> bool {
        let waited = self.rung.wait_timeout_while(self.lock(), pause, |()| !enough());
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.strokes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn pauses_grow_and_end() {
        let mut back_off = BackOff::new(Duration::from_secs(3600));
        let pauses: Vec<_> = (0..9).map(|_| back_off.pause().unwrap().as_millis()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        assert_eq!(BackOff::new(Duration::ZERO).pause(), None);
        let mut short = BackOff::new(Duration::from_millis(2));
        assert!(short.pause().unwrap() <= Duration::from_millis(2));
        std::thread::sleep(Duration::from_millis(3));
        assert_eq!(short.pause(), None);
    }

    #[test]
    fn a_ring_ends_a_wait_for_which_there_is_no_more_reason() {
        let (bell, enough) = (Bell::default(), AtomicBool::new(false));
        let long = Duration::from_secs(3600);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| bell.wait(long, || enough.load(Ordering::Acquire)));
            bell.ring();
            enough.store(true, Ordering::Release);
            bell.ring();
            assert!(waits.join().unwrap());
        });
        assert!(!bell.wait(Duration::from_millis(1), || false));
    }
}

//! A budget that refills with time.

use std::time::{Duration, Instant};

/// So many at once, and then one each `refill`.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    size: u32,
    refill: Duration,
    /// When it will be, or was, full.
    full: Instant,
}

impl Budget {
    /// A full one, of at least one.
    pub(crate) fn new(size: u32, refill: Duration, now: Instant) -> Budget {
        Budget { size: size.max(1), refill, full: now }
    }

    /// Takes one, and says how long to wait until it is there.
    pub(crate) fn take(&mut self, now: Instant) -> Duration {
        self.full = self.full.max(now) + self.refill;
        let depth = self.refill.saturating_mul(self.size);
        self.full.saturating_duration_since(now).saturating_sub(depth)
    }

    /// Takes one if it is there.
    pub(crate) fn try_take(&mut self, now: Instant) -> bool {
        let before = self.full;
        let there = self.take(now).is_zero();
        if !there {
            self.full = before;
        }
        there
    }

    /// Whether nothing is missing.
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.full <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_exceeds_a_burst_waits_its_turn() {
        let start = Instant::now();
        let mut budget = Budget::new(3, SECOND, start);
        assert!((0..3).all(|_| budget.take(start).is_zero()));
        assert!(!budget.is_full(start));
        assert_eq!(budget.take(start), SECOND);
        assert_eq!(budget.take(start), 2 * SECOND);
        assert_eq!(budget.take(start + 5 * SECOND), Duration::ZERO);
        assert!(budget.is_full(start + 60 * SECOND));
    }

    #[test]
    fn what_is_not_there_is_not_taken() {
        let start = Instant::now();
        let mut budget = Budget::new(2, SECOND, start);
        assert_eq!([(); 4].map(|()| budget.try_take(start)), [true, true, false, false]);
        assert_eq!([(); 2].map(|()| budget.try_take(start + SECOND)), [true, false]);
    }
}

//! The time, which tests set.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What tells the time.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<Mutex<Instant>>>);

impl Clock {
    /// One that stands still until it is advanced, along with its copies.
    #[must_use]
    pub fn stopped() -> Clock {
        Clock(Some(Arc::new(Mutex::new(Instant::now()))))
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> Instant {
        let set = self.0.as_ref().map(|set| *set.lock().unwrap_or_else(PoisonError::into_inner));
        set.unwrap_or_else(Instant::now)
    }

    /// Lets `time` pass, where it stands still.
    pub fn advance(&self, time: Duration) {
        if let Some(set) = &self.0 {
            *set.lock().unwrap_or_else(PoisonError::into_inner) += time;
        }
    }
}

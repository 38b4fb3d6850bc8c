//! The mirror of the host's unit attentions: what the host's own drivers are told by a device, its
//! initiator here is to hear as well; at least once, perhaps late, and not twice.
//!
//! A device tells a nexus of a change once, whoever of its users sends the next command. Where that
//! is the host, a uevent or a look at sysfs is what is left of it; where it is a command of ours,
//! the initiator gets the device's own unit attention, and there is a uevent as well, which may
//! come first. So what the host shows waits for [`WINDOW`], and is dropped if the device's own
//! comes meanwhile or came that recently.
//!
//! Owns the times; knows nothing of where either comes from.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::scsi::sense::SenseCode;

/// How far apart two tidings of one event may be.
pub const WINDOW: Duration = Duration::from_secs(1);

/// More than there are events of the host; a device may make up any number.
const ROOM: usize = 32;

/// What an initiator has heard, and what it is about to hear.
#[derive(Debug, Default)]
pub struct Mirror(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// What it heard lately, and when.
    heard: Vec<(SenseCode, Instant)>,
    /// What the host showed, and when.
    waiting: Vec<(SenseCode, Instant)>,
}

impl Mirror {
    /// The initiator is about to be given this unit attention, or has been by the device: it
    /// counts as heard. Whether that is news to it.
    pub fn claim(&self, code: SenseCode, now: Instant) -> bool {
        let mut state = self.lock();
        state.forget(now);
        let heard = state.heard.iter().any(|(other, _)| is_same_event(*other, code));
        state.waiting.retain(|(other, _)| !is_same_event(*other, code));
        state.hear(code, now);
        !heard
    }

    /// The host shows that this unit attention has been, or should have been.
    pub fn should_raise(&self, code: SenseCode, now: Instant) {
        let mut state = self.lock();
        state.forget(now);
        let known = state.heard.iter().chain(&state.waiting);
        let is_known = known.into_iter().any(|(other, _)| is_same_event(*other, code));
        if !is_known && state.waiting.len() < ROOM {
            state.waiting.push((code, now));
        }
    }

    /// What is to be raised now, in the order in which it was shown.
    #[must_use]
    pub fn due(&self, now: Instant) -> Vec<SenseCode> {
        let mut state = self.lock();
        let is_due = |shown: &Instant| now.saturating_duration_since(*shown) >= WINDOW;
        let due: Vec<_> = state
            .waiting
            .extract_if(.., |(_, shown)| is_due(shown))
            .map(|(code, _)| code)
            .collect();
        due.iter().for_each(|&code| state.hear(code, now));
        due
    }

    /// When something will be due, if anything waits.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.lock().waiting.iter().map(|(_, shown)| *shown + WINDOW).min()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn hear(&mut self, code: SenseCode, now: Instant) {
        self.forget(now);
        self.heard.retain(|(other, _)| *other != code);
        if self.heard.len() >= ROOM {
            self.heard.remove(0);
        }
        self.heard.push((code, now));
    }

    fn forget(&mut self, now: Instant) {
        self.heard.retain(|(_, heard)| now.saturating_duration_since(*heard) < WINDOW);
    }
}

/// A reset has many names (29h and its qualifiers), and the host's for it need not be the device's.
fn is_same_event(one: SenseCode, other: SenseCode) -> bool {
    const RESET_OCCURRED: u8 = 0x29;
    one == other || (one.asc == RESET_OCCURRED && other.asc == RESET_OCCURRED)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: SenseCode = SenseCode::CAPACITY_DATA_HAS_CHANGED;
    const LUNS: SenseCode = SenseCode::REPORTED_LUNS_DATA_HAS_CHANGED;
    const MOMENT: Duration = Duration::from_millis(1);

    #[test]
    fn what_the_host_shows_is_raised_once_and_late() {
        let (mirror, start) = (Mirror::default(), Instant::now());
        mirror.should_raise(CAPACITY, start);
        mirror.should_raise(LUNS, start + MOMENT);
        mirror.should_raise(CAPACITY, start + MOMENT);
        assert_eq!(mirror.next_due(), Some(start + WINDOW));
        assert_eq!(mirror.due(start + WINDOW - MOMENT), []);
        assert_eq!(mirror.due(start + WINDOW + MOMENT), [CAPACITY, LUNS]);
        mirror.should_raise(CAPACITY, start + WINDOW + WINDOW);
        assert_eq!(mirror.next_due(), None, "it has just been raised");
        mirror.should_raise(CAPACITY, start + WINDOW + WINDOW + MOMENT);
        assert_eq!(mirror.due(start + 4 * WINDOW), [CAPACITY], "a change of its own");
    }

    #[test]
    fn the_devices_own_within_the_window_says_it() {
        let (mirror, start) = (Mirror::default(), Instant::now());
        mirror.claim(CAPACITY, start);
        mirror.should_raise(CAPACITY, start + WINDOW - MOMENT);
        assert_eq!(mirror.due(start + 3 * WINDOW), [], "before");
        mirror.should_raise(CAPACITY, start + 4 * WINDOW);
        mirror.claim(CAPACITY, start + 5 * WINDOW - MOMENT);
        assert_eq!(mirror.due(start + 6 * WINDOW), [], "after");
        mirror.should_raise(CAPACITY, start + 7 * WINDOW);
        mirror.claim(LUNS, start + 7 * WINDOW);
        assert_eq!(mirror.due(start + 8 * WINDOW), [CAPACITY], "another");
    }

    #[test]
    fn a_device_that_makes_up_news_is_not_believed_for_ever() {
        let (mirror, start) = (Mirror::default(), Instant::now());
        for ascq in 0..=u8::MAX {
            mirror.should_raise(SenseCode { ascq, ..CAPACITY }, start);
        }
        assert_eq!(mirror.due(start + WINDOW).len(), ROOM);
    }

    #[test]
    fn one_reset_is_one_whatever_it_is_called() {
        let (mirror, start) = (Mirror::default(), Instant::now());
        mirror.claim(SenseCode::POWER_ON_OCCURRED, start);
        mirror.should_raise(SenseCode::BUS_DEVICE_RESET_FUNCTION_OCCURRED, start);
        assert_eq!(mirror.next_due(), None);
    }
}

//! Unit attention conditions of one logical unit for one I_T nexus (SAM-6, Unit attention
//! conditions).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::scsi::sense::SenseCode;

/// Pending conditions, oldest first, each once. Whether there are any is one load.
#[derive(Debug, Default)]
pub(super) struct Attention {
    len: AtomicUsize,
    pending: Mutex<VecDeque<SenseCode>>,
}

/// Whether a condition comes before a reservation conflict: those that a reset or the loss of a
/// nexus establishes, and MICROCODE HAS BEEN CHANGED (SAM-6, Unit attention conditions).
fn is_of_reset_class(code: SenseCode) -> bool {
    const RESET_OCCURRED: u8 = 0x29;
    code.asc == RESET_OCCURRED || code == SenseCode::MICROCODE_HAS_BEEN_CHANGED
}

impl Attention {
    /// Establishes `code`, unless it is pending already, or the initiator has yet to hear of the
    /// power-on, after which it looks at everything anyway.
    pub(super) fn raise(&self, code: SenseCode) {
        self.change(|pending| {
            if !pending.contains(&code) && !pending.contains(&SenseCode::POWER_ON_OCCURRED) {
                pending.push_back(code);
            }
        });
    }

    /// Reports the oldest condition of the reset class, and clears it.
    pub(super) fn take_reset(&self) -> Option<SenseCode> {
        self.take(|&code| is_of_reset_class(code))
    }

    /// Reports the oldest condition, and clears it.
    pub(super) fn take_any(&self) -> Option<SenseCode> {
        self.take(|_| true)
    }

    /// Clears `code`, which the initiator has learnt by other means.
    pub(super) fn clear(&self, code: SenseCode) {
        if !self.is_clear() {
            self.change(|pending| pending.retain(|&other| other != code));
        }
    }

    fn take(&self, wanted: impl Fn(&SenseCode) -> bool) -> Option<SenseCode> {
        if self.is_clear() {
            return None;
        }
        self.change(|pending| {
            let index = pending.iter().position(wanted)?;
            pending.remove(index)
        })
    }

    fn is_clear(&self) -> bool {
        self.len.load(Ordering::Acquire) == 0
    }

    fn change<T>(&self, change: impl FnOnce(&mut VecDeque<SenseCode>) -> T) -> T {
        let mut pending: MutexGuard<'_, _> =
            self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut pending);
        self.len.store(pending.len(), Ordering::Release);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_come_in_order_once_and_reset_first() {
        let attention = Attention::default();
        let reset = SenseCode { ascq: 0x03, ..SenseCode::POWER_ON_OCCURRED };
        attention.raise(SenseCode::REPORTED_LUNS_DATA_HAS_CHANGED);
        attention.raise(reset);
        attention.raise(SenseCode::REPORTED_LUNS_DATA_HAS_CHANGED);
        assert_eq!(attention.take_reset(), Some(reset));
        assert_eq!(attention.take_reset(), None);
        assert_eq!(attention.take_any(), Some(SenseCode::REPORTED_LUNS_DATA_HAS_CHANGED));
        assert_eq!(attention.take_any(), None);
    }

    #[test]
    fn power_on_says_it_all() {
        let attention = Attention::default();
        attention.raise(SenseCode::POWER_ON_OCCURRED);
        attention.raise(SenseCode::REPORTED_LUNS_DATA_HAS_CHANGED);
        assert_eq!(attention.take_any(), Some(SenseCode::POWER_ON_OCCURRED));
        assert_eq!(attention.take_any(), None);
    }

    #[test]
    fn what_is_cleared_is_not_reported() {
        let attention = Attention::default();
        attention.raise(SenseCode::REPORTED_LUNS_DATA_HAS_CHANGED);
        attention.clear(SenseCode::REPORTED_LUNS_DATA_HAS_CHANGED);
        assert_eq!(attention.take_any(), None);
    }
}

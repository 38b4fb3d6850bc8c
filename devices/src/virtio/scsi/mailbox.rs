//! Where other threads leave answers for a request queue's thread.

use std::sync::{Mutex, PoisonError};

use storage::task::{Answer, ReplySink};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Answers, and the event that tells of them.
#[derive(Debug)]
pub(super) struct Mailbox {
    answers: Mutex<Vec<Answer>>,
    event: EventFd,
}

impl Mailbox {
    pub(super) fn new() -> std::io::Result<Mailbox> {
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        Ok(Mailbox { answers: Mutex::default(), event })
    }

    /// Written after each answer.
    pub(super) fn event(&self) -> &EventFd {
        &self.event
    }

    /// Takes what is there.
    pub(super) fn take(&self) -> Vec<Answer> {
        std::mem::take(&mut *self.answers.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ReplySink for Mailbox {
    fn complete(&self, answer: Answer) {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
        if let Err(error) = self.event.write(1) {
            log::error!("cannot wake a request queue: {error}");
        }
    }
}

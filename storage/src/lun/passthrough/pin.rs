//! The pin: a logical unit stays the one that it was when it was opened, or that its configuration
//! names.
//!
//! An address of the host, and an open descriptor with it, outlives the logical unit behind it:
//! an array can map another one to the same LUN. So whatever may announce that makes the pin
//! *suspect*, and until the identity has been checked again no command is sent. What was at the
//! device before the announcement came cannot be recalled: SG_IO takes nothing back. A device that
//! is standing by the rules reports a unit attention instead of carrying out the first command
//! after such a change, and that is an announcement.
//!
//! Knows nothing of what announces a change, nor of initiators.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::identity::{Identity, Unknown};
use crate::host::{OpenError, ScsiHost};
use crate::scsi::designator::Designator;

/// A logical unit's pin.
#[derive(Debug)]
pub struct Pin {
    expected: Identity,
    /// Suspicions that no check has answered yet, and [`CLOSED`]. Zero is trust.
    word: AtomicU64,
    checks: Mutex<Checks>,
    checked: Condvar,
    patience: Duration,
}

/// Nothing is sent, and nobody waits.
const CLOSED: u64 = 1 << 63;

#[derive(Debug, Default)]
struct Checks {
    /// One was asked for, and has not ended.
    pending: bool,
    /// How many have ended.
    ended: u64,
}

/// Why a command must not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The device is gone, or another one is in its place.
    #[error("it is gone, or another one is in its place")]
    Closed,
    /// Nobody can say at present what is there: the way to the device is lost, or slow.
    #[error("it does not say whether it is the right one")]
    Unverified,
    /// The initiator wants no more of it.
    #[error("nobody wants that any more")]
    Aborted,
}

/// What is there is not what should be, or nobody can say.
#[derive(Debug, thiserror::Error)]
pub enum Mistaken {
    /// Another logical unit.
    #[error("it is {found} and not {expected}")]
    Other {
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// No answer.
    #[error("{0}")]
    Unknown(#[from] Unknown),
}

impl Mistaken {
    /// Whether the device itself says that what should be there is not.
    #[must_use]
    pub fn is_certain(&self) -> bool {
        matches!(self, Mistaken::Other { .. } | Mistaken::Unknown(Unknown::Nothing))
    }
}

/// The suspicions that a check has answered.
#[derive(Clone, Copy, Debug)]
#[must_use = "a check that is not trusted changes nothing"]
pub struct Checked(u64);

impl Pin {
    /// How long a command waits for a check. A check takes longer where a path is lost, and then
    /// the command is one for later.
    pub const PATIENCE: Duration = Duration::from_secs(5);

    /// Pins what is there: to `expect`, or where that is `None` to what it says it is.
    ///
    /// # Errors
    /// Where `expect` is not there, or the device does not say what it is.
    pub fn new(expect: Option<&Designator>, host: &dyn ScsiHost) -> Result<Pin, OpenError> {
        let found = Identity::of(host).map_err(|why| OpenError::Unidentified(why.to_string()))?;
        let expected = match expect {
            Some(designator) if found.has(designator) => {
                Identity::Designators(vec![designator.clone()])
            }
            Some(designator) => {
                let expected = designator.clone();
                return Err(OpenError::Mismatch { expected, found: found.to_string() });
            }
            None => found.essence(),
        };
        Ok(Pin {
            expected,
            word: AtomicU64::new(0),
            checks: Mutex::default(),
            checked: Condvar::new(),
            patience: Pin::PATIENCE,
        })
    }

    /// The same pin with another [`Pin::PATIENCE`].
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Pin {
        Pin { patience, ..self }
    }

    /// What it holds to.
    #[must_use]
    pub fn expected(&self) -> &Identity {
        &self.expected
    }

    /// Something happened after which another logical unit may be there.
    pub fn suspect(&self) {
        self.word.fetch_add(1, Ordering::AcqRel);
    }

    /// The right logical unit is known not to be there.
    pub fn close(&self) {
        // Counted as well, so that no check that runs meanwhile is trusted.
        self.word.fetch_add(1, Ordering::AcqRel);
        self.word.fetch_or(CLOSED, Ordering::AcqRel);
        self.checked.notify_all();
    }

    /// Whether commands may be sent, as far as is known.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        self.word.load(Ordering::Acquire) == 0
    }

    /// Lets a command pass that is to be sent next. Where there is no suspicion that is one load;
    /// otherwise a check is asked for, once for all who wait, by `ask`, which must see to it that
    /// [`Pin::check`] and [`Pin::end_check`] are called by somebody else.
    ///
    /// # Errors
    /// [`Refusal`]: the command must not be sent.
    pub fn admit(&self, ask: impl Fn(), is_aborted: impl Fn() -> bool) -> Result<(), Refusal> {
        match self.word.load(Ordering::Acquire) {
            0 => Ok(()),
            _ => self.wait(ask, is_aborted),
        }
    }

    fn wait(&self, ask: impl Fn(), is_aborted: impl Fn() -> bool) -> Result<(), Refusal> {
        /// How soon an abort is noticed.
        const GLANCE: Duration = Duration::from_millis(50);
        let deadline = Instant::now() + self.patience;
        let mut checks = self.lock();
        let before = checks.ended;
        loop {
            match self.word.load(Ordering::Acquire) {
                0 => return Ok(()),
                word if word & CLOSED != 0 => return Err(Refusal::Closed),
                _ if is_aborted() => return Err(Refusal::Aborted),
                _ if checks.ended != before => return Err(Refusal::Unverified),
                _ if Instant::now() >= deadline => return Err(Refusal::Unverified),
                _ => {}
            }
            if !checks.pending {
                checks.pending = true;
                drop(checks);
                ask();
                checks = self.lock();
                continue;
            }
            let waited = self.checked.wait_timeout(checks, GLANCE);
            checks = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Asks `host` what is there. It takes its time.
    ///
    /// # Errors
    /// [`Mistaken`]: not the right logical unit, as far as is known.
    pub fn check(&self, host: &dyn ScsiHost) -> Result<Checked, Mistaken> {
        let suspicions = self.word.load(Ordering::Acquire);
        let found = Identity::of(host)?;
        if self.expected.is_part_of(&found) {
            return Ok(Checked(suspicions));
        }
        let (expected, found) = (self.expected.to_string(), found.to_string());
        Err(Mistaken::Other { expected, found })
    }

    /// Lets commands pass again, unless there has been another suspicion since the check began.
    pub fn trust(&self, Checked(suspicions): Checked) -> bool {
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        self.word.compare_exchange(suspicions, 0, success, failure).is_ok()
    }

    /// What was asked for is done, however it ended: who waits for it learns what came of it.
    pub fn end_check(&self) {
        let mut checks = self.lock();
        checks.pending = false;
        checks.ended += 1;
        self.checked.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Checks> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::HostStatus;
    use crate::testing::{FakeDevice, FakeHost, Outcome};
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    const HOUR: Duration = Duration::from_secs(3600);
    const MOMENT: Duration = Duration::from_millis(20);

    fn other() -> FakeDevice {
        let mut device = FakeDevice::default();
        device.set_vpd(&[0, 0x83, 0, 12, 1, 3, 0, 8, 0x50, 9, 9, 9, 9, 9, 9, 9]);
        device
    }

    fn pin(patience: Duration) -> Pin {
        Pin::new(None, &FakeHost::default()).unwrap().with_patience(patience)
    }

    fn checked(pin: &Pin, host: &FakeHost) {
        if let Ok(checked) = pin.check(host) {
            pin.trust(checked);
        }
        pin.end_check();
    }

    fn nobody() {
        panic!("no check is needed");
    }

    #[test]
    fn what_is_expected_must_be_there_at_open() {
        let there = "naa.5001405000000001".parse().unwrap();
        let pin = Pin::new(Some(&there), &FakeHost::default()).unwrap();
        assert_eq!(pin.expected().to_string(), "naa.5001405000000001");
        let error = Pin::new(Some(&there), &FakeHost::new(other())).unwrap_err();
        let text = "is not naa.5001405000000001 but naa.5009090909090909";
        assert_eq!(error.to_string(), text);
        let mut silent = FakeDevice::default();
        silent.vpd.clear();
        let error = Pin::new(Some(&there), &FakeHost::new(silent)).unwrap_err().to_string();
        assert!(error.ends_with("but VMM FAKE DISK without a serial number"), "{error}");
    }

    #[test]
    fn who_does_not_say_what_it_is_is_not_opened() {
        let host = FakeHost::default();
        host.next(Outcome::host(HostStatus::NO_CONNECT));
        let error = Pin::new(None, &host).unwrap_err();
        assert_eq!(
            error.to_string(),
            "does not say what it is: INQUIRY ended with host status 0x01"
        );
    }

    #[test]
    fn trust_lets_pass_and_suspicion_asks_once() {
        let (pin, host) = (pin(HOUR), FakeHost::default());
        assert_eq!(pin.admit(nobody, || false), Ok(()));
        pin.suspect();
        let asked = AtomicUsize::new(0);
        let ask = || {
            asked.fetch_add(1, Ordering::SeqCst);
        };
        thread::scope(|scope| {
            let waiting: Vec<_> =
                (0..4).map(|_| scope.spawn(|| pin.admit(ask, || false))).collect();
            while asked.load(Ordering::SeqCst) == 0 {
                thread::yield_now();
            }
            assert!(waiting.iter().all(|it| !it.is_finished()));
            checked(&pin, &host);
            waiting.into_iter().for_each(|it| assert_eq!(it.join().unwrap(), Ok(())));
        });
        assert_eq!(asked.into_inner(), 1);
        assert_eq!(pin.admit(nobody, || false), Ok(()));
    }

    #[test]
    fn another_suspicion_outlives_a_check() {
        let (pin, host) = (pin(HOUR), FakeHost::default());
        pin.suspect();
        let first = pin.check(&host).unwrap();
        pin.suspect();
        assert!(!pin.trust(first));
        assert!(!pin.is_trusted());
        let second = pin.check(&host).unwrap();
        assert!(pin.trust(second) && pin.is_trusted());
        pin.close();
        let third = pin.check(&host).unwrap();
        pin.close();
        assert!(!pin.trust(third), "it went again after the check");
    }

    #[test]
    fn nothing_passes_to_another_logical_unit() {
        let (pin, host) = (pin(HOUR), FakeHost::new(other()));
        pin.suspect();
        let mistaken = pin.check(&host).unwrap_err();
        assert!(mistaken.is_certain());
        let text = "it is naa.5009090909090909 and not naa.5001405000000001";
        assert_eq!(mistaken.to_string(), text);
        pin.close();
        assert_eq!(pin.admit(nobody, || false), Err(Refusal::Closed));
        checked(&pin, &FakeHost::default());
        assert_eq!(pin.admit(nobody, || false), Ok(()));
    }

    #[test]
    fn who_waits_hears_of_a_close_and_of_a_check_that_failed() {
        let pin = pin(HOUR);
        pin.suspect();
        assert_eq!(pin.admit(|| pin.close(), || false), Err(Refusal::Closed));
        let pin = self::pin(HOUR);
        pin.suspect();
        let lost = FakeHost::default();
        lost.next(Outcome::host(HostStatus::TRANSPORT_DISRUPTED));
        assert_eq!(pin.admit(|| checked(&pin, &lost), || false), Err(Refusal::Unverified));
        assert!(!pin.is_trusted());
    }

    #[test]
    fn nobody_waits_for_ever_nor_after_an_abort() {
        let pin = pin(MOMENT);
        pin.suspect();
        assert_eq!(pin.admit(|| {}, || false), Err(Refusal::Unverified));
        assert_eq!(pin.with_patience(HOUR).admit(|| {}, || true), Err(Refusal::Aborted));
    }
}

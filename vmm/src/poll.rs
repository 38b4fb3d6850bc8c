//! Waiting for several descriptors at once: poll(2).
//!
//! The few descriptors of the main loop are listed anew before each wait, so there is no
//! registration that could outlive its descriptor, and files, which epoll refuses, need no case of
//! their own.

use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// What to wait for in one descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    /// Something to read, the end of it included.
    Input,
    /// The other side is gone for good.
    HangUp,
}

/// Descriptors to wait for.
#[derive(Debug, Default)]
pub(crate) struct PollSet {
    entries: Vec<libc::pollfd>,
    until: Option<Instant>,
}

/// A descriptor's place in a [`PollSet`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place(usize);

impl PollSet {
    /// Adds a descriptor.
    pub(crate) fn add(&mut self, fd: &impl AsRawFd, interest: Interest) -> Place {
        let events = match interest {
            Interest::Input => libc::POLLIN,
            // Always waited for.
            Interest::HangUp => 0,
        };
        self.entries.push(libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 });
        Place(self.entries.len() - 1)
    }

    /// Lets no wait last longer than until `instant`.
    pub(crate) fn add_deadline(&mut self, instant: Instant) {
        self.until = Some(self.until.map_or(instant, |until| until.min(instant)));
    }

    /// Waits until there is something, or until `deadline` or one that was added.
    ///
    /// # Errors
    /// When the host refuses to wait.
    pub(crate) fn wait(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        deadline.into_iter().for_each(|deadline| self.add_deadline(deadline));
        loop {
            match self.poll(timeout(self.until)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    #[expect(unsafe_code, reason = "poll")]
    fn poll(&mut self, timeout: libc::c_int) -> io::Result<()> {
        let count = libc::nfds_t::try_from(self.entries.len()).unwrap_or(libc::nfds_t::MAX);
        // SAFETY: the array is `count` entries long, and poll only fills their `revents` in.
        match unsafe { libc::poll(self.entries.as_mut_ptr(), count, timeout) } {
            0.. => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Whether the descriptor at `place` has what was waited for, or is hung up or broken.
    pub(crate) fn is_ready(&self, place: Place) -> bool {
        self.revents(place) != 0
    }

    /// Whether the other side of the descriptor at `place` is gone for good.
    pub(crate) fn is_hung_up(&self, place: Place) -> bool {
        self.revents(place) & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0
    }

    fn revents(&self, place: Place) -> i16 {
        self.entries.get(place.0).map_or(0, |entry| entry.revents)
    }
}

/// Milliseconds until `deadline`, rounded up, for poll.
fn timeout(deadline: Option<Instant>) -> libc::c_int {
    let Some(deadline) = deadline else { return -1 };
    let left = deadline.saturating_duration_since(Instant::now());
    let rounded = left + Duration::from_nanos(999_999);
    libc::c_int::try_from(rounded.as_millis()).unwrap_or(libc::c_int::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn input_and_hang_up_are_told_apart() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let look = || {
            let mut set = PollSet::default();
            let (input, end) = (set.add(&ours, Interest::Input), set.add(&ours, Interest::HangUp));
            set.wait(Some(Instant::now())).unwrap();
            (set.is_ready(input), set.is_ready(end), set.is_hung_up(end))
        };
        assert_eq!(look(), (false, false, false));
        theirs.write_all(b"x").unwrap();
        assert_eq!(look(), (true, false, false));
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(look(), (true, false, false));
        drop(theirs);
        assert_eq!(look(), (true, true, true));
    }

    #[test]
    fn a_wait_ends_at_its_deadline() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut set = PollSet::default();
        let place = set.add(&ours, Interest::Input);
        let deadline = Instant::now() + Duration::from_millis(5);
        set.wait(Some(deadline)).unwrap();
        assert!(Instant::now() >= deadline && !set.is_ready(place));
    }
}

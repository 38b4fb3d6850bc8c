//! Memory of our own for data whose memory the host cannot use as it is, in a bounded amount.

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::buffer::{DataBuf, lend};
use crate::host::{Completion, Data};

/// How much of it one logical unit uses at a time.
#[derive(Debug)]
pub(super) struct Room {
    size: usize,
    used: Mutex<usize>,
    freed: Condvar,
}

/// Memory, until it is dropped.
#[derive(Debug)]
pub(super) struct Bounce<'a> {
    room: &'a Room,
    pub(super) bytes: Vec<u8>,
}

impl Room {
    /// Room for `size` bytes, or for one piece that is longer.
    pub(super) fn new(size: usize) -> Room {
        Room { size, used: Mutex::new(0), freed: Condvar::new() }
    }

    /// `len` zeroed bytes, once there is room for them; `None` if `enough` comes first.
    pub(super) fn take(&self, len: usize, enough: impl Fn() -> bool) -> Option<Bounce<'_>> {
        /// How soon an abort is noticed.
        const GLANCE: Duration = Duration::from_millis(50);
        let mut used = self.lock();
        while *used != 0 && used.saturating_add(len) > self.size {
            if enough() {
                return None;
            }
            let waited = self.freed.wait_timeout(used, GLANCE);
            used = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *used = used.saturating_add(len);
        drop(used);
        Some(Bounce { room: self, bytes: vec![0; len] })
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Bounce<'_> {
    fn drop(&mut self) {
        let mut used = self.room.lock();
        *used = used.saturating_sub(self.bytes.len());
        drop(used);
        self.room.freed.notify_all();
    }
}

/// Carries a command out by way of memory of our own, from which `data` is filled with what came.
///
/// # Errors
/// Those of `execute`; ECANCELED if `enough` comes before there is room.
pub(super) fn bounce_in(
    room: &Room,
    data: &mut DataBuf,
    enough: impl Fn() -> bool,
    execute: impl FnOnce(Data<'_>) -> io::Result<Completion>,
) -> io::Result<Completion> {
    let mut bounce = room.take(data.len(), enough).ok_or_else(cancelled)?;
    let completion = lend(&mut bounce.bytes, |buf| execute(Data::In(buf)))?;
    let missing = usize::try_from(completion.resid).unwrap_or(0);
    let came = bounce.bytes.len().saturating_sub(missing);
    data.write(bounce.bytes.get(..came).unwrap_or(&[]));
    Ok(completion)
}

/// Carries a command out by way of memory of our own, into which `data` is read.
///
/// # Errors
/// Those of `execute`; ECANCELED if `enough` comes before there is room.
pub(super) fn bounce_out(
    room: &Room,
    data: &DataBuf,
    enough: impl Fn() -> bool,
    execute: impl FnOnce(Data<'_>) -> io::Result<Completion>,
) -> io::Result<Completion> {
    let mut bounce = room.take(data.len(), enough).ok_or_else(cancelled)?;
    data.read(&mut bounce.bytes);
    lend(&mut bounce.bytes, |buf| execute(Data::Out(buf)))
}

fn cancelled() -> io::Error {
    io::Error::from_raw_os_error(libc::ECANCELED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn what_finds_no_room_waits_or_gives_up() {
        let room = Room::new(100);
        let first = room.take(60, || false).unwrap();
        assert!(room.take(60, || true).is_none());
        let small = room.take(40, || true).unwrap();
        assert_eq!((first.bytes.len(), small.bytes.len()), (60, 40));
        thread::scope(|scope| {
            let waits = scope.spawn(|| room.take(60, || false).is_some());
            drop(first);
            assert!(waits.join().unwrap());
        });
    }

    #[test]
    fn what_is_longer_than_all_of_it_goes_alone() {
        let room = Room::new(100);
        let long = room.take(1000, || true).unwrap();
        assert!(room.take(1, || true).is_none());
        drop(long);
        assert!(room.take(1, || true).is_some());
    }
}

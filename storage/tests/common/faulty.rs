//! A host that fails when it is told to: with an error, part of the way, late, or all of it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use storage::backend::{Backend, Geometry, Memory};
use storage::buffer::DataBuf;
use storage::testing::OwnedBuf;

/// How one call goes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fault {
    /// It ends only then.
    pub delay: Duration,
    /// It ends with this error.
    pub errno: Option<i32>,
    /// A transfer moves this many bytes before the error.
    pub after: usize,
}

impl Fault {
    pub fn errno(errno: i32) -> Fault {
        Fault { errno: Some(errno), ..Fault::default() }
    }

    fn strike(self) -> io::Result<()> {
        thread::sleep(self.delay);
        self.errno.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }
}

/// What the test has in mind for its host.
#[derive(Debug, Default)]
pub struct Faults {
    /// The next calls, one each; those after them go well.
    pub next: Mutex<VecDeque<Fault>>,
    /// Every call, while it is there.
    pub always: Mutex<Option<Fault>>,
    /// Every flush, while it is there.
    pub flush: Mutex<Option<Fault>>,
    pub flushes: AtomicUsize,
}

impl Faults {
    fn take(&self) -> Fault {
        let next = self.next.lock().unwrap().pop_front();
        next.or(*self.always.lock().unwrap()).unwrap_or_default()
    }
}

/// Memory behind such a host.
#[derive(Debug)]
pub struct Faulty {
    memory: Memory,
    faults: Arc<Faults>,
}

impl Faulty {
    pub fn new(geometry: Geometry) -> (Faulty, Arc<Faults>) {
        let faults = Arc::new(Faults::default());
        (Faulty { memory: Memory::new(geometry), faults: Arc::clone(&faults) }, faults)
    }
}

impl Backend for Faulty {
    fn geometry(&self) -> Geometry {
        self.memory.geometry()
    }

    fn read(&self, offset: u64, data: &mut DataBuf) -> io::Result<()> {
        let fault = self.faults.take();
        if fault.errno.is_none() {
            return self.memory.read(offset, data).and(fault.strike());
        }
        let mut part = OwnedBuf::zeroed(&[fault.after.min(data.len())]);
        self.memory.read(offset, &mut lend(&mut part))?;
        let moved = data.write(&part.bytes());
        data.advance(moved);
        fault.strike()
    }

    fn write(&self, offset: u64, data: &mut DataBuf) -> io::Result<()> {
        let fault = self.faults.take();
        if fault.errno.is_none() {
            return self.memory.write(offset, data).and(fault.strike());
        }
        let mut bytes = vec![0; fault.after.min(data.len())];
        let moved = data.read(&mut bytes);
        self.memory.write(offset, &mut lend(&mut OwnedBuf::holding(&bytes)))?;
        data.advance(moved);
        fault.strike()
    }

    fn flush(&self) -> io::Result<()> {
        self.faults.flushes.fetch_add(1, Ordering::SeqCst);
        self.faults
            .take()
            .strike()
            .and(self.faults.flush.lock().unwrap().unwrap_or_default().strike())
    }

    fn raw_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

fn lend(memory: &mut OwnedBuf) -> DataBuf {
    // SAFETY: it is used before the statement ends.
    unsafe { memory.lend() }
}

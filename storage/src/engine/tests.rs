#![expect(unsafe_code, reason = "buffers are lent to tasks")]

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::backend::{Backend, FlushTurn, Geometry};
use crate::buffer::DataBuf;
use crate::scsi::cdb::Cdb;
use crate::task::{ReplySink, Ticket};
use crate::testing::OwnedBuf;

/// A file that a ring can use, and that counts the flushes of others.
#[derive(Debug)]
struct Counting {
    file: File,
    flushes: Arc<AtomicUsize>,
}

impl Backend for Counting {
    fn geometry(&self) -> Geometry {
        Geometry { blocks: 8, block_size: 512 }
    }

    fn read(&self, _: u64, _: &mut DataBuf) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, _: u64, data: &mut DataBuf) -> io::Result<()> {
        assert!(data.is_empty(), "the ring has written it");
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.flushes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn raw_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }
}

#[derive(Default)]
struct Sink(Mutex<Vec<Response>>);

impl ReplySink for Sink {
    fn complete(&self, answer: Answer) {
        self.0.lock().unwrap().push(answer.response);
    }
}

#[test]
fn a_fua_write_on_a_ring_waits_for_the_flush_of_somebody_else() {
    let mut io = IoContext::new(4, Pool::new(1)).unwrap();
    let flushes = Arc::new(AtomicUsize::new(0));
    let counting = Counting { file: tempfile::tempfile().unwrap(), flushes: Arc::clone(&flushes) };
    let medium = Arc::new(Medium::new("test", Box::new(counting)));
    let turn = FlushTurn::begin(Arc::clone(&medium)).unwrap();
    if !matches!(io.engine, Engine::Ring(_)) {
        eprintln!("skipped: no io_uring");
        return;
    }

    let sink = Arc::new(Sink::default());
    let mut memory = OwnedBuf::holding(&[7; 512]);
    // SAFETY: `memory` outlives the answer.
    let data = unsafe { memory.lend() };
    let ticket = Ticket::new(Arc::clone(&sink) as Arc<dyn ReplySink>);
    let task = Task::new(ticket, Cdb::new(&[0x8a]), data, DataBuf::empty());
    let write = BlockIo::Write { offset: 0, fua: true };
    assert!(matches!(io.start(task, &medium, write, 0), Submitted::Pending));
    io.wait(true, &mut |answer| panic!("too early: {answer:?}")).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(flushes.load(Ordering::SeqCst), 0);
    assert!(sink.0.lock().unwrap().is_empty());

    drop(turn);
    let start = Instant::now();
    while sink.0.lock().unwrap().is_empty() {
        assert!(start.elapsed() < Duration::from_secs(60), "it does not end");
        std::thread::yield_now();
    }
    assert_eq!(*sink.0.lock().unwrap(), [Response::good(0)]);
    assert_eq!(flushes.load(Ordering::SeqCst), 1);
}

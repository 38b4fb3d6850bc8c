//! An initiator for tests: it issues commands and collects the answers, wherever they come from.
#![allow(dead_code, reason = "each test binary uses a part")]
#![expect(unsafe_code, reason = "tasks borrow the initiator's buffers")]

pub mod faulty;
pub mod host;
pub mod lane;
pub mod recorder;
pub mod seccomp;

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use storage::buffer::DataBuf;
use storage::engine::IoContext;
use storage::lun::Submitted;
use storage::scsi::cdb::Cdb;
use storage::task::{Answer, ReplySink, Response, Task, Ticket, Token};
use storage::testing::OwnedBuf;
use vmm_sys_util::eventfd::EventFd;

/// The bit of the initiator's own event.
pub const ANSWERED: u8 = 1 << 0;

/// Answers from other threads.
pub struct Inbox {
    pub answers: Mutex<Vec<Answer>>,
    pub event: EventFd,
}

impl ReplySink for Inbox {
    fn complete(&self, answer: Answer) {
        self.answers.lock().unwrap().push(answer);
        self.event.write(1).unwrap();
    }
}

/// Issues commands by number.
pub struct Initiator {
    pub inbox: Arc<Inbox>,
    buffers: HashMap<u32, (OwnedBuf, OwnedBuf)>,
    pub answered: HashMap<u32, (Response, Vec<u8>)>,
    /// What its buffers begin at multiples of.
    pub align: usize,
    next: u32,
}

impl Initiator {
    pub fn new(io: &mut IoContext) -> Initiator {
        let event = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        io.watch(&event, ANSWERED).unwrap();
        let inbox = Arc::new(Inbox { answers: Mutex::default(), event });
        Initiator { inbox, buffers: HashMap::new(), answered: HashMap::new(), align: 1, next: 0 }
    }

    /// A task that sends `out` and has room for `in_len` bytes, in segments of odd lengths
    /// unless they are to be aligned.
    pub fn task(&mut self, cdb: &[u8], out: &[u8], in_len: usize) -> (u32, Task) {
        let place = self.next;
        self.next += 1;
        let first = (in_len / 3).next_multiple_of(self.align).min(in_len);
        let into = OwnedBuf::aligned(&[first, in_len - first], self.align);
        let mut bytes = OwnedBuf::aligned(&[out.len()], self.align);
        bytes.fill(out);
        let (out, into) = self.buffers.entry(place).or_insert((bytes, into));
        // SAFETY: the buffers are kept until the answer has come.
        let (data_out, data_in): (DataBuf, DataBuf) = unsafe { (out.lend(), into.lend()) };
        let ticket = Ticket::new(Arc::clone(&self.inbox) as _);
        let ticket = ticket.with_token(Token { place, generation: 0 });
        (place, Task::new(ticket, Cdb::new(cdb), data_out, data_in))
    }

    /// Notes an answer that came at once.
    pub fn took(&mut self, submitted: Submitted) {
        if let Submitted::Done(answer) = submitted {
            self.settle(answer);
        }
    }

    pub fn settle(&mut self, answer: Answer) {
        let (ticket, response) = answer.into_parts();
        self.finish(ticket.token().place, response);
    }

    /// Notes the response to a command.
    pub fn finish(&mut self, place: u32, response: Response) {
        let (_, into) = self.buffers.remove(&place).expect("answered once");
        self.answered.insert(place, (response, into.bytes()));
    }

    /// Notes what lies in the inbox.
    pub fn collect(&mut self) {
        let answers: Vec<Answer> = std::mem::take(&mut *self.inbox.answers.lock().unwrap());
        answers.into_iter().for_each(|answer| self.settle(answer));
    }

    pub fn is_idle(&self) -> bool {
        self.buffers.is_empty()
    }

    /// Waits until every command is answered.
    pub fn drain(&mut self, io: &mut IoContext) {
        let start = Instant::now();
        self.collect();
        while !self.is_idle() {
            assert!(start.elapsed() < Duration::from_secs(60), "commands do not end");
            io.wait(true, &mut |answer| self.settle(answer)).unwrap();
            self.collect();
        }
    }
}

impl Drop for Initiator {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.is_idle(), "a command was not answered");
        }
    }
}

/// What the page cache holds of a file, in pages (cachestat(2)).
#[repr(C)]
#[derive(Debug, Default)]
pub struct PageCache {
    pub cached: u64,
    pub dirty: u64,
    pub writeback: u64,
    evicted: [u64; 2],
}

impl PageCache {
    pub fn not_stable(&self) -> u64 {
        self.dirty + self.writeback
    }
}

/// What the page cache holds of `len` bytes of `file`; `None` before Linux 6.5.
pub fn page_cache(file: &File, offset: u64, len: u64) -> Option<PageCache> {
    const SYS_CACHESTAT: libc::c_long = 451;
    let (range, mut pages) = ([offset, len], PageCache::default());
    let (from, to) = (&raw const range, &raw mut pages);
    // SAFETY: it reads the range and writes what it says of it.
    match unsafe { libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), from, to, 0) } {
        0 => Some(pages),
        _ => {
            eprintln!("skipped: no cachestat: {}", std::io::Error::last_os_error());
            None
        }
    }
}

/// SYNCHRONIZE CACHE(10) of everything.
pub const SYNCHRONIZE_CACHE: [u8; 10] = [0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// READ(16) or WRITE(16).
pub fn transfer_16(opcode: u8, fua: bool, lba: u64, blocks: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = opcode;
    cdb[1] = u8::from(fua) << 3;
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

//! A SCSI device of our own making: commands that reach it through the host's SCSI layer are
//! answered by a function of the test (Linux, target_core_user.h). It can be any device, a hostile
//! or a dead one too.
//!
//! A [`Port`](super::lio::Port) leads to its storage, and is dropped before it.
#![expect(unsafe_code, reason = "a ring is shared with the kernel")]

use std::collections::VecDeque;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Error, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use storage::host::{Completion, Data, Request, ScsiHost};
use storage::testing::{FakeHost, OwnedBuf};

use super::device::children;
use super::lio::Storage;
use crate::host;

/// What a device says to a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// STATUS
    pub status: u8,
    /// Sense data, at most 96 bytes.
    pub sense: Vec<u8>,
    /// Data for the initiator; what it has no room for is cut off.
    pub data: Vec<u8>,
}

impl Reply {
    /// GOOD, and this data.
    #[must_use]
    pub fn good(data: impl Into<Vec<u8>>) -> Reply {
        Reply { data: data.into(), ..Reply::default() }
    }

    /// CHECK CONDITION with fixed format sense data.
    #[must_use]
    pub fn check(key: u8, asc: u8, ascq: u8) -> Reply {
        let sense = vec![0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, asc, ascq, 0, 0, 0, 0];
        Reply { status: 2, sense, ..Reply::default() }
    }
}

/// Answers a command, given its CDB and what the initiator sent; `None` leaves it unanswered until
/// [`Tcmu::release`].
pub type Handler = Box<dyn FnMut(&[u8], &[u8]) -> Option<Reply> + Send>;

/// Has `host`, which knows no more than its script and its fake device, play the device.
#[must_use]
pub fn played_by(host: Arc<FakeHost>) -> Handler {
    Box::new(move |cdb, room| Some(play(&host, cdb, room)))
}

fn play(host: &FakeHost, cdb: &[u8], room: &[u8]) -> Reply {
    const WRITES: [u8; 12] =
        [0x04, 0x0a, 0x15, 0x1d, 0x2a, 0x3b, 0x42, 0x55, 0x5f, 0x8a, 0x93, 0xaa];
    let is_out = cdb.first().is_some_and(|opcode| WRITES.contains(opcode));
    let mut memory = OwnedBuf::holding(room);
    // SAFETY: the command ends before `memory` is looked at.
    let mut buf = unsafe { memory.lend() };
    let data = match room {
        [] => Data::None,
        _ if is_out => Data::Out(&buf),
        _ => Data::In(&mut buf),
    };
    let request = Request { cdb, data, timeout: Duration::from_secs(30) };
    match host.execute(request) {
        Ok(Completion { status, sense, resid, .. }) => {
            let moved = room.len().saturating_sub(usize::try_from(resid).unwrap_or(0));
            let mut data = if is_out { Vec::new() } else { memory.bytes() };
            data.truncate(moved);
            Reply { status: status.0, sense, data }
        }
        Err(_) => Reply::check(0x04, 0x44, 0x00),
    }
}

/// A device. It goes when this is dropped, after whatever gave it a port.
pub struct Tcmu {
    storage: Storage,
    shared: Arc<Shared>,
    release: Sender<Reply>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Every CDB that came.
    seen: Mutex<Vec<Vec<u8>>>,
}

impl Tcmu {
    /// A device of `size` bytes, as LIO is told, that `handler` plays.
    ///
    /// # Errors
    /// When the host has no LIO, or refuses.
    pub fn new(name: &str, size: u64, handler: Handler) -> io::Result<Tcmu> {
        let storage = Storage::user(name, size)?;
        let uio = uio_of(&Storage::user_name(name))?;
        let ring = Ring::map(&uio)?;
        let shared = Arc::new(Shared::default());
        let (release, released) = mpsc::channel();
        let player =
            Player { ring, handler, shared: Arc::clone(&shared), released, stuck: VecDeque::new() };
        let thread =
            thread::Builder::new().name(format!("tcmu-{name}")).spawn(move || player.play())?;
        Ok(Tcmu { storage, shared, release, thread: Some(thread) })
    }

    /// What a port leads to.
    #[must_use]
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// Answers the oldest command that was left unanswered.
    pub fn release(&self, reply: Reply) {
        // Its player lives as long as this.
        let _ = self.release.send(reply);
    }

    /// The CDBs that came since the last call.
    #[must_use]
    pub fn take_seen(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut *self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Tcmu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tcmu({:?})", self.storage)
    }
}

impl Drop for Tcmu {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The UIO device of this name, which appears a moment after its storage.
fn uio_of(name: &str) -> io::Result<PathBuf> {
    host::await_some(name, || {
        let named = |uio: &PathBuf| {
            let node = Path::new("/dev").join(uio.file_name().unwrap_or_default());
            node.exists() && host::read(&uio.join("name")).is_ok_and(|told| told == name)
        };
        Ok(children(Path::new("/sys/class/uio")).into_iter().find(named))
    })
}

/// The mailbox and the command ring (struct tcmu_mailbox, struct tcmu_cmd_entry). Offsets are from
/// the mailbox.
struct Ring {
    file: File,
    base: NonNull<u8>,
    len: usize,
    first: u32,
    size: u32,
    /// The next entry to look at, from the ring's start.
    next: u32,
}

// SAFETY: the mapping is this object's own.
unsafe impl Send for Ring {}

/// A command as it lies in the ring.
struct Command {
    id: u16,
    cdb: Vec<u8>,
    /// Where its data is or goes: offset and length.
    data: Vec<(usize, usize)>,
}

const CMD_HEAD: usize = 12;
const CMD_TAIL: usize = 64;
const OP_MASK: u32 = 7;
const OP_CMD: u32 = 1;
const READ_LEN: u8 = 2;

impl Ring {
    fn map(uio: &Path) -> io::Result<Ring> {
        let node = Path::new("/dev").join(uio.file_name().ok_or(ErrorKind::NotFound)?);
        let size = fs::read_to_string(uio.join("maps/map0/size"))?;
        let len = usize::from_str_radix(size.trim().trim_start_matches("0x"), 16)
            .map_err(Error::other)?;
        let file = File::options().read(true).write(true).open(node)?;
        let base = map(file.as_raw_fd(), len)?;
        let mut ring = Ring { file, base, len, first: 0, size: 0, next: 0 };
        (ring.first, ring.size) = (ring.u32(4), ring.u32(8));
        ring.next = ring.word(CMD_TAIL).load(Ordering::Acquire);
        Ok(ring)
    }

    fn bytes(&self, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.len), "{offset} + {len}");
        let mut bytes = vec![0; len];
        // SAFETY: within the mapping; the kernel may write there, so it is copied, not referred to.
        unsafe {
            self.base.add(offset).copy_to_nonoverlapping(NonNull::from(&mut *bytes).cast(), len);
        }
        bytes
    }

    fn put(&self, offset: usize, bytes: &[u8]) {
        assert!(offset.checked_add(bytes.len()).is_some_and(|end| end <= self.len), "{offset}");
        // SAFETY: within the mapping.
        unsafe {
            let from = NonNull::from(bytes).cast();
            self.base.add(offset).copy_from_nonoverlapping(from, bytes.len());
        }
    }

    fn u32(&self, offset: usize) -> u32 {
        u32::from_ne_bytes(self.bytes(offset, 4).try_into().unwrap_or_default())
    }

    fn u64(&self, offset: usize) -> usize {
        let value = u64::from_ne_bytes(self.bytes(offset, 8).try_into().unwrap_or_default());
        usize::try_from(value).unwrap_or(usize::MAX)
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset + 4 <= self.len, "{offset}");
        // SAFETY: within the mapping, aligned, and the kernel uses it as an atomic word too.
        unsafe { AtomicU32::from_ptr(self.base.add(offset).cast().as_ptr()) }
    }

    fn entry(&self, at: u32) -> (usize, u32, u32) {
        let offset = (self.first + at) as usize;
        let len_op = self.u32(offset);
        (offset, len_op & !OP_MASK, len_op & OP_MASK)
    }

    /// The next command, if there is one.
    fn take(&mut self) -> Option<Command> {
        while self.next != self.word(CMD_HEAD).load(Ordering::Acquire) {
            let (offset, len, op) = self.entry(self.next);
            self.next = (self.next + len) % self.size;
            if op == OP_CMD {
                return Some(self.command(offset));
            }
        }
        None
    }

    fn command(&self, offset: usize) -> Command {
        let id = self.bytes(offset + 4, 2);
        let segments = self.u32(offset + 8) as usize;
        let segment = |index| {
            let at = offset + 0x30 + index * 16;
            (self.u64(at), self.u64(at + 8))
        };
        let cdb_at = self.u64(offset + 0x18);
        let cdb = self.bytes(cdb_at, cdb_len(&self.bytes(cdb_at, 8)));
        let data = (0..segments).map(segment).collect();
        Command { id: u16::from_ne_bytes([id[0], id[1]]), cdb, data }
    }

    /// Answers a command in the next entry that has not been given back: any of them will do.
    fn answer(&mut self, command: &Command, reply: &Reply) {
        let mut rest = &*reply.data;
        for &(at, len) in &command.data {
            let (now, later) = rest.split_at(rest.len().min(len));
            self.put(at, now);
            rest = later;
        }
        let moved = reply.data.len() - rest.len();
        let mut tail = self.word(CMD_TAIL).load(Ordering::Acquire);
        let (mut offset, mut len, mut op) = self.entry(tail);
        while op != OP_CMD {
            tail = (tail + len) % self.size;
            (offset, len, op) = self.entry(tail);
        }
        self.put(offset + 4, &command.id.to_ne_bytes());
        let is_short = !reply.data.is_empty();
        self.put(offset + 7, &[if is_short { READ_LEN } else { 0 }]);
        let mut sense = [0; 96];
        sense.iter_mut().zip(&reply.sense).for_each(|(to, from)| *to = *from);
        self.put(offset + 8, &[reply.status, 0, 0, 0]);
        self.put(offset + 12, &u32::try_from(moved).unwrap_or(0).to_ne_bytes());
        self.put(offset + 16, &sense);
        self.word(CMD_TAIL).store((tail + len) % self.size, Ordering::Release);
        self.signal();
    }

    fn signal(&mut self) {
        if let Err(error) = self.file.write_all(&[0; 4]) {
            eprintln!("tcmu: {error}");
        }
    }

    /// Waits a little for the kernel to have put something in.
    fn wait(&mut self) {
        let mut poll = libc::pollfd { fd: self.file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd that is ours.
        if unsafe { libc::poll(&raw mut poll, 1, 50) } > 0 {
            let _ = self.file.read(&mut [0; 4]);
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: what was mapped, and nobody refers to it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

fn map(fd: RawFd, len: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: a new mapping, wherever there is room.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            fd,
            0,
        )
    };
    match NonNull::new(base) {
        Some(there) if base != libc::MAP_FAILED => Ok(there.cast()),
        _ => Err(Error::last_os_error()),
    }
}

/// Bytes of a CDB that begins so (SAM-6, CDB formats).
fn cdb_len(begin: &[u8]) -> usize {
    match begin.first().map_or(0, |opcode| opcode >> 5) {
        0 => 6,
        1 | 2 => 10,
        3 => 8 + usize::from(begin.get(7).copied().unwrap_or(0)),
        5 => 12,
        _ => 16,
    }
}

/// Plays the device.
struct Player {
    ring: Ring,
    handler: Handler,
    shared: Arc<Shared>,
    released: Receiver<Reply>,
    stuck: VecDeque<Command>,
}

impl Player {
    fn play(mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            while let Some(command) = self.ring.take() {
                self.carry_out(command);
            }
            while let Some(command) = self.stuck.pop_front() {
                let Ok(reply) = self.released.try_recv() else {
                    self.stuck.push_front(command);
                    break;
                };
                self.ring.answer(&command, &reply);
            }
            self.ring.wait();
        }
        // Nobody may be kept waiting by a device that goes.
        for command in std::mem::take(&mut self.stuck) {
            self.ring.answer(&command, &Reply::check(0x0b, 0x08, 0x00));
        }
    }

    fn carry_out(&mut self, command: Command) {
        let data: Vec<u8> =
            command.data.iter().flat_map(|&(at, len)| self.ring.bytes(at, len)).collect();
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).push(command.cdb.clone());
        match (self.handler)(&command.cdb, &data) {
            Some(reply) => self.ring.answer(&command, &reply),
            None => self.stuck.push_back(command),
        }
    }
}

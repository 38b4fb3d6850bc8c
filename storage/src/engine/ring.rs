//! io_uring: transfers on raw descriptors, and the wait for everything.
//!
//! An operation's task stays in `ops` until its completion is read; the ring is drained before it
//! is dropped, since the kernel may write to the tasks' memory until then. The descriptor of a
//! transfer stays open because the bus lets go of a logical unit only after its last task.
#![expect(unsafe_code, reason = "submission entries point to memory that the kernel uses")]

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, cqueue, opcode, squeue};
use vmm_sys_util::eventfd::EventFd;

use super::outcome::Failure;
use super::{BlockIo, Pool, Transfer, Wakeups};
use crate::backend::{Alignment, FlushTurn, MAX_SEGMENTS, Medium};
use crate::buffer::DataBuf;
use crate::lun::Submitted;
use crate::task::Answer;

/// Marks the completion of a watched event; the low bits name it.
const WATCH: u64 = 1 << 63;

/// Marks the completion of a cancellation.
const CANCEL: u64 = 1 << 62;

/// A transfer that the kernel works on.
struct Op {
    transfer: Transfer,
    /// The kernel was asked to let go of it.
    cancelled: bool,
    fd: RawFd,
    alignment: Alignment,
    step: Step,
    /// There if a flush comes after this step.
    medium: Option<Arc<Medium>>,
}

/// What the kernel does next for a transfer.
enum Step {
    /// Moves data from or to this offset.
    Move(u64),
    /// Makes the file stable.
    Flush(FlushTurn<Arc<Medium>>),
}

/// One thread's ring.
pub(super) struct Ring {
    ring: IoUring,
    ops: Vec<Option<Op>>,
    free: Vec<usize>,
    watched: Vec<(RawFd, u8)>,
    /// Where those go that have to wait for a flush of somebody else.
    pool: Arc<Pool>,
}

impl Ring {
    /// A ring that never runs out of entries for `depth` transfers and a few watches.
    pub(super) fn new(depth: u16, pool: Arc<Pool>) -> io::Result<Ring> {
        let entries = u32::from(depth).saturating_add(8).next_power_of_two();
        let depth = usize::from(depth);
        Ok(Ring {
            ring: IoUring::builder().setup_clamp().build(entries)?,
            ops: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            watched: Vec::new(),
            pool,
        })
    }

    pub(super) fn watch(&mut self, event: &EventFd, bit: u8) -> io::Result<()> {
        self.watched.push((event.as_raw_fd(), bit));
        self.arm(event.as_raw_fd(), bit)
    }

    fn arm(&mut self, fd: RawFd, bit: u8) -> io::Result<()> {
        let entry = opcode::PollAdd::new(Fd(fd), libc::POLLIN as u32).multi(true).build();
        self.push(&entry.user_data(WATCH | u64::from(bit)))
    }

    /// Takes `transfer` if it can go by ring, else hands it back.
    #[expect(clippy::result_large_err, reason = "a box would be an allocation for each transfer")]
    pub(super) fn start(
        &mut self,
        transfer: Transfer,
        medium: &Arc<Medium>,
    ) -> Result<(), Transfer> {
        let Some(fd) = medium.backend().raw_fd().map(|fd| fd.as_raw_fd()) else {
            return Err(transfer);
        };
        let alignment = medium.backend().alignment();
        if !transfer.is_admitted_by(alignment) {
            // The backend copies, which would keep this thread.
            return Err(transfer);
        }
        let step = match transfer.io {
            // It begins with a flush: a pool's thread is simpler, and FUA reads are rare.
            BlockIo::Read { fua: true, .. } => return Err(transfer),
            BlockIo::Read { offset, .. } | BlockIo::Write { offset, .. } => Step::Move(offset),
            BlockIo::Flush => match FlushTurn::begin(Arc::clone(medium)) {
                Some(turn) => Step::Flush(turn),
                None => return Err(transfer),
            },
            // They take several steps.
            BlockIo::Unmap { .. } | BlockIo::WriteSame { .. } | BlockIo::Verify { .. } => {
                return Err(transfer);
            }
        };
        let Some(index) = self.free.pop() else { return Err(transfer) };
        let medium = transfer.is_fua_write().then(|| Arc::clone(medium));
        let op = Op { transfer, cancelled: false, fd, alignment, step, medium };
        let entry = op.entry().user_data(index as u64);
        match self.push(&entry) {
            Ok(()) => {
                self.ops[index] = Some(op);
                Ok(())
            }
            Err(_) => {
                self.free.push(index);
                Err(op.transfer)
            }
        }
    }

    /// Asks the kernel to let go of aborted tasks.
    ///
    /// A place in `ops` is free only after its completion was read, which is after the entry for
    /// its cancellation was submitted: no other transfer can be hit.
    pub(super) fn cancel_aborted(&mut self) {
        for index in 0..self.ops.len() {
            let Some(Some(op)) = self.ops.get_mut(index) else { continue };
            if op.cancelled || !op.transfer.task.is_aborted() {
                continue;
            }
            op.cancelled = true;
            let entry = opcode::AsyncCancel::new(index as u64).build();
            if let Err(error) = self.push(&entry.user_data(CANCEL)) {
                // It ends by itself, and no further step of it is begun.
                log::warn!("an aborted transfer is not cancelled: {error}");
            }
        }
    }

    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: what the entry points to belongs to a task that stays in `ops` until the
        // kernel is done with it.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            self.ring.submit()?;
        }
        Ok(())
    }

    /// Submits what was started, sleeps until anything completes if so wanted, and reads what has.
    pub(super) fn wait(
        &mut self,
        sleep: bool,
        settle: &mut impl FnMut(Answer),
    ) -> io::Result<Wakeups> {
        if let Err(error) = self.ring.submit_and_wait(usize::from(sleep)) {
            // EBUSY: the completion queue is full; reading it helps.
            let passes = [libc::EINTR, libc::EBUSY, libc::EAGAIN].map(Some);
            if !passes.contains(&error.raw_os_error()) {
                return Err(error);
            }
        }
        let mut wakeups = Wakeups::default();
        while let Some(entry) = self.next_completion() {
            match entry.user_data() & (WATCH | CANCEL) {
                0 => self.complete(&entry, settle),
                CANCEL => {}
                _ => wakeups.0 |= self.woken(&entry)?,
            }
        }
        Ok(wakeups)
    }

    fn next_completion(&mut self) -> Option<cqueue::Entry> {
        self.ring.completion().next()
    }

    fn woken(&mut self, entry: &cqueue::Entry) -> io::Result<u8> {
        let bit = u8::try_from(entry.user_data() & !WATCH).unwrap_or(0);
        if !cqueue::more(entry.flags())
            && let Some(&(fd, bit)) = self.watched.iter().find(|watched| watched.1 == bit)
        {
            self.arm(fd, bit)?;
        }
        Ok(bit)
    }

    fn complete(&mut self, entry: &cqueue::Entry, settle: &mut impl FnMut(Answer)) {
        let index = usize::try_from(entry.user_data()).unwrap_or(usize::MAX);
        let Some(mut op) = self.ops.get_mut(index).and_then(Option::take) else {
            log::error!("bug: io_uring completed operation {index}, which was not started");
            return;
        };
        let mut progress = op.progress(entry.result());
        if op.cancelled && !matches!(progress, Progress::Done(_)) {
            progress = Progress::Done(Err(not_begun()));
        }
        if let Progress::Again = progress {
            match self.push(&op.entry().user_data(index as u64)) {
                Ok(()) => {
                    self.ops[index] = Some(op);
                    return;
                }
                Err(error) => {
                    log::warn!("io_uring takes no more: {error}");
                    progress = Progress::Done(Err(not_begun()));
                }
            }
        }
        self.free.push(index);
        match progress {
            Progress::Done(result) => settle(op.finish(result)),
            Progress::Wait(medium) => {
                if let Submitted::Done(answer) = self.pool.start(op.transfer, medium) {
                    settle(answer);
                }
            }
            Progress::Again => {}
        }
    }
}

enum Progress {
    Done(io::Result<()>),
    Again,
    /// The data is moved, and somebody else flushes the medium.
    Wait(Arc<Medium>),
}

impl Op {
    fn entry(&self) -> squeue::Entry {
        let fd = Fd(self.fd);
        match (&self.step, &self.transfer.io) {
            (Step::Move(offset), BlockIo::Write { .. }) => {
                let (segments, count) = segments(&self.transfer.task.data_out);
                opcode::Writev::new(fd, segments, count).offset(*offset).build()
            }
            (Step::Move(offset), _) => {
                let (segments, count) = segments(&self.transfer.task.data_in);
                opcode::Readv::new(fd, segments, count).offset(*offset).build()
            }
            (Step::Flush(_), _) => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
        }
    }

    /// Takes the kernel's `result`: bytes moved, or a negative errno.
    fn progress(&mut self, result: i32) -> Progress {
        let result = u32::try_from(result)
            .map_err(|_| io::Error::from_raw_os_error(result.saturating_neg()));
        match (&self.step, result) {
            (Step::Flush(_), result) => Progress::Done(result.map(drop)),
            (Step::Move(_), Err(error)) if error.kind() == io::ErrorKind::Interrupted => {
                Progress::Again
            }
            (Step::Move(_), Err(error)) => Progress::Done(Err(error)),
            (Step::Move(offset), Ok(moved)) => self.moved(*offset, moved),
        }
    }

    fn finish(self, result: io::Result<()>) -> Answer {
        let result = match (self.step, result) {
            (Step::Flush(_), Err(error)) if is_not_begun(&error) => Err(Failure::NoTurn),
            (Step::Flush(turn), result) => turn.end(result).map_err(Failure::Flush),
            (Step::Move(_), result) => result.map_err(|error| self.transfer.failure(error)),
        };
        self.transfer.end(result, || path_of(self.fd))
    }

    fn moved(&mut self, offset: u64, moved: u32) -> Progress {
        let task = &mut self.transfer.task;
        let (data, end) = match self.transfer.io {
            BlockIo::Write { .. } => (&mut task.data_out, io::ErrorKind::WriteZero),
            _ => (&mut task.data_in, io::ErrorKind::UnexpectedEof),
        };
        data.advance(moved as usize);
        match (data.is_empty(), moved) {
            (true, _) => return self.all_moved(),
            (false, _) if self.alignment.ends_after(moved as usize) => {
                return Progress::Done(Err(end.into()));
            }
            (false, _) => self.step = Step::Move(offset + u64::from(moved)),
        }
        Progress::Again
    }

    fn all_moved(&mut self) -> Progress {
        let Some(medium) = self.medium.take() else { return Progress::Done(Ok(())) };
        match FlushTurn::begin(Arc::clone(&medium)) {
            Some(turn) => {
                self.step = Step::Flush(turn);
                Progress::Again
            }
            None => Progress::Wait(medium),
        }
    }
}

/// What the kernel says of an operation that it was told to cancel before it began.
fn not_begun() -> io::Error {
    io::Error::from_raw_os_error(libc::ECANCELED)
}

fn is_not_begun(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ECANCELED)
}

/// Names an open file in a log.
fn path_of(fd: RawFd) -> String {
    let path = std::fs::read_link(format!("/proc/self/fd/{fd}"));
    path.map_or_else(|_| format!("descriptor {fd}"), |path| path.display().to_string())
}

fn segments(data: &DataBuf) -> (*const libc::iovec, u32) {
    let segments = data.iovecs();
    let count = u32::try_from(segments.len().min(MAX_SEGMENTS)).unwrap_or(0);
    (segments.as_ptr(), count)
}

impl Drop for Ring {
    /// Waits for the kernel to let go of every task's memory.
    fn drop(&mut self) {
        self.watched.clear();
        while self.free.len() < self.ops.len() {
            if let Err(error) = self.wait(true, &mut Answer::deliver) {
                // Freeing the tasks now would let the kernel write to memory of somebody else.
                log::error!("bug: cannot drain io_uring: {error}");
                std::mem::forget(std::mem::take(&mut self.ops));
                return;
            }
        }
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ring({} of {} in flight)", self.ops.len() - self.free.len(), self.ops.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Geometry, Memory};
    use crate::scsi::cdb::Cdb;
    use crate::scsi::sense::SenseCode;
    use crate::scsi::status::Status;
    use crate::task::{ReplySink, Response, Task, Ticket};

    struct Nobody;

    impl ReplySink for Nobody {
        fn complete(&self, _: Answer) {}
    }

    /// How a flush is answered of which the kernel says `result`, and whether writes are lost.
    fn flushed(result: i32) -> (Response, bool) {
        let memory = Memory::new(Geometry { blocks: 1, block_size: 512 });
        let medium = Arc::new(Medium::new("test", Box::new(memory)));
        let ticket = Ticket::new(Arc::new(Nobody));
        let task = Task::new(ticket, Cdb::new(&[0x35]), DataBuf::empty(), DataBuf::empty());
        let step = Step::Flush(FlushTurn::begin(Arc::clone(&medium)).unwrap());
        let transfer = Transfer::new(task, &medium, BlockIo::Flush, 0);
        let alignment = Alignment::NONE;
        let mut op = Op { transfer, cancelled: false, fd: -1, alignment, step, medium: None };
        let Progress::Done(result) = op.progress(result) else { panic!("it is not tried again") };
        (op.finish(result).response, medium.has_lost_writes())
    }

    #[test]
    fn only_a_flush_that_did_not_begin_loses_nothing() {
        assert_eq!(flushed(0), (Response::good(0), false));
        let busy = Response::Status { status: Status::BUSY, sense: None, resid: 0 };
        assert_eq!(flushed(-libc::ECANCELED), (busy, false));
        for errno in [libc::EIO, libc::EINTR, libc::EAGAIN, libc::ENOMEM, libc::EBUSY] {
            let lost = Response::check_condition(SenseCode::WRITE_ERROR, 0);
            assert_eq!(flushed(-errno), (lost, true), "{errno}");
        }
    }
}

//! How a command's I/O is carried out: at once, on a ring, or by a pool of threads.
//!
//! One [`IoContext`] belongs to one request-queue thread, which also sleeps in it: with io_uring
//! the ring waits for doorbells and data alike; without, epoll waits for doorbells and every
//! transfer goes to the pool. A task lives in the engine while the kernel may touch its memory,
//! and nowhere else.

use std::io;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use crate::backend::{Alignment, Medium};
use crate::lun::Submitted;
use crate::task::{Answer, Response, ServiceResponse, Task};

mod compound;
mod outcome;
mod poller;
mod pool;
mod ring;
mod scratch;
pub(crate) mod workers;

pub use pool::Pool;

use outcome::Failure;
use poller::Poller;
use ring::Ring;

/// Bytes of a medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// Where they begin.
    pub offset: u64,
    /// How many there are.
    pub len: u64,
}

/// What is to be done with a medium, and with a task's buffer, which is as long as it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockIo {
    /// Fill data-in.
    Read {
        /// Where on the medium, in bytes.
        offset: u64,
        /// From the medium itself, past volatile caches.
        fua: bool,
    },
    /// Store data-out.
    Write {
        /// Where on the medium, in bytes.
        offset: u64,
        /// Answer only once it is stable.
        fua: bool,
    },
    /// Make stable what was written.
    Flush,
    /// Give blocks back to the host.
    Unmap {
        /// Which, in any order.
        ranges: Box<[ByteRange]>,
        /// Answer only once it is stable.
        fua: bool,
    },
    /// Store data-out, which is one block, or none for a block of zeros, again and again.
    WriteSame {
        /// Where: whole blocks.
        range: ByteRange,
        /// Zeros may be stored by giving the blocks back to the host.
        may_unmap: bool,
        /// Answer only once it is stable.
        fua: bool,
    },
    /// Read from the medium itself, past volatile caches, and compare.
    Verify {
        /// What: whole blocks.
        range: ByteRange,
        /// With what.
        compare: Compare,
    },
}

/// What a [`BlockIo::Verify`] compares the medium with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    /// Nothing: it is enough that it can be read.
    Nothing,
    /// Data-out.
    DataOut,
    /// Data-out, which is one block, again and again.
    RepeatedBlock,
}

/// Why [`IoContext::wait`] returned, besides answers: a set of the bits that were given to
/// [`IoContext::watch`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wakeups(pub u8);

impl Wakeups {
    /// Whether any of `bits` is in the set.
    #[must_use]
    pub fn contain(self, bits: u8) -> bool {
        self.0 & bits != 0
    }
}

#[derive(Debug)]
enum Engine {
    Inline,
    Ring(Box<Ring>),
    Pool(Poller),
}

/// Where one thread starts I/O and waits for it.
#[derive(Debug)]
pub struct IoContext {
    engine: Engine,
    pool: Arc<Pool>,
}

impl IoContext {
    /// A context for `depth` tasks at a time, on io_uring where the host allows it.
    ///
    /// # Errors
    /// When the host gives neither a ring nor an epoll instance.
    pub fn new(depth: u16, pool: Arc<Pool>) -> io::Result<IoContext> {
        match Ring::new(depth, Arc::clone(&pool)) {
            Ok(ring) => Ok(IoContext { engine: Engine::Ring(Box::new(ring)), pool }),
            Err(error) => {
                static ONCE: std::sync::Once = std::sync::Once::new();
                ONCE.call_once(|| {
                    log::warn!("io_uring is not available ({error}); using a pool of threads");
                });
                IoContext::without_ring(pool)
            }
        }
    }

    /// A context that never uses io_uring.
    ///
    /// # Errors
    /// When the host gives no epoll instance.
    pub fn without_ring(pool: Arc<Pool>) -> io::Result<IoContext> {
        Ok(IoContext { engine: Engine::Pool(Poller::new()?), pool })
    }

    /// A context that carries out everything before it returns. It cannot wait.
    #[must_use]
    pub fn inline() -> IoContext {
        IoContext { engine: Engine::Inline, pool: Pool::new(0) }
    }

    /// From now on a write to `event` ends [`IoContext::wait`] and shows as `bit`. The event is
    /// never read: each write is one wake-up.
    ///
    /// # Errors
    /// When the host refuses to watch it.
    pub fn watch(&mut self, event: &EventFd, bit: u8) -> io::Result<()> {
        match &mut self.engine {
            Engine::Inline => Ok(()),
            Engine::Ring(ring) => ring.watch(event, bit),
            Engine::Pool(poller) => poller.watch(event, bit),
        }
    }

    /// Hands the transfers that have started to the host, and the answers of those that have
    /// ended to `settle`. With `sleep`, first waits until there is one or a watched event is
    /// written.
    ///
    /// # Errors
    /// When the host's wait fails for good.
    pub fn wait(&mut self, sleep: bool, settle: &mut impl FnMut(Answer)) -> io::Result<Wakeups> {
        match &mut self.engine {
            Engine::Inline => Ok(Wakeups::default()),
            Engine::Ring(ring) => ring.wait(sleep, settle),
            Engine::Pool(poller) => poller.wait(sleep),
        }
    }

    /// Ends what it can of aborted tasks; they are answered like all others, the rest of them when
    /// they end by themselves.
    pub(crate) fn cancel_aborted(&mut self) {
        if let Engine::Ring(ring) = &mut self.engine {
            ring.cancel_aborted();
        }
        self.pool.cancel_aborted();
    }

    /// Starts `io`, for which `task` is answered. `resid` counts the bytes of the task's buffers
    /// that were cut off before.
    pub(crate) fn start(
        &mut self,
        task: Task,
        medium: &Arc<Medium>,
        io: BlockIo,
        resid: u32,
    ) -> Submitted {
        let transfer = Transfer::new(task, medium, io, resid);
        match &mut self.engine {
            Engine::Inline => Submitted::Done(transfer.carry_out(medium)),
            Engine::Ring(ring) => match ring.start(transfer, medium) {
                Ok(()) => Submitted::Pending,
                Err(transfer) => self.pool.start(transfer, Arc::clone(medium)),
            },
            Engine::Pool(_) => self.pool.start(transfer, Arc::clone(medium)),
        }
    }
}

/// Makes a medium stable, or has no turn to do so.
type Flush = fn(&Medium) -> Option<io::Result<()>>;

/// A task together with the I/O that it waits for.
#[derive(Debug)]
struct Transfer {
    task: Task,
    io: BlockIo,
    /// Bytes of the task's buffers that were cut off before.
    resid: u32,
    /// Bytes of the task's buffers at the start.
    len: u32,
    /// Bytes of a logical block.
    block_size: u32,
}

impl Transfer {
    fn new(task: Task, medium: &Medium, io: BlockIo, resid: u32) -> Transfer {
        let len = task.buffer_len();
        Transfer { task, io, resid, len, block_size: medium.backend().geometry().block_size }
    }

    /// Blocks until it is done.
    fn carry_out(self, medium: &Medium) -> Answer {
        self.carry_out_with(medium, |medium| Some(medium.flush()))
    }

    /// Blocks until it is done, but does not wait for a flush of somebody else, which may be one
    /// that this thread has on its ring.
    fn carry_out_here(self, medium: &Medium) -> Answer {
        self.carry_out_with(medium, Medium::try_flush)
    }

    fn carry_out_with(mut self, medium: &Medium, flush: Flush) -> Answer {
        let result = self.block_on(medium, flush);
        self.end(result, || medium.name().to_owned())
    }

    fn block_on(&mut self, medium: &Medium, flush: Flush) -> Result<(), Failure> {
        let flush_if = |needed| match needed {
            true => flush(medium).ok_or(Failure::NoTurn)?.map_err(Failure::Flush),
            false => Ok(()),
        };
        let (task, block_size) = (&mut self.task, self.block_size);
        match &self.io {
            &BlockIo::Read { offset, fua } => {
                flush_if(fua)?;
                if fua {
                    medium.backend().drop_cached(offset, task.data_in.len() as u64);
                }
                let result = medium.backend().read(offset, &mut task.data_in);
                result.map_err(|error| self.failure(error))
            }
            &BlockIo::Write { offset, fua } => {
                let result = medium.backend().write(offset, &mut task.data_out);
                result.map_err(|error| self.failure(error))?;
                flush_if(fua)
            }
            BlockIo::Flush => flush_if(true),
            BlockIo::Unmap { ranges, fua } => {
                compound::unmap(task, medium, ranges)?;
                flush_if(*fua)
            }
            &BlockIo::WriteSame { range, may_unmap, fua } => {
                compound::write_same(task, medium, range, block_size, may_unmap)?;
                flush_if(fua)
            }
            &BlockIo::Verify { range, compare } => {
                flush_if(true)?;
                medium.backend().drop_cached(range.offset, range.len);
                compound::verify(task, medium, range, block_size, compare)
            }
        }
    }

    /// Answers for what came of it on the medium of this name.
    fn end(self, result: Result<(), Failure>, name: impl FnOnce() -> String) -> Answer {
        match &result {
            Ok(()) | Err(Failure::Miscompare { .. } | Failure::Aborted) => {}
            Err(failure) => log::warn!("{}: {failure}", name()),
        }
        let resid = self.resid.saturating_add(self.task.buffer_len());
        self.task.answer(outcome::response(result, self.block_size, resid))
    }

    /// Where a transfer stands that the host did not go on with.
    fn failure(&self, error: io::Error) -> Failure {
        let moved = u64::from(self.len.saturating_sub(self.task.buffer_len()));
        match self.io {
            _ if error.raw_os_error() == Some(libc::ECANCELED) => Failure::Aborted,
            BlockIo::Read { offset, .. } => Failure::Read { error, at: offset + moved },
            BlockIo::Write { offset, .. } => Failure::Write { error, at: offset + moved },
            _ => Failure::Flush(error),
        }
    }

    /// Whether its memory is where `alignment` wants it.
    fn is_admitted_by(&self, alignment: Alignment) -> bool {
        alignment.admits(&self.task.data_in) && alignment.admits(&self.task.data_out)
    }

    /// Ends it without a byte moved.
    fn cancel(self) -> Answer {
        self.task.answer(Response::Failed(ServiceResponse::Aborted))
    }

    /// Whether it is a write and then a flush. That is a step of its own, because only its failure
    /// means that earlier writes are lost.
    fn is_fua_write(&self) -> bool {
        matches!(self.io, BlockIo::Write { fua: true, .. })
    }
}

#[cfg(test)]
mod tests;

//! One request queue and the thread that serves it.
//!
//! The thread owns the ring, the open requests, its lane into the bus and its I/O context, so
//! that nothing on the way of a command is locked or shared. It sleeps in the I/O context, which
//! wakes it for the doorbell, for answers, for a gate that opened, and to stop.
#![expect(unsafe_code, reason = "a request's segments become buffers")]

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread;

use storage::buffer::DataBuf;
use storage::engine::{IoContext, Wakeups};
use storage::lun::Submitted;
use storage::target::address::LunAddress;
use storage::target::{Bus, Lane};
use storage::task::{Answer, Response, ServiceResponse, Task, Ticket};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::mailbox::Mailbox;
use super::slots::{Open, Slots, Taken};
use super::wire::{CommandRequest, CommandResponse, Sizes};
use crate::interrupt::Interrupt;
use crate::virtio::ActiveQueue;
use crate::virtio::chain::{BadChain, Buffers};

const KICK: u8 = 1 << 0;
const MAILBOX: u8 = 1 << 1;
const GATE: u8 = 1 << 2;
const STOP: u8 = 1 << 3;

/// A request queue, ready to be served.
pub struct RequestQueue {
    io: IoContext,
    requests: Requests,
    kick: EventFd,
    gate: EventFd,
    stop: EventFd,
}

impl fmt::Debug for RequestQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestQueue({}, {:?})", self.requests.index, self.io)
    }
}

/// What a request queue is made from.
pub struct Setup {
    /// The ring and its doorbell.
    pub active: ActiveQueue,
    /// Number among the request queues, which is that of its lane into `bus`.
    pub lane: u16,
    /// Where commands go.
    pub bus: Arc<Bus>,
    /// Where the queue starts I/O and sleeps.
    pub io: IoContext,
    /// The guest's memory.
    pub memory: Arc<GuestMemoryMmap>,
    /// The way to the driver.
    pub interrupt: Arc<dyn Interrupt>,
    /// How requests are framed.
    pub sizes: Sizes,
    /// Written once to end [`RequestQueue::run`].
    pub stop: EventFd,
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setup").field("active", &self.active).finish_non_exhaustive()
    }
}

/// The ring and the requests taken from it.
struct Requests {
    index: u16,
    queue: Queue,
    memory: Arc<GuestMemoryMmap>,
    interrupt: Arc<dyn Interrupt>,
    sizes: Sizes,
    lane: Lane,
    slots: Slots,
    mailbox: Arc<Mailbox>,
    /// Something was used since the driver was last told.
    used: bool,
    /// What is wrong with the ring, so that the queue cannot go on.
    broken: Option<virtio_queue::Error>,
    /// A broken chain was logged.
    noted: bool,
}

/// A request from the ring.
enum Request {
    Command(LunAddress, Task),
    /// Its address names no target.
    Misaddressed(Ticket),
    /// It is too short, or its chain is broken.
    Malformed(Ticket),
}

impl RequestQueue {
    /// # Errors
    /// When the host has no descriptor left.
    pub fn new(setup: Setup) -> io::Result<RequestQueue> {
        let ActiveQueue { index, queue, kick } = setup.active;
        let mailbox = Arc::new(Mailbox::new()?);
        let (lane, gate) = setup.bus.lane(setup.lane)?;
        let requests = Requests {
            index,
            slots: Slots::new(queue.size(), &mailbox),
            queue,
            memory: setup.memory,
            interrupt: setup.interrupt,
            sizes: setup.sizes,
            lane,
            mailbox,
            used: false,
            broken: None,
            noted: false,
        };
        let mut served = RequestQueue { io: setup.io, requests, kick, gate, stop: setup.stop };
        served.watch()?;
        Ok(served)
    }

    fn watch(&mut self) -> io::Result<()> {
        self.io.watch(&self.kick, KICK)?;
        self.io.watch(self.requests.mailbox.event(), MAILBOX)?;
        self.io.watch(&self.gate, GATE)?;
        self.io.watch(&self.stop, STOP)
    }

    /// Serves the queue until it is stopped and its last request has ended. If it cannot go on,
    /// because the driver broke the ring or the host failed, the driver is told.
    pub fn run(mut self) {
        if let Err(error) = self.serve() {
            log::error!("request queue {} stops: {error}", self.requests.index);
            self.requests.interrupt.needs_reset();
        }
    }

    /// Takes what is in the ring and settles what is answered, without sleeping.
    ///
    /// # Errors
    /// When the host's wait fails for good, or the ring is broken.
    pub fn poll(&mut self) -> io::Result<()> {
        self.step(false).map(drop)
    }

    fn step(&mut self, may_sleep: bool) -> io::Result<Wakeups> {
        let more = self.requests.pop_batch(&mut self.io);
        let wakeups = self.wait(may_sleep && !more && self.requests.broken.is_none())?;
        if wakeups.contain(GATE) {
            self.requests.attend(&mut self.io);
        }
        match &self.requests.broken {
            Some(error) => Err(io::Error::other(format!("the driver broke the ring: {error}"))),
            None => Ok(wakeups),
        }
    }

    fn serve(&mut self) -> io::Result<()> {
        loop {
            let wakeups = self.step(true)?;
            if wakeups.contain(STOP) {
                return self.drain();
            }
        }
    }

    /// Settles what was answered, after a sleep if there is nothing else to do.
    fn wait(&mut self, sleep: bool) -> io::Result<Wakeups> {
        let requests = &mut self.requests;
        let wakeups = self.io.wait(sleep, &mut |answer| requests.settle(answer))?;
        if wakeups.contain(MAILBOX) {
            requests.settle_mailbox();
        }
        requests.lane.acknowledge();
        Ok(wakeups)
    }

    /// Takes nothing new from the ring, has requests end as soon as they can, and waits until
    /// nobody uses guest memory any more.
    fn drain(&mut self) -> io::Result<()> {
        for answer in self.requests.lane.abandon(&mut self.io) {
            self.requests.settle(answer);
        }
        self.requests.settle_mailbox();
        while !self.requests.slots.are_free() {
            self.wait(true)?;
        }
        Ok(())
    }
}

impl Drop for RequestQueue {
    /// Waits for requests that others still work on, as after an error: their memory goes with
    /// this. After a panic nobody knows which those are, so it is kept for ever.
    fn drop(&mut self) {
        if thread::panicking() {
            self.requests.interrupt.needs_reset();
            self.requests.leak();
        } else if let Err(error) = self.drain() {
            log::error!("request queue {} cannot end its requests: {error}", self.requests.index);
            self.requests.leak();
        }
    }
}

impl Requests {
    /// Keeps the memory of open requests for ever, where somebody may still write to it.
    fn leak(&mut self) {
        self.slots.leak();
        self.lane.leak();
        std::mem::forget(Arc::clone(&self.memory));
    }

    /// Takes requests from the ring, as many as there are places, but no more than the ring is
    /// long, so that a driver that adds them as fast cannot keep us from all else. Then tells the
    /// driver, once, of everything that was answered. Whether there may be more to take.
    fn pop_batch(&mut self, io: &mut IoContext) -> bool {
        let disabled = self.queue.disable_notification(&*self.memory);
        self.ring(disabled);
        let mut popped = 0;
        while popped < self.queue.size()
            && let Some(request) = self.pop()
        {
            popped += 1;
            self.start(request, io);
        }
        let more = self.queue.enable_notification(&*self.memory);
        self.notify();
        // A ring that has more but yields nothing is broken, or waits for a place.
        self.ring(more).unwrap_or(false) && popped > 0
    }

    /// Takes the next request from the ring, if there is one and a place for it.
    fn pop(&mut self) -> Option<Request> {
        if !self.slots.has_room() {
            return None;
        }
        let chain = match self.queue.iter(&*self.memory) {
            Ok(mut available) => available.next()?,
            Err(error) => {
                self.broken.get_or_insert(error);
                return None;
            }
        };
        let head = chain.head_index();
        let Taken { ticket, place, segments } = self.slots.take()?;
        let filled = segments.fill(&self.memory, chain);
        // SAFETY: this thread keeps the memory map until its last request has ended, and the
        // place with its segments until this one has.
        let buffers = unsafe { segments.buffers(self.sizes.response_len()) };
        let Buffers { mut readable, response, writable } = buffers;
        let header = self.read_header(&mut readable);
        let data_in_len = u32::try_from(writable.len()).unwrap_or(u32::MAX);
        let has_room = response.len() >= CommandResponse::MIN_LEN;
        self.slots.open(place, Open { head, response, data_in_len });
        // Both directions at once would need VIRTIO_SCSI_F_INOUT, which is not offered.
        let bidirectional = !readable.is_empty() && !writable.is_empty();
        Some(match (self.note(filled), header) {
            (Some(()), Some(request)) if has_room && !bidirectional => match request.address {
                Some(address) => {
                    let task = Task::new(ticket, request.cdb, readable, writable);
                    Request::Command(address, task.tagged(request.tag, request.attribute))
                }
                None => Request::Misaddressed(ticket),
            },
            _ => Request::Malformed(ticket),
        })
    }

    /// Reads the head of a request, once, and leaves its data-out.
    fn read_header(&self, readable: &mut DataBuf) -> Option<CommandRequest> {
        let len = self.sizes.request_len();
        if readable.len() < len {
            return None;
        }
        let mut bytes = [0; CommandRequest::MAX_LEN];
        readable.read(&mut bytes);
        readable.advance(len);
        Some(CommandRequest::from_bytes(&bytes, self.sizes))
    }

    fn start(&mut self, request: Request, io: &mut IoContext) {
        match request {
            Request::Command(address, task) => {
                if let Submitted::Done(answer) = self.lane.submit(address, task, io) {
                    self.settle(answer);
                }
            }
            Request::Misaddressed(ticket) => {
                let response = Response::Failed(ServiceResponse::BadTarget);
                self.finish(ticket, &CommandResponse::new(response, self.sizes));
            }
            Request::Malformed(ticket) => self.finish(ticket, &CommandResponse::FAILURE),
        }
    }

    fn settle(&mut self, answer: Answer) {
        let (ticket, response) = self.lane.settle(answer);
        self.finish(ticket, &CommandResponse::new(response, self.sizes));
    }

    /// Does what the bus woke the queue for. A task management function also means what lies in
    /// the ring, doorbell or not.
    fn attend(&mut self, io: &mut IoContext) {
        self.lane.listen();
        self.pop_batch(io);
        for answer in self.lane.attend(io) {
            self.settle(answer);
        }
        self.notify();
        self.lane.acknowledge();
    }

    fn settle_mailbox(&mut self) {
        for answer in self.mailbox.take() {
            self.settle(answer);
        }
    }

    /// Writes the response and gives the chain back to the driver.
    fn finish(&mut self, ticket: Ticket, response: &CommandResponse) {
        let Some(mut open) = self.slots.close(ticket) else { return };
        let room = open.response.len();
        let written = response.write(&mut open.response);
        let data = open.data_in_len.saturating_sub(response.resid);
        // Data comes behind the response, so the driver takes all before it as written.
        let response_len = if data > 0 { room } else { written };
        let len = u32::try_from(response_len).unwrap_or(u32::MAX).saturating_add(data);
        let used = self.queue.add_used(&*self.memory, open.head, len);
        self.ring(used);
        self.used = true;
    }

    /// Interrupts the driver if it wants to hear of what was used.
    fn notify(&mut self) {
        if std::mem::take(&mut self.used) {
            let wanted = self.queue.needs_notification(&*self.memory);
            if self.ring(wanted).unwrap_or(false) {
                self.interrupt.queue(self.index);
            }
        }
    }

    /// Remembers the first thing that is wrong with the ring.
    fn ring<T>(&mut self, result: Result<T, virtio_queue::Error>) -> Option<T> {
        result.map_err(|error| self.broken.get_or_insert(error)).ok()
    }

    /// Logs the first chain that is broken: a driver must not be able to fill a log.
    fn note(&mut self, filled: Result<(), BadChain>) -> Option<()> {
        if let Err(error) = &filled
            && !std::mem::replace(&mut self.noted, true)
        {
            log::warn!("request queue {}: the driver sends a broken chain: {error}", self.index);
        }
        filled.ok()
    }
}

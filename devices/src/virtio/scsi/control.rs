//! The control queue, and the thread that serves it and the event queue.
//!
//! A task management function is begun here and ends elsewhere: the threads of the request queues
//! acknowledge it, the last one leaves its outcome in the [`Notices`], and this thread answers
//! the driver. It never waits for one while others come; one that takes too long is given up.
#![expect(unsafe_code, reason = "a request's segments become buffers")]

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use storage::buffer::DataBuf;
use storage::target::address::LunAddress;
use storage::target::{Bus, Function, Management, Outcome};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::events::EventQueue;
use super::notices::Notices;
use super::wire::{ControlRequest, ResponseCode, management_response, notification_response};
use crate::interrupt::Interrupt;
use crate::virtio::ActiveQueue;
use crate::virtio::chain::{Buffers, Segments};

/// What the thread is made from.
pub(super) struct Setup {
    pub(super) control: Option<ActiveQueue>,
    pub(super) events: Option<ActiveQueue>,
    pub(super) bus: Arc<Bus>,
    pub(super) memory: Arc<GuestMemoryMmap>,
    pub(super) interrupt: Arc<dyn Interrupt>,
    /// The features that were negotiated.
    pub(super) features: u64,
    /// How long a task management function may take.
    pub(super) tmf_timeout: Duration,
    /// Outcomes and events from other threads.
    pub(super) notices: Arc<Notices>,
    /// Written once to end [`ControlThread::run`].
    pub(super) stop: EventFd,
}

/// The control and event queues, ready to be served.
pub(super) struct ControlThread {
    control: Option<ControlQueue>,
    events: Option<EventQueue>,
    interrupt: Arc<dyn Interrupt>,
    notices: Arc<Notices>,
    stop: EventFd,
    epoll: Epoll,
}

impl ControlThread {
    /// # Errors
    /// When the host has no descriptor left.
    pub(super) fn new(setup: Setup) -> io::Result<ControlThread> {
        let epoll = Epoll::new()?;
        let kicks = [&setup.control, &setup.events].into_iter().flatten().map(|queue| &queue.kick);
        for event in kicks.chain([setup.notices.event(), &setup.stop]) {
            let interest = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, 0);
            epoll.ctl(ControlOperation::Add, event.as_raw_fd(), interest)?;
        }
        let Setup { bus, memory, interrupt, features, tmf_timeout, notices, stop, .. } = setup;
        let events = setup.events.map(|active| {
            EventQueue::new(active, Arc::clone(&memory), Arc::clone(&interrupt), features)
        });
        let control = setup.control.map(|active| ControlQueue {
            index: active.index,
            queue: active.queue,
            bus,
            memory,
            interrupt: Arc::clone(&interrupt),
            notices: Arc::clone(&notices),
            tmf_timeout,
            pending: Vec::new(),
            next: 0,
            used: false,
        });
        Ok(ControlThread { control, events, interrupt, notices, stop, epoll })
    }

    /// Serves both queues until it is stopped. If it cannot go on, the driver is told.
    pub(super) fn run(mut self) {
        while self.stop.read().is_err() {
            if let Err(error) = self.serve() {
                log::error!("the control and event queues stop: {error}");
                return self.interrupt.needs_reset();
            }
        }
    }

    /// Does all there is to do, then sleeps until there is more.
    fn serve(&mut self) -> io::Result<()> {
        let (outcomes, events) = self.notices.take();
        let (mut deadline, mut more) = (None, false);
        if let Some(control) = &mut self.control {
            for (id, outcome) in outcomes {
                control.answer(id, outcome)?;
            }
            more = control.pop_batch()?;
            deadline = control.expire();
            control.notify()?;
        }
        if let Some(queue) = &mut self.events {
            queue.tell(events).map_err(|error| broken(&error))?;
        }
        let timeout = if more { 0 } else { deadline.map_or(-1, milliseconds_until) };
        match self.epoll.wait(timeout, &mut [EpollEvent::default(); 4]) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }
}

/// The ring of the control queue, and the functions that are under way.
struct ControlQueue {
    index: u16,
    queue: Queue,
    bus: Arc<Bus>,
    memory: Arc<GuestMemoryMmap>,
    interrupt: Arc<dyn Interrupt>,
    notices: Arc<Notices>,
    tmf_timeout: Duration,
    pending: Vec<Pending>,
    next: u64,
    /// Something was used since the driver was last told.
    used: bool,
}

/// A task management function that is not answered yet.
struct Pending {
    id: u64,
    head: u16,
    response: DataBuf,
    /// What `response` points into.
    _segments: Segments,
    deadline: Instant,
    /// There until it is given up.
    management: Option<Arc<Management>>,
}

impl ControlQueue {
    /// Takes requests from the ring, but no more than it is long, so that a driver that adds them
    /// as fast cannot keep the thread from all else. Whether there may be more.
    fn pop_batch(&mut self) -> io::Result<bool> {
        let size = usize::from(self.queue.size());
        let mut popped = 0;
        while popped < size && self.pending.len() < size && self.pop()? {
            popped += 1;
        }
        let more = self.queue.enable_notification(&*self.memory).map_err(|error| broken(&error))?;
        Ok(more && popped > 0)
    }

    fn pop(&mut self) -> io::Result<bool> {
        let mut available = self.queue.iter(&*self.memory).map_err(|error| broken(&error))?;
        let Some(chain) = available.next() else { return Ok(false) };
        let head = chain.head_index();
        let mut segments = Segments::default();
        if segments.fill(&self.memory, chain).is_err() {
            self.finish(head, 0)?;
            return Ok(true);
        }
        // SAFETY: this thread keeps the memory map, and the segments go where the response goes.
        let Buffers { readable, mut response, .. } = unsafe { segments.buffers(usize::MAX) };
        let mut bytes = [0; ControlRequest::MAX_LEN];
        let len = readable.read(&mut bytes);
        let written = match bytes.get(..len).and_then(ControlRequest::from_bytes) {
            Some(ControlRequest::TaskManagement(Some(function), Some(address))) => {
                self.begin(function, address, head, response, segments);
                return Ok(true);
            }
            Some(ControlRequest::TaskManagement(None, _)) => {
                response.write(&management_response(ResponseCode::from(Outcome::Rejected)))
            }
            Some(ControlRequest::TaskManagement(_, None)) => {
                response.write(&management_response(ResponseCode::from(Outcome::BadTarget)))
            }
            Some(ControlRequest::AsyncNotification) => response.write(&notification_response()),
            None => response.write(&management_response(ResponseCode::FAILURE)),
        };
        self.finish(head, written)?;
        Ok(true)
    }

    fn begin(
        &mut self,
        function: Function,
        address: LunAddress,
        head: u16,
        response: DataBuf,
        segments: Segments,
    ) {
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        let notices = Arc::clone(&self.notices);
        let reply = Box::new(move |outcome| notices.reply(id, outcome));
        let management = self.bus.manage(function, address, reply);
        let deadline = Instant::now() + self.tmf_timeout;
        self.pending.push(Pending {
            id,
            head,
            response,
            _segments: segments,
            deadline,
            management,
        });
    }

    /// Answers function `id`.
    fn answer(&mut self, id: u64, outcome: Outcome) -> io::Result<()> {
        let Some(at) = self.pending.iter().position(|pending| pending.id == id) else {
            return Ok(());
        };
        let mut pending = self.pending.swap_remove(at);
        let written = pending.response.write(&management_response(outcome.into()));
        self.finish(pending.head, written)
    }

    /// Gives up what takes too long; returns when to look again.
    fn expire(&mut self) -> Option<Instant> {
        let now = Instant::now();
        for pending in &mut self.pending {
            if pending.deadline <= now
                && let Some(management) = pending.management.take()
            {
                // Its outcome comes as a notice.
                management.expire();
            }
        }
        let waiting = self.pending.iter().filter(|pending| pending.management.is_some());
        waiting.map(|pending| pending.deadline).min()
    }

    /// Gives a chain back to the driver.
    fn finish(&mut self, head: u16, written: usize) -> io::Result<()> {
        let len = u32::try_from(written).unwrap_or(0);
        self.used = true;
        self.queue.add_used(&*self.memory, head, len).map_err(|error| broken(&error))
    }

    /// Interrupts the driver if it wants to hear of what was used.
    fn notify(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.used)
            && self.queue.needs_notification(&*self.memory).map_err(|error| broken(&error))?
        {
            self.interrupt.queue(self.index);
        }
        Ok(())
    }
}

/// As epoll wants it; rounded up, so that nobody wakes too early.
fn milliseconds_until(deadline: Instant) -> i32 {
    let left = deadline.saturating_duration_since(Instant::now()).as_millis();
    i32::try_from(left.saturating_add(1)).unwrap_or(i32::MAX)
}

fn broken(error: &virtio_queue::Error) -> io::Error {
    io::Error::other(format!("the driver broke the ring: {error}"))
}

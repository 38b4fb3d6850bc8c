//! The control and event queues, and the one thread that serves both.
//!
//! Task management functions are refused for now: one that "succeeded" while its command still
//! runs would let the driver reuse memory that is being written. No events are raised either, so
//! the event queue's buffers stay where they are.
#![expect(unsafe_code, reason = "a request's segments become buffers")]

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::wire::{ControlRequest, ResponseCode, management_response, notification_response};
use crate::interrupt::Interrupt;
use crate::virtio::ActiveQueue;
use crate::virtio::chain::{Buffers, Segments};

/// The control queue, ready to be served.
pub(super) struct ControlQueue {
    index: u16,
    queue: Queue,
    kick: EventFd,
    stop: EventFd,
    memory: Arc<GuestMemoryMmap>,
    interrupt: Arc<dyn Interrupt>,
    segments: Segments,
    epoll: Epoll,
}

const KICK: u64 = 0;
const STOP: u64 = 1;

impl ControlQueue {
    /// # Errors
    /// When the host has no descriptor left.
    pub(super) fn new(
        active: ActiveQueue,
        memory: &Arc<GuestMemoryMmap>,
        interrupt: &Arc<dyn Interrupt>,
        stop: EventFd,
    ) -> io::Result<ControlQueue> {
        let ActiveQueue { index, queue, kick } = active;
        let epoll = Epoll::new()?;
        for (event, name) in [(&kick, KICK), (&stop, STOP)] {
            let interest = EpollEvent::new(EventSet::IN, name);
            epoll.ctl(ControlOperation::Add, event.as_raw_fd(), interest)?;
        }
        let (memory, interrupt) = (Arc::clone(memory), Arc::clone(interrupt));
        let segments = Segments::default();
        Ok(ControlQueue { index, queue, kick, stop, memory, interrupt, segments, epoll })
    }

    /// Serves the queue until it is stopped.
    pub(super) fn run(mut self) {
        while self.stop.read().is_err() {
            self.serve();
            let mut ready = [EpollEvent::default(); 2];
            match self.epoll.wait(-1, &mut ready) {
                Ok(_) => drop(self.kick.read()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return log::error!("the control queue stops: {error}"),
            }
        }
    }

    /// Answers every request in the ring.
    fn serve(&mut self) {
        let mut used = false;
        for _ in 0..self.queue.size() {
            let Some(chain) = self.queue.pop_descriptor_chain(&*self.memory) else { break };
            let head = chain.head_index();
            let len = match self.segments.fill(&self.memory, chain) {
                Ok(()) => self.answer(),
                Err(_) => 0,
            };
            used |= self.queue.add_used(&*self.memory, head, len).is_ok();
        }
        if used && self.queue.needs_notification(&*self.memory).unwrap_or(true) {
            self.interrupt.queue(self.index);
        }
        // A request that came after the last look rang no doorbell.
        if self.queue.enable_notification(&*self.memory).unwrap_or(false) && used {
            drop(self.kick.write(1));
        }
    }

    /// Answers the request in `segments`; returns how many bytes it wrote.
    fn answer(&mut self) -> u32 {
        // SAFETY: this thread keeps the memory map, and the buffers end with this function.
        let Buffers { readable, mut response, .. } = unsafe { self.segments.buffers(usize::MAX) };
        let mut bytes = [0; ControlRequest::MAX_LEN];
        let len = readable.read(&mut bytes);
        let request = bytes.get(..len).and_then(ControlRequest::from_bytes);
        let written = match request {
            Some(ControlRequest::TaskManagement) => {
                response.write(&management_response(ResponseCode::FUNCTION_REJECTED))
            }
            Some(ControlRequest::AsyncNotification) => response.write(&notification_response()),
            None => response.write(&management_response(ResponseCode::FAILURE)),
        };
        u32::try_from(written).unwrap_or(0)
    }
}

//! The event queue (virtio 1.2, 5.6.6.3): buffers that the driver lends for what it has not asked
//! for. Without a buffer an event is lost, and the next one says so.
#![expect(unsafe_code, reason = "a chain's segments become buffers")]

use std::sync::Arc;

use virtio_queue::{Error, Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemoryMmap;

use super::notices::Events;
use super::wire::EventRecord;
use crate::interrupt::Interrupt;
use crate::virtio::ActiveQueue;
use crate::virtio::chain::{Buffers, Segments};

/// The ring of the event queue.
pub(super) struct EventQueue {
    index: u16,
    queue: Queue,
    memory: Arc<GuestMemoryMmap>,
    interrupt: Arc<dyn Interrupt>,
    features: u64,
    segments: Segments,
    /// Events were lost, and the driver does not know.
    missed: bool,
}

impl EventQueue {
    pub(super) fn new(
        active: ActiveQueue,
        memory: Arc<GuestMemoryMmap>,
        interrupt: Arc<dyn Interrupt>,
        features: u64,
    ) -> EventQueue {
        let ActiveQueue { index, queue, .. } = active;
        let segments = Segments::default();
        EventQueue { index, queue, memory, interrupt, features, segments, missed: false }
    }

    /// Tells the driver of `events`, and that some were missed as soon as it has a buffer for it.
    ///
    /// # Errors
    /// When the ring is broken.
    pub(super) fn tell(&mut self, events: Events) -> Result<(), Error> {
        let features = self.features;
        let mut used = false;
        for record in events.kept.into_iter().filter_map(|event| EventRecord::new(event, features))
        {
            used |= self.put(record)?;
        }
        self.missed |= events.lost;
        if self.missed {
            used |= self.put(EventRecord::NONE)?;
        }
        // The driver rings when it lends a buffer, which one that missed something waits for.
        if self.queue.enable_notification(&*self.memory)? && self.missed {
            used |= self.put(EventRecord::NONE)?;
        }
        if used && self.queue.needs_notification(&*self.memory)? {
            self.interrupt.queue(self.index);
        }
        Ok(())
    }

    /// Writes `record` into the next buffer; says whether there was one.
    fn put(&mut self, record: EventRecord) -> Result<bool, Error> {
        let Some(chain) = self.queue.iter(&*self.memory)?.next() else {
            self.missed = true;
            return Ok(false);
        };
        let head = chain.head_index();
        let mut written = 0;
        if self.segments.fill(&self.memory, chain).is_ok() {
            // SAFETY: the memory map is kept, and the buffers end with this function.
            let Buffers { mut response, .. } = unsafe { self.segments.buffers(EventRecord::LEN) };
            let record = if self.missed { record.with_missed() } else { record };
            written = response.write(&record.to_bytes());
            self.missed = false;
        }
        self.queue.add_used(&*self.memory, head, u32::try_from(written).unwrap_or(0))?;
        Ok(true)
    }
}

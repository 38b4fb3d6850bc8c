//! The registers of one queue, and the queue that they describe.
//!
//! Follows virtio 1.2, 2.6 (virtqueues) and 2.7 (split virtqueues). When a driver may write them
//! is the business of `State`.

use std::io;

use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::virtio::ActivateError;

/// The three parts of a virtqueue (virtio 1.2, 2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueArea {
    /// The descriptor area: the descriptor table.
    Descriptor,
    /// The driver area: the available ring.
    Driver,
    /// The device area: the used ring.
    Device,
}

/// What the driver told about one queue.
#[derive(Debug)]
pub(super) struct QueueRegisters {
    pub(super) max_size: u16,
    pub(super) size: u16,
    pub(super) ready: bool,
    descriptor: u64,
    driver: u64,
    device: u64,
}

impl QueueRegisters {
    /// A queue of at most `max_size` descriptors, after reset.
    pub(super) fn new(max_size: u16) -> io::Result<QueueRegisters> {
        Queue::new(max_size).map_err(invalid)?;
        Ok(QueueRegisters::after_reset(max_size))
    }

    pub(super) fn reset(&mut self) {
        *self = QueueRegisters::after_reset(self.max_size);
    }

    fn after_reset(max_size: u16) -> QueueRegisters {
        QueueRegisters {
            max_size,
            size: max_size,
            ready: false,
            descriptor: 0,
            driver: 0,
            device: 0,
        }
    }

    pub(super) fn area(&self, area: QueueArea) -> u64 {
        match area {
            QueueArea::Descriptor => self.descriptor,
            QueueArea::Driver => self.driver,
            QueueArea::Device => self.device,
        }
    }

    pub(super) fn set_area(&mut self, area: QueueArea, address: u64) {
        match area {
            QueueArea::Descriptor => self.descriptor = address,
            QueueArea::Driver => self.driver = address,
            QueueArea::Device => self.device = address,
        }
    }

    /// The queue that the registers describe; all of it must lie in `memory`.
    pub(super) fn build(
        &self,
        event_idx: bool,
        memory: &GuestMemoryMmap,
    ) -> Result<Queue, ActivateError> {
        let queue = self.configure(event_idx).map_err(invalid).and_then(|queue| {
            let outside = || io::Error::new(io::ErrorKind::InvalidInput, "not in guest memory");
            // The queue takes an available ring at 0 for none.
            let usable = self.driver != 0 && queue.is_valid(memory);
            if usable { Ok(queue) } else { Err(outside()) }
        });
        queue.map_err(|source| ActivateError { what: "virtqueue", source })
    }

    fn configure(&self, event_idx: bool) -> Result<Queue, virtio_queue::Error> {
        let mut queue = Queue::new(self.max_size)?;
        queue.try_set_size(self.size)?;
        queue.try_set_desc_table_address(GuestAddress(self.descriptor))?;
        queue.try_set_avail_ring_address(GuestAddress(self.driver))?;
        queue.try_set_used_ring_address(GuestAddress(self.device))?;
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        Ok(queue)
    }
}

fn invalid(error: virtio_queue::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

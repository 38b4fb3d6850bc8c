//! The interrupts of a virtio function: which event has which vector, and the ISR status.
//!
//! Follows virtio 1.2, 4.1.4.5 (ISR status) and 4.1.5.1.2 (vectors). Atomics only: devices
//! interrupt from their own threads.

use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};

use crate::interrupt::Interrupt;
use crate::pci::msix::Msix;
use crate::virtio::state::Transport;

/// Vector value: this event raises no interrupt (virtio 1.2, 4.1.5.1.2).
const NO_VECTOR: u16 = 0xffff;

/// ISR status bits (virtio 1.2, 4.1.4.5).
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// The interrupts of a virtio function: which event has which vector, and the ISR status.
pub(super) struct PciInterrupt {
    pub(super) msix: Msix,
    isr: AtomicU8,
    config_vector: AtomicU16,
    queue_vectors: Vec<AtomicU16>,
}

impl PciInterrupt {
    pub(super) fn new(msix: Msix, queues: usize) -> PciInterrupt {
        PciInterrupt {
            msix,
            isr: AtomicU8::new(0),
            config_vector: AtomicU16::new(NO_VECTOR),
            queue_vectors: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
        }
    }

    pub(super) fn map_config(&self, vector: u16) {
        self.config_vector.store(self.existing(vector), Ordering::Release);
    }

    pub(super) fn map_queue(&self, queue: u16, vector: u16) {
        if let Some(mapped) = self.queue_vectors.get(usize::from(queue)) {
            mapped.store(self.existing(vector), Ordering::Release);
        }
    }

    /// A vector that does not exist fails to be mapped, which reads back as `NO_VECTOR`.
    fn existing(&self, vector: u16) -> u16 {
        if vector < self.msix.vectors() { vector } else { NO_VECTOR }
    }

    pub(super) fn config_vector(&self) -> u16 {
        self.config_vector.load(Ordering::Acquire)
    }

    pub(super) fn queue_vector(&self, queue: u16) -> u16 {
        let vector = self.queue_vectors.get(usize::from(queue));
        vector.map_or(NO_VECTOR, |vector| vector.load(Ordering::Acquire))
    }

    pub(super) fn take_isr(&self) -> u8 {
        self.isr.swap(0, Ordering::AcqRel)
    }

    /// Interrupt Status of the PCI header (virtio 1.2, 4.1.4.5.1).
    pub(super) fn isr_pending(&self) -> bool {
        !self.msix.enabled() && self.isr.load(Ordering::Acquire) != 0
    }
}

impl Interrupt for PciInterrupt {
    fn queue(&self, index: u16) {
        if self.msix.enabled() {
            self.msix.deliver(self.queue_vector(index));
        } else {
            self.isr.fetch_or(ISR_QUEUE, Ordering::AcqRel);
        }
    }

    fn config(&self) {
        self.isr.fetch_or(ISR_CONFIG, Ordering::AcqRel);
        self.msix.deliver(self.config_vector());
    }
}

impl Transport for PciInterrupt {
    fn reset(&self) {
        self.isr.store(0, Ordering::Release);
        self.map_config(NO_VECTOR);
        for vector in &self.queue_vectors {
            vector.store(NO_VECTOR, Ordering::Release);
        }
    }
}

//! A virtio-scsi controller: its configuration space, and the threads between DRIVER_OK and
//! reset.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use storage::engine::{IoContext, Pool};
use storage::target::Bus;
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC,
};
use virtio_queue::QueueT;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::control::ControlQueue;
use super::queue::{RequestQueue, Setup};
use super::wire::Sizes;
use crate::bus::read_bytes;
use crate::virtio::{ActivateError, Activation, ActiveQueue, DeviceType, VirtioDevice};

/// The queue numbers (virtio 1.2, 5.6.2); request queues follow.
const CONTROL_QUEUE: u16 = 0;
const EVENT_QUEUE: u16 = 1;
const FIRST_REQUEST_QUEUE: u16 = 2;

/// Segments of data in one request, where the queue is long enough.
const SEG_MAX: u16 = 254;

/// Descriptors of a request besides its data: header and response.
const OVERHEAD: u16 = 2;

/// What a controller is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerSpec {
    /// Names it in logs.
    pub id: String,
    /// Number of request queues, at least 1.
    pub request_queues: u16,
    /// Size of each queue, a power of two.
    pub queue_size: u16,
}

/// A virtio-scsi controller.
pub struct Controller {
    spec: ControllerSpec,
    bus: Arc<Bus>,
    pool: Arc<Pool>,
    sizes: Sizes,
    max_sectors: u32,
    workers: Vec<Worker>,
}

/// The thread that serves one queue.
struct Worker {
    queue: u16,
    thread: JoinHandle<()>,
    stop: EventFd,
}

impl Controller {
    /// A controller in front of `bus`, which has a lane for each request queue; blocking image
    /// I/O goes to `pool`.
    #[must_use]
    pub fn new(spec: ControllerSpec, bus: Arc<Bus>, pool: Arc<Pool>) -> Controller {
        let max_sectors = max_sectors(&bus);
        Controller { spec, bus, pool, sizes: Sizes::DEFAULT, max_sectors, workers: Vec::new() }
    }

    /// The configuration space (virtio 1.2, 5.6.4).
    fn config(&self) -> [u8; 36] {
        const EVENT_INFO_SIZE: u32 = 16;
        const MAX_CHANNEL: u32 = 0;
        const MAX_TARGET: u32 = 255;
        const MAX_LUN: u32 = 16383;
        let fields = [
            self.spec.request_queues.into(),
            // A chain is never longer than its queue, not even an indirect one (virtio 1.2,
            // 2.7.5.3.1).
            self.spec.queue_size.saturating_sub(OVERHEAD).min(SEG_MAX).into(),
            self.max_sectors,
            self.spec.queue_size.into(),
            EVENT_INFO_SIZE,
            self.sizes.sense,
            self.sizes.cdb,
            MAX_CHANNEL | MAX_TARGET << 16,
            MAX_LUN,
        ];
        let mut config = [0; 36];
        for (to, field) in config.chunks_exact_mut(4).zip(fields) {
            to.copy_from_slice(&field.to_le_bytes());
        }
        config
    }

    /// Makes ready whatever serves `active`. The event queue's buffers wait for events.
    fn prepare(&self, active: ActiveQueue, setup: &Activation) -> io::Result<Option<Prepared>> {
        let queue = active.index;
        let stop = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let (memory, interrupt) = (&setup.memory, &setup.interrupt);
        let (name, served): (_, Box<dyn FnOnce() + Send>) = match queue {
            EVENT_QUEUE => return Ok(None),
            CONTROL_QUEUE => {
                let queue = ControlQueue::new(active, memory, interrupt, stop.try_clone()?)?;
                ("scsi-ctl".into(), Box::new(move || queue.run()))
            }
            index => {
                let lane = index - FIRST_REQUEST_QUEUE;
                let queue = RequestQueue::new(Setup {
                    io: IoContext::new(active.queue.size(), Arc::clone(&self.pool))?,
                    active,
                    lane,
                    bus: Arc::clone(&self.bus),
                    memory: Arc::clone(memory),
                    interrupt: Arc::clone(interrupt),
                    sizes: self.sizes,
                    stop: stop.try_clone()?,
                })?;
                (format!("scsi-req-{lane}"), Box::new(move || queue.run()))
            }
        };
        Ok(Some(Prepared { queue, name, served, stop }))
    }
}

/// What a worker is spawned from.
struct Prepared {
    queue: u16,
    name: String,
    served: Box<dyn FnOnce() + Send>,
    stop: EventFd,
}

impl Prepared {
    fn spawn(self) -> io::Result<Worker> {
        let thread = Builder::new().name(self.name).spawn(self.served)?;
        Ok(Worker { queue: self.queue, thread, stop: self.stop })
    }
}

/// The longest request that every logical unit takes, in 512-byte sectors.
fn max_sectors(bus: &Bus) -> u32 {
    const NO_LIMIT: u32 = 0xffff;
    let limit = bus.max_transfer().map_or(u64::from(NO_LIMIT), |bytes| bytes / 512);
    u32::try_from(limit).map_or(NO_LIMIT, |sectors| sectors.min(NO_LIMIT))
}

impl VirtioDevice for Controller {
    fn device_type(&self) -> DeviceType {
        DeviceType::SCSI_HOST
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![self.spec.queue_size; usize::from(FIRST_REQUEST_QUEUE + self.spec.request_queues)]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_bytes(&self.config(), offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        const SENSE_SIZE: u64 = 20;
        const CDB_SIZE: u64 = 24;
        let Ok(value) = data.try_into().map(u32::from_le_bytes) else { return };
        match offset {
            SENSE_SIZE => self.sizes.accept_sense(value),
            CDB_SIZE => self.sizes.accept_cdb(value),
            _ => {}
        }
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        let failed = |what| move |source| ActivateError { what, source };
        let mut prepared = Vec::new();
        for active in std::mem::take(&mut activation.queues) {
            let queue = self.prepare(active, &activation);
            prepared.extend(queue.map_err(failed("cannot set up a queue"))?);
        }
        for prepared in prepared {
            match prepared.spawn() {
                Ok(worker) => self.workers.push(worker),
                Err(error) => {
                    self.begin_reset();
                    return Err(failed("cannot start a queue's thread")(error));
                }
            }
        }
        Ok(())
    }

    fn stop_queue(&mut self, index: u16) {
        let of_queue = |worker: &mut Worker| worker.queue == index;
        for worker in self.workers.extract_if(.., of_queue).collect::<Vec<_>>() {
            worker.stop(&self.spec.id);
            worker.join(&self.spec.id);
        }
    }

    fn begin_reset(&mut self) {
        self.workers.iter().for_each(|worker| worker.stop(&self.spec.id));
    }

    fn reset_done(&mut self) -> bool {
        let stopped = self.workers.iter().all(|worker| worker.thread.is_finished());
        if stopped {
            self.finish_reset();
        }
        stopped
    }

    fn finish_reset(&mut self) {
        self.workers.drain(..).for_each(|worker| worker.join(&self.spec.id));
        self.sizes = Sizes::DEFAULT;
    }
}

impl Worker {
    fn stop(&self, controller: &str) {
        if let Err(error) = self.stop.write(1) {
            log::error!("{controller}: cannot stop queue {}: {error}", self.queue);
        }
    }

    /// Waits for the last of the queue's requests.
    fn join(self, controller: &str) {
        if self.thread.join().is_err() {
            log::error!("bug: {controller}: the thread of queue {} panicked", self.queue);
        }
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.begin_reset();
        self.finish_reset();
    }
}

impl fmt::Debug for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Controller({})", self.spec.id)
    }
}

//! A virtio-scsi controller: its configuration space, and the threads between DRIVER_OK and
//! reset.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use storage::engine::{IoContext, Pool};
use storage::target::Bus;
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC,
};
use virtio_bindings::virtio_scsi::{VIRTIO_SCSI_F_CHANGE, VIRTIO_SCSI_F_HOTPLUG};
use virtio_queue::QueueT;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::control::{self, ControlThread};
use super::notices::Notices;
use super::queue::{RequestQueue, Setup};
use super::wire::Sizes;
use crate::bus::read_bytes;
use crate::interrupt::Interrupt;
use crate::virtio::{ActivateError, Activation, ActiveQueue, DeviceType, VirtioDevice};

/// The control queue is 0, the event queue 1, request queues follow (virtio 1.2, 5.6.2).
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
    /// How long a task management function may wait for the commands that it names.
    pub tmf_timeout: Duration,
}

/// A virtio-scsi controller.
pub struct Controller {
    spec: ControllerSpec,
    bus: Arc<Bus>,
    pool: Arc<Pool>,
    sizes: Sizes,
    max_sectors: u32,
    seg_max: u32,
    workers: Vec<Worker>,
}

/// A thread that serves queues.
struct Worker {
    queues: Vec<u16>,
    driver: Arc<dyn Interrupt>,
    thread: JoinHandle<()>,
    stop: EventFd,
}

impl Controller {
    /// A controller in front of `bus`, which has a lane for each request queue; blocking image
    /// I/O goes to `pool`.
    #[must_use]
    pub fn new(spec: ControllerSpec, bus: Arc<Bus>, pool: Arc<Pool>) -> Controller {
        let (max_sectors, seg_max) = (max_sectors(&bus), seg_max(&bus, spec.queue_size));
        let (sizes, workers) = (Sizes::DEFAULT, Vec::new());
        Controller { spec, bus, pool, sizes, max_sectors, seg_max, workers }
    }

    /// The configuration space (virtio 1.2, 5.6.4).
    fn config(&self) -> [u8; 36] {
        const EVENT_INFO_SIZE: u32 = 16;
        const MAX_CHANNEL: u32 = 0;
        const MAX_TARGET: u32 = 255;
        const MAX_LUN: u32 = 16383;
        let fields = [
            self.spec.request_queues.into(),
            self.seg_max,
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

    /// Makes ready whatever serves the queues.
    fn prepare(&self, mut setup: Activation) -> io::Result<Vec<Prepared>> {
        let queues = std::mem::take(&mut setup.queues).into_iter();
        let (mut requests, mut others) = (Vec::new(), [None, None]);
        for active in queues {
            match others.get_mut(usize::from(active.index)) {
                Some(slot) => *slot = Some(active),
                None => requests.push(self.request_queue(active, &setup)?),
            }
        }
        if others.iter().any(Option::is_some) {
            requests.push(self.control_thread(others, &setup)?);
        }
        Ok(requests)
    }

    fn control_thread(
        &self,
        [control, events]: [Option<ActiveQueue>; FIRST_REQUEST_QUEUE as usize],
        setup: &Activation,
    ) -> io::Result<Prepared> {
        let stop = stop_event()?;
        let queues = [&control, &events].into_iter().flatten().map(|active| active.index).collect();
        let notices = Arc::new(Notices::new()?);
        let served = ControlThread::new(control::Setup {
            control,
            events,
            bus: Arc::clone(&self.bus),
            memory: Arc::clone(&setup.memory),
            interrupt: Arc::clone(&setup.interrupt),
            features: setup.features,
            tmf_timeout: self.spec.tmf_timeout,
            notices: Arc::clone(&notices),
            stop: stop.try_clone()?,
        })?;
        self.bus.listen(Some(notices));
        Ok(Prepared {
            queues,
            driver: Arc::clone(&setup.interrupt),
            name: "scsi-ctl".into(),
            served: Box::new(move || served.run()),
            stop,
        })
    }

    fn request_queue(&self, active: ActiveQueue, setup: &Activation) -> io::Result<Prepared> {
        let stop = stop_event()?;
        let queues = vec![active.index];
        let lane = active.index - FIRST_REQUEST_QUEUE;
        let served = RequestQueue::new(Setup {
            io: IoContext::new(active.queue.size(), Arc::clone(&self.pool))?,
            active,
            lane,
            bus: Arc::clone(&self.bus),
            memory: Arc::clone(&setup.memory),
            interrupt: Arc::clone(&setup.interrupt),
            sizes: self.sizes,
            stop: stop.try_clone()?,
        })?;
        Ok(Prepared {
            queues,
            driver: Arc::clone(&setup.interrupt),
            name: format!("scsi-req-{lane}"),
            served: Box::new(move || served.run()),
            stop,
        })
    }
}

fn stop_event() -> io::Result<EventFd> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
}

/// What a worker is spawned from.
struct Prepared {
    queues: Vec<u16>,
    driver: Arc<dyn Interrupt>,
    name: String,
    served: Box<dyn FnOnce() + Send>,
    stop: EventFd,
}

impl Prepared {
    fn spawn(self) -> io::Result<Worker> {
        let thread = Builder::new().name(self.name).spawn(self.served)?;
        Ok(Worker { queues: self.queues, driver: self.driver, thread, stop: self.stop })
    }
}

/// The longest request that every logical unit takes, in 512-byte sectors.
fn max_sectors(bus: &Bus) -> u32 {
    const NO_LIMIT: u32 = 0xffff;
    let limit = bus.max_transfer().map_or(u64::from(NO_LIMIT), |bytes| bytes / 512);
    u32::try_from(limit).map_or(NO_LIMIT, |sectors| sectors.min(NO_LIMIT))
}

/// The most segments of data in a request that every logical unit takes.
fn seg_max(bus: &Bus, queue_size: u16) -> u32 {
    // A chain is never longer than its queue, not even an indirect one (virtio 1.2, 2.7.5.3.1).
    let of_queue = queue_size.saturating_sub(OVERHEAD).min(SEG_MAX).into();
    bus.max_segments().unwrap_or(u32::MAX).clamp(1, of_queue)
}

impl VirtioDevice for Controller {
    fn device_type(&self) -> DeviceType {
        DeviceType::SCSI_HOST
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | 1 << VIRTIO_SCSI_F_HOTPLUG
            | 1 << VIRTIO_SCSI_F_CHANGE
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

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let failed = |what| move |source| ActivateError { what, source };
        let prepared = self.prepare(activation).map_err(failed("cannot set up a queue"))?;
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

    /// The control and event queues have one thread: a driver that disables one of them has to
    /// reset the device for the other.
    fn stop_queue(&mut self, index: u16) {
        let serves = |worker: &mut Worker| worker.queues.contains(&index);
        for worker in self.workers.extract_if(.., serves).collect::<Vec<_>>() {
            worker.stop(&self.spec.id);
            if worker.queues.len() > 1 {
                self.bus.listen(None);
                worker.driver.needs_reset();
            }
            worker.join(&self.spec.id);
        }
    }

    fn begin_reset(&mut self) {
        self.bus.listen(None);
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
        let worked = !self.workers.is_empty();
        self.workers.drain(..).for_each(|worker| worker.join(&self.spec.id));
        self.sizes = Sizes::DEFAULT;
        // For the next driver: no command of the last one is left to be told.
        if worked {
            self.bus.nexus_loss();
        }
    }
}

impl Worker {
    fn stop(&self, controller: &str) {
        if let Err(error) = self.stop.write(1) {
            log::error!("{controller}: cannot stop queues {:?}: {error}", self.queues);
        }
    }

    /// Waits for the last request.
    fn join(self, controller: &str) {
        if self.thread.join().is_err() {
            log::error!("bug: {controller}: the thread of queues {:?} panicked", self.queues);
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

//! A virtio device with two queues that answers each request with one word, when told to.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use devices::virtio::{ActivateError, Activation, DeviceType, VirtioDevice};
use virtio_queue::QueueT;
use vm_memory::Bytes;

pub(crate) const VERSION_1: u64 = 1 << 32;
pub(crate) const EVENT_IDX: u64 = 1 << 29;
pub(crate) const FEATURE_0: u64 = 1;
/// Not to be offered whatever the device says.
const RING_PACKED: u64 = 1 << 34;
pub(crate) const QUEUE_SIZES: [u16; 2] = [64, 256];
pub(crate) const ANSWER: u32 = 0x600d_600d;

/// The test's side of the device.
#[derive(Clone, Default)]
pub(crate) struct Control(Arc<(Mutex<Inner>, Condvar)>);

#[derive(Default)]
pub(crate) struct Inner {
    pub(crate) activation: Option<Activation>,
    pub(crate) activations: u32,
    /// Resets that ended.
    pub(crate) resets: u32,
    /// A reset waits for requests that do not end.
    pub(crate) stalled: bool,
    pub(crate) stopped_queues: Vec<u16>,
    pub(crate) refuse_activation: bool,
    pub(crate) config: [u8; 16],
}

impl Control {
    pub(crate) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn device(&self) -> Box<dyn VirtioDevice> {
        Box::new(FakeDevice(self.clone()))
    }

    /// Serves what is in queue `index`, and interrupts. Returns whether it had been kicked.
    pub(crate) fn serve(&self, index: u16) -> bool {
        let mut inner = self.inner();
        let Activation { memory, interrupt, queues, .. } = inner.activation.as_mut().unwrap();
        let active = queues.iter_mut().find(|queue| queue.index == index).unwrap();
        let kicked = active.kick.read().is_ok();
        while let Some(chain) = active.queue.pop_descriptor_chain(memory.as_ref()) {
            let head = chain.head_index();
            let buffer = chain.writable().next().unwrap();
            memory.write_obj(ANSWER.to_le(), buffer.addr()).unwrap();
            active.queue.add_used(memory.as_ref(), head, 4).unwrap();
        }
        interrupt.queue(index);
        kicked
    }

    /// Interrupts for queue `index` with nothing done.
    pub(crate) fn interrupt(&self, index: u16) {
        self.inner().activation.as_ref().unwrap().interrupt.queue(index);
    }

    /// Changes the configuration and says so.
    pub(crate) fn change_config(&self, config: [u8; 16]) {
        let mut inner = self.inner();
        inner.config = config;
        inner.activation.as_ref().unwrap().interrupt.config();
    }

    /// Ends the requests that hold a reset up.
    pub(crate) fn unstall(&self) {
        self.inner().stalled = false;
        self.0.1.notify_all();
    }

    pub(crate) fn needs_reset(&self) {
        self.inner().activation.as_ref().unwrap().interrupt.needs_reset();
    }
}

struct FakeDevice(Control);

impl VirtioDevice for FakeDevice {
    fn device_type(&self) -> DeviceType {
        DeviceType::SCSI_HOST
    }

    fn features(&self) -> u64 {
        VERSION_1 | EVENT_IDX | FEATURE_0 | RING_PACKED
    }

    fn queue_sizes(&self) -> Vec<u16> {
        QUEUE_SIZES.to_vec()
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = self.0.inner().config;
        for (at, byte) in (offset..).zip(data) {
            *byte = usize::try_from(at).ok().and_then(|at| config.get(at).copied()).unwrap_or(0);
        }
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let from = usize::try_from(offset).unwrap();
        let config = &mut self.0.inner().config;
        config.iter_mut().skip(from).zip(data).for_each(|(to, from)| *to = *from);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let mut inner = self.0.inner();
        inner.activations += 1;
        if inner.refuse_activation {
            let source = io::ErrorKind::OutOfMemory.into();
            return Err(ActivateError { what: "worker", source });
        }
        inner.activation = Some(activation);
        Ok(())
    }

    fn stop_queue(&mut self, index: u16) {
        let mut inner = self.0.inner();
        inner.stopped_queues.push(index);
        if let Some(active) = &mut inner.activation {
            active.queues.retain(|queue| queue.index != index);
        }
    }

    fn begin_reset(&mut self) {}

    fn reset_done(&mut self) -> bool {
        let mut inner = self.0.inner();
        if !inner.stalled {
            inner.activation = None;
            inner.resets += 1;
        }
        !inner.stalled
    }

    fn finish_reset(&mut self) {
        let unstalled = self.0.0.1.wait_while(self.0.inner(), |inner| inner.stalled);
        drop(unstalled.unwrap_or_else(PoisonError::into_inner));
        assert!(self.reset_done());
    }
}

//! The registers that every virtio transport has, and what writing them means.
//!
//! Follows virtio 1.2, 2.1 (device status), 2.2 (features), 2.5 (configuration space), 3.1
//! (initialisation), 4.1.4.3 and 4.2.2 (who may write what, and when). It owns the device, and
//! knows neither offsets, widths nor vectors: a transport decodes an access and calls the method
//! that the register is. What a driver must not do is ignored, and never panics.

mod queue;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use virtio_bindings::virtio_config as features;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::interrupt::Interrupt;
use crate::virtio::state::queue::QueueRegisters;
use crate::virtio::{ActivateError, Activation, ActiveQueue, DeviceType, VirtioDevice};

pub use crate::virtio::state::queue::QueueArea;

const VERSION_1: u64 = 1 << features::VIRTIO_F_VERSION_1;

/// Features of queues and transports that are not implemented, whatever a device may offer.
const UNSUPPORTED: u64 = 1 << features::VIRTIO_F_ACCESS_PLATFORM
    | 1 << features::VIRTIO_F_RING_PACKED
    | 1 << features::VIRTIO_F_SR_IOV
    | 1 << features::VIRTIO_F_NOTIFICATION_DATA
    | 1 << features::VIRTIO_F_NOTIF_CONFIG_DATA
    | 1 << features::VIRTIO_F_RING_RESET
    | 1 << features::VIRTIO_F_ADMIN_VQ;

/// The device status field (virtio 1.2, 2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceStatus(pub u8);

impl DeviceStatus {
    /// The guest noticed the device.
    pub const ACKNOWLEDGE: DeviceStatus = DeviceStatus(1);
    /// The guest has a driver for it.
    pub const DRIVER: DeviceStatus = DeviceStatus(2);
    /// The driver is ready: the device runs.
    pub const DRIVER_OK: DeviceStatus = DeviceStatus(4);
    /// The features are agreed upon.
    pub const FEATURES_OK: DeviceStatus = DeviceStatus(8);
    /// The device cannot go on.
    pub const DEVICE_NEEDS_RESET: DeviceStatus = DeviceStatus(64);
    /// The driver gave up.
    pub const FAILED: DeviceStatus = DeviceStatus(128);

    /// The steps of initialisation: each needs all before it (virtio 1.2, 3.1.1).
    const STEPS: [DeviceStatus; 4] =
        [Self::ACKNOWLEDGE, Self::DRIVER, Self::FEATURES_OK, Self::DRIVER_OK];

    /// Whether all bits of `other` are set.
    #[must_use]
    pub fn contains(self, other: DeviceStatus) -> bool {
        self.0 & other.0 == other.0
    }

    fn insert(&mut self, other: DeviceStatus) {
        self.0 |= other.0;
    }
}

/// The interrupts of a transport, as the registers use them.
pub trait Transport: Interrupt {
    /// The device was reset: nothing is pending, nor mapped to a vector. Called when no thread of
    /// the device can interrupt any more.
    fn reset(&self);
}

/// The registers of one virtio device, and the device behind them.
///
/// A reset takes as long as the device's last request. Until it [is done](State::is_resetting),
/// the status keeps its bits, and a transport drops writes to all other registers.
///
/// Dropping it resets the device: no thread of it outlives its registers.
pub struct State {
    device: Box<dyn VirtioDevice>,
    memory: Arc<GuestMemoryMmap>,
    transport: Arc<dyn Transport>,
    /// The device's way to the driver, new after each reset.
    notifier: Arc<Notifier>,
    offered: u64,
    driver_features: u64,
    device_feature_select: u32,
    driver_feature_select: u32,
    status: DeviceStatus,
    resetting: bool,
    config_generation: u8,
    queue_select: u16,
    queues: Vec<QueueRegisters>,
    kicks: Arc<[EventFd]>,
}

impl State {
    /// The registers of `device` after reset. The device will work in `memory` and notify the
    /// driver through `transport`.
    ///
    /// # Errors
    /// When the host has no event left, or a queue size is no power of two up to 32768.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: Arc<GuestMemoryMmap>,
        transport: Arc<dyn Transport>,
    ) -> io::Result<State> {
        let sizes = device.queue_sizes();
        let queues = sizes.iter().map(|size| QueueRegisters::new(*size));
        let kicks = sizes.iter().map(|_| doorbell_event());
        Ok(State {
            notifier: Notifier::new(&transport),
            offered: device.features() & !UNSUPPORTED,
            driver_features: 0,
            device_feature_select: 0,
            driver_feature_select: 0,
            status: DeviceStatus::default(),
            resetting: false,
            config_generation: 0,
            queue_select: 0,
            queues: queues.collect::<io::Result<_>>()?,
            kicks: kicks.collect::<io::Result<_>>()?,
            device,
            memory,
            transport,
        })
    }

    /// What the device is.
    #[must_use]
    pub fn device_type(&self) -> DeviceType {
        self.device.device_type()
    }

    /// Each queue's doorbell: signalling it is what a notification by the driver does. Valid
    /// over resets.
    #[must_use]
    pub fn kicks(&self) -> Arc<[EventFd]> {
        Arc::clone(&self.kicks)
    }

    /// The window of [`State::device_feature`].
    #[must_use]
    pub fn device_feature_select(&self) -> u32 {
        self.device_feature_select
    }

    /// Moves the window of [`State::device_feature`].
    pub fn select_device_feature(&mut self, window: u32) {
        self.device_feature_select = window;
    }

    /// The 32 offered features in the window.
    #[must_use]
    pub fn device_feature(&self) -> u32 {
        windowed(self.offered, self.device_feature_select)
    }

    /// The window of [`State::driver_feature`].
    #[must_use]
    pub fn driver_feature_select(&self) -> u32 {
        self.driver_feature_select
    }

    /// Moves the window of [`State::driver_feature`].
    pub fn select_driver_feature(&mut self, window: u32) {
        self.driver_feature_select = window;
    }

    /// The 32 features in the window that the driver wrote.
    #[must_use]
    pub fn driver_feature(&self) -> u32 {
        windowed(self.driver_features, self.driver_feature_select)
    }

    /// The driver accepts `features` in the window. Ignored once they are agreed upon.
    pub fn write_driver_feature(&mut self, features: u32) {
        if self.status.contains(DeviceStatus::FEATURES_OK) {
            return;
        }
        let (low, high) = (self.driver_features & 0xffff_ffff, self.driver_features >> 32);
        match self.driver_feature_select {
            0 => self.driver_features = high << 32 | u64::from(features),
            1 => self.driver_features = u64::from(features) << 32 | low,
            _ => {}
        }
    }

    /// The device status; not 0 before the last reset is done.
    pub fn status(&mut self) -> DeviceStatus {
        self.poll_reset();
        self.current_status()
    }

    /// The driver writes the device status: 0 begins a reset; a step whose turn it is, and whose
    /// conditions hold, is taken; bits cannot be cleared.
    pub fn write_status(&mut self, value: u8) {
        if self.is_resetting() {
            return;
        }
        if value == 0 {
            return self.begin_reset();
        }
        if self.status.contains(DeviceStatus::FAILED) {
            return;
        }
        for step in DeviceStatus::STEPS {
            let wanted = DeviceStatus(value).contains(step);
            let taken = self.status.contains(step) || wanted && self.take(step);
            if !taken {
                break;
            }
        }
        self.status.insert(DeviceStatus(value & DeviceStatus::FAILED.0));
    }

    /// Whether the device is still being reset. Its registers then take no writes.
    pub fn is_resetting(&mut self) -> bool {
        self.poll_reset();
        self.resetting
    }

    /// Waits until a reset that began is done.
    pub fn finish_reset(&mut self) {
        if self.resetting {
            self.device.finish_reset();
            self.forget();
        }
    }

    /// The number of queues.
    #[must_use]
    pub fn queue_count(&self) -> u16 {
        // `Interrupt::queue` numbers queues in 16 bits.
        u16::try_from(self.queues.len()).unwrap_or(u16::MAX)
    }

    /// The queue that the queue registers mean.
    #[must_use]
    pub fn queue_select(&self) -> u16 {
        self.queue_select
    }

    /// Selects the queue that the queue registers mean, which need not exist.
    pub fn select_queue(&mut self, index: u16) {
        self.queue_select = index;
    }

    /// The largest size of the selected queue, in descriptors; 0 if it does not exist.
    #[must_use]
    pub fn queue_max_size(&self) -> u16 {
        self.selected().map_or(0, |queue| queue.max_size)
    }

    /// The size of the selected queue, in descriptors; 0 if it does not exist.
    #[must_use]
    pub fn queue_size(&self) -> u16 {
        self.selected().map_or(0, |queue| queue.size)
    }

    /// Sets the size of the selected queue. Anything but a power of two up to the largest size
    /// is ignored, as are writes to a queue that is ready or a device that runs.
    pub fn set_queue_size(&mut self, size: u16) {
        let Some(queue) = self.configurable() else { return };
        if size.is_power_of_two() && size <= queue.max_size {
            queue.size = size;
        }
    }

    /// Whether the driver enabled the selected queue.
    #[must_use]
    pub fn queue_ready(&self) -> bool {
        self.selected().is_some_and(|queue| queue.ready)
    }

    /// Enables or disables the selected queue. While the device runs, enabling is ignored, and
    /// disabling returns once the device does not touch the queue any more.
    pub fn set_queue_ready(&mut self, ready: bool) {
        let running = self.status.contains(DeviceStatus::DRIVER_OK);
        let Some(queue) = self.queues.get_mut(usize::from(self.queue_select)) else { return };
        if running && queue.ready && !ready {
            self.device.stop_queue(self.queue_select);
        }
        queue.ready = ready && (queue.ready || !running);
    }

    /// The guest physical address of an area of the selected queue.
    #[must_use]
    pub fn queue_area(&self, area: QueueArea) -> u64 {
        self.selected().map_or(0, |queue| queue.area(area))
    }

    /// Sets the low or (`true`) high half of the guest physical address of an area of the
    /// selected queue. Ignored when the queue is ready or the device runs; an address that is no
    /// good shows at `DRIVER_OK`.
    pub fn set_queue_area(&mut self, area: QueueArea, high: bool, half: u32) {
        let Some(queue) = self.configurable() else { return };
        let (old, half) = (queue.area(area), u64::from(half));
        let address = if high { half << 32 | old & 0xffff_ffff } else { old & !0xffff_ffff | half };
        queue.set_area(area, address);
    }

    /// The configuration generation: it differs from the last one read if the configuration
    /// changed since (virtio 1.2, 4.1.4.3.1). Only a change that was read counts, so that the
    /// 8 bits cannot wrap unseen.
    pub fn config_generation(&mut self) -> u8 {
        if self.notifier.config_changed.swap(false, Ordering::AcqRel) {
            self.config_generation = self.config_generation.wrapping_add(1);
        }
        self.config_generation
    }

    /// Reads the device configuration.
    pub fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.device.read_config(offset, data);
    }

    /// Writes the device configuration.
    pub fn write_config(&mut self, offset: u64, data: &[u8]) {
        if !self.is_resetting() {
            self.device.write_config(offset, data);
        }
    }

    fn current_status(&self) -> DeviceStatus {
        let mut status = self.status;
        if self.notifier.needs_reset.load(Ordering::Acquire) {
            status.insert(DeviceStatus::DEVICE_NEEDS_RESET);
        }
        status
    }

    fn selected(&self) -> Option<&QueueRegisters> {
        self.queues.get(usize::from(self.queue_select))
    }

    /// The selected queue, if the driver may configure it.
    fn configurable(&mut self) -> Option<&mut QueueRegisters> {
        if self.status.contains(DeviceStatus::DRIVER_OK) {
            return None;
        }
        self.queues.get_mut(usize::from(self.queue_select)).filter(|queue| !queue.ready)
    }

    /// Takes a step of initialisation, unless its condition does not hold.
    fn take(&mut self, step: DeviceStatus) -> bool {
        if step == DeviceStatus::FEATURES_OK && !self.features_acceptable() {
            return false;
        }
        self.status.insert(step);
        if step == DeviceStatus::DRIVER_OK {
            self.start();
        }
        true
    }

    fn features_acceptable(&self) -> bool {
        self.driver_features & !self.offered == 0 && self.driver_features & VERSION_1 != 0
    }

    fn start(&mut self) {
        if let Err(error) = self.activate() {
            log::warn!("virtio device {}: not started: {error}", self.device_type().0);
            self.notifier.needs_reset();
        }
    }

    fn activate(&mut self) -> Result<(), ActivateError> {
        let queues = self.active_queues()?;
        self.device.activate(Activation {
            memory: Arc::clone(&self.memory),
            interrupt: Arc::clone(&self.notifier) as Arc<dyn Interrupt>,
            queues,
            features: self.driver_features,
        })
    }

    fn active_queues(&self) -> Result<Vec<ActiveQueue>, ActivateError> {
        let event_idx = self.driver_features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        let registers = (0..).zip(&self.queues).zip(self.kicks.iter());
        registers
            .filter(|((_, queue), _)| queue.ready)
            .map(|((index, registers), kick)| {
                let queue = registers.build(event_idx, &self.memory)?;
                let kick = kick
                    .try_clone()
                    .map_err(|source| ActivateError { what: "doorbell", source })?;
                Ok(ActiveQueue { index, queue, kick })
            })
            .collect()
    }

    fn begin_reset(&mut self) {
        self.device.begin_reset();
        self.resetting = true;
        self.poll_reset();
    }

    fn poll_reset(&mut self) {
        if self.resetting && self.device.reset_done() {
            self.forget();
        }
    }

    /// The device is reset: puts the registers back, and the transport's after whatever the
    /// device's threads did last.
    fn forget(&mut self) {
        self.transport.reset();
        self.notifier = Notifier::new(&self.transport);
        self.status = DeviceStatus::default();
        self.resetting = false;
        self.driver_features = 0;
        self.device_feature_select = 0;
        self.driver_feature_select = 0;
        self.queue_select = 0;
        self.queues.iter_mut().for_each(QueueRegisters::reset);
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.device.begin_reset();
        self.device.finish_reset();
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("device_type", &self.device_type())
            .field("status", &self.current_status())
            .field("driver_features", &self.driver_features)
            .field("queues", &self.queues)
            .finish_non_exhaustive()
    }
}

/// What a device may tell its driver between two resets; what it says later is forgotten.
struct Notifier {
    transport: Arc<dyn Transport>,
    config_changed: AtomicBool,
    needs_reset: AtomicBool,
}

impl Notifier {
    fn new(transport: &Arc<dyn Transport>) -> Arc<Notifier> {
        Arc::new(Notifier {
            transport: Arc::clone(transport),
            config_changed: AtomicBool::new(false),
            needs_reset: AtomicBool::new(false),
        })
    }
}

impl Interrupt for Notifier {
    fn queue(&self, index: u16) {
        self.transport.queue(index);
    }

    fn config(&self) {
        self.config_changed.store(true, Ordering::Release);
        self.transport.config();
    }

    fn needs_reset(&self) {
        self.needs_reset.store(true, Ordering::Release);
        self.transport.config();
    }
}

fn doorbell_event() -> io::Result<EventFd> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(|error| {
        let what = "no event for a doorbell: raise the limit of open files (ulimit -n)";
        io::Error::new(error.kind(), format!("{what}: {error}"))
    })
}

fn windowed(features: u64, window: u32) -> u32 {
    let [a, b, c, d, e, f, g, h] = features.to_le_bytes();
    match window {
        0 => u32::from_le_bytes([a, b, c, d]),
        1 => u32::from_le_bytes([e, f, g, h]),
        _ => 0,
    }
}

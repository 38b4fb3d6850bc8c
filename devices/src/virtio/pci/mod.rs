//! virtio over PCI: a PCI function whose registers are those of a [`State`].
//!
//! Follows virtio 1.2, 4.1, without the legacy interface. It only decodes: what a register means
//! is `state`'s business, what a vector does `msix`'s, what a BAR does `config`'s.
//!
//! One 64-bit memory region holds every structure, each on a page of its own, so that a doorbell
//! page has nothing but doorbells and the MSI-X table can be isolated. 64 bits, because hundreds
//! of controllers then leave the hole below 4 GiB alone; not prefetchable, because reading the
//! ISR status clears it. There is no `INTx`: without MSI-X a driver has to poll.

mod header;
mod interrupt;

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use crate::bus::read_bytes;
use crate::pci::msix::Msix;
use crate::pci::{BarOffset, PciFunction};
use crate::platform::Platform;
use crate::virtio::VirtioDevice;
use crate::virtio::pci::header::Header;
use crate::virtio::pci::interrupt::PciInterrupt;
use crate::virtio::state::{QueueArea, State, Transport};

const NOTIFY_OFF_MULTIPLIER: u32 = 4;
/// As many as one page of MSI-X table entries has vectors for, with one for the configuration.
const MAX_QUEUES: usize = 255;

/// The region and the pages in it.
const BAR: u8 = 0;
const BAR_SIZE: u32 = 8 * PAGE;
const PAGE: u32 = 0x1000;
const COMMON: u32 = 0;
const ISR: u32 = PAGE;
const DEVICE: u32 = 2 * PAGE;
const NOTIFY: u32 = 3 * PAGE;
const MSIX_TABLE: u32 = 4 * PAGE;
const MSIX_PBA: u32 = 5 * PAGE;

/// The fields of the common configuration that a driver writes (virtio 1.2, 4.1.4.3).
mod common {
    pub(super) const DEVICE_FEATURE_SELECT: u64 = 0;
    pub(super) const DRIVER_FEATURE_SELECT: u64 = 8;
    pub(super) const DRIVER_FEATURE: u64 = 12;
    pub(super) const CONFIG_MSIX_VECTOR: u64 = 16;
    pub(super) const DEVICE_STATUS: u64 = 20;
    pub(super) const QUEUE_SELECT: u64 = 22;
    pub(super) const QUEUE_SIZE: u64 = 24;
    pub(super) const QUEUE_MSIX_VECTOR: u64 = 26;
    pub(super) const QUEUE_ENABLE: u64 = 28;
    pub(super) const QUEUE_DESC: u64 = 32;
    pub(super) const QUEUE_DRIVER: u64 = 40;
    pub(super) const QUEUE_DEVICE: u64 = 48;
    pub(super) const SIZE: u32 = 56;
}

/// A virtio device as a PCI function.
pub struct VirtioPci {
    /// Locked before `platform` is called, never while `state` is.
    header: Mutex<Header>,
    state: Mutex<State>,
    interrupt: Arc<PciInterrupt>,
    kicks: Arc<[EventFd]>,
    platform: Arc<dyn Platform>,
}

impl VirtioPci {
    /// Puts `device` on PCI, with a vector for each queue and one for the configuration. It will
    /// work in `memory`.
    ///
    /// # Errors
    /// When the platform has no vectors left, the host no events, or the device is impossible:
    /// more than 255 queues, or a queue size that is no power of two.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: Arc<GuestMemoryMmap>,
        platform: Arc<dyn Platform>,
    ) -> io::Result<VirtioPci> {
        let queues = device.queue_sizes().len();
        let vectors = u16::try_from(queues + 1).ok().filter(|_| queues <= MAX_QUEUES);
        let msix = Msix::new(&platform, vectors.ok_or_else(|| too_many(queues))?)?;
        let header = Header::new(device.device_type(), &msix).map_err(io::Error::other)?;
        let interrupt = Arc::new(PciInterrupt::new(msix, queues));
        let transport = Arc::clone(&interrupt) as Arc<dyn Transport>;
        let state = State::new(device, memory, transport)?;
        Ok(VirtioPci {
            header: Mutex::new(header),
            kicks: state.kicks(),
            state: Mutex::new(state),
            interrupt,
            platform,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn header(&self) -> MutexGuard<'_, Header> {
        self.header.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The common configuration, field by field in its order.
    fn common(&self) -> Vec<u8> {
        let mut state = self.state();
        let mut fields = Vec::with_capacity(common::SIZE as usize);
        fields.extend(state.device_feature_select().to_le_bytes());
        fields.extend(state.device_feature().to_le_bytes());
        fields.extend(state.driver_feature_select().to_le_bytes());
        fields.extend(state.driver_feature().to_le_bytes());
        fields.extend(self.interrupt.config_vector().to_le_bytes());
        fields.extend(state.queue_count().to_le_bytes());
        fields.extend([state.status().0, state.config_generation()]);
        let queue = state.queue_select();
        fields.extend(queue.to_le_bytes());
        fields.extend(state.queue_size().to_le_bytes());
        fields.extend(self.interrupt.queue_vector(queue).to_le_bytes());
        fields.extend(u16::from(state.queue_ready()).to_le_bytes());
        fields.extend(queue.to_le_bytes());
        for area in [QueueArea::Descriptor, QueueArea::Driver, QueueArea::Device] {
            fields.extend(state.queue_area(area).to_le_bytes());
        }
        fields
    }

    fn write_common(&self, offset: u64, data: &[u8]) {
        let mut state = self.state();
        match *data {
            [value] if offset == common::DEVICE_STATUS => state.write_status(value),
            _ if state.is_resetting() => {}
            [a, b] => self.write_common_word(&mut state, offset, u16::from_le_bytes([a, b])),
            [a, b, c, d] => {
                write_common_dword(&mut state, offset, u32::from_le_bytes([a, b, c, d]));
            }
            _ => {}
        }
    }

    fn write_common_word(&self, state: &mut State, offset: u64, value: u16) {
        match offset {
            common::CONFIG_MSIX_VECTOR => self.interrupt.map_config(value),
            common::QUEUE_SELECT => state.select_queue(value),
            common::QUEUE_SIZE => state.set_queue_size(value),
            common::QUEUE_MSIX_VECTOR => self.interrupt.map_queue(state.queue_select(), value),
            common::QUEUE_ENABLE if value == 1 => state.set_queue_ready(true),
            _ => {}
        }
    }

    /// A notification that came as an access: where the platform has no doorbell for it.
    fn notify(&self, offset: u64) {
        let multiplier = u64::from(NOTIFY_OFF_MULTIPLIER);
        let kick = usize::try_from(offset / multiplier).ok().and_then(|i| self.kicks.get(i));
        if let Some(kick) = kick.filter(|_| offset.is_multiple_of(multiplier)) {
            // A full counter is a kick already.
            let _ = kick.write(1);
        }
    }

    fn read_region(&self, offset: u64, data: &mut [u8]) {
        let (page, offset) = page(offset);
        match page {
            COMMON => read_bytes(&self.common(), offset, data),
            ISR if offset == 0 => read_bytes(&[self.interrupt.take_isr()], 0, data),
            DEVICE => self.state().read_config(offset, data),
            MSIX_TABLE => self.interrupt.msix.read_table(offset, data),
            MSIX_PBA => self.interrupt.msix.read_pba(offset, data),
            _ => data.fill(0),
        }
    }

    fn write_region(&self, offset: u64, data: &[u8]) {
        let (page, offset) = page(offset);
        match page {
            COMMON => self.write_common(offset, data),
            DEVICE => self.state().write_config(offset, data),
            NOTIFY => self.notify(offset),
            MSIX_TABLE => self.interrupt.msix.write_table(offset, data),
            _ => {}
        }
    }

    /// Registers the doorbells where the region now is. Called under the header's lock, so that
    /// two moves cannot mix.
    fn move_doorbells(&self, header: &mut Header) {
        let now = header.config.bar_address(BAR);
        if header.doorbells == now {
            return;
        }
        if let Some(base) = std::mem::replace(&mut header.doorbells, now) {
            self.remove_doorbells(base);
        }
        if let Some(base) = now {
            self.add_doorbells(base);
        }
    }

    fn add_doorbells(&self, base: u64) {
        for (address, kick) in self.doorbells(base) {
            if let Err(error) = self.platform.add_doorbell(address, None, kick) {
                // It still works, as an access to the region.
                log::debug!("virtio doorbell at {address:#x} not registered: {error}");
            }
        }
    }

    fn remove_doorbells(&self, base: u64) {
        for (address, kick) in self.doorbells(base) {
            if let Err(error) = self.platform.remove_doorbell(address, None, kick) {
                log::debug!("virtio doorbell at {address:#x} not removed: {error}");
            }
        }
    }

    /// The guest physical address of each queue's doorbell, with the region at `base`.
    fn doorbells(&self, base: u64) -> impl Iterator<Item = (u64, &EventFd)> {
        let first = base.wrapping_add(NOTIFY.into());
        let offsets = (0u64..).step_by(NOTIFY_OFF_MULTIPLIER as usize);
        offsets.map(move |offset| first.wrapping_add(offset)).zip(self.kicks.iter())
    }
}

impl PciFunction for VirtioPci {
    fn read_config(&self, offset: u16, data: &mut [u8]) {
        let mut header = self.header();
        if let Some(window) = header.window(offset, data.len()) {
            // The lock order: a region's registers are never reached with the header locked.
            drop(header);
            let mut value = [0; 4];
            if let Some(value) = value.get_mut(..window.len) {
                self.read_bar(window.at, value);
            }
            header = self.header();
            header.set_window_data(value);
        }
        header.config.set_interrupt_status(self.interrupt.isr_pending());
        header.config.read(offset, data);
    }

    fn write_config(&self, offset: u16, data: &[u8]) {
        let mut header = self.header();
        header.config.write(offset, data);
        self.move_doorbells(&mut header);
        if let Some(control) = header.msix_control(offset, data.len()) {
            self.interrupt.msix.set_control(control);
        }
        if let Some(window) = header.window(offset, data.len()) {
            let value = header.window_data();
            drop(header);
            if let Some(value) = value.get(..window.len) {
                self.write_bar(window.at, value);
            }
        }
    }

    fn claim(&self, address: u64, len: usize) -> Option<BarOffset> {
        self.header().config.claim(address, len)
    }

    fn read_bar(&self, at: BarOffset, data: &mut [u8]) {
        // Fields of 64 bits are two of 32 (virtio 1.2, 4.1.3).
        for (offset, dword) in (at.offset..=u64::MAX).step_by(4).zip(data.chunks_mut(4)) {
            self.read_region(offset, dword);
        }
    }

    fn write_bar(&self, at: BarOffset, data: &[u8]) {
        for (offset, dword) in (at.offset..=u64::MAX).step_by(4).zip(data.chunks(4)) {
            self.write_region(offset, dword);
        }
    }
}

impl Drop for VirtioPci {
    fn drop(&mut self) {
        let registered = self.header().doorbells.take();
        if let Some(base) = registered {
            self.remove_doorbells(base);
        }
    }
}

impl fmt::Debug for VirtioPci {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtioPci").field("state", &self.state).finish_non_exhaustive()
    }
}

fn write_common_dword(state: &mut State, offset: u64, value: u32) {
    match offset {
        common::DEVICE_FEATURE_SELECT => state.select_device_feature(value),
        common::DRIVER_FEATURE_SELECT => state.select_driver_feature(value),
        common::DRIVER_FEATURE => state.write_driver_feature(value),
        _ => {
            if let Some((area, high)) = queue_area(offset) {
                state.set_queue_area(area, high, value);
            }
        }
    }
}

/// The area whose address has its low or (`true`) high half at `offset`.
fn queue_area(offset: u64) -> Option<(QueueArea, bool)> {
    let area = match offset & !7 {
        common::QUEUE_DESC => QueueArea::Descriptor,
        common::QUEUE_DRIVER => QueueArea::Driver,
        common::QUEUE_DEVICE => QueueArea::Device,
        _ => return None,
    };
    offset.is_multiple_of(4).then_some((area, offset & 4 != 0))
}

/// Splits an offset into the region into its page and the rest.
fn page(offset: u64) -> (u32, u64) {
    let page = offset & !u64::from(PAGE - 1);
    (u32::try_from(page).unwrap_or(u32::MAX), offset - page)
}

fn too_many(queues: usize) -> io::Error {
    let what = format!("{queues} queues: a PCI function has at most {MAX_QUEUES}");
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

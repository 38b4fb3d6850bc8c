//! The configuration space of a virtio function: who it is, and where its structures are.
//!
//! Follows virtio 1.2, 4.1.2 (IDs), 4.1.4 (structure capabilities) and 4.1.4.9 (access to the
//! region through the configuration space). It knows where registers are, not what they do.

use crate::pci::BarOffset;
use crate::pci::config::{BarWidth, ConfigError, ConfigSpace, Identity};
use crate::pci::msix::{self, Msix};
use crate::virtio::DeviceType;
use crate::virtio::pci::{
    BAR, BAR_SIZE, COMMON, DEVICE, ISR, MSIX_PBA, MSIX_TABLE, NOTIFY, NOTIFY_OFF_MULTIPLIER, PAGE,
    common,
};

const VENDOR_ID: u16 = 0x1af4;
/// Device IDs are the device type above this (virtio 1.2, 4.1.2).
const DEVICE_ID_BASE: u16 = 0x1040;
const REVISION_ID: u8 = 1;

/// Vendor-specific capabilities (virtio 1.2, 4.1.4).
const CAPABILITY_ID: u8 = 0x09;
const COMMON_CFG: u8 = 1;
const NOTIFY_CFG: u8 = 2;
const ISR_CFG: u8 = 3;
const DEVICE_CFG: u8 = 4;
const PCI_CFG: u8 = 5;
/// Where the fields of the capability with [`PCI_CFG`] lie in it.
const CAP_BAR: u16 = 4;
const CAP_OFFSET: u16 = 8;
const CAP_LENGTH: u16 = 12;
const CAP_DATA: u16 = 16;

/// The configuration space, and what follows from it.
pub(super) struct Header {
    pub(super) config: ConfigSpace,
    msix_capability: u16,
    pci_cfg_capability: u16,
    /// Where the doorbells are registered.
    pub(super) doorbells: Option<u64>,
}

/// An access to the region through the configuration space (virtio 1.2, 4.1.4.9).
pub(super) struct RegionWindow {
    pub(super) at: BarOffset,
    pub(super) len: usize,
}

impl Header {
    pub(super) fn new(device_type: DeviceType, msix: &Msix) -> Result<Header, ConfigError> {
        let id = (VENDOR_ID, DEVICE_ID_BASE.saturating_add(device_type.0));
        let class = class(device_type);
        let mut config =
            ConfigSpace::new(Identity { id, revision: REVISION_ID, class, subsystem: id });
        config.add_bar(BAR, BarWidth::Bits64, BAR_SIZE)?;
        let (body, writable) = msix.capability(BAR, MSIX_TABLE, MSIX_PBA);
        let msix_capability = config.add_capability(msix::CAPABILITY_ID, &body, &writable)?;
        let notify_size = NOTIFY_OFF_MULTIPLIER * u32::from(msix.vectors() - 1);
        add_structure(&mut config, COMMON_CFG, COMMON, common::SIZE, &[])?;
        let multiplier = NOTIFY_OFF_MULTIPLIER.to_le_bytes();
        add_structure(&mut config, NOTIFY_CFG, NOTIFY, notify_size, &multiplier)?;
        add_structure(&mut config, ISR_CFG, ISR, 1, &[])?;
        add_structure(&mut config, DEVICE_CFG, DEVICE, PAGE, &[])?;
        let pci_cfg_capability = add_structure(&mut config, PCI_CFG, 0, 0, &[0; 4])?;
        Ok(Header { config, msix_capability, pci_cfg_capability, doorbells: None })
    }

    /// The value of MSI-X Message Control, if a write of `len` bytes at `offset` touched it.
    pub(super) fn msix_control(&self, offset: u16, len: usize) -> Option<u16> {
        let control = self.msix_capability + msix::MESSAGE_CONTROL;
        overlap(offset, len, control, 2).then(|| self.config.word(control))
    }

    /// `pci_cfg_data`.
    pub(super) fn window_data(&self) -> [u8; 4] {
        self.config.dword(self.pci_cfg_capability + CAP_DATA).to_le_bytes()
    }

    /// Sets `pci_cfg_data`.
    pub(super) fn set_window_data(&mut self, value: [u8; 4]) {
        self.config.set(self.pci_cfg_capability + CAP_DATA, &value);
    }

    /// What an access to the configuration space means to the region, if it touches
    /// `pci_cfg_data` and that is set up as a driver must: aligned, within a virtio structure.
    pub(super) fn window(&self, offset: u16, len: usize) -> Option<RegionWindow> {
        let capability = self.pci_cfg_capability;
        if !overlap(offset, len, capability + CAP_DATA, 4) {
            return None;
        }
        let [bar, ..] = self.config.dword(capability + CAP_BAR).to_le_bytes();
        let at = self.config.dword(capability + CAP_OFFSET);
        let len = self.config.dword(capability + CAP_LENGTH);
        let aligned = matches!(len, 1 | 2 | 4) && at.is_multiple_of(len);
        (bar == BAR && aligned && at < MSIX_TABLE).then_some(RegionWindow {
            at: BarOffset { bar, offset: at.into() },
            len: usize::try_from(len).ok()?,
        })
    }
}

/// Appends a virtio structure capability (virtio 1.2, 4.1.4) and returns its offset. A driver
/// writes only the one with [`PCI_CFG`]: where, how much, and what.
fn add_structure(
    config: &mut ConfigSpace,
    cfg_type: u8,
    offset: u32,
    length: u32,
    extra: &[u8],
) -> Result<u16, ConfigError> {
    let cap_len = if extra.is_empty() { 16 } else { 20 };
    let mut body = vec![cap_len, cfg_type, BAR, 0, 0, 0];
    body.extend(offset.to_le_bytes());
    body.extend(length.to_le_bytes());
    body.extend(extra);
    let mut writable = vec![0, 0, 0xff, 0, 0, 0];
    writable.extend([0xff; 12]);
    let writable = if cfg_type == PCI_CFG { writable.as_slice() } else { &[] };
    config.add_capability(CAPABILITY_ID, &body, writable)
}

/// The class code by which a guest's tools name the device.
fn class(device_type: DeviceType) -> (u8, u8, u8) {
    match device_type {
        DeviceType::SCSI_HOST => (0x01, 0x00, 0x00),
        _ => (0xff, 0x00, 0x00),
    }
}

fn overlap(offset: u16, len: usize, field: u16, field_len: usize) -> bool {
    let (offset, field) = (usize::from(offset), usize::from(field));
    offset < field + field_len && field < offset.saturating_add(len)
}

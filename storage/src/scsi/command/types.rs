//! PERIPHERAL DEVICE TYPEs (SPC-6, Standard INQUIRY data), and sets of them.

/// Values of PERIPHERAL DEVICE TYPE.
pub mod device_type {
    /// Direct access block device (SBC-4).
    pub const DISK: u8 = 0x00;
    /// Sequential access device (SSC-4).
    pub const TAPE: u8 = 0x01;
    /// Printer (SSC).
    pub const PRINTER: u8 = 0x02;
    /// Write-once device (SBC).
    pub const WRITE_ONCE: u8 = 0x04;
    /// CD, DVD or BD device (MMC-6).
    pub const CD: u8 = 0x05;
    /// Optical memory device (SBC).
    pub const OPTICAL: u8 = 0x07;
    /// Media changer (SMC-3).
    pub const CHANGER: u8 = 0x08;
    /// Storage array controller (SCC-2).
    pub const RAID: u8 = 0x0c;
    /// Enclosure services device (SES-4).
    pub const ENCLOSURE: u8 = 0x0d;
    /// Object-based storage device.
    pub const OBJECTS: u8 = 0x11;
    /// Host managed zoned block device (ZBC-2).
    pub const ZONED: u8 = 0x14;
    /// Well-known logical unit.
    pub const WELL_KNOWN: u8 = 0x1e;
}

/// A set of device types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceTypes(u32);

impl DeviceTypes {
    /// Every type.
    pub const ALL: DeviceTypes = DeviceTypes(u32::MAX);

    /// Those of `types`.
    #[must_use]
    pub const fn of(types: &[u8]) -> DeviceTypes {
        let mut bits = 0;
        let mut index = 0;
        while index < types.len() {
            bits |= 1 << types[index];
            index += 1;
        }
        DeviceTypes(bits)
    }

    /// These and `others`.
    #[must_use]
    pub const fn and(self, others: DeviceTypes) -> DeviceTypes {
        DeviceTypes(self.0 | others.0)
    }

    /// These without `others`.
    #[must_use]
    pub const fn but(self, others: DeviceTypes) -> DeviceTypes {
        DeviceTypes(self.0 & !others.0)
    }

    /// Whether `device_type` is one of them; of a whole byte 0 of INQUIRY data, its type counts.
    #[must_use]
    pub const fn contains(self, device_type: u8) -> bool {
        self.0 >> (device_type & 0x1f) & 1 == 1
    }

    /// Whether a type is in both.
    #[must_use]
    pub const fn overlaps(self, others: DeviceTypes) -> bool {
        self.0 & others.0 != 0
    }
}

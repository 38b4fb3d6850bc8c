//! Addresses of logical units (SAM-6, Logical unit number).

/// A logical unit number of one level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lun {
    /// A logical unit of the target, 0 to [`Lun::MAX`].
    Unit(u16),
    /// The REPORT LUNS well-known logical unit.
    ReportLuns,
    /// An addressing method that no logical unit here has.
    Unsupported,
}

/// Where a command goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LunAddress {
    /// Target number
    pub target: u8,
    /// Logical unit number
    pub lun: Lun,
}

impl Lun {
    /// The largest number of a logical unit: 14 bits of flat space addressing.
    pub const MAX: u16 = 0x3fff;

    /// The first level of the REPORT LUNS well-known LUN, in the extended addressing method.
    const WELL_KNOWN_REPORT_LUNS: [u8; 2] = [0xc1, 0x01];

    /// Reads the first level of a LUN: peripheral device addressing (bus 0), flat space
    /// addressing, or the well-known LUN.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 2]) -> Lun {
        match bytes {
            Self::WELL_KNOWN_REPORT_LUNS => Lun::ReportLuns,
            [0x00, lun] => Lun::Unit(lun.into()),
            [high @ 0x40..=0x7f, low] => Lun::Unit(u16::from_be_bytes([high & 0x3f, low])),
            _ => Lun::Unsupported,
        }
    }

    /// Writes the first level: by peripheral device addressing where that reaches, else by flat
    /// space addressing.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 2] {
        const FLAT_SPACE: u8 = 0x40;
        const NO_LOGICAL_UNIT: [u8; 2] = [0xff, 0xff];
        match self {
            Lun::Unit(number) => match number.to_be_bytes() {
                [0, low] => [0, low],
                [high, low] => [FLAT_SPACE | high, low],
            },
            Lun::ReportLuns => Self::WELL_KNOWN_REPORT_LUNS,
            Lun::Unsupported => NO_LOGICAL_UNIT,
        }
    }
}

/// The eight bytes by which REPORT LUNS names logical unit `number`.
#[must_use]
pub(super) fn single_level(number: u16) -> [u8; 8] {
    let [high, low] = Lun::Unit(number).to_bytes();
    [high, low, 0, 0, 0, 0, 0, 0]
}

/// The eight bytes that name the REPORT LUNS well-known logical unit.
pub(super) const WELL_KNOWN: [u8; 8] =
    [Lun::WELL_KNOWN_REPORT_LUNS[0], Lun::WELL_KNOWN_REPORT_LUNS[1], 0, 0, 0, 0, 0, 0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_addressing_method() {
        for (bytes, lun) in [
            ([0x00, 0x07], Lun::Unit(7)),
            ([0x40, 0x07], Lun::Unit(7)),
            ([0x41, 0x00], Lun::Unit(256)),
            ([0x7f, 0xff], Lun::Unit(Lun::MAX)),
            ([0xc1, 0x01], Lun::ReportLuns),
            ([0x01, 0x00], Lun::Unsupported),
            ([0x80, 0x00], Lun::Unsupported),
            ([0xc1, 0x02], Lun::Unsupported),
        ] {
            assert_eq!(Lun::from_bytes(bytes), lun, "{bytes:02x?}");
        }
    }

    #[test]
    fn what_is_reported_is_understood() {
        for number in [0, 1, 255, 256, 257, Lun::MAX] {
            let [high, low, rest @ ..] = single_level(number);
            assert_eq!(Lun::from_bytes([high, low]), Lun::Unit(number));
            assert_eq!(rest, [0; 6]);
        }
    }
}

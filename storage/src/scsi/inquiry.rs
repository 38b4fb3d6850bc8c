//! Standard INQUIRY data (SPC-6 6.7.2).

use super::wire::{put_bytes, put_u16};

/// PERIPHERAL QUALIFIER and PERIPHERAL DEVICE TYPE of a direct access block device.
pub const DIRECT_ACCESS: u8 = 0x00;

/// PERIPHERAL QUALIFIER 3 and device type 1Fh: there is no such logical unit here.
pub const NO_LOGICAL_UNIT: u8 = 0x7f;

/// Length of the data, in bytes: up to the last version descriptor.
pub const LEN: usize = 96;

/// The version descriptors of what is implemented: SAM-5, SPC-4 and SBC-3, no version claimed.
const VERSION_DESCRIPTORS: [u16; 3] = [0x00a0, 0x0460, 0x04c0];

/// The data of a logical unit with these names; `peripheral` is byte 0.
#[must_use]
pub fn standard(
    peripheral: u8,
    vendor: &[u8; 8],
    product: &[u8; 16],
    revision: &[u8; 4],
) -> [u8; LEN] {
    const VERSION_SPC_4: u8 = 0x06;
    const HISUP_AND_FORMAT_2: u8 = 0x12;
    const CMDQUE: u8 = 0x02;
    let mut data = [0; LEN];
    data[0] = peripheral;
    data[2] = VERSION_SPC_4;
    data[3] = HISUP_AND_FORMAT_2;
    data[4] = 91; // ADDITIONAL LENGTH: LEN - 5
    data[7] = CMDQUE;
    put_bytes(&mut data, 8, vendor);
    put_bytes(&mut data, 16, product);
    put_bytes(&mut data, 32, revision);
    for (index, descriptor) in VERSION_DESCRIPTORS.into_iter().enumerate() {
        put_u16(&mut data, 58 + 2 * index, descriptor);
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_additional_length_covers_the_rest() {
        let data = standard(DIRECT_ACCESS, b"VMM     ", b"VIRTUAL DISK    ", b"0001");
        assert_eq!(usize::from(data[4]) + 5, data.len());
        assert_eq!(&data[8..36], b"VMM     VIRTUAL DISK    0001");
        assert_eq!(data[58..64], [0x00, 0xa0, 0x04, 0x60, 0x04, 0xc0]);
    }
}

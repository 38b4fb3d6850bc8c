//! The mode parameter header (SPC-6; SBC-4 and SSC-5 for its DEVICE-SPECIFIC PARAMETER): a medium
//! that an initiator may not write is write-protected.

use super::Context;

/// Whether bit 7 of DEVICE-SPECIFIC PARAMETER is WP for this PERIPHERAL DEVICE TYPE: all that have
/// a medium to write but CD devices.
pub(super) fn has_write_protect(device_type: u8) -> bool {
    matches!(device_type, 0x00 | 0x01 | 0x04 | 0x07 | 0x0e | 0x14)
}

/// Sets WP, in the byte at `specific`.
pub(super) fn edit(data: &mut [u8], specific: usize, context: &Context<'_>) {
    const WP: u8 = 0x80;
    if let Some(byte) = data.get_mut(specific).filter(|_| context.write_protected) {
        *byte |= WP;
    }
}

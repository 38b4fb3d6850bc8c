//! Sense data (SPC-6, Sense data): why a command ended as it did.

use super::wire::{put_u16, put_u32, put_u64};

/// A sense key (SPC-6, Sense key).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenseKey(pub u8);

impl SenseKey {
    /// Nothing to tell.
    pub const NO_SENSE: SenseKey = SenseKey(0x0);
    /// The command completed, with some trouble.
    pub const RECOVERED_ERROR: SenseKey = SenseKey(0x1);
    /// The logical unit cannot be accessed.
    pub const NOT_READY: SenseKey = SenseKey(0x2);
    /// The medium, or the recorded data, is flawed.
    pub const MEDIUM_ERROR: SenseKey = SenseKey(0x3);
    /// The device failed.
    pub const HARDWARE_ERROR: SenseKey = SenseKey(0x4);
    /// The CDB or the parameter data is wrong.
    pub const ILLEGAL_REQUEST: SenseKey = SenseKey(0x5);
    /// Something changed that the initiator should know.
    pub const UNIT_ATTENTION: SenseKey = SenseKey(0x6);
    /// The medium must not be written.
    pub const DATA_PROTECT: SenseKey = SenseKey(0x7);
    /// The device aborted the command; it may be tried again.
    pub const ABORTED_COMMAND: SenseKey = SenseKey(0xb);
    /// What the initiator sent is not what the medium holds.
    pub const MISCOMPARE: SenseKey = SenseKey(0xe);
}

/// A sense key with its additional sense code and qualifier (SPC-6, Additional sense code).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenseCode {
    /// SENSE KEY
    pub key: SenseKey,
    /// ADDITIONAL SENSE CODE
    pub asc: u8,
    /// ADDITIONAL SENSE CODE QUALIFIER
    pub ascq: u8,
}

impl SenseCode {
    /// UNIT ATTENTION with this additional sense code and qualifier.
    #[must_use]
    pub const fn unit_attention(asc: u8, ascq: u8) -> SenseCode {
        SenseCode::new(SenseKey::UNIT_ATTENTION, asc, ascq)
    }

    const fn new(key: SenseKey, asc: u8, ascq: u8) -> SenseCode {
        SenseCode { key, asc, ascq }
    }

    /// What sense data of either format says (SPC-6, Sense data), if it is of one; fields that are
    /// cut off are 0.
    #[must_use]
    pub fn of(data: &[u8]) -> Option<SenseCode> {
        let at = |offset: usize| data.get(offset).copied().unwrap_or(0);
        let (key, asc, ascq) = match data.first()? & 0x7f {
            0x70 | 0x71 => (at(2), at(12), at(13)),
            0x72 | 0x73 => (at(1), at(2), at(3)),
            _ => return None,
        };
        // Besides the key, the byte has FILEMARK, EOM and ILI in fixed format.
        Some(SenseCode::new(SenseKey(key & 0x0f), asc, ascq))
    }

    /// Whether sense data is of a command before the one that it came with, which has not been
    /// carried out (SPC-6, Deferred errors).
    #[must_use]
    pub fn is_deferred(data: &[u8]) -> bool {
        data.first().is_some_and(|code| matches!(code & 0x7f, 0x71 | 0x73))
    }

    /// Whether it tells of a unit attention condition.
    #[must_use]
    pub fn is_unit_attention(self) -> bool {
        self.key == SenseKey::UNIT_ATTENTION
    }

    /// Nothing to tell.
    pub const NO_SENSE: SenseCode = SenseCode::new(SenseKey::NO_SENSE, 0x00, 0x00);
    /// The logical unit is stopped until a START STOP UNIT starts it.
    pub const INITIALIZING_COMMAND_REQUIRED: SenseCode =
        SenseCode::new(SenseKey::NOT_READY, 0x04, 0x02);
    /// What carries the data cannot be reached.
    pub const LOGICAL_UNIT_COMMUNICATION_FAILURE: SenseCode =
        SenseCode::new(SenseKey::ABORTED_COMMAND, 0x08, 0x00);
    /// What carries the data does not answer in time.
    pub const LOGICAL_UNIT_COMMUNICATION_TIME_OUT: SenseCode =
        SenseCode::new(SenseKey::ABORTED_COMMAND, 0x08, 0x01);
    /// A write failed and will fail again.
    pub const WRITE_ERROR: SenseCode = SenseCode::new(SenseKey::MEDIUM_ERROR, 0x0c, 0x00);
    /// A read failed and will fail again.
    pub const UNRECOVERED_READ_ERROR: SenseCode =
        SenseCode::new(SenseKey::MEDIUM_ERROR, 0x11, 0x00);
    /// The parameter list ends within a header, a descriptor or a page.
    pub const PARAMETER_LIST_LENGTH_ERROR: SenseCode =
        SenseCode::new(SenseKey::ILLEGAL_REQUEST, 0x1a, 0x00);
    /// The medium holds something else than the initiator sent.
    pub const MISCOMPARE_DURING_VERIFY_OPERATION: SenseCode =
        SenseCode::new(SenseKey::MISCOMPARE, 0x1d, 0x00);
    /// The device failed within.
    pub const INTERNAL_TARGET_FAILURE: SenseCode =
        SenseCode::new(SenseKey::HARDWARE_ERROR, 0x44, 0x00);
    /// The opcode is not supported.
    pub const INVALID_COMMAND_OPERATION_CODE: SenseCode =
        SenseCode::new(SenseKey::ILLEGAL_REQUEST, 0x20, 0x00);
    /// The command reaches past the last block.
    pub const LBA_OUT_OF_RANGE: SenseCode = SenseCode::new(SenseKey::ILLEGAL_REQUEST, 0x21, 0x00);
    /// A field of the CDB has a value that is not supported.
    pub const INVALID_FIELD_IN_CDB: SenseCode =
        SenseCode::new(SenseKey::ILLEGAL_REQUEST, 0x24, 0x00);
    /// There is no such logical unit.
    pub const LOGICAL_UNIT_NOT_SUPPORTED: SenseCode =
        SenseCode::new(SenseKey::ILLEGAL_REQUEST, 0x25, 0x00);
    /// A field of the parameter list has a value that is not supported.
    pub const INVALID_FIELD_IN_PARAMETER_LIST: SenseCode =
        SenseCode::new(SenseKey::ILLEGAL_REQUEST, 0x26, 0x00);
    /// There is no medium in the drive.
    pub const MEDIUM_NOT_PRESENT: SenseCode = SenseCode::new(SenseKey::NOT_READY, 0x3a, 0x00);
    /// The mode page has no saved values.
    pub const SAVING_PARAMETERS_NOT_SUPPORTED: SenseCode =
        SenseCode::new(SenseKey::ILLEGAL_REQUEST, 0x39, 0x00);
    /// The medium is write-protected, or the initiator itself forbade writing (SPC-6, SWP of the
    /// Control mode page).
    pub const WRITE_PROTECTED: SenseCode = SenseCode::new(SenseKey::DATA_PROTECT, 0x27, 0x00);
    /// The backing store is out of space (SBC-4, Resource exhaustion).
    pub const SPACE_ALLOCATION_FAILED_WRITE_PROTECT: SenseCode =
        SenseCode::new(SenseKey::DATA_PROTECT, 0x27, 0x07);
    /// One of those that follow; which, nobody says.
    pub const POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED: SenseCode =
        SenseCode::new(SenseKey::UNIT_ATTENTION, 0x29, 0x00);
    /// The first command after power-on.
    pub const POWER_ON_OCCURRED: SenseCode = SenseCode::new(SenseKey::UNIT_ATTENTION, 0x29, 0x01);
    /// The whole target was reset.
    pub const SCSI_BUS_RESET_OCCURRED: SenseCode =
        SenseCode::new(SenseKey::UNIT_ATTENTION, 0x29, 0x02);
    /// The logical unit was reset.
    pub const BUS_DEVICE_RESET_FUNCTION_OCCURRED: SenseCode =
        SenseCode::new(SenseKey::UNIT_ATTENTION, 0x29, 0x03);
    /// The initiator was gone.
    pub const I_T_NEXUS_LOSS_OCCURRED: SenseCode =
        SenseCode::new(SenseKey::UNIT_ATTENTION, 0x29, 0x07);
    /// A mode page changed, by somebody else.
    pub const MODE_PARAMETERS_CHANGED: SenseCode =
        SenseCode::new(SenseKey::UNIT_ATTENTION, 0x2a, 0x01);
    /// The reservation is somebody else's.
    pub const RESERVATIONS_PREEMPTED: SenseCode =
        SenseCode::new(SenseKey::UNIT_ATTENTION, 0x2a, 0x03);
    /// The reservation is nobody's any more.
    pub const RESERVATIONS_RELEASED: SenseCode =
        SenseCode::new(SenseKey::UNIT_ATTENTION, 0x2a, 0x04);
    /// The registration was taken away.
    pub const REGISTRATIONS_PREEMPTED: SenseCode =
        SenseCode::new(SenseKey::UNIT_ATTENTION, 0x2a, 0x05);
    /// A target port group is in another state.
    pub const ASYMMETRIC_ACCESS_STATE_CHANGED: SenseCode =
        SenseCode::new(SenseKey::UNIT_ATTENTION, 0x2a, 0x06);
    /// The number of blocks changed.
    pub const CAPACITY_DATA_HAS_CHANGED: SenseCode =
        SenseCode::new(SenseKey::UNIT_ATTENTION, 0x2a, 0x09);
    /// There may be another medium.
    pub const NOT_READY_TO_READY_CHANGE: SenseCode =
        SenseCode::new(SenseKey::UNIT_ATTENTION, 0x28, 0x00);
    /// Thin provisioning is about to run out of room.
    pub const THIN_PROVISIONING_SOFT_THRESHOLD_REACHED: SenseCode =
        SenseCode::new(SenseKey::UNIT_ATTENTION, 0x38, 0x07);
    /// What INQUIRY says changed.
    pub const INQUIRY_DATA_HAS_CHANGED: SenseCode =
        SenseCode::new(SenseKey::UNIT_ATTENTION, 0x3f, 0x03);
    /// The logical unit runs another program than before.
    pub const MICROCODE_HAS_BEEN_CHANGED: SenseCode =
        SenseCode::new(SenseKey::UNIT_ATTENTION, 0x3f, 0x01);
    /// LUNs came or went behind this target.
    pub const REPORTED_LUNS_DATA_HAS_CHANGED: SenseCode =
        SenseCode::new(SenseKey::UNIT_ATTENTION, 0x3f, 0x0e);
}

/// Where the wrong field begins (SPC-6, Sense key specific).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldPointer {
    /// Whether the field is in the CDB (C/D); otherwise it is in the parameter list.
    pub in_cdb: bool,
    /// Byte of it.
    pub byte: u16,
    /// Leftmost bit of the field in that byte, if the field does not begin with the byte.
    pub bit: Option<u8>,
}

impl FieldPointer {
    /// SENSE KEY SPECIFIC: SKSV, C/D, BPV, BIT POINTER, FIELD POINTER.
    fn to_bytes(self) -> [u8; 3] {
        const SKSV: u8 = 0x80;
        const IN_CDB: u8 = 0x40;
        let place = if self.in_cdb { IN_CDB } else { 0 };
        let bit = self.bit.map_or(0, |bit| 0x08 | bit & 0x07);
        let [high, low] = self.byte.to_be_bytes();
        [SKSV | place | bit, high, low]
    }
}

/// Sense data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense {
    /// What happened.
    pub code: SenseCode,
    /// Which field is to blame.
    pub field: Option<FieldPointer>,
    /// INFORMATION: for a block device, the first LBA that failed (SBC-4, Error reporting).
    pub information: Option<u64>,
    /// Whether it goes with its status in descriptor format (SPC-6, D_SENSE of the Control mode
    /// page), otherwise in fixed format.
    pub descriptor_format: bool,
}

impl Sense {
    /// Length of fixed format sense data, in bytes.
    pub const FIXED_LEN: usize = 18;

    /// Length of the longest sense data, in bytes: in descriptor format, with INFORMATION and a
    /// field pointer.
    pub const MAX_LEN: usize = 28;

    /// INVALID FIELD IN CDB at a byte, or at a bit of it.
    #[must_use]
    pub const fn invalid_field(byte: u16, bit: Option<u8>) -> Sense {
        let field = Some(FieldPointer { in_cdb: true, byte, bit });
        Sense { field, ..Sense::new(SenseCode::INVALID_FIELD_IN_CDB) }
    }

    /// INVALID FIELD IN PARAMETER LIST at a byte, or at a bit of it.
    #[must_use]
    pub const fn invalid_parameter(byte: u16, bit: Option<u8>) -> Sense {
        let field = Some(FieldPointer { in_cdb: false, byte, bit });
        Sense { field, ..Sense::new(SenseCode::INVALID_FIELD_IN_PARAMETER_LIST) }
    }

    /// LBA OUT OF RANGE, naming the first LBA that does not exist.
    #[must_use]
    pub const fn lba_out_of_range(lba: u64) -> Sense {
        Sense { information: Some(lba), ..Sense::new(SenseCode::LBA_OUT_OF_RANGE) }
    }

    const fn new(code: SenseCode) -> Sense {
        Sense { code, field: None, information: None, descriptor_format: false }
    }

    /// The data in the format that is asked for.
    #[must_use]
    pub fn to_bytes(&self, descriptor_format: bool) -> Vec<u8> {
        if descriptor_format { self.to_descriptor() } else { self.to_fixed().to_vec() }
    }

    /// Fixed format, current information (SPC-6, Fixed format sense data). INFORMATION goes in
    /// where it fits its four bytes, else VALID stays 0.
    #[must_use]
    pub fn to_fixed(&self) -> [u8; Sense::FIXED_LEN] {
        let mut data = [0; Sense::FIXED_LEN];
        data[0] = 0x70;
        if let Some(information) = self.information.and_then(|lba| u32::try_from(lba).ok()) {
            data[0] |= 0x80;
            put_u32(&mut data, 3, information);
        }
        data[2] = self.code.key.0;
        data[7] = 10;
        data[12] = self.code.asc;
        data[13] = self.code.ascq;
        if let Some(field) = self.field {
            data[15..18].copy_from_slice(&field.to_bytes());
        }
        data
    }

    /// Descriptor format, current information (SPC-6, Descriptor format sense data).
    #[must_use]
    pub fn to_descriptor(&self) -> Vec<u8> {
        let mut data = vec![0x72, self.code.key.0, self.code.asc, self.code.ascq, 0, 0, 0, 0];
        if let Some(information) = self.information {
            let mut descriptor = [0x00, 0x0a, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            put_u64(&mut descriptor, 4, information);
            data.extend(descriptor);
        }
        if let Some(field) = self.field {
            let [first, high, low] = field.to_bytes();
            data.extend([0x02, 0x06, 0, 0, first, high, low, 0]);
        }
        let additional = u16::try_from(data.len() - 8).unwrap_or(0);
        put_u16(&mut data, 6, additional);
        data
    }
}

impl From<SenseCode> for Sense {
    fn from(code: SenseCode) -> Sense {
        Sense::new(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_format() {
        let plain = Sense::from(SenseCode::WRITE_PROTECTED).to_fixed();
        assert_eq!(plain, [0x70, 0, 7, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x27, 0, 0, 0, 0, 0]);
        let range = Sense::lba_out_of_range(0x0102_0304).to_fixed();
        assert_eq!(range, [0xf0, 0, 5, 1, 2, 3, 4, 10, 0, 0, 0, 0, 0x21, 0, 0, 0, 0, 0]);
        let beyond = Sense::lba_out_of_range(1 << 32).to_fixed();
        assert_eq!(beyond[..7], [0x70, 0, 5, 0, 0, 0, 0]);
    }

    #[test]
    fn the_field_pointer_names_byte_and_bit() {
        assert_eq!(Sense::invalid_field(2, None).to_fixed()[15..], [0xc0, 0, 2]);
        assert_eq!(Sense::invalid_field(1, Some(7)).to_fixed()[15..], [0xcf, 0, 1]);
        assert_eq!(Sense::invalid_parameter(300, Some(2)).to_fixed()[15..], [0x8a, 1, 44]);
    }

    #[test]
    fn descriptor_format() {
        let both = Sense { information: Some(1 << 40), ..Sense::invalid_field(1, Some(4)) };
        let expected = [
            [0x72, 5, 0x24, 0, 0, 0, 0, 20].as_slice(),
            &[0, 0x0a, 0x80, 0, 0, 0, 1, 0, 0, 0, 0, 0],
            &[2, 6, 0, 0, 0xcc, 0, 1, 0],
        ];
        assert_eq!(both.to_descriptor(), expected.concat());
        assert_eq!(both.to_descriptor().len(), Sense::MAX_LEN);
    }
}

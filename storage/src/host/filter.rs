//! The commands that the kernel carries for a process without CAP_SYS_RAWIO.
//!
//! `scsi_cmd_allowed` of drivers/scsi/scsi_ioctl.c, which has looked at the operation code alone,
//! and at no device type, from Linux 5.15 (where it was a bit map in block/scsi_ioctl.c until it
//! became a switch) to 6.12 and beyond. It decides on block nodes, and on sg nodes that are not open for
//! writing; an sg node that is carries everything. A partition, and a volume of the device mapper
//! other than a multipath map, refuse SG_IO without CAP_SYS_RAWIO altogether (ENOTTY).

/// Whether the kernel carries `cdb` by a block node, open for writing too where `writable`, for a
/// process without CAP_SYS_RAWIO. It fails others with EPERM.
#[must_use]
pub fn kernel_allows(cdb: &[u8], writable: bool) -> bool {
    let Some(opcode) = cdb.first() else { return false };
    READING.contains(opcode) || (writable && WRITING.contains(opcode))
}

/// What anybody may send who can open the device. Some of them write on other types than those
/// that the list was made for: 42h is READ SUBCHANNEL and UNMAP, 48h PLAY AUDIO TRACK/INDEX and SANITIZE,
/// A4h REPORT KEY and MAINTENANCE OUT.
const READING: &[u8] = &[
    0x00, 0x03, 0x08, 0x12, 0x1a, 0x1b, 0x1c, 0x23, 0x25, 0x28, 0x2b, 0x2f, 0x37, 0x3c, 0x3e, 0x42,
    0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x4a, 0x4b, 0x4d, 0x4e, 0x51, 0x52, 0x5a, 0x5c, 0x88, 0x8f,
    0x95, 0x9e, 0xa0, 0xa3, 0xa4, 0xa8, 0xac, 0xad, 0xb9, 0xba, 0xbc, 0xbe,
];

/// What wants a node that is open for writing. 0Dh is there because the kernel takes the service
/// action of WRITE SAME (32) for an operation code.
const WRITING: &[u8] = &[
    0x04, 0x0a, 0x0d, 0x15, 0x19, 0x1e, 0x2a, 0x2e, 0x35, 0x3f, 0x41, 0x4c, 0x53, 0x54, 0x55, 0x58,
    0x5b, 0x5d, 0x8a, 0x93, 0x94, 0xa1, 0xa2, 0xa6, 0xa7, 0xaa, 0xae, 0xb6, 0xbb, 0xbf, 0xea,
];

//! A guest as typed values: what the configuration yields and a machine is built from.

use std::path::PathBuf;

use storage::lun::spec::LunSpec;
use uuid::Uuid;

/// Everything about one guest.
#[derive(Clone, Debug, PartialEq)]
pub struct GuestSpec {
    /// The machine itself.
    pub machine: MachineSpec,
    /// What it boots.
    pub boot: BootSpec,
    /// Its virtual HBAs, at least one.
    pub controllers: Vec<ControllerSpec>,
}

/// `[machine]`
#[derive(Clone, Debug, PartialEq)]
pub struct MachineSpec {
    /// Names the guest in logs and derives its identities.
    pub name: String,
    /// Derives the guest's WWNs.
    pub uuid: Uuid,
    /// Number of vCPUs, at least 1.
    pub vcpus: u8,
    /// Guest memory in bytes, a multiple of 4 KiB.
    pub memory: u64,
}

/// `[boot]`; paths are absolute or relative to the working directory.
#[derive(Clone, Debug, PartialEq)]
pub struct BootSpec {
    /// The kernel, a bzImage.
    pub kernel: PathBuf,
    /// The initramfs, if there is one.
    pub initramfs: Option<PathBuf>,
    /// The kernel's command line.
    pub cmdline: String,
}

/// `[[controller]]`: one virtio-scsi HBA.
#[derive(Clone, Debug, PartialEq)]
pub struct ControllerSpec {
    /// Names the controller in logs and derives the identities of its LUNs.
    pub id: String,
    /// Number of request queues.
    pub request_queues: u16,
    /// Size of each queue, a power of two from 8 to 1024.
    pub queue_size: u16,
    /// Its logical units.
    pub luns: Vec<AddressedLun>,
}

/// `[[controller.lun]]`
#[derive(Clone, Debug, PartialEq)]
pub struct AddressedLun {
    /// Target number, 0 to 255.
    pub target: u8,
    /// Logical unit number, 0 to 16383.
    pub lun: u16,
    /// What is there.
    pub spec: LunSpec,
}

//! A guest as typed values: what the configuration yields and a machine is built from.

use std::path::PathBuf;
use std::time::Duration;

use storage::lun::passthrough::policy::Preset;
use storage::lun::spec::LunSpec;
use uuid::Uuid;

/// Everything about one guest.
#[derive(Clone, Debug, PartialEq)]
pub struct GuestSpec {
    /// The machine itself.
    pub machine: MachineSpec,
    /// What it boots.
    pub boot: BootSpec,
    /// Where its serial port goes.
    pub serial: SerialSpec,
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
    /// How the host provides it.
    pub memory_backing: MemoryBacking,
    /// What a reset by the guest does.
    pub on_reboot: OnReboot,
    /// What a crash of the guest does.
    pub on_crash: OnCrash,
    /// How long the guest may take to power off once it is asked to.
    pub stop_timeout: Duration,
}

/// `machine.memory_backing`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemoryBacking {
    /// Pages of the host's default size, provided as they are touched.
    #[default]
    Anonymous,
    /// The same, all of them provided before the guest starts.
    Prealloc,
    /// Huge pages from the host's pool, all of them provided before the guest starts.
    Hugepages,
}

/// `machine.on_reboot`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnReboot {
    /// The guest starts again in the same process.
    #[default]
    Restart,
    /// The VMM ends with status 0.
    Exit,
}

/// `machine.on_crash`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnCrash {
    /// The VMM ends with status 3.
    #[default]
    Exit,
    /// The guest starts again in the same process.
    Restart,
}

/// `[console] serial`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SerialSpec {
    /// Standard input and output.
    #[default]
    Stdio,
    /// Nowhere.
    Null,
    /// Output goes to a file; there is no input.
    File(PathBuf),
    /// A Unix socket on which the VMM listens, one client at a time.
    Socket(PathBuf),
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
    /// How the guest reaches it.
    pub transport: Transport,
    /// How long a task management function may wait for the commands that it names.
    pub tmf_timeout: Duration,
    /// Number of request queues.
    pub request_queues: u16,
    /// Size of each queue, a power of two from 8 to 1024.
    pub queue_size: u16,
    /// Its logical units.
    pub luns: Vec<AddressedLun>,
}

/// `controller.transport`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// A PCI function.
    #[default]
    Pci,
    /// A window of registers that ACPI describes.
    Mmio,
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

/// `controller.lun.policy`: the presets by their names.
pub(crate) const PRESETS: [(&str, Preset); 4] = [
    ("read-only", Preset::ReadOnly),
    ("disk-rw", Preset::DiskRw),
    ("cluster", Preset::Cluster),
    ("full", Preset::Full),
];

#[cfg(test)]
impl AddressedLun {
    /// The disk that it is.
    pub(crate) fn disk(&self) -> &storage::lun::spec::DiskSpec {
        match &self.spec {
            LunSpec::Disk(disk) => disk,
            LunSpec::Passthrough(_) => panic!("not a disk: {self:?}"),
        }
    }
}

//! A guest run by QEMU, with the same kernel, tools and script as one run by `vmm`: for tests that
//! show both.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

/// The words of QEMU's command line.
#[derive(Debug)]
pub struct Qemu(Command);

impl Qemu {
    /// A microvm of `memory` bytes with one virtio-scsi controller, its console on stdout.
    #[must_use]
    pub fn new(kernel: &Path, initramfs: &Path, memory: u64) -> Qemu {
        let mut qemu = Qemu(Command::new("qemu-system-x86_64"));
        let memory = format!("{}M", memory >> 20);
        qemu.words(["-M", "microvm", "-accel", "kvm", "-cpu", "host", "-m", &memory]);
        qemu.words(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"]);
        qemu.words(["-no-reboot", "-append", "console=ttyS0 quiet"]);
        qemu.words([
            OsStr::new("-kernel"),
            kernel.as_ref(),
            "-initrd".as_ref(),
            initramfs.as_ref(),
        ]);
        qemu.words(["-global", "virtio-mmio.force-legacy=false"]);
        qemu.words(["-device", "virtio-scsi-device,id=hba"]);
        qemu
    }

    /// An emulated disk on a raw image, as a logical unit of target 1.
    pub fn disk(&mut self, image: &Path, wwn: &str, lun: usize) {
        let name = format!("disk{lun}");
        self.drive(&name, "file", image);
        let wwn = wwn.trim_start_matches("naa.");
        let words = format!("scsi-hd,bus=hba.0,drive={name},scsi-id=1,lun={lun},wwn=0x{wwn}");
        self.words(["-device", &words]);
    }

    /// A SCSI device of the host, by its block or sg node, as a logical unit of target 0.
    pub fn pass(&mut self, lun: usize, node: &Path, read_only: bool) {
        let generic = node.to_string_lossy().starts_with("/dev/sg");
        let device = if generic { "scsi-generic" } else { "scsi-block" };
        let name = format!("passed{lun}");
        let read_only = if read_only { "on" } else { "off" };
        self.drive(&name, &format!("host_device,read-only={read_only}"), node);
        self.words(["-device", &format!("{device},bus=hba.0,drive={name},scsi-id=0,lun={lun}")]);
    }

    /// A controller that is LIO's.
    pub fn vhost(&mut self, target: &str) {
        self.words(["-device", &format!("vhost-scsi,wwpn={target}")]);
    }

    fn drive(&mut self, name: &str, driver: &str, file: &Path) {
        let file = file.display();
        let raw = format!("raw,node-name={name},file.driver={driver},file.filename={file}");
        self.words(["-blockdev", &raw]);
    }

    /// Adds words to the command line.
    pub fn words(&mut self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) {
        self.0.args(words);
    }

    /// The whole command.
    #[must_use]
    pub fn command(self) -> Command {
        self.0
    }
}

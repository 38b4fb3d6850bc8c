//! Resource limits of this process, and what a guest needs of them.
#![expect(unsafe_code, reason = "getrlimit, setrlimit and malloc_trim")]

use std::io;

use storage::host::sysfs::Sysfs;
use storage::lun::passthrough::Passthrough;
use storage::lun::spec::LunSpec;

use crate::spec::GuestSpec;

/// File descriptors of any guest: standard streams once more, signals, the loop, KVM, its events,
/// memory, and some to spare for what is open for a moment.
const DESCRIPTORS_OF_MACHINE: u64 = 32;
/// Of a vCPU.
const DESCRIPTORS_OF_VCPU: u64 = 1;
/// Of a controller: its interrupt for changes, and its control and event queues, each with a
/// doorbell, an interrupt, and what its thread waits on.
const DESCRIPTORS_OF_CONTROLLER: u64 = 16;
/// Of a request queue: doorbell and interrupt, what its thread waits on, and its ring.
const DESCRIPTORS_OF_QUEUE: u64 = 12;
/// Of an emulated disk: its medium.
const DESCRIPTORS_OF_DISK: u64 = 1;
/// Of a node of a SCSI device, or of a multipath map and each of its paths: it is open twice while
/// the device is opened again.
const DESCRIPTORS_OF_NODE: u64 = 2;
/// Of each command of a device that goes by a broker: a connection.
const DESCRIPTORS_OF_BROKERED: u64 = 1;

/// The file descriptors that `guest` needs, at most.
pub(crate) fn descriptors(guest: &GuestSpec) -> u64 {
    let controllers = guest.controllers.iter().map(|controller| {
        DESCRIPTORS_OF_CONTROLLER
            + DESCRIPTORS_OF_QUEUE * u64::from(controller.request_queues)
            + controller.luns.iter().map(|lun| of_lun(&lun.spec)).sum::<u64>()
    });
    DESCRIPTORS_OF_MACHINE
        + DESCRIPTORS_OF_VCPU * u64::from(guest.machine.vcpus)
        + controllers.sum::<u64>()
}

fn of_lun(spec: &LunSpec) -> u64 {
    match spec {
        LunSpec::Disk(_) => DESCRIPTORS_OF_DISK,
        LunSpec::Passthrough(device) => {
            let paths = Sysfs::default().paths_of(&device.path) as u64;
            let depth = device.queue_depth.unwrap_or(Passthrough::MAX_DEPTH);
            let brokered = device.broker.as_ref().map_or(0, |_| u64::from(depth));
            DESCRIPTORS_OF_NODE * (1 + paths) + DESCRIPTORS_OF_BROKERED * brokered
        }
    }
}

/// Gives memory back to the host that was allocated and freed. Threads allocate from pools of
/// their own, and those of the next life may get others than the last: without this, each pool
/// would come to keep the most that any thread ever had.
pub(crate) fn trim_heap() {
    // SAFETY: it touches nothing that is allocated.
    unsafe { libc::malloc_trim(0) };
}

/// Raises the soft limit of open files to the hard one: each interrupt vector and each queue
/// takes some.
///
/// # Errors
/// When the host refuses.
pub(crate) fn raise_open_files() -> io::Result<()> {
    let mut limit = open_files()?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is an rlimit that is only read.
    match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The hard limit of open files.
///
/// # Errors
/// When the host refuses to tell.
pub(crate) fn open_files_max() -> io::Result<u64> {
    Ok(open_files()?.rlim_max)
}

fn open_files() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is an rlimit to fill in.
    match unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } {
        0 => Ok(limit),
        _ => Err(io::Error::last_os_error()),
    }
}

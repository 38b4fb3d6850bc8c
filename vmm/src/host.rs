//! What this host has for a guest: KVM, memory, file descriptors, SCSI devices.
//!
//! Owns looking, without changing anything. Must not know what any guest needs.

use std::fs;
use std::path::Path;

use arch::cpuid;
use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use storage::lun::spec::LunSpec;
use storage::lun::{self, OpenError};

use crate::limits;

/// The pool of huge pages, in sysfs.
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// What the host has.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// Its KVM, or why there is none to use.
    pub(crate) kvm: Result<Kvm, NoKvm>,
    /// Its memory; nothing where /proc does not tell.
    pub(crate) memory: Option<Memory>,
    /// File descriptors.
    pub(crate) descriptors: Descriptors,
    /// Whether it has the device that a LUN is, and lets this process use it; takes nothing.
    pub(crate) device: fn(&LunSpec) -> Result<(), OpenError>,
}

/// What KVM can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kvm {
    /// vCPUs of one VM, at most.
    pub(crate) vcpus: usize,
    /// Width of a guest physical address in bits.
    pub(crate) physical_bits: u8,
}

/// Why KVM cannot be used, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NoKvm {
    /// Why.
    pub(crate) why: String,
    /// What to do.
    pub(crate) remedy: &'static str,
}

/// Memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// What there is in all in bytes, with swap.
    pub(crate) total: u64,
    /// What can be had in bytes, by swapping others out too.
    pub(crate) available: u64,
    /// Huge pages of [`HUGE_PAGE`] that nobody has or is promised.
    pub(crate) huge_pages: u64,
}

/// Bytes of a huge page.
pub(crate) const HUGE_PAGE: u64 = 2 << 20;

/// File descriptors of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptors {
    /// How many it may have, the soft limit raised to the hard one.
    pub(crate) limit: u64,
    /// How many it has.
    pub(crate) open: u64,
}

impl Host {
    /// Looks at the host.
    pub(crate) fn look() -> Host {
        let open = fs::read_dir("/proc/self/fd").map_or(3, Iterator::count) as u64;
        let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Host {
            kvm: look_at_kvm(),
            memory: look_at_memory(&text, Path::new(POOL)),
            descriptors: Descriptors { limit: limits::open_files_max().unwrap_or(u64::MAX), open },
            device: lun::check,
        }
    }
}

fn look_at_kvm() -> Result<Kvm, NoKvm> {
    const API_VERSION: i32 = 12;
    let no = |error: kvm_ioctls::Error| NoKvm {
        why: format!("cannot be used: {error}"),
        remedy: advise(error.errno()),
    };
    let kvm = kvm_ioctls::Kvm::new().map_err(no)?;
    if kvm.get_api_version() != API_VERSION {
        return Err(no(kvm_ioctls::Error::new(libc::ENOTTY)));
    }
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(no)?;
    Ok(Kvm { vcpus: kvm.get_max_vcpus(), physical_bits: cpuid::physical_bits(cpuid.as_slice()) })
}

fn advise(errno: i32) -> &'static str {
    match errno {
        libc::EACCES | libc::EPERM => "add this user to the group that owns it (kvm)",
        libc::ENOENT | libc::ENODEV | libc::ENXIO => {
            "load kvm_intel or kvm_amd, and enable virtualisation in the firmware"
        }
        _ => "check that KVM works on this host",
    }
}

/// What /proc/meminfo says in `text`, and the pool of huge pages at `pool`.
fn look_at_memory(text: &str, pool: &Path) -> Option<Memory> {
    let bytes = |name| {
        let mut values = text.lines().filter_map(|line| line.strip_prefix(name));
        let kib: u64 = values.next()?.strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib.saturating_mul(1024))
    };
    let with_swap = |memory: u64, swap| memory.saturating_add(bytes(swap).unwrap_or(0));
    Some(Memory {
        total: with_swap(bytes("MemTotal:")?, "SwapTotal:"),
        available: with_swap(bytes("MemAvailable:")?, "SwapFree:"),
        huge_pages: huge_pages(pool),
    })
}

/// Pages of the pool at `pool` in sysfs that can be had, those among them that the kernel adds on
/// demand; none where there is no such pool.
fn huge_pages(pool: &Path) -> u64 {
    let count = |name| {
        let text = fs::read_to_string(pool.join(name)).unwrap_or_default();
        text.trim().parse::<u64>().unwrap_or(0)
    };
    let free = count("free_hugepages").saturating_sub(count("resv_hugepages"));
    let on_demand = count("nr_overcommit_hugepages").saturating_sub(count("surplus_hugepages"));
    free.saturating_add(on_demand)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn memory_is_what_meminfo_says() {
        let look = |text| look_at_memory(text, Path::new("/nonexistent"));
        let memory = |total, available| Some(Memory { total, available, huge_pages: 0 });
        let text = "MemTotal: 16000 kB\nMemAvailable:    8000 kB\nSwapTotal: 2000 kB\n\
                    SwapFree: 1000 kB\n";
        assert_eq!(look(text), memory(18000 << 10, 9000 << 10));
        let text = "MemTotal: 2 kB\nMemAvailable: 1 kB";
        assert_eq!(look(text), memory(2 << 10, 1 << 10));
        for bad in ["MemTotal: 1 kB", "MemAvailable: many kB", "MemAvailable: 1", ""] {
            assert_eq!(look(bad), None, "{bad}");
        }
    }

    #[test]
    fn huge_pages_are_those_that_are_not_promised_and_those_on_demand() {
        let pool = TempDir::new().unwrap();
        for (name, count) in [
            ("free_hugepages", "7\n"),
            ("resv_hugepages", "2\n"),
            ("nr_overcommit_hugepages", "4\n"),
            ("surplus_hugepages", "1\n"),
        ] {
            fs::write(pool.path().join(name), count).unwrap();
        }
        assert_eq!(huge_pages(pool.path()), 5 + 3);
        assert_eq!(huge_pages(Path::new("/nonexistent")), 0);
    }

    #[test]
    fn this_host_has_memory_and_descriptors() {
        let host = Host::look();
        assert!(host.memory.is_some_and(|memory| memory.available > 0));
        assert!(host.descriptors.open >= 3 && host.descriptors.limit >= host.descriptors.open);
    }
}

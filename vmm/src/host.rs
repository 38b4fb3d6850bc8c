//! What this host has for a guest: KVM, memory and file descriptors.
//!
//! Owns looking, once and without changing anything. Must not know what any guest needs.

use std::fs;

use arch::cpuid;
use kvm_bindings::KVM_MAX_CPUID_ENTRIES;

use crate::limits;

/// What the host has.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// Its KVM, or why there is none to use.
    pub(crate) kvm: Result<Kvm, NoKvm>,
    /// Its memory; nothing where /proc does not tell.
    pub(crate) memory: Option<Memory>,
    /// File descriptors.
    pub(crate) descriptors: Descriptors,
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

/// Memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// What can be had without taking it from another program.
    pub(crate) available: u64,
    /// Size of a huge page of the default pool; 0 where there is none.
    pub(crate) huge_page: u64,
    /// Huge pages of that pool that nobody has or is promised.
    pub(crate) huge_pages: u64,
}

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
            memory: Memory::parse(&text, surplus_huge_pages()),
            descriptors: Descriptors { limit: limits::open_files_max().unwrap_or(u64::MAX), open },
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

/// Huge pages that the kernel would add to the default pool on demand.
fn surplus_huge_pages() -> u64 {
    let text = fs::read_to_string("/proc/sys/vm/nr_overcommit_hugepages").unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

impl Memory {
    /// What /proc/meminfo says in `text`, where up to `surplus` huge pages come on demand.
    fn parse(text: &str, surplus: u64) -> Option<Memory> {
        let field = |name| {
            let mut lines =
                text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let mut words = lines.next()?.split_whitespace();
            let number: u64 = words.next()?.parse().ok()?;
            Some(if words.next() == Some("kB") { number.saturating_mul(1024) } else { number })
        };
        let count = |name| field(name).unwrap_or(0);
        let on_demand = surplus.saturating_sub(count("HugePages_Surp"));
        let free = count("HugePages_Free").saturating_sub(count("HugePages_Rsvd"));
        Some(Memory {
            available: field("MemAvailable")?.saturating_add(count("SwapFree")),
            huge_page: count("Hugepagesize"),
            huge_pages: free.saturating_add(on_demand),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_what_meminfo_says() {
        let text = "MemTotal: 16000 kB\nMemAvailable:    8000 kB\nSwapFree: 1000 kB\n\
                    HugePages_Total:  9\nHugePages_Free:  7\nHugePages_Rsvd:  2\n\
                    HugePages_Surp:  1\nHugepagesize:  2048 kB\n";
        let expected = Memory { available: 9000 << 10, huge_page: 2 << 20, huge_pages: 5 + 3 };
        assert_eq!(Memory::parse(text, 4), Some(expected));
        assert_eq!(Memory::parse("MemTotal: 1 kB", 0), None);
        assert_eq!(Memory::parse("MemAvailable: many", 0), None);
        let plain = Memory { available: 1024, ..Memory::default() };
        assert_eq!(Memory::parse("MemAvailable: 1 kB", 0), Some(plain));
    }

    #[test]
    fn this_host_has_memory_and_descriptors() {
        let host = Host::look();
        assert!(host.memory.is_some_and(|memory| memory.available > 0));
        assert!(host.descriptors.open >= 3 && host.descriptors.limit >= host.descriptors.open);
    }
}

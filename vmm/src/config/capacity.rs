//! Whether the host has what the guest needs.
//!
//! This file must not know how anything is read, nor how the host was looked at.

use arch::layout::Layout;

use super::boot::Boot;
use super::machine::Machine;
use super::problems::{Problems, Refusal};
use super::tree::Placed;
use crate::host::{Descriptors, HUGE_PAGE, Host, Memory};
use crate::limits;
use crate::memory::SLOT_MAX;
use crate::spec::{GuestSpec, MemoryBacking};

/// An 8-bit APIC id of FFh is a broadcast.
const APIC_IDS_MAX: usize = 255;
/// The widest guest physical address, where KVM does not tell, in bits.
const PHYSICAL_BITS_MAX: u8 = 52;

/// Reports what of the machine and of what it boots the host cannot give.
pub(super) fn machine(
    machine: &Machine,
    boot: Option<&Boot>,
    host: &Host,
    problems: &mut Problems<'_>,
) {
    if let Err(no) = &host.kvm {
        problems.report_host("/dev/kvm", &Refusal::new(&no.why, no.remedy));
    }
    let kvm = host.kvm.as_ref();
    if let (Some(vcpus), Ok(kvm)) = (machine.vcpus, kvm) {
        check_vcpus(vcpus, kvm.vcpus.min(APIC_IDS_MAX), problems);
    }
    let Some(memory) = machine.memory else { return };
    let bits = kvm.map_or(PHYSICAL_BITS_MAX, |kvm| kvm.physical_bits);
    match Layout::new(memory.value, bits) {
        Err(_) => {
            let why = format!("more than {bits} physical address bits of this host's vCPUs reach");
            let refusal = Refusal::new(why, "give the machine less");
            problems.report(memory.at, "machine.memory", &refusal);
        }
        Ok(layout) => {
            if layout.ram().any(|region| region.size > SLOT_MAX) {
                let refusal = Refusal::new("more than KVM takes", "write 8TiB or less");
                problems.report(memory.at, "machine.memory", &refusal);
            }
            if let Some(boot) = boot {
                boot.fit(memory, &layout, problems);
            }
        }
    }
    if let (Some(backing), Some(there)) = (machine.memory_backing, host.memory) {
        check_memory(memory, backing, there, problems);
    }
}

fn check_vcpus(vcpus: Placed<u8>, most: usize, problems: &mut Problems<'_>) {
    if usize::from(vcpus.value) > most {
        let refusal =
            Refusal::new("more than this host's KVM has", format!("write {most} or less"));
        problems.report(vcpus.at, format!("machine.vcpus = {}", vcpus.value), &refusal);
    }
}

fn check_memory(
    memory: Placed<u64>,
    backing: Placed<MemoryBacking>,
    there: Memory,
    problems: &mut Problems<'_>,
) {
    let refusal = match backing.value {
        MemoryBacking::Anonymous => {
            if let Some(refusal) = far_too_much(memory.value, there.total) {
                problems.report(memory.at, "machine.memory", &refusal);
            }
            None
        }
        MemoryBacking::Prealloc => too_much(memory.value, there.available),
        MemoryBacking::Hugepages => too_many_pages(memory, there, problems),
    };
    if let Some(refusal) = refusal {
        problems.report(backing.at, "machine.memory_backing", &refusal);
    }
}

/// Guests may have more in all than there is, as long as they do not use it; what never can be
/// used is a mistake, and what KVM keeps for it is taken all the same.
fn far_too_much(memory: u64, total: u64) -> Option<Refusal> {
    const TIMES: u64 = 8;
    let why = || format!("more than {TIMES} times what the host has, {} with swap", mib(total));
    (memory > total.saturating_mul(TIMES)).then(|| Refusal::new(why(), "give the machine less"))
}

fn too_much(memory: u64, available: u64) -> Option<Refusal> {
    let why =
        || format!("the host has {} MiB left, and memory is {}", available >> 20, mib(memory));
    let remedy = "give the machine less, or use \"anonymous\"";
    (memory > available).then(|| Refusal::new(why(), remedy))
}

fn too_many_pages(memory: Placed<u64>, there: Memory, problems: &Problems<'_>) -> Option<Refusal> {
    if !memory.value.is_multiple_of(HUGE_PAGE) {
        let line = problems.line(memory.at);
        let why = format!("memory at line {line} is not a multiple of their {}", mib(HUGE_PAGE));
        let near = memory.value.next_multiple_of(HUGE_PAGE) >> 20;
        return Some(Refusal::new(why, format!("write memory = \"{near}MiB\"")));
    }
    let (needed, free) = (memory.value / HUGE_PAGE, there.huge_pages);
    let why =
        || format!("memory takes {needed} huge pages of {}, and {free} are free", mib(HUGE_PAGE));
    let remedy = "raise vm.nr_hugepages, or use \"anonymous\" or \"prealloc\"";
    (needed > free).then(|| Refusal::new(why(), remedy))
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

/// Reports if this process may not have as many file descriptors as `guest` needs.
pub(super) fn descriptors(guest: &GuestSpec, there: Descriptors, problems: &mut Problems<'_>) {
    let needed = there.open.saturating_add(limits::descriptors(guest));
    if needed > there.limit {
        let why = format!("the guest needs {needed}, and this process may have {}", there.limit);
        let remedy = "raise the hard limit (ulimit -Hn), or give the guest fewer LUNs, controllers \
                      or request queues";
        problems.report_host("file descriptors", &Refusal::new(why, remedy));
    }
}

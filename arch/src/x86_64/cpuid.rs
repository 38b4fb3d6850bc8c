//! What CPUID tells each processor: KVM's answer, patched.
//!
//! The machine is one package with one core per vCPU, one thread per core; the local APIC id is
//! the vCPU's number. Nested virtualisation and the PMU are hidden. Follows Intel SDM 2A, CPUID,
//! and AMD APM volume 3, appendix E. A pure function: KVM's table in, one processor's table out.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

const FEATURES: u32 = 1;
const CACHES: u32 = 4;
const PERFORMANCE: u32 = 0xa;
const TOPOLOGY: u32 = 0xb;
const TSC: u32 = 0x15;
const FREQUENCY: u32 = 0x16;
const TOPOLOGY_V2: u32 = 0x1f;
const EXTENDED_FEATURES: u32 = 0x8000_0001;
const ADDRESS_SIZES: u32 = 0x8000_0008;
const SVM: u32 = 0x8000_000a;
const AMD_CACHES: u32 = 0x8000_001d;
const AMD_TOPOLOGY: u32 = 0x8000_001e;
const AMD_PERFORMANCE: u32 = 0x8000_0022;
const AMD_TOPOLOGY_V2: u32 = 0x8000_0026;

const ECX1_VMX: u32 = 1 << 5;
const ECX1_PDCM: u32 = 1 << 15;
const ECX1_TSC_DEADLINE: u32 = 1 << 24;
const ECX1_HYPERVISOR: u32 = 1 << 31;
const EDX1_HTT: u32 = 1 << 28;
const ECX81_CMP_LEGACY: u32 = 1 << 1;
const ECX81_SVM: u32 = 1 << 2;
const ECX81_PERFCTR: u32 = 1 << 23 | 1 << 24 | 1 << 28;

const LEVEL_SMT: u32 = 1 << 8;
const LEVEL_CORE: u32 = 2 << 8;
/// The third cache level and those above it are shared by the package.
const SHARED_CACHE_LEVEL: u32 = 3;
/// KVM's local APIC timer counts nanoseconds.
const APIC_TIMER_HZ: u32 = 1_000_000_000;
const DEFAULT_PHYSICAL_BITS: u8 = 36;

/// One processor among those of the machine.
#[derive(Clone, Copy, Debug)]
pub struct Processor {
    /// Its number, which is its APIC id.
    pub index: u8,
    /// How many there are, at least 1.
    pub count: u8,
    /// Whether KVM's local APIC has the TSC deadline timer.
    pub tsc_deadline: bool,
    /// Frequency of the guest's TSC in kHz, if KVM knows it.
    pub tsc_khz: Option<u32>,
}

impl Processor {
    /// Bits of an APIC id that number the cores of the package.
    fn core_bits(self) -> u32 {
        u8::BITS - self.count.saturating_sub(1).leading_zeros()
    }

    fn id(self) -> u32 {
        self.index.into()
    }

    fn last_core(self) -> u32 {
        u32::from(self.count).saturating_sub(1)
    }
}

/// The width of a guest physical address, in bits.
pub fn physical_bits(supported: &[kvm_cpuid_entry2]) -> u8 {
    let sizes = supported.iter().find(|entry| entry.function == ADDRESS_SIZES);
    let [bits, _, guest_bits, _] = sizes.map_or([0; 4], |entry| entry.eax.to_le_bytes());
    match (bits, guest_bits) {
        (0, _) => DEFAULT_PHYSICAL_BITS,
        (bits, 0) => bits,
        (bits, guest_bits) => bits.min(guest_bits),
    }
}

/// The table of processor `cpu`, from the one that KVM supports.
pub fn table(supported: &[kvm_cpuid_entry2], cpu: Processor) -> Vec<kvm_cpuid_entry2> {
    let replaced = [TOPOLOGY, TOPOLOGY_V2, TSC, FREQUENCY];
    let mut table: Vec<_> =
        supported.iter().filter(|entry| !replaced.contains(&entry.function)).copied().collect();
    let vendor = Vendor::of(supported);
    for entry in &mut table {
        patch(entry, cpu, vendor);
    }
    let last = supported.iter().find(|entry| entry.function == 0).map_or(0, |entry| entry.eax);
    let mut added = topology(TOPOLOGY, cpu).to_vec();
    added.extend(topology(TOPOLOGY_V2, cpu));
    if let (Vendor::Intel, Some(khz)) = (vendor, cpu.tsc_khz) {
        added.extend(frequency(khz));
    }
    table.extend(added.into_iter().filter(|entry| entry.function <= last));
    table
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Vendor {
    Intel,
    Amd,
    Other,
}

impl Vendor {
    fn of(supported: &[kvm_cpuid_entry2]) -> Self {
        let name = supported.iter().find(|entry| entry.function == 0).map(|entry| {
            [entry.ebx.to_le_bytes(), entry.edx.to_le_bytes(), entry.ecx.to_le_bytes()].concat()
        });
        match name.as_deref() {
            Some(b"GenuineIntel") => Vendor::Intel,
            Some(b"AuthenticAMD" | b"HygonGenuine") => Vendor::Amd,
            _ => Vendor::Other,
        }
    }
}

fn patch(entry: &mut kvm_cpuid_entry2, cpu: Processor, vendor: Vendor) {
    match entry.function {
        FEATURES => patch_features(entry, cpu),
        CACHES | AMD_CACHES => patch_cache(entry, cpu),
        EXTENDED_FEATURES => {
            entry.ecx &= !(ECX81_SVM | ECX81_PERFCTR);
            let legacy = vendor == Vendor::Amd && cpu.count > 1;
            assign(&mut entry.ecx, ECX81_CMP_LEGACY, legacy);
        }
        ADDRESS_SIZES => entry.ecx = cpu.core_bits() << 12 | cpu.last_core(),
        AMD_TOPOLOGY => {
            (entry.eax, entry.ebx) = (cpu.id(), cpu.id());
            (entry.ecx, entry.edx) = (0, 0);
        }
        PERFORMANCE | SVM | AMD_PERFORMANCE | AMD_TOPOLOGY_V2 => {
            (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
        }
        _ => {}
    }
}

fn patch_features(entry: &mut kvm_cpuid_entry2, cpu: Processor) {
    let ids = (1u32 << cpu.core_bits()).min(0xff);
    entry.ebx = cpu.id() << 24 | ids << 16 | entry.ebx & 0xffff;
    entry.ecx &= !(ECX1_VMX | ECX1_PDCM);
    entry.ecx |= ECX1_HYPERVISOR;
    assign(&mut entry.ecx, ECX1_TSC_DEADLINE, cpu.tsc_deadline);
    assign(&mut entry.edx, EDX1_HTT, cpu.count > 1);
}

/// EAX of a cache: type 4:0, level 7:5, ids that share it 25:14, ids of cores 31:26 (Intel only).
fn patch_cache(entry: &mut kvm_cpuid_entry2, cpu: Processor) {
    const NONE: u32 = 0;
    let (kind, level) = (entry.eax & 0x1f, entry.eax >> 5 & 7);
    if kind == NONE {
        return;
    }
    let ids = (1u32 << cpu.core_bits()) - 1;
    let sharing = if level >= SHARED_CACHE_LEVEL { ids } else { 0 };
    let cores = if entry.function == CACHES { ids.min(0x3f) } else { 0 };
    entry.eax = entry.eax & 0x3fff | sharing << 14 | cores << 26;
}

/// Leaf Bh or 1Fh: one thread per core, `count` cores. KVM makes the levels above.
fn topology(function: u32, cpu: Processor) -> [kvm_cpuid_entry2; 2] {
    let level = |index, eax, ebx, kind| kvm_cpuid_entry2 {
        function,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax,
        ebx,
        ecx: kind | index,
        edx: cpu.id(),
        ..Default::default()
    };
    [level(0, 0, 1, LEVEL_SMT), level(1, cpu.core_bits(), cpu.count.into(), LEVEL_CORE)]
}

/// Leaves 15h and 16h: the TSC as a ratio of the local APIC timer's clock.
fn frequency(khz: u32) -> [kvm_cpuid_entry2; 2] {
    let tsc = kvm_cpuid_entry2 {
        function: TSC,
        eax: APIC_TIMER_HZ / 1000,
        ebx: khz,
        ecx: APIC_TIMER_HZ,
        ..Default::default()
    };
    let mhz = khz / 1000;
    [tsc, kvm_cpuid_entry2 { function: FREQUENCY, eax: mhz, ebx: mhz, ..Default::default() }]
}

fn assign(register: &mut u32, bits: u32, on: bool) {
    *register = if on { *register | bits } else { *register & !bits };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32, regs: [u32; 4]) -> kvm_cpuid_entry2 {
        let [eax, ebx, ecx, edx] = regs;
        kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..Default::default() }
    }

    fn name(text: &[u8; 12]) -> [u32; 3] {
        let word = |at: usize| u32::from_le_bytes(text[at..at + 4].try_into().unwrap());
        [word(0), word(8), word(4)]
    }

    fn supported(vendor: &[u8; 12]) -> Vec<kvm_cpuid_entry2> {
        let [ebx, ecx, edx] = name(vendor);
        vec![
            entry(0, 0, [0x1f, ebx, ecx, edx]),
            entry(1, 0, [0, 0x0f10_0800, ECX1_VMX | ECX1_PDCM, EDX1_HTT]),
            entry(4, 0, [0xfc00_4121, 0, 0, 0]),
            entry(4, 3, [0xfc07_c163, 0, 0, 0]),
            entry(4, 4, [0, 0, 0, 0]),
            entry(0xa, 0, [0x0730_0404, 0, 0, 0x603]),
            entry(0xb, 0, [0, 0, 0, 9]),
            entry(0x4000_0000, 0, [0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d]),
            entry(0x8000_0001, 0, [0, 0, ECX81_SVM | ECX81_PERFCTR | 1, 0]),
            entry(0x8000_0008, 0, [0x3028, 0, 0x401f, 0]),
            entry(0x8000_000a, 0, [1, 8, 0, 0xf]),
            entry(0x8000_001d, 3, [0x1c163, 0, 0, 0]),
            entry(0x8000_001e, 0, [7, 0x103, 0x1, 0]),
        ]
    }

    fn cpu(index: u8, count: u8) -> Processor {
        Processor { index, count, tsc_deadline: true, tsc_khz: Some(2_500_000) }
    }

    fn leaf(vendor: &[u8; 12], cpu: Processor, function: u32, index: u32) -> Option<[u32; 4]> {
        table(&supported(vendor), cpu)
            .iter()
            .find(|entry| (entry.function, entry.index) == (function, index))
            .map(|entry| [entry.eax, entry.ebx, entry.ecx, entry.edx])
    }

    fn intel(cpu: Processor, function: u32, index: u32) -> [u32; 4] {
        leaf(b"GenuineIntel", cpu, function, index).unwrap()
    }

    fn amd(cpu: Processor, function: u32, index: u32) -> [u32; 4] {
        leaf(b"AuthenticAMD", cpu, function, index).unwrap()
    }

    #[test]
    fn each_processor_has_its_own_apic_id() {
        for (index, count) in [(0, 1), (1, 2), (2, 3), (63, 64), (253, 254)] {
            let cpu = cpu(index, count);
            assert_eq!(intel(cpu, 1, 0)[1] >> 24, u32::from(index));
            assert_eq!(intel(cpu, 0xb, 0)[3], u32::from(index));
            assert_eq!(intel(cpu, 0x1f, 1)[3], u32::from(index));
            assert_eq!(amd(cpu, 0x8000_001e, 0), [index.into(), index.into(), 0, 0]);
        }
    }

    #[test]
    fn the_package_has_one_core_per_processor() {
        for (count, bits) in [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (64, 6), (254, 8)] {
            let cpu = cpu(0, count);
            assert_eq!(intel(cpu, 0xb, 0)[..3], [0, 1, 0x100]);
            assert_eq!(intel(cpu, 0xb, 1)[..3], [bits, count.into(), 0x201]);
            assert_eq!(intel(cpu, 1, 0)[1] >> 16 & 0xff, (1 << bits).min(0xff));
            assert_eq!(intel(cpu, 1, 0)[3] & EDX1_HTT != 0, count > 1);
            assert_eq!(amd(cpu, 0x8000_0008, 0)[2], bits << 12 | (u32::from(count) - 1));
        }
    }

    #[test]
    fn the_last_cache_level_is_shared_and_the_others_are_not() {
        assert_eq!(intel(cpu(0, 3), 4, 0)[0], 3 << 26 | 0x121);
        assert_eq!(intel(cpu(0, 3), 4, 3)[0], 3 << 26 | 3 << 14 | 0x163);
        assert_eq!(intel(cpu(0, 3), 4, 4)[0], 0);
        assert_eq!(amd(cpu(0, 64), 0x8000_001d, 3)[0], 63 << 14 | 0x163);
        assert_eq!(intel(cpu(0, 1), 4, 3)[0], 0x163);
    }

    #[test]
    fn nested_virtualisation_and_the_pmu_are_hidden() {
        let features = intel(cpu(0, 1), 1, 0)[2];
        assert_eq!(features, ECX1_HYPERVISOR | ECX1_TSC_DEADLINE);
        assert_eq!(intel(cpu(0, 1), 0xa, 0), [0; 4]);
        assert_eq!(amd(cpu(0, 1), 0x8000_0001, 0)[2], 1);
        assert_eq!(amd(cpu(0, 2), 0x8000_0001, 0)[2], 1 | ECX81_CMP_LEGACY);
        assert_eq!(amd(cpu(0, 1), 0x8000_000a, 0), [0; 4]);
    }

    #[test]
    fn the_deadline_timer_is_there_only_if_kvm_has_it() {
        let without = Processor { tsc_deadline: false, ..cpu(0, 1) };
        assert_eq!(intel(without, 1, 0)[2] & ECX1_TSC_DEADLINE, 0);
    }

    #[test]
    fn the_hypervisors_own_leaves_are_kept() {
        assert_eq!(intel(cpu(0, 1), 0x4000_0000, 0)[1], 0x4b4d_564b);
    }

    #[test]
    fn intel_processors_tell_their_frequency() {
        let [denominator, numerator, crystal, _] = intel(cpu(0, 1), 0x15, 0);
        let hz = u64::from(crystal) * u64::from(numerator) / u64::from(denominator);
        assert_eq!(hz, 2_500_000_000);
        assert_eq!(intel(cpu(0, 1), 0x16, 0)[0], 2500);
        assert_eq!(leaf(b"AuthenticAMD", cpu(0, 1), 0x15, 0), None);
        assert_eq!(leaf(b"GenuineIntel", Processor { tsc_khz: None, ..cpu(0, 1) }, 0x15, 0), None);
    }

    #[test]
    fn leaves_above_the_last_are_not_added() {
        let mut supported = supported(b"AuthenticAMD");
        supported[0].eax = 0xd;
        let table = table(&supported, cpu(0, 2));
        assert!(table.iter().any(|entry| entry.function == TOPOLOGY));
        assert!(table.iter().all(|entry| entry.function != TOPOLOGY_V2));
    }

    #[test]
    fn the_address_width_is_the_guests() {
        assert_eq!(physical_bits(&supported(b"GenuineIntel")), 40);
        assert_eq!(physical_bits(&[]), 36);
        assert_eq!(physical_bits(&[entry(0x8000_0008, 0, [0x2f_3034, 0, 0, 0])]), 47);
    }
}

//! The state of the boot processor at the kernel's entry point.
//!
//! Follows the 64-bit boot protocol of Linux (long mode, identity-mapped low memory, flat
//! segments `__BOOT_CS` and `__BOOT_DS`) or the Xen x86/HVM direct boot ABI (32-bit protected mode
//! without paging, flat segments), and Intel SDM volume 3 for the formats. Application processors
//! need none of it: they wait for a start-up IPI.

use kvm_bindings::{kvm_fpu, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs};

use super::boot::Entry;
use super::layout;

const BOOT_CS: u16 = 0x10;
const BOOT_DS: u16 = 0x18;
const BOOT_TR: u16 = 0x20;

/// Of the smallest 32-bit TSS.
const TSS_LIMIT: u32 = 0x67;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const RFLAGS_RESERVED: u64 = 1 << 1;

const PAGE_PRESENT_WRITABLE: u64 = 0b11;
const PAGE_HUGE: u64 = 1 << 7;
const ENTRIES: u64 = 512;
/// Page directories, of 1 GiB each, so that all below 4 GiB is mapped.
const DIRECTORIES: u64 = 4;

const MSR_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ENABLED: u64 = 1 << 11;
const MTRR_WRITE_BACK: u64 = 6;

const LAPIC_LINT0: usize = 0x350;
const LAPIC_LINT1: usize = 0x360;
const LVT_MODE: u32 = 0b111 << 8;
const LVT_NMI: u32 = 0b100 << 8;
const LVT_EXTINT: u32 = 0b111 << 8;
const LVT_MASKED: u32 = 1 << 16;

/// General registers at `entry`: the zero page in RSI, or the start info in EBX.
pub fn general(entry: Entry) -> kvm_regs {
    let (rip, rsi, rbx) = match entry {
        Entry::Linux64(address) => (address, layout::BOOT_PARAMS, 0),
        Entry::Pvh(address) => (address.into(), 0, layout::START_INFO.base),
    };
    let (rsp, rflags) = (layout::BOOT_STACK, RFLAGS_RESERVED);
    kvm_regs { rip, rsi, rbx, rsp, rflags, ..Default::default() }
}

/// Puts `sregs`, as KVM resets them, into the mode that `entry` wants.
pub fn enter(sregs: &mut kvm_sregs, entry: Entry) {
    sregs.gdt.base = layout::GDT;
    sregs.gdt.limit = GDT_LIMIT;
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    let data = data_segment();
    (sregs.ds, sregs.es, sregs.ss) = (data, data, data);
    (sregs.fs, sregs.gs) = (data, data);
    match entry {
        Entry::Linux64(_) => enter_long_mode(sregs),
        Entry::Pvh(_) => enter_protected_mode(sregs),
    }
}

fn enter_long_mode(sregs: &mut kvm_sregs) {
    sregs.cs = code_segment();
    sregs.tr = task_segment();
    sregs.cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_PG;
    sregs.cr3 = layout::PAGE_TABLES;
    sregs.cr4 |= CR4_PAE;
    sregs.efer |= EFER_LME | EFER_LMA;
}

/// The selectors are unspecified, and the GDT has 64-bit code at that of CS.
fn enter_protected_mode(sregs: &mut kvm_sregs) {
    sregs.cs = kvm_segment { l: 0, db: 1, ..code_segment() };
    sregs.tr = kvm_segment { limit: TSS_LIMIT, ..task_segment() };
    sregs.cr0 = CR0_PE | CR0_ET;
    sregs.cr3 = 0;
    sregs.cr4 = 0;
    sregs.efer = 0;
}

const GDT_ENTRIES: usize = 5;
const GDT_LIMIT: u16 = 8 * 5 - 1;

/// The GDT for [`layout::GDT`], little-endian.
pub fn gdt() -> Vec<u8> {
    let null = kvm_segment::default();
    let table: [kvm_segment; GDT_ENTRIES] =
        [null, null, code_segment(), data_segment(), task_segment()];
    table.iter().flat_map(|segment| descriptor(segment).to_le_bytes()).collect()
}

fn code_segment() -> kvm_segment {
    kvm_segment { selector: BOOT_CS, type_: 0xb, l: 1, ..flat_segment() }
}

fn data_segment() -> kvm_segment {
    kvm_segment { selector: BOOT_DS, type_: 0x3, db: 1, ..flat_segment() }
}

fn task_segment() -> kvm_segment {
    kvm_segment { limit: 0xffff, selector: BOOT_TR, type_: 0xb, present: 1, ..Default::default() }
}

fn flat_segment() -> kvm_segment {
    kvm_segment { limit: 0xffff_ffff, present: 1, s: 1, g: 1, ..Default::default() }
}

/// A segment descriptor (Intel SDM 3A, 3.4.5).
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = u64::from(if segment.g == 1 { segment.limit >> 12 } else { segment.limit });
    let flag = |value: u8, bit: u32| u64::from(value) << bit;
    (limit & 0xffff)
        | (segment.base & 0xff_ffff) << 16
        | flag(segment.type_, 40)
        | flag(segment.s, 44)
        | flag(segment.dpl, 45)
        | flag(segment.present, 47)
        | (limit >> 16 & 0xf) << 48
        | flag(segment.avl, 52)
        | flag(segment.l, 53)
        | flag(segment.db, 54)
        | flag(segment.g, 55)
        | (segment.base >> 24 & 0xff) << 56
}

/// The page tables for [`layout::PAGE_TABLES`], little-endian: the first 4 GiB identity-mapped
/// by 2 MiB pages.
pub fn page_tables() -> Vec<u8> {
    let table = |index| (layout::PAGE_TABLES + index * layout::PAGE) | PAGE_PRESENT_WRITABLE;
    let pml4 = std::iter::once(table(1)).chain(empty(1));
    let pdpt = (2..2 + DIRECTORIES).map(table).chain(empty(DIRECTORIES));
    let directories =
        (0..DIRECTORIES * ENTRIES).map(|page| page << 21 | PAGE_HUGE | PAGE_PRESENT_WRITABLE);
    pml4.chain(pdpt).chain(directories).flat_map(u64::to_le_bytes).collect()
}

/// The rest of a table whose first `used` entries are taken.
fn empty(used: u64) -> impl Iterator<Item = u64> {
    (used..ENTRIES).map(|_| 0)
}

/// The FPU as FNINIT leaves it, with all SSE exceptions masked.
pub fn fpu() -> kvm_fpu {
    kvm_fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Default::default() }
}

/// Model-specific registers that firmware would have set, on every processor: memory is
/// write-back by default, and fast string operations are on.
pub fn msrs() -> [kvm_msr_entry; 2] {
    let entry = |index, data| kvm_msr_entry { index, data, ..Default::default() };
    [
        entry(MSR_MISC_ENABLE, MISC_ENABLE_FAST_STRING),
        entry(MSR_MTRR_DEF_TYPE, MTRR_ENABLED | MTRR_WRITE_BACK),
    ]
}

/// Wires the local interrupt pins as firmware does: LINT0 to the PIC, LINT1 to NMI.
pub fn wire_lapic(lapic: &mut kvm_lapic_state) {
    deliver(lapic, LAPIC_LINT0, LVT_EXTINT);
    deliver(lapic, LAPIC_LINT1, LVT_NMI);
}

fn deliver(lapic: &mut kvm_lapic_state, register: usize, mode: u32) {
    let bytes = &mut lapic.regs[register..register + 4];
    let old =
        bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(byte.cast_unsigned()));
    let new = old & !(LVT_MODE | LVT_MASKED) | mode;
    for (byte, value) in bytes.iter_mut().zip(new.to_le_bytes()) {
        *byte = value.cast_signed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(bytes: &[u8]) -> Vec<u64> {
        bytes.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect()
    }

    #[test]
    fn the_gdt_holds_the_flat_segments_of_the_boot_protocol() {
        let expected = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x0000_8b00_0000_ffff];
        assert_eq!(words(&gdt()), expected);
        assert_eq!(gdt().len(), usize::from(GDT_LIMIT) + 1);
        assert!(layout::GDT + gdt().len() as u64 <= layout::BOOT_PARAMS);
    }

    #[test]
    fn the_page_tables_map_the_first_four_gib_to_themselves() {
        let bytes = page_tables();
        let table = words(&bytes);
        assert!(layout::PAGE_TABLES + bytes.len() as u64 <= layout::CMDLINE.base);
        for address in [0, 0x7000, 0x10_0000, 0xc000_0000, 0xffff_f000u64] {
            let pdpt = table[0] & !0xfff;
            let entry = |base: u64, index: u64| {
                table[usize::try_from((base - layout::PAGE_TABLES) / 8 + index).unwrap()]
            };
            let directory = entry(pdpt, address >> 30) & !0xfff;
            let page = entry(directory, address >> 21 & 0x1ff);
            assert_eq!(page & 0xfff, PAGE_HUGE | PAGE_PRESENT_WRITABLE);
            assert_eq!((page & !0xfff) + (address & 0x1f_ffff), address);
        }
    }

    #[test]
    fn the_processor_enters_in_long_mode_with_the_zero_page_in_rsi() {
        let mut sregs = kvm_sregs::default();
        let entry = Entry::Linux64(0x10_0200);
        enter(&mut sregs, entry);
        assert_eq!((sregs.cs.selector, sregs.cs.l, sregs.cs.db), (0x10, 1, 0));
        assert_eq!((sregs.ds.selector, sregs.ss.db), (0x18, 1));
        assert_eq!(sregs.efer, 0x500);
        assert_eq!(sregs.cr3, layout::PAGE_TABLES);
        let regs = general(entry);
        assert_eq!((regs.rip, regs.rsi), (0x10_0200, layout::BOOT_PARAMS));
    }

    #[test]
    fn pvh_enters_in_flat_protected_mode_with_the_start_info_in_ebx() {
        let mut sregs = kvm_sregs::default();
        let entry = Entry::Pvh(0x100_0000);
        enter(&mut sregs, entry);
        for segment in [sregs.cs, sregs.ds, sregs.es, sregs.ss] {
            assert_eq!((segment.base, segment.limit), (0, u32::MAX));
            assert_eq!((segment.present, segment.l, segment.db), (1, 0, 1));
        }
        assert_eq!((sregs.cs.type_ & 0b1010, sregs.ds.type_ & 0b1010), (0b1010, 0b0010));
        assert_eq!((sregs.tr.base, sregs.tr.limit, sregs.tr.type_), (0, 0x67, 0xb));
        assert_eq!((sregs.cr0 & !CR0_ET, sregs.cr4, sregs.efer), (CR0_PE, 0, 0));
        let regs = general(entry);
        assert_eq!((regs.rip, regs.rbx, regs.rflags), (0x100_0000, 0x6000, 2));
    }

    #[test]
    fn the_local_pins_are_unmasked_and_wired() {
        let mut lapic = kvm_lapic_state::default();
        // Masked, as after reset.
        lapic.regs[LAPIC_LINT0 + 2] = 1;
        wire_lapic(&mut lapic);
        assert_eq!(lapic.regs[LAPIC_LINT0..LAPIC_LINT0 + 4], [0, 7, 0, 0]);
        assert_eq!(lapic.regs[LAPIC_LINT1..LAPIC_LINT1 + 4], [0, 4, 0, 0]);
    }

    #[test]
    fn memory_is_write_back_by_default() {
        assert_eq!(msrs().map(|msr| (msr.index, msr.data)), [(0x1a0, 1), (0x2ff, 0x806)]);
    }
}

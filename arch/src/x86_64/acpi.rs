//! The ACPI tables: hardware-reduced ACPI 6.5.
//!
//! Owns what the guest's firmware would say about interrupts (MADT), configuration space (MCFG),
//! power (FADT) and devices that cannot be probed (DSDT): the serial port, the PCI root,
//! virtio-mmio devices, the power button and the panic device. Must not know which PCI devices
//! there are.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Method,
    Name, Notify, ONE, Package, Path, ResourceTemplate, ZERO,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace as GasSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;

use super::layout::{self, Layout, MmioSlot};

const OEM: [u8; 6] = *b"VMM   ";
const OEM_TABLE: [u8; 8] = *b"VMMSCSI ";
const OEM_REVISION: u32 = 1;
const DSDT_REVISION: u8 = 6;
const SDT_HEADER: u32 = 36;
const TABLE_ALIGN: usize = 16;

/// From the root: a name of two segments is looked for nowhere else than it says.
const POWER_BUTTON: &str = "\\_SB_.PWRB";

const BOOT_ARCH_NO_VGA: u16 = 1 << 2;
const BOOT_ARCH_NO_CMOS_RTC: u16 = 1 << 5;

/// All tables of a machine with `vcpus` processors and a virtio-mmio device in each place of
/// `virtio_mmio`, for [`layout::ACPI`]; the RSDP comes first.
pub fn tables(layout: &Layout, vcpus: u8, virtio_mmio: &[MmioSlot]) -> Vec<u8> {
    let mut image = Image { bytes: vec![0; Rsdp::len()] };
    let dsdt = image.push(&dsdt(layout, virtio_mmio));
    let entries = [image.push(&fadt(dsdt)), image.push(&madt(vcpus)), image.push(&mcfg())];
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    for entry in entries {
        xsdt.add_entry(entry);
    }
    let xsdt = image.push(&xsdt);
    let mut bytes = bytes(&Rsdp::new(OEM, xsdt));
    bytes.extend_from_slice(&image.bytes[Rsdp::len()..]);
    bytes
}

/// The tables as they will lie in guest memory.
struct Image {
    bytes: Vec<u8>,
}

impl Image {
    /// Adds a table and returns its guest physical address.
    fn push(&mut self, table: &dyn Aml) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(TABLE_ALIGN), 0);
        let address = layout::ACPI.base + self.bytes.len() as u64;
        self.bytes.extend(bytes(table));
        address
    }
}

fn bytes(aml: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    aml.to_aml_bytes(&mut bytes);
    bytes
}

fn fadt(dsdt: u64) -> impl Aml {
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::Wbinvd)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless)
        .flag(Flags::HwReducedAcpi);
    fadt.iapc_boot_arch = (BOOT_ARCH_NO_VGA | BOOT_ARCH_NO_CMOS_RTC).into();
    fadt.reset_reg = port(layout::RESET);
    fadt.reset_value = layout::RESET_VALUE;
    fadt.sleep_control_reg = port(layout::SLEEP_CONTROL);
    fadt.sleep_status_reg = port(layout::SLEEP_STATUS);
    fadt.finalize()
}

fn port(port: u16) -> GAS {
    GAS::new(GasSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port.into())
}

fn madt(vcpus: u8) -> impl Aml {
    let lapic = LocalInterruptController::Address(low32(layout::LAPIC));
    let mut madt = MADT::new(OEM, OEM_TABLE, OEM_REVISION, lapic);
    for id in 0..vcpus {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, low32(layout::IOAPIC), 0));
    madt
}

fn mcfg() -> impl Aml {
    let mut mcfg = MCFG::new(OEM, OEM_TABLE, OEM_REVISION);
    mcfg.add_ecam(layout::ECAM.base, 0, 0, 0);
    mcfg
}

fn dsdt(layout: &Layout, virtio_mmio: &[MmioSlot]) -> Sdt {
    let mut dsdt = Sdt::new(*b"DSDT", SDT_HEADER, DSDT_REVISION, OEM, OEM_TABLE, OEM_REVISION);
    let fixed = [soft_off(), serial_port(), pci_root(layout), board_resources()];
    let events = [power_button(), event_device(), panic_device()];
    for part in fixed.into_iter().chain(events) {
        dsdt.append_slice(&part);
    }
    for (uid, slot) in (0..).zip(virtio_mmio) {
        dsdt.append_slice(&virtio_mmio_device(uid, *slot));
    }
    dsdt
}

/// `_S5`: the `SLP_TYP` of soft off.
fn soft_off() -> Vec<u8> {
    let package = Package::new(vec![&layout::SLEEP_TYPE_S5, &ZERO, &ZERO, &ZERO]);
    bytes(&Name::new("_S5_".into(), &package))
}

/// COM1. Without a PIC, Linux takes its interrupt from here alone.
fn serial_port() -> Vec<u8> {
    let irq = edge(layout::COM1_IRQ);
    let ports = IO::new(layout::COM1, layout::COM1, 1, 8);
    device(
        "_SB_.COM1",
        &EISAName::new("PNP0501"),
        &[(&"_DDN", &"COM1"), (&"_CRS", &ResourceTemplate::new(vec![&irq, &ports]))],
    )
}

/// The PCI root: bus 0 and its two memory windows. It routes no pin interrupts.
fn pci_root(layout: &Layout) -> Vec<u8> {
    let buses = AddressSpace::new_bus_number(0u16, 0);
    let config = IO::new(layout::PCI_CONFIG, layout::PCI_CONFIG, 1, 8);
    let window32 = AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        low32(layout::PCI32.base),
        low32(layout::PCI32.end() - 1),
        None,
    );
    let window64 = AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        layout.pci64().base,
        layout.pci64().end() - 1,
        None,
    );
    let resources = ResourceTemplate::new(vec![&buses, &config, &window32, &window64]);
    device(
        "_SB_.PCI0",
        &EISAName::new("PNP0A08"),
        &[
            (&"_CID", &EISAName::new("PNP0A03")),
            (&"_SEG", &ZERO),
            (&"_BBN", &ZERO),
            (&"_CRS", &resources),
        ],
    )
}

/// A virtio device by the ID that Linux's `virtio_mmio` matches. Nobody else has its line, whose
/// edges cannot be shared.
fn virtio_mmio_device(uid: u8, slot: MmioSlot) -> Vec<u8> {
    let window = Memory32Fixed::new(true, low32(slot.window.base), low32(slot.window.size));
    let irq = edge(slot.irq);
    let resources = ResourceTemplate::new(vec![&window, &irq]);
    let path = format!("_SB_.VI{uid:02X}");
    let objects: [(&&str, &dyn Aml); 2] = [(&"_CCA", &ONE), (&"_CRS", &resources)];
    device_with(&path, &"LNRO0005", &uid, &objects, &[])
}

/// What else of the map is taken: ECAM, and the ports of power management.
fn board_resources() -> Vec<u8> {
    let ecam = Memory32Fixed::new(true, low32(layout::ECAM.base), low32(layout::ECAM.size));
    let sleep = IO::new(layout::SLEEP_CONTROL, layout::SLEEP_CONTROL, 1, 2);
    let resources = ResourceTemplate::new(vec![&ecam, &sleep]);
    device("_SB_.MBRD", &EISAName::new("PNP0C02"), &[(&"_CRS", &resources)])
}

/// The power button as a control method device (ACPI 6.5, 4.8.2.2.1.2): hardware-reduced ACPI has
/// no fixed one.
fn power_button() -> Vec<u8> {
    device(POWER_BUTTON, &EISAName::new("PNP0C0C"), &[])
}

/// The Generic Event Device (ACPI 6.5, 5.6.9), whose only event is that the power button was
/// pressed.
fn event_device() -> Vec<u8> {
    /// Status changed: pressed, while the guest runs.
    const PRESSED: u8 = 0x80;
    let button = Path::new(POWER_BUTTON);
    let notify = Notify::new(&button, &PRESSED);
    let event = Method::new("_EVT".into(), 1, true, vec![&notify]);
    let irq = edge(layout::POWER_BUTTON_IRQ);
    let resources = ResourceTemplate::new(vec![&irq]);
    device_with("_SB_.GED_", &"ACPI0013", &ZERO, &[(&"_CRS", &resources)], &[&event])
}

/// The port by which a guest tells of its panic (pvpanic).
fn panic_device() -> Vec<u8> {
    let port = IO::new(layout::PVPANIC, layout::PVPANIC, 1, 1);
    device("_SB_.PEVT", &"QEMU0001", &[(&"_CRS", &ResourceTemplate::new(vec![&port]))])
}

/// An edge-triggered interrupt line of a device's own.
fn edge(irq: u32) -> Interrupt {
    let (consumer, edge_triggered, active_low, shared) = (true, true, false, false);
    Interrupt::new(consumer, edge_triggered, active_low, shared, irq)
}

/// A device of the one instance, with `_HID`, `_UID` and the named objects given.
fn device(path: &str, hid: &dyn Aml, objects: &[(&&str, &dyn Aml)]) -> Vec<u8> {
    device_with(path, hid, &ZERO, objects, &[])
}

/// As [`device`], one of several, and with methods.
fn device_with(
    path: &str,
    hid: &dyn Aml,
    uid: &dyn Aml,
    objects: &[(&&str, &dyn Aml)],
    methods: &[&dyn Aml],
) -> Vec<u8> {
    let mut names = vec![Name::new("_HID".into(), hid), Name::new("_UID".into(), uid)];
    names.extend(objects.iter().map(|(name, value)| Name::new(Path::new(name), *value)));
    let names = names.iter().map(|name| name as &dyn Aml);
    bytes(&Device::new(path.into(), names.chain(methods.iter().copied()).collect()))
}

/// An address or size known to lie below 4 GiB.
fn low32(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn image(vcpus: u8) -> Vec<u8> {
        let slots: Vec<_> = layout::virtio_mmio().collect();
        tables(&Layout::new(512 * MIB, 40).unwrap(), vcpus, &slots)
    }

    fn u32_at(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    /// The table at guest physical `address`, whole, its checksum verified.
    fn table(image: &[u8], address: u64) -> &[u8] {
        let start = usize::try_from(address - layout::ACPI.base).unwrap();
        let length = u32_at(image, start + 4) as usize;
        let table = &image[start..start + length];
        assert_eq!(sum(table), 0);
        table
    }

    /// The tables that the XSDT names, by signature.
    fn find<'a>(image: &'a [u8], signature: &[u8; 4]) -> &'a [u8] {
        let xsdt = table(image, u64_at(image, 24));
        let mut entries = (36..xsdt.len()).step_by(8).map(|at| table(image, u64_at(xsdt, at)));
        entries.find(|table| table.starts_with(signature)).unwrap()
    }

    #[test]
    fn the_root_pointer_leads_to_every_table() {
        let image = image(2);
        assert!(image.starts_with(b"RSD PTR "));
        assert_eq!((sum(&image[..20]), sum(&image[..36])), (0, 0));
        for signature in [b"FACP", b"APIC", b"MCFG"] {
            assert!(!find(&image, signature).is_empty());
        }
    }

    #[test]
    fn the_fadt_is_hardware_reduced_and_names_the_power_registers() {
        let image = image(1);
        let fadt = find(&image, b"FACP");
        assert!(fadt[8] >= 5);
        let flags = u32_at(fadt, 112);
        assert_eq!(flags & (1 << 20 | 1 << 10), 1 << 20 | 1 << 10);
        assert_eq!(fadt[109] & 1 << 5, 1 << 5);
        // Generic addresses: an 8-bit port each.
        for (at, port) in [(116, 0xcf9), (244, 0x600), (256, 0x601)] {
            assert_eq!(fadt[at..at + 4], [1, 8, 0, 1]);
            assert_eq!(u64_at(fadt, at + 4), port);
        }
        assert_eq!(fadt[128], 6);
        assert!(table(&image, u64_at(fadt, 140)).starts_with(b"DSDT"));
    }

    #[test]
    fn the_madt_lists_every_processor_and_the_io_apic() {
        for vcpus in [1, 2, 64, 255] {
            let image = image(vcpus);
            assert!(layout::ACPI.base + image.len() as u64 <= layout::RESET_VECTOR);
            let madt = find(&image, b"APIC");
            let structures = &madt[44..];
            let (cpus, ioapic) = structures.split_at(8 * usize::from(vcpus));
            for (id, cpu) in (0..vcpus).zip(cpus.chunks(8)) {
                assert_eq!(cpu, [0, 8, id, id, 1, 0, 0, 0]);
            }
            assert_eq!(ioapic[..2], [1, 12]);
            assert_eq!(u32_at(ioapic, 4), 0xfec0_0000);
        }
    }

    #[test]
    fn the_mcfg_names_bus_0_of_ecam() {
        let image = image(1);
        let mcfg = find(&image, b"MCFG");
        assert_eq!(u64_at(mcfg, 44), layout::ECAM.base);
        assert_eq!(mcfg[52..56], [0, 0, 0, 0]);
    }

    #[test]
    fn the_dsdt_reserves_what_the_layout_says() {
        let layout = Layout::new(8192 * MIB, 40).unwrap();
        let dsdt = dsdt(&layout, &[]);
        let has = |bytes: &[u8]| dsdt.as_slice().windows(bytes.len()).any(|part| part == bytes);
        assert!(has(&layout.pci64().base.to_le_bytes()));
        assert!(has(&(layout.pci64().end() - 1).to_le_bytes()));
        assert!(has(&low32(layout::PCI32.base).to_le_bytes()));
        assert!(has(&low32(layout::ECAM.base).to_le_bytes()));
        // Extended interrupt descriptor: consumer, edge, active high, exclusive, {4}.
        assert!(has(&[0x89, 6, 0, 0b0011, 1, 4, 0, 0, 0]));
    }

    /// The package of the device that `path` names in `dsdt`, from its name on.
    fn body<'a>(dsdt: &'a Sdt, path: &[u8; 8]) -> &'a [u8] {
        let bytes = dsdt.as_slice();
        let at = bytes.windows(8).position(|part| part == path).unwrap();
        // DeviceOp, the length of the package in one or two bytes, the prefixes of the name.
        let is_device = |length_at: &usize| bytes[length_at - 2..*length_at] == [0x5b, 0x82];
        let length_at = (at - 4..at - 1).find(is_device).unwrap();
        let length = match bytes[length_at] {
            short @ 0..0x40 => usize::from(short),
            low => usize::from(low & 0xf) | usize::from(bytes[length_at + 1]) << 4,
        };
        &bytes[at..length_at + length]
    }

    fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
        bytes.windows(wanted.len()).any(|part| part == wanted)
    }

    #[test]
    fn the_power_button_is_a_device_that_the_event_device_notifies() {
        let dsdt = dsdt(&Layout::new(512 * MIB, 40).unwrap(), &[]);
        // PNP0C0C
        assert!(contains(body(&dsdt, b"_SB_PWRB"), &[0x0c, 0x41, 0xd0, 0x0c, 0x0c]));
        let events = body(&dsdt, b"_SB_GED_");
        assert!(contains(events, b"_HID\x0dACPI0013\0"));
        // Consumer, edge, active high, exclusive, {9}.
        assert!(contains(events, &[0x89, 6, 0, 0b0011, 1, 9, 0, 0, 0]));
        // Method (_EVT, 1, Serialized) { Notify (_SB.PWRB, 0x80) }
        assert!(events.ends_with(b"\x14\x13_EVT\x09\x86\\\x2e_SB_PWRB\x0a\x80"), "{events:x?}");
    }

    #[test]
    fn the_panic_device_names_its_port() {
        let dsdt = dsdt(&Layout::new(512 * MIB, 40).unwrap(), &[]);
        let device = body(&dsdt, b"_SB_PEVT");
        assert!(contains(device, b"_HID\x0dQEMU0001\0"));
        // I/O port descriptor: 16 bits, 505h to 505h, alignment 1, length 1.
        assert!(contains(device, &[0x47, 1, 5, 5, 5, 5, 1, 1]));
    }

    /// Runs where Intel's compiler is installed.
    #[test]
    fn acpica_reads_the_dsdt_without_complaint() {
        let slots: Vec<_> = layout::virtio_mmio().collect();
        let dsdt = dsdt(&Layout::new(8192 * MIB, 40).unwrap(), &slots);
        let folder = std::env::temp_dir().join(format!("dsdt-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("dsdt.aml"), dsdt.as_slice()).unwrap();
        let iasl = |arguments: &[&str]| {
            let mut command = std::process::Command::new("iasl");
            command.args(arguments).current_dir(&folder).output().ok()
        };
        if let Some(disassembled) = iasl(&["-d", "dsdt.aml"]) {
            assert!(disassembled.status.success(), "{disassembled:?}");
            let source = std::fs::read_to_string(folder.join("dsdt.dsl")).unwrap();
            // -we: warnings are errors.
            let compiled = iasl(&["-we", "-p", "again", "dsdt.dsl"]).unwrap();
            let said = String::from_utf8_lossy(&compiled.stdout);
            assert!(compiled.status.success(), "{said}\n{source}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn the_dsdt_names_every_virtio_mmio_device() {
        let layout = Layout::new(512 * MIB, 40).unwrap();
        let slots: Vec<_> = layout::virtio_mmio().collect();
        let count = |dsdt: &Sdt, bytes: &[u8]| {
            dsdt.as_slice().windows(bytes.len()).filter(|part| *part == bytes).count()
        };
        assert_eq!(count(&dsdt(&layout, &[]), b"LNRO0005"), 0);
        let dsdt = dsdt(&layout, &slots);
        assert_eq!(count(&dsdt, b"LNRO0005"), slots.len());
        for (uid, slot) in (0u8..).zip(slots) {
            // A fixed 32-bit memory range, then an extended interrupt descriptor: consumer, edge,
            // active high, exclusive; and the end tag.
            let (base, size) = (low32(slot.window.base), low32(slot.window.size));
            let mut resources = vec![0x86, 9, 0, 1];
            resources.extend([base.to_le_bytes(), size.to_le_bytes()].concat());
            resources.extend([0x89, 6, 0, 0b0011, 1]);
            resources.extend(slot.irq.to_le_bytes());
            resources.extend([0x79]);
            assert_eq!(count(&dsdt, &resources), 1, "{slot:x?}");
            assert_eq!(count(&dsdt, format!("VI{uid:02X}").as_bytes()), 1);
        }
    }
}

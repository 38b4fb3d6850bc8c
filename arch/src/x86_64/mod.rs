//! The x86-64 PC without its past: no BIOS, PIC, PIT or RTC, and ACPI in hardware-reduced mode.

pub mod acpi;
pub mod boot;
pub mod cpuid;
pub mod layout;
pub mod regs;

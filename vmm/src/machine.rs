//! The machine: memory, interrupt controllers, buses, devices that every guest has, and vCPUs.
//!
//! Owns everything that a guest can touch, and the order in which it comes and goes: all is
//! opened and built by [`Machine::new`] and [`Machine::add`], nothing runs before
//! [`Machine::start`], and dropping the machine joins the vCPUs before the rest goes. Must not
//! know the configuration file, nor what a PCI function is for.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use arch::boot::Entry;
use arch::cpuid::{self, Processor};
use arch::layout::{self, Layout, LayoutError, MmioSlot, Region};
use devices::bus::{Bus, BusDevice, Overlap};
use devices::pci::PciFunction;
use devices::pci::access::{self, ConfigPorts, Ecam, MemoryWindow};
use devices::pci::root::{AddError, PciRoot, Window};
use devices::platform::Platform;
use devices::pm::{self, I8042, Power, PowerRequest, ResetControl, SleepRegisters};
use devices::pvpanic::{self, PanicEvent, Pvpanic};
use devices::serial::{self, Serial};
use devices::virtio::mmio;
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm, VmFd};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use crate::exit::{Exit, ExitReport};
use crate::irq::KvmPlatform;
use crate::kernel::{self, BootError, BootFiles};
use crate::memory::{self, MemoryError, Ram};
use crate::spec::MachineSpec;
use crate::vcpu::{Buses, RunningVcpu, Vcpu, VcpuError};

/// A machine could not be built or started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MachineError {
    /// No KVM.
    #[error("/dev/kvm: cannot be opened: {}", advise(source))]
    Open {
        /// Why.
        source: kvm_ioctls::Error,
    },
    /// KVM refused a part of the VM.
    #[error("KVM refuses {what}")]
    Kvm {
        /// What was refused.
        what: &'static str,
        /// Why.
        source: kvm_ioctls::Error,
    },
    /// More vCPUs than KVM has.
    #[error("{vcpus} vCPUs are more than this host's KVM allows: give the machine {max} at most")]
    TooManyVcpus {
        /// What was asked for.
        vcpus: u8,
        /// What there can be.
        max: usize,
    },
    /// The host lacks file descriptors or interrupt routes.
    #[error("the host lacks a resource")]
    Host(#[from] io::Error),
    /// The amount of memory is impossible.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Memory could not be had.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Kernel, initramfs or command line are not usable.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// A vCPU could not be made or started.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// A PCI function has no place.
    #[error("give the machine fewer controllers")]
    Pci(#[from] AddError),
    /// No line is left for a virtio-mmio device.
    #[error(
        "{} controllers can have transport = \"mmio\", as many as there are interrupt lines: \
         give the others transport = \"pci\"",
        layout::VIRTIO_MMIO_IRQS.len()
    )]
    TooManyMmio,
    /// Two devices claim one address.
    #[error("two devices claim one address; please report this")]
    Overlap(#[from] Overlap),
}

fn advise(error: &kvm_ioctls::Error) -> &'static str {
    match error.errno() {
        libc::EACCES | libc::EPERM => "add this user to the group that owns it (kvm)",
        libc::ENOENT | libc::ENODEV => {
            "load kvm_intel or kvm_amd, and enable virtualisation in the firmware"
        }
        _ => "check that KVM works on this host",
    }
}

/// Opens KVM.
///
/// # Errors
/// [`MachineError::Open`] says what to do.
pub(crate) fn open_kvm() -> Result<Kvm, MachineError> {
    Kvm::new().map_err(|source| MachineError::Open { source })
}

/// A machine. Fields are dropped in their order: the vCPUs' threads end first, and the memory
/// outlives the VM.
#[derive(Debug)]
pub(crate) struct Machine {
    running: Vec<RunningVcpu>,
    ready: Vec<Vcpu>,
    serial: Arc<Serial>,
    power: Arc<Power>,
    power_button: EventFd,
    pci: Arc<PciRoot>,
    mmio: Mutex<Vec<MmioSlot>>,
    buses: Buses,
    report: Arc<ExitReport>,
    platform: Arc<KvmPlatform>,
    layout: Layout,
    ram: Ram,
}

impl Machine {
    /// Builds a machine that is ready to start. Its serial port writes to `output`, and signals
    /// `room` when it may take input again. What takes long stops when `wanted` says no.
    ///
    /// # Errors
    /// [`MachineError`]; nothing is left behind.
    pub(crate) fn new(
        kvm: &Kvm,
        spec: &MachineSpec,
        boot: &BootFiles,
        output: Box<dyn Write + Send>,
        room: EventFd,
        wanted: &dyn Fn() -> bool,
    ) -> Result<Self, MachineError> {
        check_vcpus(kvm, spec.vcpus)?;
        let supported =
            kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(refused("to tell its CPUID"))?;
        let layout = Layout::new(spec.memory, cpuid::physical_bits(supported.as_slice()))?;
        let ram = Ram::map(&layout, spec.memory_backing, wanted)?;
        let memory = ram.share();
        let entry = kernel::load(&memory, &layout, boot)?;
        let vm = Arc::new(create_vm(kvm)?);
        memory::give_to(&vm, &memory)?;

        let report = Arc::new(ExitReport::new()?);
        let platform = Arc::new(KvmPlatform::new(Arc::clone(&vm)));
        let irq = platform.line(layout::COM1_IRQ)?;
        let serial = Arc::new(Serial::new(irq, room, output));
        let power = Arc::new(Power::new(report.event().try_clone()?));
        let power_button = platform.line(layout::POWER_BUTTON_IRQ)?;
        let pci = Arc::new(PciRoot::new(window(layout::PCI32), Some(window(layout.pci64()))));
        let buses = Buses::default();
        wire_ports(&buses.ports, &serial, &power, &pci)?;
        let pvpanic = Arc::new(pvpanic(&report));
        buses.ports.insert(layout::PVPANIC.into(), pvpanic::PORTS, pvpanic)?;
        wire_memory(&buses.memory, &layout, &pci)?;

        let vcpus = VcpuPlan { kvm, vm: &vm, supported: &supported, entry };
        let ready = (0..spec.vcpus)
            .map(|index| vcpus.create(index, spec.vcpus, &buses, &report))
            .collect::<Result<_, _>>()?;
        Ok(Machine {
            running: Vec::new(),
            ready,
            serial,
            power,
            power_button,
            pci,
            mmio: Mutex::default(),
            buses,
            report,
            platform,
            layout,
            ram,
        })
    }

    /// What devices need of the hypervisor.
    pub(crate) fn platform(&self) -> Arc<dyn Platform> {
        Arc::clone(&self.platform) as Arc<dyn Platform>
    }

    /// The guest's memory, for devices: those end before the machine.
    pub(crate) fn memory(&self) -> Arc<GuestMemoryMmap> {
        self.ram.share()
    }

    /// Puts a PCI function on the bus.
    ///
    /// # Errors
    /// [`MachineError::Pci`]
    pub(crate) fn add(&self, function: Arc<dyn PciFunction>) -> Result<(), MachineError> {
        self.pci.add(function)?;
        Ok(())
    }

    /// Puts a virtio-mmio device where `make` is told: at a guest physical address, with an event
    /// that pulses its line.
    ///
    /// # Errors
    /// [`MachineError::TooManyMmio`], or what `make` or the host says.
    pub(crate) fn add_mmio<D: BusDevice + 'static, E: From<MachineError>>(
        &self,
        make: impl FnOnce(u64, EventFd) -> Result<D, E>,
    ) -> Result<(), E> {
        let mut taken = self.mmio.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = layout::virtio_mmio().nth(taken.len()).ok_or(MachineError::TooManyMmio)?;
        let line = self.platform.line(slot.irq).map_err(MachineError::Host)?;
        let device = Arc::new(make(slot.window.base, line)?);
        let Region { base, size } = slot.window;
        self.buses.memory.insert(base, size, device).map_err(MachineError::Overlap)?;
        taken.push(slot);
        Ok(())
    }

    /// The serial port, for input.
    pub(crate) fn serial(&self) -> &Serial {
        &self.serial
    }

    /// Presses the power button, for the guest to power off if it wants to.
    ///
    /// # Errors
    /// When the interrupt cannot be signalled.
    pub(crate) fn press_power_button(&self) -> io::Result<()> {
        self.power_button.write(1)
    }

    /// Readable once [`take_exit`](Self::take_exit) may have something to say.
    pub(crate) fn exit_event(&self) -> &EventFd {
        self.report.event()
    }

    /// Why the guest stopped, if it did.
    pub(crate) fn take_exit(&self) -> Option<Exit> {
        // Who asks without having waited finds it unset.
        let _ = self.report.event().read();
        let requested = self.power.request().map(|request| match request {
            PowerRequest::PowerOff => Exit::PowerOff,
            PowerRequest::Reset => Exit::Reset,
        });
        self.report.take().or(requested)
    }

    /// Tells the guest what there is, and lets it run.
    ///
    /// # Errors
    /// [`MachineError::Vcpu`]
    pub(crate) fn start(&mut self) -> Result<(), MachineError> {
        let vcpus = u8::try_from(self.ready.len()).unwrap_or(u8::MAX);
        let mmio = self.mmio.get_mut().unwrap_or_else(PoisonError::into_inner);
        kernel::describe(&self.ram.share(), &self.layout, vcpus, mmio)?;
        for vcpu in self.ready.drain(..) {
            self.running.push(vcpu.start()?);
        }
        Ok(())
    }

    /// Stops every vCPU and waits for their threads.
    pub(crate) fn stop(&mut self) {
        self.running.iter().for_each(RunningVcpu::stop);
        self.running.clear();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
    }
}

fn refused(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> MachineError {
    move |source| MachineError::Kvm { what, source }
}

fn check_vcpus(kvm: &Kvm, vcpus: u8) -> Result<(), MachineError> {
    /// An 8-bit APIC id of FFh is a broadcast.
    const MAX_APIC_IDS: usize = 255;
    let max = kvm.get_max_vcpus().min(MAX_APIC_IDS);
    if usize::from(vcpus) > max {
        return Err(MachineError::TooManyVcpus { vcpus, max });
    }
    Ok(())
}

fn create_vm(kvm: &Kvm) -> Result<VmFd, MachineError> {
    let vm = kvm.create_vm().map_err(refused("to create a VM"))?;
    let tss = usize::try_from(layout::KVM_TSS).unwrap_or(usize::MAX);
    vm.set_tss_address(tss).map_err(refused("the address of its TSS"))?;
    vm.set_identity_map_address(layout::KVM_IDENTITY_MAP)
        .map_err(refused("the address of its identity map"))?;
    vm.create_irq_chip().map_err(refused("to create the interrupt controllers"))?;
    Ok(vm)
}

fn window(region: Region) -> Window {
    Window { base: region.base, size: region.size }
}

// The tables that a guest reads and the registers that it then writes have to agree.
const _: () = assert!(layout::SLEEP_TYPE_S5 == pm::SLEEP_TYPE_S5);
const _: () = assert!(layout::RESET_VALUE == pm::RESET_CONTROL_VALUE);
const _: () = assert!(layout::ECAM.size == access::ECAM_BUS_SIZE);
const _: () = assert!(layout::PAGE == mmio::WINDOW_SIZE);

fn wire_ports(
    ports: &Bus,
    serial: &Arc<Serial>,
    power: &Arc<Power>,
    pci: &Arc<PciRoot>,
) -> Result<(), Overlap> {
    let sleep = SleepRegisters::new(Arc::clone(power));
    let i8042 = I8042::new(Arc::clone(power));
    // CF9h lies among the ports of PCI configuration.
    let reset = ResetControl::new(Arc::clone(power), (layout::RESET - layout::PCI_CONFIG).into());
    let pci = ConfigPorts::new(Arc::clone(pci), Arc::new(reset));
    ports.insert(layout::COM1.into(), serial::PORTS, Arc::clone(serial) as Arc<dyn BusDevice>)?;
    ports.insert(layout::SLEEP_CONTROL.into(), pm::SLEEP_REGISTERS, Arc::new(sleep))?;
    ports.insert(layout::I8042.into(), pm::I8042_PORTS, Arc::new(i8042))?;
    ports.insert(layout::PCI_CONFIG.into(), access::CONFIG_PORTS, Arc::new(pci))
}

fn pvpanic(report: &Arc<ExitReport>) -> Pvpanic {
    let report = Arc::clone(report);
    Pvpanic::new(move |event| match event {
        PanicEvent::Panicked => report.set(Exit::Crash("its kernel panicked (pvpanic)".into())),
        PanicEvent::CrashLoaded => {
            log::warn!("the guest's kernel panicked, and its crash kernel takes over (pvpanic)");
        }
    })
}

fn wire_memory(memory: &Bus, layout: &Layout, pci: &Arc<PciRoot>) -> Result<(), Overlap> {
    let ecam = Ecam::new(Arc::clone(pci));
    memory.insert(layout::ECAM.base, layout::ECAM.size, Arc::new(ecam))?;
    for region in [layout::PCI32, layout.pci64()] {
        let window = MemoryWindow::new(Arc::clone(pci), region.base);
        memory.insert(region.base, region.size, Arc::new(window))?;
    }
    Ok(())
}

/// What all vCPUs are made from.
struct VcpuPlan<'a> {
    kvm: &'a Kvm,
    vm: &'a VmFd,
    supported: &'a CpuId,
    entry: Entry,
}

impl VcpuPlan<'_> {
    fn create(
        &self,
        index: u8,
        count: u8,
        buses: &Buses,
        report: &Arc<ExitReport>,
    ) -> Result<Vcpu, MachineError> {
        let fd = self.vm.create_vcpu(index.into()).map_err(refused("to create a vCPU"))?;
        let processor = Processor {
            index,
            count,
            tsc_deadline: self.kvm.check_extension(Cap::TscDeadlineTimer),
            tsc_khz: fd.get_tsc_khz().ok(),
        };
        let table = cpuid::table(self.supported.as_slice(), processor);
        let cpuid = CpuId::from_entries(&table).map_err(|_| MachineError::Kvm {
            what: "so many CPUID entries",
            source: kvm_ioctls::Error::new(libc::E2BIG),
        })?;
        Ok(Vcpu::new(fd, index, &cpuid, self.entry, buses.clone(), Arc::clone(report))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::tests::file;
    use crate::spec::{BootSpec, MemoryBacking, OnCrash, OnReboot};
    use ::tests::tiny::{SPIN, bzimage, out, pvh, vmlinux};
    use std::sync::mpsc;
    use std::thread;
    use std::time::{Duration, Instant};
    use uuid::Uuid;
    use vm_memory::{Bytes, GuestAddress};
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    /// How long a guest of a few instructions may take.
    const LIMIT: Duration = Duration::from_secs(20);

    /// An output whose bytes come out of a channel.
    struct Collector(mpsc::Sender<u8>);

    impl Write for Collector {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let sent = bytes.iter().try_for_each(|byte| self.0.send(*byte));
            sent.map(|()| bytes.len()).map_err(io::Error::other)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A machine that runs `code` at the kernel's entry point; `None` where there is no KVM.
    fn machine(code: &[u8], vcpus: u8) -> Option<(Machine, mpsc::Receiver<u8>)> {
        machine_of(&bzimage(code), vcpus, 16 << 20)
    }

    /// A machine with this kernel and memory.
    fn machine_of(kernel: &[u8], vcpus: u8, memory: u64) -> Option<(Machine, mpsc::Receiver<u8>)> {
        if !::tests::kvm::is_there() {
            return None;
        }
        let kernel = file(kernel);
        let spec = MachineSpec {
            name: "test".into(),
            uuid: Uuid::nil(),
            vcpus,
            memory,
            memory_backing: MemoryBacking::Anonymous,
            on_reboot: OnReboot::Exit,
            on_crash: OnCrash::Exit,
            stop_timeout: LIMIT,
        };
        let boot = BootSpec { kernel: kernel.path().into(), initramfs: None, cmdline: "x".into() };
        let (sender, bytes) = mpsc::channel();
        let room = EventFd::new(EFD_NONBLOCK).unwrap();
        let (kvm, boot) = (open_kvm().unwrap(), BootFiles::open(&boot).unwrap());
        let output = Box::new(Collector(sender));
        Some((Machine::new(&kvm, &spec, &boot, output, room, &|| true).unwrap(), bytes))
    }

    fn wait(machine: &Machine) -> Exit {
        let start = Instant::now();
        loop {
            if let Some(exit) = machine.take_exit() {
                return exit;
            }
            assert!(start.elapsed() < LIMIT, "the guest does not end");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn run(code: &[u8]) -> Option<(Exit, mpsc::Receiver<u8>)> {
        let (mut machine, bytes) = machine(code, 1)?;
        machine.start().unwrap();
        Some((wait(&machine), bytes))
    }

    fn power_off() -> Vec<u8> {
        let off = out(layout::SLEEP_CONTROL, layout::SLEEP_TYPE_S5 << 2 | 1 << 5);
        [off, SPIN.to_vec()].concat()
    }

    /// What a guest with this kernel writes until it powers off.
    fn output_of(kernel: &[u8]) -> Option<Vec<u8>> {
        let (mut machine, bytes) = machine_of(kernel, 1, 16 << 20)?;
        machine.start().unwrap();
        assert_eq!(wait(&machine), Exit::PowerOff);
        Some(bytes.try_iter().collect())
    }

    #[test]
    fn each_form_of_kernel_is_entered_as_it_wants() {
        // mov al, 'A'; dec eax (in 64-bit code a prefix without effect); mov dx, COM1; out dx, al
        let mode = [0xb0, b'A', 0x48, 0x66, 0xba, 0xf8, 0x03, 0xee];
        // mov al, [rsi + 202h]; out dx, al: "HdrS" of the zero page
        let zero_page = [0x8a, 0x86, 0x02, 0x02, 0x00, 0x00, 0xee];
        // mov al, [ebx]; out dx, al: the magic number of the start info
        let start_info = [0x8a, 0x03, 0xee];
        let code = |told: &[u8]| [&mode, told, &power_off()].concat();
        for (kernel, expected) in [
            (bzimage(&code(&zero_page)), b"AH"),
            (vmlinux(&code(&zero_page)), b"AH"),
            (pvh(&code(&start_info)), b"@x"),
        ] {
            let Some(output) = output_of(&kernel) else { return };
            assert_eq!(output, expected);
        }
    }

    /// Wakes all other processors, waits for `count` of them, and writes the bitmap of all APIC
    /// ids that CPUID tells.
    fn roll_call(count: u8) -> Vec<u8> {
        const AT: u32 = 0x10_0200;
        let wake = [
            0x31, 0xc0, 0x8e, 0xd8, // xor ax, ax; mov ds, ax
            0x66, 0xb8, 1, 0, 0, 0, 0x0f, 0xa2, // mov eax, 1; cpuid
            0x66, 0xc1, 0xeb, 24, // shr ebx, 24
            0xf0, 0x0f, 0xab, 0x1e, 0x00, 0x40, // lock bts [4000h], bx
            0xf0, 0xff, 0x06, 0x10, 0x40, // lock inc word [4010h]
            0xfa, 0xf4, 0xeb, 0xfd, // cli; hlt; jmp $-1
        ];
        let code = |from: u32| {
            let [a, b, c, d] = from.to_le_bytes();
            let len = u8::try_from(wake.len()).unwrap();
            let code = vec![
                0xbe, a, b, c, d, 0xbf, 0, 0, 9, 0, // mov esi, from; mov edi, 90000h
                0xb9, len, 0, 0, 0, 0xf3, 0xa4, // mov ecx, len; rep movsb
                0x80, 0x0c, 0x25, 0x00, 0x40, 0, 0, 1, // or byte [4000h], 1
                0xbf, 0x00, 0x03, 0xe0, 0xfe, // mov edi, fee00300h: the ICR
                0xc7, 0x07, 0x00, 0x45, 0x0c, 0, // INIT to all but self
                0xc7, 0x07, 0x90, 0x46, 0x0c, 0, // start-up at 90000h
                0x66, 0x81, 0x3c, 0x25, 0x10, 0x40, 0, 0, count, 0, // cmp word [4010h], count
                0x75, 0xf4, // jne
                0xbe, 0x00, 0x40, 0, 0, 0xb9, 8, 0, 0, 0, // mov esi, 4000h; mov ecx, 8
                0x66, 0xba, 0xf8, 0x03, // mov dx, COM1
                0xac, 0xee, 0xff, 0xc9, 0x75, 0xfa, // lodsb; out dx, al; dec ecx; jnz
            ];
            [code, power_off()].concat()
        };
        let before = u32::try_from(code(0).len()).unwrap();
        [code(AT + before), wake.to_vec()].concat()
    }

    #[test]
    fn every_processor_starts_and_has_an_apic_id_of_its_own() {
        for vcpus in [1, 2, 3, 64] {
            let code = roll_call(vcpus - 1);
            let Some((mut machine, bytes)) = machine(&code, vcpus) else { return };
            machine.start().unwrap();
            assert_eq!(wait(&machine), Exit::PowerOff);
            let ids: Vec<u8> = bytes.try_iter().collect();
            let ids = u64::from_le_bytes(ids.try_into().unwrap());
            assert_eq!(ids, u64::MAX >> (64 - vcpus), "{vcpus}");
        }
    }

    #[test]
    fn a_guest_reaches_the_last_byte_of_memory_far_above_the_hole() {
        const GIB: u64 = 1 << 30;
        const LAST: u64 = 41 * GIB - 1;
        let page = (LAST & !0x1f_ffff) | 0x83;
        let code = [
            &[0x48, 0xb8][..], // mov rax, the last 2 MiB as a page
            &page.to_le_bytes(),
            &[0xbf, 0x00, 0xe0, 0, 0, 0x48, 0x89, 0x07], // mov edi, e000h; mov [rdi], rax
            &[0xbf, 0, 0, 0, 0xc0, 0x0f, 0x01, 0x3f],    // mov edi, c0000000h; invlpg [rdi]
            &[0xc6, 0x87, 0xff, 0xff, 0x1f, 0, b'M'],    // mov byte [rdi + 1fffffh], 'M'
            &[0x8a, 0x87, 0xff, 0xff, 0x1f, 0],          // mov al, [rdi + 1fffffh]
            &[0x66, 0xba, 0xf8, 0x03, 0xee],             // mov dx, COM1; out dx, al
            &power_off(),
        ]
        .concat();
        let Some((mut machine, bytes)) = machine_of(&bzimage(&code), 1, 40 * GIB) else { return };
        machine.start().unwrap();
        assert_eq!(wait(&machine), Exit::PowerOff);
        assert_eq!(bytes.try_iter().collect::<Vec<_>>(), b"M");
        let last: u8 = machine.memory().read_obj(GuestAddress(LAST)).unwrap();
        assert_eq!(last, b'M');
    }

    #[test]
    fn a_guest_writes_to_its_serial_port_and_powers_off() {
        let mut code: Vec<u8> = b"hello".iter().flat_map(|byte| out(layout::COM1, *byte)).collect();
        code.extend(power_off());
        let Some((exit, bytes)) = run(&code) else { return };
        assert_eq!(exit, Exit::PowerOff);
        let text: Vec<u8> = bytes.iter().take(5).collect();
        assert_eq!(text, b"hello");
    }

    #[test]
    fn each_reset_register_resets() {
        for (port, value) in [(layout::RESET, layout::RESET_VALUE), (layout::I8042 + 4, 0xfe)] {
            let code = [out(port, value), SPIN.to_vec()].concat();
            let Some((exit, _)) = run(&code) else { return };
            assert_eq!(exit, Exit::Reset, "{port:#x}");
        }
    }

    #[test]
    fn a_panic_that_the_guest_tells_of_is_a_crash() {
        let code = [out(layout::PVPANIC, 1), SPIN.to_vec()].concat();
        let Some((exit, _)) = run(&code) else { return };
        assert_eq!(exit, Exit::Crash("its kernel panicked (pvpanic)".into()));
    }

    #[test]
    fn a_panic_that_a_crash_kernel_handles_is_none() {
        let code = [out(layout::PVPANIC, 2), out(layout::RESET, layout::RESET_VALUE)].concat();
        let Some((exit, _)) = run(&[code, SPIN.to_vec()].concat()) else { return };
        assert_eq!(exit, Exit::Reset);
    }

    #[test]
    fn the_reset_vector_resets() {
        // The second processor, in real mode, jumps to F000:FFF0, as Linux does.
        let code = [
            0xc7, 0x04, 0x25, 0, 0, 9, 0, 0xea, 0xf0, 0xff, 0, // mov dword [90000h], jmp
            0xc6, 0x04, 0x25, 4, 0, 9, 0, 0xf0, // mov byte [90004h], of F000:FFF0
            0xbf, 0x00, 0x03, 0xe0, 0xfe, // mov edi, fee00300h: the ICR
            0xc7, 0x07, 0x00, 0x45, 0x0c, 0, // INIT to all but self
            0xc7, 0x07, 0x90, 0x46, 0x0c, 0, // start-up at 90000h
            0xeb, 0xfe, // jmp $
        ];
        let Some((mut machine, _bytes)) = machine(&code, 2) else { return };
        machine.start().unwrap();
        assert_eq!(wait(&machine), Exit::Reset);
    }

    #[test]
    fn a_triple_fault_is_a_crash_that_names_the_vcpu() {
        // ud2, with an empty IDT.
        let Some((exit, _)) = run(&[0x0f, 0x0b]) else { return };
        let Exit::Crash(what) = exit else { panic!("{exit:?}") };
        assert!(what.starts_with("vcpu-0: triple fault; "), "{what}");
    }

    #[test]
    fn what_kvm_cannot_emulate_is_a_crash_that_says_so() {
        // mov eax, d0000000h; jmp rax: where no memory is.
        let Some((exit, _)) = run(&[0xb8, 0, 0, 0, 0xd0, 0xff, 0xe0]) else { return };
        let Exit::Crash(what) = exit else { panic!("{exit:?}") };
        assert!(what.starts_with("vcpu-0: KVM internal error, suberror 1: "), "{what}");
        assert!(what.contains("RIP 0xd0000000"), "{what}");
    }

    #[test]
    fn a_guest_that_spins_is_stopped_at_once() {
        for _ in 0..20 {
            let Some((mut machine, _bytes)) = machine(&SPIN, 3) else { return };
            machine.start().unwrap();
            let start = Instant::now();
            drop(machine);
            assert!(start.elapsed() < LIMIT);
        }
    }

    #[test]
    fn a_machine_that_never_started_goes_quietly() {
        drop(machine(&SPIN, 2));
    }
    /// A window whose registers read as their own address.
    struct Window(u64);

    impl BusDevice for Window {
        fn read(&self, offset: u64, data: &mut [u8]) {
            let bytes = (self.0 + offset).to_le_bytes();
            data.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        }

        fn write(&self, _: u64, _: &[u8]) {}
    }

    #[test]
    fn a_guest_reaches_the_windows_of_virtio_mmio_devices() {
        // mov esi, window; mov eax, [rsi + 100h]; shr eax, 8; mov dx, COM1; out dx, al
        let mut code = Vec::new();
        for slot in layout::virtio_mmio().take(2) {
            code.push(0xbe);
            code.extend(u32::try_from(slot.window.base).unwrap().to_le_bytes());
            code.extend([0x8b, 0x86, 0x00, 0x01, 0x00, 0x00, 0xc1, 0xe8, 0x08]);
            code.extend([0x66, 0xba, 0xf8, 0x03, 0xee]);
        }
        code.extend(SPIN);
        let Some((mut machine, bytes)) = machine(&code, 1) else { return };
        for _ in 0..2 {
            machine.add_mmio(|base, _| Ok::<_, MachineError>(Window(base))).unwrap();
        }
        machine.start().unwrap();
        let seen = [(); 2].map(|()| bytes.recv_timeout(LIMIT).unwrap());
        assert_eq!(seen, [0x01, 0x11]);
    }

    #[test]
    fn there_is_a_virtio_mmio_device_for_each_free_line_and_no_more() {
        let Some((machine, _bytes)) = machine(&SPIN, 1) else { return };
        let add = || machine.add_mmio(|base, _| Ok::<_, MachineError>(Window(base)));
        for _ in layout::VIRTIO_MMIO_IRQS {
            add().unwrap();
        }
        let error = add().unwrap_err();
        assert!(error.to_string().starts_with("14 controllers can have transport"), "{error}");
    }
}

//! The vCPUs: their initial state, and one thread each that runs them.
//!
//! Owns the vCPU file descriptors and the loop around `KVM_RUN`. What a guest's access means is
//! up to the buses; why the guest stopped goes to the [`ExitReport`].

use std::cell::Cell;
use std::io;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use arch::boot::Entry;
use arch::regs;
use devices::bus::Bus;
use kvm_bindings::{
    CpuId, KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_EMULATION,
    KVM_INTERNAL_ERROR_SIMUL_EX, KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, Msrs,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use crate::exit::{Exit, ExitReport};

/// RIP after a reset, which AMD processors and KVM leave behind a triple fault.
const RESET_RIP: u64 = 0xfff0;

/// A vCPU could not be made ready.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VcpuError {
    /// KVM refused a part of its state.
    #[error("vcpu-{index}: KVM refuses {what}")]
    Kvm {
        /// The vCPU.
        index: u8,
        /// What was refused.
        what: &'static str,
        /// Why.
        source: kvm_ioctls::Error,
    },
    /// Its thread could not be started.
    #[error("vcpu-{index}: the host cannot start its thread")]
    Thread {
        /// The vCPU.
        index: u8,
        /// Why.
        source: io::Error,
    },
}

/// The buses that a guest's accesses go to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Buses {
    /// Ports.
    pub(crate) ports: Arc<Bus>,
    /// Guest physical addresses outside RAM.
    pub(crate) memory: Arc<Bus>,
}

/// A vCPU that does not run yet.
#[derive(Debug)]
pub(crate) struct Vcpu {
    index: u8,
    fd: VcpuFd,
    buses: Buses,
    report: Arc<ExitReport>,
}

impl Vcpu {
    /// Gives vCPU `index` its initial state: the first one starts at `entry`, and the others wait
    /// for a start-up IPI.
    ///
    /// # Errors
    /// [`VcpuError::Kvm`]
    pub(crate) fn new(
        fd: VcpuFd,
        index: u8,
        cpuid: &CpuId,
        entry: Entry,
        buses: Buses,
        report: Arc<ExitReport>,
    ) -> Result<Self, VcpuError> {
        let vcpu = Vcpu { index, fd, buses, report };
        vcpu.attempt("its CPUID", |fd| fd.set_cpuid2(cpuid))?;
        vcpu.attempt("its MSRs", set_msrs)?;
        vcpu.attempt("its local APIC", wire_lapic)?;
        if index == 0 {
            vcpu.attempt("its system registers", |fd| enter(fd, entry))?;
            vcpu.attempt("its registers", |fd| fd.set_regs(&regs::general(entry)))?;
            vcpu.attempt("its FPU", |fd| fd.set_fpu(&regs::fpu()))?;
        }
        Ok(vcpu)
    }

    fn attempt(
        &self,
        what: &'static str,
        set: impl FnOnce(&VcpuFd) -> Result<(), kvm_ioctls::Error>,
    ) -> Result<(), VcpuError> {
        set(&self.fd).map_err(|source| VcpuError::Kvm { index: self.index, what, source })
    }

    /// Starts its thread.
    ///
    /// # Errors
    /// [`VcpuError::Thread`]
    pub(crate) fn start(self) -> Result<RunningVcpu, VcpuError> {
        let index = self.index;
        let failed = |source| VcpuError::Thread { index, source };
        register_signal_handler(SIGRTMIN(), leave_guest).map_err(|errno| failed(errno.into()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name(format!("vcpu-{index}"))
            .spawn(move || self.run(&seen))
            .map_err(failed)?;
        Ok(RunningVcpu { index, stop, thread: Some(thread) })
    }

    fn run(mut self, stop: &AtomicBool) {
        let _kickable = Kickable::new(&mut self.fd);
        while !stop.load(Ordering::Acquire) {
            if let Err(exit) = self.step() {
                self.report.set(exit);
                return;
            }
        }
    }

    /// Enters the guest until its next exit, and serves that.
    fn step(&mut self) -> Result<(), Exit> {
        let why = match self.fd.run() {
            Ok(VcpuExit::IoIn(port, data)) => {
                read_ports(&self.buses.ports, port, data);
                return Ok(());
            }
            Ok(VcpuExit::IoOut(port, data)) => {
                write_ports(&self.buses.ports, port, data);
                return Ok(());
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                self.buses.memory.read(address, data);
                return Ok(());
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                self.buses.memory.write(address, data);
                return Ok(());
            }
            Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen) => return Ok(()),
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                // Whoever stops us says so before the signal that sets this, and `run` looks.
                self.fd.set_kvm_immediate_exit(0);
                return Ok(());
            }
            Ok(VcpuExit::Shutdown) => "triple fault".to_owned(),
            Ok(VcpuExit::InternalError) => internal_error(&mut self.fd),
            Ok(VcpuExit::FailEntry(reason, cpu)) => {
                format!("the processor refused to enter the guest (reason {reason:#x}, CPU {cpu})")
            }
            Ok(other) => format!("unexpected exit from the guest: {other:?}"),
            Err(error) => {
                let why = format!("vcpu-{}: KVM_RUN failed: {error}", self.index);
                return Err(Exit::Failure(why));
            }
        };
        Err(Exit::Crash(format!("vcpu-{}: {why}; {}", self.index, self.place())))
    }

    /// Where the guest is, for a message.
    fn place(&self) -> String {
        match (self.fd.get_regs(), self.fd.get_sregs()) {
            (Ok(regs), Ok(sregs)) if regs.rip == RESET_RIP && sregs.cr3 == 0 => {
                "its registers are lost, as AMD processors do not keep them".to_owned()
            }
            (Ok(regs), Ok(sregs)) => {
                format!("RIP {:#x}, CR2 {:#x}, CR3 {:#x}", regs.rip, sregs.cr2, sregs.cr3)
            }
            (Err(error), _) | (_, Err(error)) => format!("its registers cannot be read: {error}"),
        }
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        if thread::panicking() {
            let what = format!("vcpu-{}: a device panicked; please report this", self.index);
            self.report.set(Exit::Failure(what));
        }
    }
}

/// What `KVM_EXIT_INTERNAL_ERROR` says, once that is why the vCPU left the guest.
#[expect(unsafe_code, reason = "a union in memory that is shared with KVM")]
fn internal_error(fd: &mut VcpuFd) -> String {
    // SAFETY: KVM filled this member in, as the reason of the exit says; it is integers.
    let error = unsafe { fd.get_kvm_run().__bindgen_anon_1.internal };
    let what = match error.suberror {
        KVM_INTERNAL_ERROR_EMULATION => "an instruction that KVM cannot emulate",
        KVM_INTERNAL_ERROR_SIMUL_EX => "two exceptions at a time",
        KVM_INTERNAL_ERROR_DELIVERY_EV => "an exit while an event was delivered",
        KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => "an exit for a reason that KVM does not know",
        _ => "of an unknown kind",
    };
    let len = usize::try_from(error.ndata).unwrap_or(usize::MAX);
    let data: Vec<_> = error.data.iter().take(len).map(|word| format!("{word:#x}")).collect();
    format!("KVM internal error, suberror {}: {what} ({})", error.suberror, data.join(" "))
}

fn read_ports(ports: &Bus, port: u16, data: &mut [u8]) {
    for access in data.chunks_mut(access_width(data.len())) {
        ports.read(port.into(), access);
    }
}

fn write_ports(ports: &Bus, port: u16, data: &[u8]) {
    for access in data.chunks(access_width(data.len())) {
        ports.write(port.into(), access);
    }
}

/// Bytes of each access to a port of which KVM passes on `len` together. More than 4 are a string
/// (REP INS), whose width does not come along; it is taken as one of bytes, the only width that
/// makes sense for this machine's ports.
fn access_width(len: usize) -> usize {
    if matches!(len, 1 | 2 | 4) { len } else { 1 }
}

fn set_msrs(fd: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let msrs = regs::msrs();
    let table = Msrs::from_entries(&msrs).map_err(|_| kvm_ioctls::Error::new(libc::E2BIG))?;
    match fd.set_msrs(&table)? {
        set if set == msrs.len() => Ok(()),
        _ => Err(kvm_ioctls::Error::new(libc::EINVAL)),
    }
}

fn wire_lapic(fd: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let mut lapic = fd.get_lapic()?;
    regs::wire_lapic(&mut lapic);
    fd.set_lapic(&lapic)
}

fn enter(fd: &VcpuFd, entry: Entry) -> Result<(), kvm_ioctls::Error> {
    let mut sregs = fd.get_sregs()?;
    regs::enter(&mut sregs, entry);
    fd.set_sregs(&sregs)
}

/// A vCPU in its thread. Dropping it stops the vCPU and waits for the thread.
#[derive(Debug)]
pub(crate) struct RunningVcpu {
    index: u8,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl RunningVcpu {
    /// Asks the vCPU to stop, without waiting.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        if let Some(Err(error)) = self.thread.as_ref().map(|thread| thread.kill(SIGRTMIN())) {
            log::debug!("vcpu-{}: cannot be signalled: {error}", self.index);
        }
    }
}

impl Drop for RunningVcpu {
    fn drop(&mut self) {
        self.stop();
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            log::error!("vcpu-{}: its thread panicked", self.index);
        }
    }
}

thread_local! {
    /// `kvm_run.immediate_exit` of the vCPU that this thread runs, or null.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

/// While it lives, a signal to this thread makes the current or the next `KVM_RUN` return.
struct Kickable;

impl Kickable {
    fn new(fd: &mut VcpuFd) -> Self {
        IMMEDIATE_EXIT.set(&raw mut fd.get_kvm_run().immediate_exit);
        Kickable
    }
}

impl Drop for Kickable {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(ptr::null_mut());
    }
}

/// Handles the stop signal. A signal that arrives between the loop's look at its flag and
/// `KVM_RUN` would be lost without `immediate_exit`.
#[expect(unsafe_code, reason = "a signal handler reaches its thread's vCPU by a raw pointer")]
extern "C" fn leave_guest(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: set by this same thread, and cleared before the mapping that it points into is
        // dropped (`run` declares its `Kickable` after it owns the vCPU). A byte store to a
        // const-initialised thread-local's target is async-signal-safe.
        unsafe { flag.write_volatile(1) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use devices::bus::BusDevice;

    struct Counter;

    impl BusDevice for Counter {
        fn read(&self, _: u64, data: &mut [u8]) {
            data.fill(u8::try_from(data.len()).unwrap());
        }

        fn write(&self, _: u64, _: &[u8]) {}
    }

    #[test]
    fn a_string_of_port_reads_reaches_the_device_byte_by_byte() {
        let ports = Bus::default();
        ports.insert(0x10, 4, Arc::new(Counter)).unwrap();
        for (len, expected) in [(1, 1), (2, 2), (4, 4), (8, 1), (100, 1)] {
            let mut data = vec![0; len];
            read_ports(&ports, 0x10, &mut data);
            assert_eq!(data, vec![expected; len]);
        }
    }
}

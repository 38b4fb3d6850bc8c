//! What the tests of the program share: guests of a few instructions, and the processes that run
//! them.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::fs::{self, File};
use std::io::{BufRead, Read};
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use arch::layout;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tests::image::Image;
use tests::terminal::Terminal;
use tests::tiny::{SPIN, bzimage, out};

/// How long anything may take.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Code that switches the machine off.
pub fn power_off() -> Vec<u8> {
    [out(layout::SLEEP_CONTROL, layout::SLEEP_TYPE_S5 << 2 | 1 << 5), SPIN.to_vec()].concat()
}

/// Code that resets the machine.
pub fn reset() -> Vec<u8> {
    [out(layout::RESET, layout::RESET_VALUE), SPIN.to_vec()].concat()
}

/// A guest in a folder of its own, with 64 MiB of memory and an empty disk.
pub struct Guest {
    folder: TempDir,
}

impl Guest {
    /// One that runs `code`. `None`, and a word about it, on a machine without KVM.
    pub fn new(code: &[u8]) -> Option<Guest> {
        Guest::with(code, "")
    }

    /// One with further lines of configuration: those of `[machine]`, and other tables behind.
    pub fn with(code: &[u8], machine: &str) -> Option<Guest> {
        Guest::of(&bzimage(code), machine)
    }

    /// One with this kernel.
    pub fn of(kernel: &[u8], machine: &str) -> Option<Guest> {
        if !tests::kvm::is_there() {
            return None;
        }
        let guest = Guest { folder: TempDir::new().unwrap() };
        fs::write(guest.path("kernel"), kernel).unwrap();
        Image::create(&guest.path("disk.img"), 1 << 20).unwrap();
        let config = format!(
            "[machine]\nmemory = \"64MiB\"\n{machine}\n[boot]\nkernel = \"kernel\"\n\
             [[controller]]\n[[controller.lun]]\nimage = \"disk.img\"\n"
        );
        fs::write(guest.path("tiny.toml"), config).unwrap();
        Some(guest)
    }

    /// A file in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The command that runs it.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmm"));
        command.arg("--config").arg(self.path("tiny.toml")).stderr(Stdio::piped());
        command
    }

    /// Runs it to its end.
    pub fn run(&self) -> Output {
        let stdout = File::create(self.path("stdout")).unwrap();
        let mut child = Process::start(self.command().stdin(Stdio::null()).stdout(stdout));
        let status = wait(&mut child);
        let mut stderr = Vec::new();
        child.stderr.as_mut().unwrap().read_to_end(&mut stderr).unwrap();
        Output { status, stdout: fs::read(self.path("stdout")).unwrap(), stderr }
    }

    /// Starts it with pipes.
    pub fn start(&self) -> Process {
        Process::start(self.command().stdin(Stdio::piped()).stdout(Stdio::piped()))
    }

    /// Runs at a terminal, and waits until the program has it.
    pub fn run_at(&self, terminal: &Terminal) -> Process {
        let mut command = self.command();
        terminal.attach(&mut command).unwrap();
        let process = Process::start(&mut command);
        terminal.wait_for_raw_mode(LIMIT).unwrap();
        process
    }
}

/// A process that ends with its test.
pub struct Process(Child);

impl Process {
    pub fn start(command: &mut Command) -> Process {
        Process(command.spawn().unwrap())
    }
}

impl Deref for Process {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Process {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until `wanted` has come out of `source`.
pub fn wait_for_byte(source: &mut impl Read, wanted: u8) {
    let mut byte = [0];
    source.read_exact(&mut byte).unwrap();
    assert_eq!(char::from(byte[0]), char::from(wanted));
}

/// Reads the line of `stderr` that contains `wanted`.
pub fn wait_for_line(stderr: &mut impl BufRead, wanted: &str) {
    let mut line = String::new();
    while !line.contains(wanted) {
        line.clear();
        assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "no {wanted:?}");
    }
}

/// Waits until the guest runs.
pub fn wait_for_vcpu(child: &Process) {
    let start = Instant::now();
    let runs = || {
        let tasks = fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
        let mut names = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("comm")));
        // A thread may end while it is looked at.
        names.any(|name| name.is_ok_and(|name| name.starts_with("vcpu-")))
    };
    while !runs() {
        assert!(start.elapsed() < LIMIT, "the guest does not start");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn send(child: &Process, signal: Signal) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}

/// Waits for the end; gives the exit status and what went to stderr.
pub fn end(mut child: Process) -> (Option<i32>, String) {
    let status = wait(&mut child);
    let mut stderr = String::new();
    if let Some(mut pipe) = child.stderr.take() {
        pipe.read_to_string(&mut stderr).unwrap();
    }
    (status.code(), stderr)
}

fn wait(child: &mut Process) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(start.elapsed() < LIMIT, "vmm does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

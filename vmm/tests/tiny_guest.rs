//! The whole program with guests of a few instructions, on whatever /dev/kvm this machine has:
//! how it ends, what it does to the terminal, and what goes through the console.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use arch::layout;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tests::image::Image;
use tests::terminal::Terminal;
use tests::tiny::{ECHO, SPIN, WAIT_FOR_INPUT, bzimage, out, repeat};

const LIMIT: Duration = Duration::from_secs(60);

fn power_off() -> Vec<u8> {
    [out(layout::SLEEP_CONTROL, layout::SLEEP_TYPE_S5 << 2 | 1 << 5), SPIN.to_vec()].concat()
}

/// A guest that runs `code`, in a folder of its own.
struct Guest {
    folder: TempDir,
}

impl Guest {
    /// `None`, and a word about it, on a machine without KVM.
    fn new(code: &[u8]) -> Option<Guest> {
        if !tests::kvm::is_there() {
            return None;
        }
        let folder = TempDir::new().unwrap();
        let path = |name| folder.path().join(name);
        fs::write(path("kernel"), bzimage(code)).unwrap();
        Image::create(&path("disk.img"), 1 << 20).unwrap();
        let config = "[machine]\nmemory = \"64MiB\"\n[boot]\nkernel = \"kernel\"\n\
                      [[controller]]\n[[controller.lun]]\nimage = \"disk.img\"\n";
        fs::write(path("tiny.toml"), config).unwrap();
        Some(Guest { folder })
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("tiny.toml")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmm"));
        command.arg("--config").arg(self.config()).stderr(Stdio::piped());
        command
    }

    fn run(&self) -> Output {
        self.command().stdin(Stdio::null()).output().unwrap()
    }

    /// Runs at a terminal, and waits until the program has it.
    fn run_at(&self, terminal: &Terminal) -> Child {
        let mut command = self.command();
        terminal.attach(&mut command).unwrap();
        let child = command.spawn().unwrap();
        terminal.wait_for_raw_mode(LIMIT).unwrap();
        child
    }
}

/// Waits for the end; gives the exit status and what went to stderr.
fn end(mut child: Child) -> (Option<i32>, String) {
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if start.elapsed() > LIMIT {
            child.kill().unwrap();
            panic!("vmm does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let mut stderr = String::new();
    if let Some(mut pipe) = child.stderr.take() {
        pipe.read_to_string(&mut stderr).unwrap();
    }
    (status.code(), stderr)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn power_off_is_exit_0() {
    let code = [out(layout::COM1, b'h'), out(layout::COM1, b'i'), power_off()].concat();
    let Some(guest) = Guest::new(&code) else { return };
    let output = guest.run();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"hi"[..]));
    assert!(stderr(&output).contains("tiny: the guest powered off"), "{}", stderr(&output));
}

#[test]
fn a_triple_fault_is_exit_3_and_names_the_vcpu() {
    let Some(guest) = Guest::new(&[0x0f, 0x0b]) else { return };
    let output = guest.run();
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("vcpu-0: triple fault"), "{}", stderr(&output));
}

fn reset() -> Vec<u8> {
    [out(layout::RESET, layout::RESET_VALUE), SPIN.to_vec()].concat()
}

/// What a process holds of the host.
#[derive(Debug, PartialEq, Eq)]
struct Holdings {
    descriptors: usize,
    threads: usize,
    resident_kib: u64,
}

impl Holdings {
    fn of(process: &Child) -> Holdings {
        let folder = |name| format!("/proc/{}/{name}", process.id());
        let count = |name| fs::read_dir(folder(name)).unwrap().count();
        let status = fs::read_to_string(folder("status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let resident_kib = resident.trim_end_matches("kB").trim().parse().unwrap();
        Holdings { descriptors: count("fd"), threads: count("task"), resident_kib }
    }
}

#[test]
fn a_reset_starts_the_guest_again_and_nothing_piles_up() {
    const LIVES: usize = 60;
    // A guest that is there, does nothing until it is told to, and then resets.
    let life = [out(layout::COM1, b'x'), WAIT_FOR_INPUT.to_vec(), reset()].concat();
    let Some(guest) = Guest::new(&life) else { return };
    let mut command = guest.command();
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut held = Vec::new();
    for _ in 0..LIVES {
        let mut byte = [0];
        stdout.read_exact(&mut byte).unwrap();
        held.push(Holdings::of(&child));
        stdin.write_all(b"r").unwrap();
    }
    // What is allocated late, once, is no leak.
    let (early, late) = (&held[4], &held[LIVES - 1]);
    assert_eq!((late.descriptors, late.threads), (early.descriptors, early.threads), "{held:?}");
    assert!(late.resident_kib < early.resident_kib + 1024, "{held:?}");
    child.kill().unwrap();
    let (_, stderr) = end(child);
    assert!(stderr.contains("the guest reset, and starts again"), "{stderr}");
}

#[test]
fn nobody_who_does_not_read_holds_the_guest_up() {
    const COUNT: u32 = 200_000;
    let Some(guest) = Guest::new(&[repeat(b'x', COUNT), power_off()].concat()) else { return };
    let mut command = guest.command();
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    // The pipe is open, and nobody reads it.
    let (status, stderr) = end(child);
    assert_eq!(status, Some(0), "{stderr}");
    assert!(stderr.contains("bytes of output were lost"), "{stderr}");
}

#[test]
fn all_that_is_written_before_the_power_off_comes_out() {
    const COUNT: u32 = 20_000;
    let Some(guest) = Guest::new(&[repeat(b'x', COUNT), power_off()].concat()) else { return };
    let output = guest.run();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), COUNT as usize));
}

#[test]
fn keys_reach_the_guest_but_for_ctrl_a() {
    let Some(guest) = Guest::new(&ECHO) else { return };
    let mut terminal = Terminal::new().unwrap();
    let cooked = terminal.mode().unwrap();
    let child = guest.run_at(&terminal);
    terminal.type_keys(b"abc").unwrap();
    terminal.wait_for(b"abc", LIMIT).unwrap();
    // Ctrl-C, Ctrl-\ and Ctrl-Z are bytes like others; two Ctrl-A are one.
    terminal.type_keys(b"<\x03\x1c\x1a\x01\x01>").unwrap();
    terminal.wait_for(b"<\x03\x1c\x1a\x01>", LIMIT).unwrap();
    // More than the UART's FIFO holds at once.
    let long = [b"0123456789abcdef".repeat(8), b"end".to_vec()].concat();
    terminal.type_keys(&long).unwrap();
    terminal.wait_for(&long, LIMIT).unwrap();
    terminal.type_keys(b"\x01x").unwrap();
    let (status, stderr) = end(child);
    assert_eq!(status, Some(1), "{stderr}");
    assert_eq!(terminal.mode().unwrap(), cooked, "the terminal is as it was");
}

fn send(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}

/// Reads the line of `stderr` that contains `wanted`.
fn wait_for_line(stderr: &mut impl BufRead, wanted: &str) {
    let mut line = String::new();
    while !line.contains(wanted) {
        line.clear();
        assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "no {wanted:?}");
    }
}

#[test]
fn signals_end_the_program_and_restore_the_terminal() {
    for signal in [Signal::SIGUSR1, Signal::SIGALRM, Signal::SIGQUIT] {
        let Some(guest) = Guest::new(&SPIN) else { return };
        let terminal = Terminal::new().unwrap();
        let cooked = terminal.mode().unwrap();
        let child = guest.run_at(&terminal);
        send(&child, signal);
        let (status, stderr) = end(child);
        assert_eq!(status, Some(1), "{signal}: {stderr}");
        assert_eq!(terminal.mode().unwrap(), cooked, "{signal}");
    }
}

#[test]
fn a_second_signal_ends_a_guest_that_does_not_power_off() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let Some(guest) = Guest::new(&SPIN) else { return };
        let terminal = Terminal::new().unwrap();
        let cooked = terminal.mode().unwrap();
        let mut child = guest.run_at(&terminal);
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        send(&child, signal);
        wait_for_line(&mut stderr, "asked to power off");
        assert_ne!(terminal.mode().unwrap(), cooked, "the guest has its time");
        send(&child, signal);
        wait_for_line(&mut stderr, &format!("a second signal, {signal}"));
        assert_eq!(end(child).0, Some(1), "{signal}");
        assert_eq!(terminal.mode().unwrap(), cooked, "{signal}");
    }
}

#[test]
fn a_crash_of_the_program_restores_the_terminal_too() {
    for signal in [Signal::SIGSEGV, Signal::SIGABRT] {
        let Some(guest) = Guest::new(&SPIN) else { return };
        let terminal = Terminal::new().unwrap();
        let cooked = terminal.mode().unwrap();
        let mut child = guest.run_at(&terminal);
        send(&child, signal);
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(signal as i32));
        assert_eq!(terminal.mode().unwrap(), cooked, "{signal}");
    }
}

#[test]
fn a_signal_that_is_none_of_ours_stops_no_vcpu() {
    const SIGRTMIN: i32 = 34;
    let Some(guest) = Guest::new(&ECHO) else { return };
    let mut terminal = Terminal::new().unwrap();
    let child = guest.run_at(&terminal);
    terminal.type_keys(b"a").unwrap();
    terminal.wait_for(b"a", LIMIT).unwrap();
    let tasks = fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
    for task in tasks.map(Result::unwrap) {
        if fs::read_to_string(task.path().join("comm")).unwrap().starts_with("vcpu-") {
            let thread = task.file_name().into_string().unwrap();
            let sent = Command::new("kill").args([&format!("-{SIGRTMIN}"), &thread]).status();
            assert!(sent.unwrap().success());
        }
    }
    terminal.type_keys(b"b").unwrap();
    terminal.wait_for(b"b", LIMIT).unwrap();
    terminal.type_keys(b"\x01x").unwrap();
    assert_eq!(end(child).0, Some(1));
}

#[test]
fn the_end_of_standard_input_closes_input_only() {
    let Some(guest) = Guest::new(&ECHO) else { return };
    let mut command = guest.command();
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"last\x01x").unwrap();
    let mut echoed = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut echoed).unwrap();
    // Without a terminal Ctrl-A means nothing.
    assert_eq!(&echoed, b"last\x01x");
    std::thread::sleep(Duration::from_millis(50));
    assert!(child.try_wait().unwrap().is_none(), "the guest still runs");
    send(&child, Signal::SIGQUIT);
    assert_eq!(end(child).0, Some(1));
}

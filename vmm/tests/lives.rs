//! The lives of a guest: resets, crashes, the power button, and what ends them all.

mod common;

use std::fs;
use std::io::{self, BufReader, PipeReader, PipeWriter, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use arch::layout;
use nix::fcntl::{FcntlArg::F_SETFL, OFlag, fcntl};
use nix::sys::signal::Signal;
use tests::seccomp::{fail, stall};
use tests::terminal::Terminal;
use tests::tiny::{SPIN, WAIT_FOR_INPUT, out};

use common::{
    Guest, LIMIT, Process, end, power_off, reset, send, stderr, wait_for_byte, wait_for_line,
};

/// An invalid opcode, with nobody to handle it.
const TRIPLE_FAULT: [u8; 2] = [0x0f, 0x0b];

/// What a process holds of the host.
#[derive(Debug, PartialEq, Eq)]
struct Holdings {
    descriptors: usize,
    threads: usize,
    resident_kib: u64,
}

impl Holdings {
    fn of(process: &Process) -> Holdings {
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
    let mut child = guest.start();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut held = Vec::new();
    for _ in 0..LIVES {
        wait_for_byte(&mut stdout, b'x');
        held.push(Holdings::of(&child));
        stdin.write_all(b"r").unwrap();
    }
    // What is allocated late, once, is no leak.
    let (early, late) = (&held[4], &held[LIVES - 1]);
    assert_eq!((late.descriptors, late.threads), (early.descriptors, early.threads), "{held:?}");
    assert!(late.resident_kib < early.resident_kib + 1024, "{held:?}");
    send(&child, Signal::SIGQUIT);
    let (_, stderr) = end(child);
    assert!(stderr.contains("the guest reset, and starts again"), "{stderr}");
}

#[test]
fn a_reset_ends_the_guest_where_it_is_told_to() {
    let Some(guest) = Guest::with(&reset(), "on_reboot = \"exit\"") else { return };
    let output = guest.run();
    assert_eq!(output.status.code(), Some(0));
    assert!(stderr(&output).contains("the guest reset, and is not started again"));
}

#[test]
fn each_way_to_reset_starts_the_guest_again() {
    for (port, value) in [(layout::RESET, layout::RESET_VALUE), (layout::I8042 + 4, 0xfe)] {
        let life = [out(layout::COM1, b'x'), out(port, value), SPIN.to_vec()].concat();
        let Some(guest) = Guest::new(&life) else { return };
        let mut child = guest.start();
        let mut stdout = child.stdout.take().unwrap();
        (0..4).for_each(|_| wait_for_byte(&mut stdout, b'x'));
    }
}

#[test]
fn memory_is_zeroed_in_each_life() {
    let old = [
        0x8a, 0x04, 0x25, 0, 0, 0x20, 0, // mov al, [200000h]
        0x04, b'0', // add al, '0'
        0x66, 0xba, 0xf8, 0x03, 0xee, // mov dx, COM1; out dx, al
        0xc6, 0x04, 0x25, 0, 0, 0x20, 0, 1, // mov byte [200000h], 1
    ];
    for backing in ["anonymous", "prealloc"] {
        let life = [&old[..], &WAIT_FOR_INPUT, &reset()].concat();
        let Some(guest) = Guest::with(&life, &format!("memory_backing = \"{backing}\"")) else {
            return;
        };
        let mut child = guest.start();
        let mut stdin = child.stdin.take().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        for _ in 0..3 {
            wait_for_byte(&mut stdout, b'0');
            let whole = Holdings::of(&child).resident_kib >= 64 << 10;
            assert_eq!(whole, backing == "prealloc");
            stdin.write_all(b"r").unwrap();
        }
        send(&child, Signal::SIGQUIT);
        end(child);
    }
}

#[test]
fn huge_pages_are_there_or_the_guest_does_not_start() {
    let Some(guest) = Guest::with(&power_off(), "memory_backing = \"hugepages\"") else { return };
    let output = guest.run();
    let said = stderr(&output);
    match output.status.code() {
        Some(0) => {}
        status => {
            assert_eq!((status, said.lines().count()), (Some(2), 1), "{said}");
            assert!(said.contains("vm.nr_hugepages"), "{said}");
        }
    }
}

#[test]
fn a_panic_is_exit_3_and_one_that_a_crash_kernel_handles_is_not() {
    let code = [out(layout::PVPANIC, 2), out(layout::PVPANIC, 1), SPIN.to_vec()].concat();
    let Some(guest) = Guest::new(&code) else { return };
    let output = guest.run();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("its crash kernel takes over"), "{said}");
    assert!(said.contains("error: the guest crashed: its kernel panicked"), "{said}");
}

#[test]
fn a_crash_starts_the_guest_again_after_a_pause_where_it_is_told_to() {
    let life = [&out(layout::COM1, b'x')[..], &TRIPLE_FAULT].concat();
    let Some(guest) = Guest::with(&life, "on_crash = \"restart\"") else { return };
    let start = Instant::now();
    let mut child = guest.start();
    let mut stdout = child.stdout.take().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    wait_for_byte(&mut stdout, b'x');
    wait_for_line(&mut stderr, "the guest crashed, and starts again in 1s: vcpu-0: triple fault");
    wait_for_byte(&mut stdout, b'x');
    assert!(start.elapsed() >= Duration::from_secs(1));
    wait_for_line(&mut stderr, "the guest crashed, and starts again in 2s: vcpu-0: triple fault");
    // Nobody has to wait for the next life to end it all.
    send(&child, Signal::SIGTERM);
    wait_for_line(&mut stderr, "ended by SIGTERM");
    assert_eq!(end(child).0, Some(1));
}

#[test]
fn a_guest_that_cannot_start_again_ends_with_one_line() {
    let life = [out(layout::COM1, b'x'), WAIT_FOR_INPUT.to_vec(), reset()].concat();
    let Some(guest) = Guest::new(&life) else { return };
    let mut child = guest.start();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    wait_for_byte(&mut stdout, b'x');
    // Replaced as package managers do it: the guest keeps what was opened.
    fs::write(guest.path("new"), "no kernel").unwrap();
    fs::rename(guest.path("new"), guest.path("other")).unwrap();
    fs::rename(guest.path("kernel"), guest.path("old")).unwrap();
    fs::rename(guest.path("other"), guest.path("kernel")).unwrap();
    stdin.write_all(b"r").unwrap();
    wait_for_byte(&mut stdout, b'x');
    // Written over, as nobody should.
    fs::write(guest.path("old"), "no kernel").unwrap();
    stdin.write_all(b"r").unwrap();
    let (status, stderr) = end(child);
    assert_eq!(status, Some(1), "{stderr}");
    let last = stderr.lines().last().unwrap();
    assert!(last.contains("cannot be started again") && last.contains("neither a bzImage"));
}

/// Waits until the power button is pressed: has pin 9 of the I/O APIC deliver vector 40h, and
/// looks for that in the local APIC's interrupt request register.
const WAIT_FOR_BUTTON: [u8; 61] = [
    0xbf, 0xf0, 0x00, 0xe0, 0xfe, 0xc7, 0x07, 0xff, 0x01, 0, 0, // [fee000f0h] = 1ffh: enable
    0xbf, 0x00, 0x00, 0xc0, 0xfe, // mov edi, fec00000h
    0xc7, 0x07, 0x23, 0, 0, 0, 0xc7, 0x47, 0x10, 0, 0, 0, 0, // to APIC 0
    0xc7, 0x07, 0x22, 0, 0, 0, 0xc7, 0x47, 0x10, 0x40, 0, 0, 0, // edge, unmasked, vector 40h
    0x66, 0xba, 0xf8, 0x03, 0xb0, b'r', 0xee, // 'r' to COM1
    0xbf, 0x20, 0x02, 0xe0, 0xfe, 0xf6, 0x07, 0x01, 0x74,
    0xfb, // test byte [fee00220h], 1; jz
    0x90, 0x90,
];

#[test]
fn each_signal_presses_the_power_button() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let code = [&WAIT_FOR_BUTTON[..], &power_off()].concat();
        let Some(guest) = Guest::new(&code) else { return };
        let mut child = guest.start();
        wait_for_byte(child.stdout.as_mut().unwrap(), b'r');
        send(&child, signal);
        let (status, stderr) = end(child);
        assert_eq!(status, Some(0), "{stderr}");
        let asked = format!("{signal}: the guest is asked to power off, and has 60s");
        assert!(stderr.contains(&asked) && stderr.contains("the guest powered off"), "{stderr}");
    }
}

#[test]
fn the_button_works_in_every_life() {
    let reset = reset();
    let over_reset = u8::try_from(reset.len()).unwrap();
    let resets_if_told_to = [
        0x66, 0xba, 0xf8, 0x03, 0xec, // mov dx, COM1; in al, dx
        0x3c, b'r', 0x75, over_reset, // cmp al, 'r'; jne
    ];
    let life = [
        &out(layout::COM1, b'x')[..],
        &WAIT_FOR_INPUT,
        &resets_if_told_to,
        &reset,
        &WAIT_FOR_BUTTON,
        &reset,
    ];
    let Some(guest) = Guest::new(&life.concat()) else { return };
    let mut child = guest.start();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    for told in [b"r", b"r", b"b"] {
        wait_for_byte(&mut stdout, b'x');
        stdin.write_all(told).unwrap();
    }
    wait_for_byte(&mut stdout, b'r');
    send(&child, Signal::SIGTERM);
    // It resets instead, and whoever wants it to end does not want it to begin again.
    let (status, stderr) = end(child);
    assert_eq!(status, Some(0), "{stderr}");
    assert!(stderr.contains("the guest reset, and is not started again"), "{stderr}");
}

#[test]
fn a_guest_is_not_started_if_a_signal_came_before() {
    let Some(guest) = Guest::new(&power_off()) else { return };
    let mut early = Command::new("env");
    // The signal waits until the program looks for it.
    early.args(["--block-signal=TERM", "sh", "-c", "kill -TERM $$; exec \"$@\"", "sh"]);
    let program = guest.command();
    early.arg(program.get_program()).args(program.get_args());
    let child = Process::start(early.stdin(Stdio::null()).stderr(Stdio::piped()));
    let (status, stderr) = end(child);
    assert_eq!(status, Some(1), "{stderr}");
    assert!(stderr.ends_with("error: ended by SIGTERM before the guest started\n"), "{stderr}");
}

#[test]
fn a_guest_that_does_not_power_off_in_its_time_is_ended() {
    let Some(guest) = Guest::with(&SPIN, "stop_timeout = \"1s\"") else { return };
    let terminal = Terminal::new().unwrap();
    let cooked = terminal.mode().unwrap();
    let child = guest.run_at(&terminal);
    send(&child, Signal::SIGTERM);
    let (status, stderr) = end(child);
    assert_eq!(status, Some(1), "{stderr}");
    assert!(stderr.contains("ended by stop_timeout, 1s after SIGTERM"), "{stderr}");
    assert_eq!(terminal.mode().unwrap(), cooked);
}

/// A pipe that nobody reads and that takes nothing more: the end to keep, and the end to write to.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = io::pipe().unwrap();
    fcntl(&writer, F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    while writer.write(&[b'x'; 4096]).is_ok() {}
    fcntl(&writer, F_SETFL(OFlag::empty())).unwrap();
    (reader, writer)
}

#[test]
fn a_standard_error_that_nobody_reads_holds_up_neither_the_guest_nor_the_end() {
    // Each of these logs a line.
    let warnings = out(layout::PVPANIC, 2).repeat(5);
    let code = [&warnings[..], &out(layout::COM1, b'x'), &SPIN].concat();
    let Some(guest) = Guest::with(&code, "stop_timeout = \"1s\"") else { return };
    let (_reader, writer) = full_pipe();
    let mut command = guest.command();
    let mut child =
        Process::start(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(writer));
    wait_for_byte(child.stdout.as_mut().unwrap(), b'x');
    send(&child, Signal::SIGTERM);
    assert_eq!(end(child).0, Some(1));
}

/// What the program does at its end: stops a vCPU, flushes a disk.
const ENDS: [(libc::c_long, &str); 2] = [
    (libc::SYS_tgkill, "gave up waiting for disks to carry out their last commands"),
    (libc::SYS_fdatasync, "gave up waiting for disks to be flushed and closed"),
];

#[test]
fn a_disk_that_hangs_is_told_of_and_given_up_at_the_next_signal() {
    for (call, _) in ENDS {
        let Some(guest) = Guest::new(&SPIN) else { return };
        let mut terminal = Terminal::new().unwrap();
        let cooked = terminal.mode().unwrap();
        let mut command = guest.command();
        terminal.attach(stall(&mut command, call)).unwrap();
        let mut child = Process::start(&mut command);
        terminal.wait_for_raw_mode(LIMIT).unwrap();
        terminal.type_keys(b"\x01x").unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        wait_for_line(&mut stderr, "ended by Ctrl-A X; the disks have 10s");
        assert_eq!(terminal.mode().unwrap(), cooked);
        send(&child, Signal::SIGTERM);
        wait_for_line(&mut stderr, "SIGTERM: gave up waiting for disks to ");
        assert_eq!(end(child).0, Some(1));
    }
}

#[test]
fn a_disk_that_hangs_is_given_up_in_time_once_the_end_is_forced() {
    for (call, given_up) in ENDS {
        // It hangs when the guest powers off, too, but then only a signal sets it a time.
        let Some(guest) = Guest::new(&power_off()) else { return };
        let mut child = Process::start(stall(&mut guest.command(), call).stdin(Stdio::null()));
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        wait_for_line(&mut stderr, "the guest powered off");
        send(&child, Signal::SIGTERM);
        wait_for_line(&mut stderr, &format!("10s have passed: {given_up}"));
        assert_eq!(end(child).0, Some(1));
    }
}

#[test]
fn every_disk_is_flushed_on_every_way_out() {
    for (code, signals) in [
        (power_off(), &[][..]),
        (TRIPLE_FAULT.to_vec(), &[]),
        (SPIN.to_vec(), &[Signal::SIGQUIT]),
        (SPIN.to_vec(), &[Signal::SIGTERM, Signal::SIGINT]),
    ] {
        let Some(guest) = Guest::new(&[out(layout::COM1, b'x'), code].concat()) else { return };
        let mut command = guest.command();
        // Nothing can be made stable.
        fail(&mut command, libc::SYS_fdatasync, libc::EIO);
        let mut child = Process::start(command.stdin(Stdio::null()).stdout(Stdio::piped()));
        wait_for_byte(child.stdout.as_mut().unwrap(), b'x');
        signals.iter().for_each(|signal| send(&child, *signal));
        let (status, stderr) = end(child);
        assert_eq!(status, Some(1), "{stderr}");
        let lost = "scsi0: what the guest wrote may be lost: target 0 lun 0";
        assert!(stderr.contains(lost), "{stderr}");
        // How it ended is told all the same.
        assert!(stderr.contains("the guest ") || stderr.contains("ended by"), "{stderr}");
    }
}

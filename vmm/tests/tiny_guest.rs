//! The whole program with guests of a few instructions, on whatever /dev/kvm this machine has:
//! how it ends, what it does to the terminal, and what goes through the console.

mod common;

use std::fs;
use std::io::{BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use arch::layout;
use nix::sys::signal::Signal;
use tests::terminal::Terminal;
use tests::tiny::{ECHO, SPIN, out, pvh, repeat, vmlinux};

use common::{Guest, LIMIT, Process, end, power_off, send, stderr, wait_for_line};

#[test]
fn power_off_is_exit_0() {
    let code = [out(layout::COM1, b'h'), out(layout::COM1, b'i'), power_off()].concat();
    let Some(guest) = Guest::new(&code) else { return };
    let output = guest.run();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"hi"[..]));
    assert!(stderr(&output).contains("tiny: the guest powered off"), "{}", stderr(&output));
}

#[test]
fn an_elf_kernel_is_entered_by_pvh_or_at_its_64_bit_entry() {
    let code = [out(layout::COM1, b'h'), out(layout::COM1, b'i'), power_off()].concat();
    for kernel in [vmlinux(&code), pvh(&code)] {
        let Some(guest) = Guest::of(&kernel, "") else { return };
        let output = guest.run();
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"hi"[..]));
    }
}

#[test]
fn a_triple_fault_is_exit_3_and_names_the_vcpu() {
    let Some(guest) = Guest::new(&[0x0f, 0x0b]) else { return };
    let output = guest.run();
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("vcpu-0: triple fault"), "{}", stderr(&output));
}

#[test]
fn nobody_who_does_not_read_holds_the_guest_up() {
    const COUNT: u32 = 200_000;
    let Some(guest) = Guest::new(&[repeat(b'x', COUNT), power_off()].concat()) else { return };
    let mut command = guest.command();
    let child = Process::start(command.stdin(Stdio::null()).stdout(Stdio::piped()));
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

#[test]
fn signals_end_the_program_and_restore_the_terminal() {
    let names = ["USR1", "ALRM", "QUIT", "IO", "VTALRM", "PROF", "STKFLT", "RTMIN+1", "RTMAX"];
    for signal in names {
        let Some(guest) = Guest::new(&SPIN) else { return };
        let terminal = Terminal::new().unwrap();
        let cooked = terminal.mode().unwrap();
        let child = guest.run_at(&terminal);
        let kill = format!("kill -{signal} {}", child.id());
        assert!(Command::new("bash").args(["-c", &kill]).status().unwrap().success());
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
    let mut child = guest.start();
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

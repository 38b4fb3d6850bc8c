//! The serial port on a file, a socket or nothing.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use arch::layout;
use nix::sys::signal::Signal;
use tests::seccomp::fail;
use tests::terminal::Terminal;
use tests::tiny::{ECHO, SPIN, WAIT_FOR_INPUT, out, repeat};

use common::{
    Guest, LIMIT, Process, end, power_off, reset, send, stderr, wait_for_byte, wait_for_vcpu,
};

const NULL: &str = "[console]\nserial = \"null\"";
const FILE: &str = "[console]\nserial = { file = \"console.log\" }";
const SOCKET: &str = "[console]\nserial = { socket = \"console.sock\" }";

fn says_hi() -> Vec<u8> {
    [out(layout::COM1, b'h'), out(layout::COM1, b'i'), power_off()].concat()
}

/// Connects to a socket that will be there soon.
fn connect(path: &Path) -> UnixStream {
    let start = Instant::now();
    loop {
        if let Ok(client) = UnixStream::connect(path) {
            client.set_read_timeout(Some(LIMIT)).unwrap();
            return client;
        }
        assert!(start.elapsed() < LIMIT, "nobody listens");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn nothing_comes_out_of_a_serial_port_that_goes_nowhere() {
    let Some(guest) = Guest::with(&says_hi(), NULL) else { return };
    let output = guest.run();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0), "{}", stderr(&output));
}

#[test]
fn the_file_gets_the_output_of_every_run() {
    let Some(guest) = Guest::with(&says_hi(), FILE) else { return };
    for expected in ["hi", "hihi"] {
        let output = guest.run();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0));
        assert_eq!(fs::read_to_string(guest.path("console.log")).unwrap(), expected);
    }
}

#[test]
fn a_guest_that_cannot_start_leaves_file_and_socket_as_they_were() {
    for console in [FILE, SOCKET] {
        let prealloc = format!("memory_backing = \"prealloc\"\n{console}");
        let Some(guest) = Guest::with(&SPIN, &prealloc) else { return };
        // Of a process that is gone.
        drop(UnixListener::bind(guest.path("console.sock")).unwrap());
        let socket = fs::metadata(guest.path("console.sock")).unwrap().ino();
        let mut command = guest.command();
        // The memory cannot be had.
        fail(&mut command, libc::SYS_madvise, libc::ENOMEM);
        let (status, stderr) = end(Process::start(command.stdin(Stdio::null())));
        assert_eq!(status, Some(2), "{stderr}");
        assert!(stderr.contains("give the machine less"), "{stderr}");
        assert!(!guest.path("console.log").exists());
        assert_eq!(fs::metadata(guest.path("console.sock")).unwrap().ino(), socket);
    }
}

#[test]
fn the_terminal_is_left_alone_where_the_console_is_elsewhere() {
    for console in [NULL, FILE, SOCKET] {
        let Some(guest) = Guest::with(&SPIN, console) else { return };
        let mut terminal = Terminal::new().unwrap();
        let cooked = terminal.mode().unwrap();
        let mut command = guest.command();
        terminal.attach(&mut command).unwrap();
        let child = Process::start(&mut command);
        wait_for_vcpu(&child);
        assert_eq!(terminal.mode().unwrap(), cooked);
        // The keys of the VMM are none.
        terminal.type_keys(b"\x01x\n").unwrap();
        send(&child, Signal::SIGTERM);
        send(&child, Signal::SIGINT);
        let (status, stderr) = end(child);
        assert_eq!(status, Some(1), "{stderr}");
        assert!(stderr.contains("a second signal"), "{stderr}");
    }
}

#[test]
fn clients_come_and_go_and_stay_over_a_reset() {
    let wait_then = |code: &[u8]| [&WAIT_FOR_INPUT[..], code].concat();
    let take = [0x66, 0xba, 0xf8, 0x03, 0xec]; // mov dx, COM1; in al, dx
    let life = [
        out(layout::COM1, b'0'),
        wait_then(&take),
        out(layout::COM1, b'1'),
        wait_then(&take),
        out(layout::COM1, b'2'),
        wait_then(&reset()),
    ];
    let Some(guest) = Guest::with(&life.concat(), SOCKET) else { return };
    let socket = guest.path("console.sock");
    let child = Process::start(guest.command().stdin(Stdio::null()));
    let mut first = connect(&socket);
    first.write_all(b"x").unwrap();
    // What the guest wrote before may have gone to nobody.
    let mut heard = [0];
    while heard != [b'1'] {
        first.read_exact(&mut heard).unwrap();
    }
    drop(first);
    let mut second = connect(&socket);
    second.write_all(b"x").unwrap();
    wait_for_byte(&mut second, b'2');
    second.write_all(b"r").unwrap();
    wait_for_byte(&mut second, b'0');
    second.write_all(b"xx").unwrap();
    wait_for_byte(&mut second, b'1');
    wait_for_byte(&mut second, b'2');
    send(&child, Signal::SIGQUIT);
    assert_eq!(end(child).0, Some(1));
    assert!(!socket.exists(), "the socket's file goes with the VMM");
    assert_eq!(second.read(&mut [0]).unwrap(), 0, "so does the client");
}

#[test]
fn a_client_whom_there_is_no_descriptor_for_waits_without_a_busy_loop() {
    let Some(guest) = Guest::with(&ECHO, SOCKET) else { return };
    let socket = guest.path("console.sock");
    let child = Process::start(guest.command().stdin(Stdio::null()));
    wait_for_vcpu(&child);
    let limit = |soft| {
        let pid = child.id().to_string();
        let nofile = format!("--nofile={soft}:");
        Command::new("prlimit").args(["--pid", &pid, &nofile]).status().unwrap()
    };
    // Fewer than are open; poll fails too where it is given more than the limit.
    assert!(limit(8).success());
    let mut client = connect(&socket);
    client.write_all(b"a").unwrap();
    thread::sleep(Duration::from_millis(1500));
    assert!(limit(1000).success());
    wait_for_byte(&mut client, b'a');
    send(&child, Signal::SIGQUIT);
    let stderr = end(child).1;
    let failures = stderr.lines().filter(|line| line.contains("cannot be accepted")).count();
    // The log would take 10 lines at once.
    assert!((1..10).contains(&failures), "{stderr}");
}

#[test]
fn a_client_that_reads_nothing_holds_no_guest_up() {
    const COUNT: u32 = 300_000;
    let code = [&WAIT_FOR_INPUT[..], &repeat(b'x', COUNT), &power_off()].concat();
    let Some(guest) = Guest::with(&code, SOCKET) else { return };
    let child = Process::start(guest.command().stdin(Stdio::null()));
    let mut client = connect(&guest.path("console.sock"));
    client.write_all(b"go").unwrap();
    let (status, stderr) = end(child);
    assert_eq!(status, Some(0), "{stderr}");
    assert!(stderr.contains("bytes of output were lost"), "{stderr}");
}

#[test]
fn the_socket_of_a_dead_process_is_replaced_and_that_of_a_live_one_is_not() {
    let Some(guest) = Guest::with(&ECHO, SOCKET) else { return };
    let socket = guest.path("console.sock");
    let mut dead = Process::start(guest.command().stdin(Stdio::null()));
    drop(connect(&socket));
    dead.kill().unwrap();
    dead.wait().unwrap();
    assert!(socket.exists());
    let live = Process::start(guest.command().stdin(Stdio::null()));
    let mut client = connect(&socket);
    client.write_all(b"a").unwrap();
    wait_for_byte(&mut client, b'a');
    // Another guest that wants the same.
    let other = Guest::with(&ECHO, SOCKET).unwrap();
    let config = fs::read_to_string(other.path("tiny.toml")).unwrap();
    let theirs = config.replace("console.sock", socket.to_str().unwrap());
    fs::write(other.path("tiny.toml"), theirs).unwrap();
    let output = other.run();
    let said = stderr(&output);
    assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{said}");
    assert!(said.contains("console.sock"), "{said}");
    client.write_all(b"b").unwrap();
    wait_for_byte(&mut client, b'b');
    send(&live, Signal::SIGQUIT);
    assert_eq!(end(live).0, Some(1));
}

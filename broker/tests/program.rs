//! The program as a service manager starts it.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Whether this process has what the broker has to give up.
fn may_start() -> bool {
    let may = broker::privilege::suffices().unwrap() && nix::unistd::geteuid().is_root();
    if !may {
        eprintln!("skipped: no privileges to give up");
    }
    may
}

/// Starts it with an empty policy and a socket that systemd passes.
fn start(folder: &Path, socket: OwnedFd, log: File) -> Child {
    let policy = folder.join("broker.toml");
    fs::write(&policy, "").unwrap();
    // The number of the process that it becomes is the shell's.
    let script = "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" --policy \"$1\" 3<&0 </dev/null";
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_vmm-broker")]).arg(policy);
    command.stdin(socket).stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

fn log(folder: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(folder.join("log")).unwrap()
}

#[test]
fn a_socket_that_nobody_can_connect_to_is_refused() {
    if !may_start() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (connected, _other) = UnixStream::pair().unwrap();
    let mut child = start(folder.path(), connected.into(), log(folder.path()));
    let end = Instant::now() + Duration::from_secs(60);
    let status = loop {
        match child.try_wait().unwrap() {
            None if Instant::now() < end => thread::sleep(Duration::from_millis(10)),
            status => break status,
        }
    };
    let _ = child.kill();
    let said = fs::read_to_string(folder.path().join("log")).unwrap();
    assert_eq!(status.and_then(|status| status.code()), Some(2), "{said}");
    assert!(said.starts_with("the passed socket: nobody can connect to it"), "{said}");
}

#[test]
fn a_log_of_any_length_is_written_on() {
    if !may_start() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
    log(folder.path()).set_len(64 << 20).unwrap();
    let mut child = start(folder.path(), listener.into(), log(folder.path()));
    let mut hello = [0; 4];
    let mut client = UnixStream::connect(folder.path().join("socket")).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let heard = client.read_exact(&mut hello);
    let _ = child.kill();
    let status = child.wait().unwrap();
    assert!(heard.is_ok(), "{heard:?} {status}");
    assert_eq!(hello, [0x80, 0, 0, 0]);
}

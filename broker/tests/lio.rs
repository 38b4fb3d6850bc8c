//! The broker, and Debian's qemu-pr-helper in its place, on a LIO logical unit: what an
//! unprivileged client does through them, and what the policy keeps it from. For a machine of
//! one's own, such as the nested rig: `scripts/nested target/debug/deps/lio-*`.
#![expect(unsafe_code, reason = "credentials of a thread, and buffers that are lent")]

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use storage::host::broker::Broker;
use storage::host::privileged::{Direct, Privileged};
use storage::host::{Completion, HostLimits, Request, ScsiHost, lent::LentDevice, whole};
use storage::lun;
use storage::lun::passthrough::device::Device;
use storage::lun::spec::{LunSpec, PassthroughSpec};
use storage::scsi::designator::{self, Association};
use storage::scsi::status::Status;
use tests::scsi::lio::{Port, Storage};

const NOBODY: libc::c_long = 65534;
const TIMEOUT: Duration = Duration::from_secs(30);

/// Whether this machine has LIO; with VMM_REQUIRE_LIO it must.
fn has_lio() -> bool {
    let modprobe = Command::new("modprobe").args(["-a", "target_core_mod", "tcm_loop"]).status();
    let has = modprobe.is_ok_and(|status| status.success());
    assert!(has || std::env::var_os("VMM_REQUIRE_LIO").is_none(), "no LIO");
    has
}

/// A process of ours that ends with the test.
struct Process(Child);

impl Process {
    fn start(program: &str, arguments: &[&str], socket: &Path) -> Process {
        let child = Command::new(program).args(arguments).stdin(Stdio::null()).spawn().unwrap();
        let process = Process(child);
        let end = Instant::now() + Duration::from_secs(60);
        // Its hello: by then it has given up its privileges.
        let hello = || UnixStream::connect(socket)?.read_exact(&mut [0; 4]);
        while hello().is_err() {
            assert!(Instant::now() < end, "{program} does not listen");
            thread::sleep(Duration::from_millis(50));
        }
        fs::set_permissions(socket, Permissions::from_mode(0o666)).unwrap();
        process
    }

    /// Asks it to end, and says how it did.
    fn end(mut self) -> Option<i32> {
        // SAFETY: a number is passed, of a child that has not been waited for.
        unsafe { libc::kill(self.0.id().cast_signed(), libc::SIGTERM) };
        self.0.wait().unwrap().code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Calls `then` in a thread that is nobody's and can do nothing.
fn as_nobody<T: Send>(then: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // By system call, so that it is this thread alone; it drops all capabilities.
            // SAFETY: numbers are passed.
            let dropped = unsafe {
                libc::syscall(libc::SYS_setgroups, 0, 0)
                    | libc::syscall(libc::SYS_setresgid, NOBODY, NOBODY, NOBODY)
                    | libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY)
            };
            assert_eq!(dropped, 0, "{}", io::Error::last_os_error());
            then()
        });
        thread.join().unwrap()
    })
}

/// A node that is open already.
#[derive(Debug)]
struct Node {
    file: File,
    device: LentDevice,
}

impl Node {
    fn open(path: &Path) -> Node {
        let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        let device = LentDevice::new(file.try_clone().unwrap()).unwrap();
        Node { file, device }
    }
}

impl AsFd for Node {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl ScsiHost for Node {
    fn carries(&self, cdb: &[u8]) -> bool {
        self.kernel_allows(cdb)
    }

    fn execute(&self, request: Request<'_>) -> io::Result<Completion> {
        self.device.execute(request)
    }

    fn reset_logical_unit(&self) -> io::Result<()> {
        self.device.reset_logical_unit()
    }

    fn limits(&self) -> io::Result<HostLimits> {
        self.device.limits()
    }
}

impl Direct for Node {
    fn kernel_allows(&self, cdb: &[u8]) -> bool {
        storage::host::filter::kernel_allows(cdb, true) || storage::host::privilege::has_rawio()
    }
}

fn host(node: &Path, socket: Option<&Path>) -> Privileged {
    let broker = socket.map(|socket| Arc::new(Broker::new(socket)));
    Privileged::new(Arc::new(Node::open(node)), broker)
}

/// The rig: two nexuses to one logical unit, and one of another.
struct Rig {
    folder: tempfile::TempDir,
    nodes: [PathBuf; 3],
    _ports: [Port; 3],
    _storage: [Storage; 2],
}

fn rig() -> Option<Rig> {
    if !has_lio() {
        return None;
    }
    let storage = [Storage::memory("shared", 16 << 20), Storage::memory("other", 16 << 20)];
    let storage = storage.map(Result::unwrap);
    let port = |number: u32, storage: &Storage| {
        let name = |role: &str| format!("naa.500140500000{role}{number}");
        Port::loopback(&name("0b0"), &name("0ba"), &[storage]).unwrap()
    };
    let ports = [port(1, &storage[0]), port(2, &storage[0]), port(3, &storage[1])];
    let node = |at: usize| ports[at].devices().unwrap()[0].block();
    let nodes = [node(0), node(1), node(2)];
    for node in &nodes {
        fs::set_permissions(node, Permissions::from_mode(0o666)).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    Some(Rig { folder, nodes, _ports: ports, _storage: storage })
}

impl Rig {
    /// The name of a logical unit.
    fn name(&self, at: usize) -> String {
        let node = Node::open(&self.nodes[at]);
        let (_, page) = whole::receive(&node, &[0x12, 1, 0x83, 1, 0, 0], 256, TIMEOUT).unwrap();
        let mut names = designator::in_page(&page).into_iter();
        let name = names.find(|(association, name)| {
            *association == Association::LogicalUnit && name.to_string().starts_with("naa.6")
        });
        name.unwrap().1.to_string()
    }

    fn broker(&self, allow: &str) -> (Process, PathBuf) {
        let (policy, socket) =
            (self.folder.path().join("policy.toml"), self.folder.path().join("broker.sock"));
        let name = self.name(0);
        let rule = format!("[[rule]]\nuser = \"nobody\"\nlu = \"{name}\"\nallow = [{allow}]\n");
        fs::write(&policy, rule).unwrap();
        let program = env!("CARGO_BIN_EXE_vmm-broker");
        let arguments =
            ["--socket", socket.to_str().unwrap(), "--policy", policy.to_str().unwrap()];
        (Process::start(program, &arguments, &socket), socket)
    }
}

/// Asks again where a unit attention comes first.
fn attentive<T>(
    mut ask: impl FnMut() -> io::Result<(Completion, T)>,
) -> io::Result<(Completion, T)> {
    loop {
        let (completion, rest) = ask()?;
        if completion.status != Status::CHECK_CONDITION || completion.sense.get(2) != Some(&6) {
            return Ok((completion, rest));
        }
    }
}

fn out(host: &dyn ScsiHost, action: u8, kind: u8, key: u64, new: u64) -> io::Result<Completion> {
    let mut list = [0; 24];
    list[..8].copy_from_slice(&key.to_be_bytes());
    list[8..16].copy_from_slice(&new.to_be_bytes());
    let cdb = [0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0];
    let sent = attentive(|| whole::send(host, &cdb, &list, TIMEOUT).map(|ended| (ended, ())));
    sent.map(|(completion, ())| completion)
}

fn report(host: &dyn ScsiHost, action: u8, len: u16) -> Vec<u8> {
    let [high, low] = len.to_be_bytes();
    let cdb = [0x5e, action, 0, 0, 0, 0, 0, high, low, 0];
    let received = attentive(|| whole::receive(host, &cdb, len.into(), TIMEOUT));
    let (completion, data) = received.unwrap();
    assert_eq!(completion.status, Status::GOOD, "{completion:x?}");
    data
}

/// Two unprivileged nexuses, by the broker or helper at `socket`.
fn two_nexuses_reserve(rig: &Rig, socket: &Path) {
    as_nobody(|| {
        let [a, b] = [0, 1].map(|at| host(&rig.nodes[at], Some(socket)));
        assert!(a.can(&[0x5e, 0]) && a.can(&[0x5f, 0]));
        assert_eq!(out(&a, 0, 0, 0, 0xa1).unwrap().status, Status::GOOD);
        assert_eq!(out(&b, 6, 0, 0, 0xb1).unwrap().status, Status::GOOD);
        let keys = report(&a, 0, 4096);
        assert_eq!(keys.len(), 24);
        assert!(keys[8..].chunks(8).any(|key| key == 0xb1_u64.to_be_bytes()));
        assert_eq!(report(&a, 0, 12), keys[..12], "cut to the allocation length");
        // It does not take 0; the broker does, and tells what it says.
        let nothing = whole::receive(&a, &[0x5e, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0, TIMEOUT).unwrap().0;
        assert_eq!(nothing.sense.get(12), Some(&0x24), "{nothing:x?}");
        assert_eq!(out(&a, 1, 5, 0xa1, 0).unwrap().status, Status::GOOD);
        assert_eq!(out(&b, 1, 5, 0xb1, 0).unwrap().status, Status::RESERVATION_CONFLICT);
        assert_eq!(report(&b, 1, 24)[8..16], 0xa1_u64.to_be_bytes());
        assert!(report(&b, 3, 8192).len() > 8 + 2 * 24, "READ FULL STATUS comes whole");
        assert_eq!(out(&b, 4, 5, 0xb1, 0xa1).unwrap().status, Status::GOOD);
        assert_eq!(out(&a, 1, 5, 0xa1, 0).unwrap().status, Status::RESERVATION_CONFLICT);
        assert_eq!(out(&b, 3, 0, 0xb1, 0).unwrap().status, Status::GOOD);
        assert_eq!(report(&b, 0, 4096).len(), 8);
        // What the device says comes whole: PARAMETER LIST LENGTH ERROR.
        let wrong = whole::send(&a, &[0x5f, 0, 0, 0, 0, 0, 0, 0, 8, 0], &[0; 8], TIMEOUT).unwrap();
        assert_eq!(wrong.sense.get(12), Some(&0x1a), "{wrong:x?}");
    });
}

/// One after the other: they share modules and names.
#[test]
fn unprivileged_clients_reserve() {
    let Some(rig) = rig() else { return };
    the_kernel_alone_refuses(&rig);
    by_the_broker(&rig);
    a_policy_denies(&rig);
    by_qemu_pr_helper(&rig);
    over_the_paths_of_a_map(&rig);
}

fn the_kernel_alone_refuses(rig: &Rig) {
    as_nobody(|| {
        let host = host(&rig.nodes[0], None);
        let error = out(&host, 0, 0, 0, 0xa1).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        assert!(!host.can(&[0x5e, 0]));
        assert_eq!(host.reset_logical_unit().unwrap_err().kind(), ErrorKind::PermissionDenied);
    });
}

fn by_the_broker(rig: &Rig) {
    let allow = "\"persistent-reservations\", \"compare-and-write\", \"logical-unit-reset\"";
    let (broker, socket) = rig.broker(allow);
    let status = fs::read_to_string(format!("/proc/{}/status", broker.0.id())).unwrap();
    for kept in
        ["CapPrm:\t0000000000220000", "CapEff:\t0000000000220000", "CapInh:\t0000000000000000"]
    {
        assert!(status.contains(kept), "{kept} {status}");
    }
    assert!(status.contains("CapBnd:\t0000000000000000") && status.contains("NoNewPrivs:\t1"));
    two_nexuses_reserve(rig, &socket);
    as_nobody(|| {
        let host = host(&rig.nodes[0], Some(&socket));
        let mut cdb = [0; 16];
        (cdb[0], cdb[13]) = (0x89, 1);
        let blocks = [[0; 512], [7; 512]].concat();
        let done = whole::send(&host, &cdb, &blocks, TIMEOUT).unwrap();
        assert_eq!(done.status, Status::GOOD, "{done:x?}");
        let again = whole::send(&host, &cdb, &blocks, TIMEOUT).unwrap();
        assert_eq!(again.sense.get(12), Some(&0x1d), "MISCOMPARE {again:x?}");
        host.reset_logical_unit().unwrap();
    });
    assert_eq!(broker.end(), Some(0));
}

fn a_policy_denies(rig: &Rig) {
    let (_broker, socket) = rig.broker("\"5e\"");
    as_nobody(|| {
        let (allowed, other) =
            (host(&rig.nodes[0], Some(&socket)), host(&rig.nodes[2], Some(&socket)));
        report(&allowed, 0, 64);
        assert!(allowed.can(&[0x5e, 0]) && !allowed.can(&[0x5f, 0]) && !other.can(&[0x5e, 0]));
        let refused = |host| {
            let completion = out(host, 0, 0, 0, 0xa1).unwrap();
            (completion.status, completion.sense[2], completion.sense[12])
        };
        assert_eq!(refused(&allowed), (Status::CHECK_CONDITION, 5, 0x20));
        assert_eq!(refused(&other), (Status::CHECK_CONDITION, 5, 0x20));
        assert_eq!(allowed.reset_logical_unit().unwrap_err().kind(), ErrorKind::PermissionDenied);
    });
    // Root is not who the rule is about, and has no need of a broker.
    let broker = Broker::new(&socket);
    let node = Node::open(&rig.nodes[0]);
    assert!(!broker.can(node.as_fd(), &[0x5e, 0]));
}

fn by_qemu_pr_helper(rig: &Rig) {
    let program = "/usr/bin/qemu-pr-helper";
    if !Path::new(program).exists() {
        return;
    }
    // It opens /dev/mapper/control.
    let modprobe = Command::new("modprobe").args(["-a", "dm_mod", "dm_multipath"]).status();
    assert!(modprobe.unwrap().success());
    let socket = rig.folder.path().join("helper.sock");
    let pid = rig.folder.path().join("helper.pid");
    let arguments = ["-k", socket.to_str().unwrap(), "-f", pid.to_str().unwrap()];
    let _helper = Process::start(program, &arguments, &socket);
    two_nexuses_reserve(rig, &socket);
    as_nobody(|| {
        let host = host(&rig.nodes[0], Some(&socket));
        assert!(!host.can(&[0x89]));
        let error = whole::send(&host, &[0x89; 16], &[0; 1024], TIMEOUT).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        assert_eq!(host.reset_logical_unit().unwrap_err().kind(), ErrorKind::PermissionDenied);
    });
}

/// A map of the device mapper, until it goes.
struct Map;

impl Map {
    const NAME: &str = "vmm-lio-test";

    fn over(nodes: &[PathBuf]) -> Map {
        tests::host::load(&["dm_multipath", "dm_round_robin"]).unwrap();
        let number = |node: &PathBuf| {
            let number = fs::metadata(node).unwrap().rdev();
            format!("{}:{} 1", libc::major(number), libc::minor(number))
        };
        let paths: Vec<String> = nodes.iter().map(number).collect();
        let (count, paths) = (paths.len(), paths.join(" "));
        let table = format!("0 32768 multipath 0 0 1 1 round-robin 0 {count} 1 {paths}");
        let arguments =
            ["create", Map::NAME, "-u", "mpath-vmm-lio-test", "--noudevsync", "--table", &table];
        tests::host::run("dmsetup", &arguments).unwrap();
        Map
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        let _ = tests::host::run("dmsetup", &["remove", "--noudevsync", Map::NAME]);
    }
}

fn over_the_paths_of_a_map(rig: &Rig) {
    let _map = Map::over(&rig.nodes[..2]);
    let name = ["info", "-c", "--noheadings", "-o", "blkdevname", Map::NAME];
    let node = Path::new("/dev").join(tests::host::run("dmsetup", &name).unwrap());
    assert!(node.exists(), "{node:?}");
    let spec = PassthroughSpec::new(&node);
    lun::check(&LunSpec::Passthrough(spec.clone())).unwrap();
    // As a logical unit has it.
    let device = Device::open(&spec, &node).unwrap();
    let multipath = &*device.host;
    let leg = host(&rig.nodes[1], None);
    assert_eq!(out(multipath, 0, 0, 0, 0xa1).unwrap().status, Status::GOOD);
    assert_eq!(report(&leg, 0, 4096).len(), 24, "a key for each path");
    assert_eq!(report(multipath, 0, 4096).len(), 16, "one for the initiator");
    assert_eq!(out(multipath, 1, 5, 0xa1, 0).unwrap().status, Status::GOOD);
    let (one, both) = (report(multipath, 3, 4096), report(&leg, 3, 4096));
    assert!(one.len() < both.len() && one[20] & 1 == 1, "{one:x?}");
    // By whichever path the map chooses.
    for _ in 0..4 {
        let write = [0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0];
        let done =
            attentive(|| whole::send(multipath, &write, &[0; 512], TIMEOUT).map(|c| (c, ())));
        assert_eq!(done.unwrap().0.status, Status::GOOD);
    }
    // A path that has lost its registration gets it back with its first conflict.
    assert_eq!(out(&leg, 6, 0, 0, 0).unwrap().status, Status::GOOD);
    for _ in 0..4 {
        let write = [0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0];
        let done =
            attentive(|| whole::send(multipath, &write, &[0; 512], TIMEOUT).map(|c| (c, ())));
        assert_eq!(done.unwrap().0.status, Status::GOOD);
    }
    assert_eq!(out(multipath, 0, 0, 0xa1, 0).unwrap().status, Status::GOOD);
    assert_eq!(report(&leg, 0, 4096).len(), 8);
}

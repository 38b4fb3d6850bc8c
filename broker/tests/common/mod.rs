//! A server for devices that are files: what a test needs to play a client.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use broker::device::{Device, Devices};
use broker::policy::{Policy, Refused, file};
use broker::server::Server;
use broker::vport::Adapters;
use storage::host::broker::channel::Channel;
use storage::host::broker::protocol::plain;
use storage::host::{Completion, Data, HostLimits, HostStatus, Request, ScsiHost};
use storage::scsi::status::Status;

/// What a device says who it is.
pub const NAME: [u8; 8] = [0x50, 0x01, 0x40, 0x50, 0, 0, 0, 1];

/// What a device does with commands that are no INQUIRY.
#[derive(Clone, Debug)]
pub enum Does {
    /// Ends them so, with this data.
    End(Completion, Vec<u8>),
    /// Fails them with this errno.
    Fail(i32),
    /// Does not end them before it is let go.
    Hang,
}

/// A device that remembers what it was sent.
#[derive(Debug)]
pub struct Unit {
    pub does: Mutex<Does>,
    pub seen: Mutex<Vec<(Vec<u8>, Vec<u8>)>>,
    pub resets: Mutex<u32>,
    /// How long the last command may take.
    pub timeout: Mutex<Duration>,
    /// Cut by the test: it does not tell its name.
    pub nameless: Mutex<bool>,
    freed: Condvar,
}

impl Unit {
    fn new() -> Unit {
        Unit {
            does: Mutex::new(Does::End(Completion::default(), Vec::new())),
            seen: Mutex::default(),
            resets: Mutex::default(),
            timeout: Mutex::default(),
            nameless: Mutex::default(),
            freed: Condvar::new(),
        }
    }

    pub fn will(&self, does: Does) {
        *self.does.lock().unwrap() = does;
        self.freed.notify_all();
    }

    pub fn seen(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.seen.lock().unwrap().clone()
    }

    /// Waits until it has been sent so many commands.
    pub fn await_seen(&self, count: usize) {
        let end = Instant::now() + Duration::from_secs(60);
        while self.seen().len() < count {
            assert!(Instant::now() < end, "only {} commands came", self.seen().len());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl ScsiHost for Unit {
    fn execute(&self, request: Request<'_>) -> io::Result<Completion> {
        if request.cdb[0] == 0x12 {
            if *self.nameless.lock().unwrap() {
                let status = Status::CHECK_CONDITION;
                return Ok(Completion { status, ..Completion::default() });
            }
            let page = [&[0, 0x83, 0, 12, 1, 3, 0, 8][..], &NAME].concat();
            return Ok(fill(request.data, &page, Completion::default()));
        }
        let out = match &request.data {
            Data::Out(buf) => {
                let mut bytes = vec![0; buf.len()];
                buf.read(&mut bytes);
                bytes
            }
            _ => Vec::new(),
        };
        *self.timeout.lock().unwrap() = request.timeout;
        self.seen.lock().unwrap().push((request.cdb.to_vec(), out));
        let does = self.does.lock().unwrap();
        let does = self.freed.wait_while(does, |does| matches!(does, Does::Hang)).unwrap();
        match &*does {
            Does::End(completion, data) => Ok(fill(request.data, data, completion.clone())),
            Does::Fail(errno) => Err(io::Error::from_raw_os_error(*errno)),
            Does::Hang => unreachable!(),
        }
    }

    fn carries(&self, _: &[u8]) -> bool {
        true
    }

    fn reset_logical_unit(&self) -> io::Result<()> {
        *self.resets.lock().unwrap() += 1;
        Ok(())
    }

    fn limits(&self) -> io::Result<HostLimits> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

fn fill(data: Data<'_>, bytes: &[u8], completion: Completion) -> Completion {
    let Data::In(buf) = data else { return completion };
    let resid = i32::try_from(buf.len() - buf.write(bytes)).unwrap();
    Completion { resid, ..completion }
}

/// Devices by the inode of the file that stands for them.
#[derive(Clone, Debug, Default)]
pub struct Files(Arc<Mutex<BTreeMap<u64, Arc<Unit>>>>);

#[derive(Debug)]
struct Shared(Arc<Unit>);

impl ScsiHost for Shared {
    fn execute(&self, request: Request<'_>) -> io::Result<Completion> {
        self.0.execute(request)
    }

    fn carries(&self, _: &[u8]) -> bool {
        true
    }

    fn reset_logical_unit(&self) -> io::Result<()> {
        self.0.reset_logical_unit()
    }

    fn limits(&self) -> io::Result<HostLimits> {
        self.0.limits()
    }
}

impl Devices for Files {
    fn open(&self, fd: OwnedFd) -> Result<Device, Refused> {
        let file = File::from(fd);
        let number = file.metadata().unwrap().ino();
        let unit = self.0.lock().unwrap().get(&number).cloned();
        let unit = unit.ok_or_else(|| Refused::because("no device"))?;
        let status = fs::read_to_string(format!(
            "/proc/self/fdinfo/{}",
            std::os::fd::AsRawFd::as_raw_fd(&file)
        ))
        .unwrap();
        let flags = status.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
        let writable = flags.trim().ends_with('2');
        Ok(Device { host: Box::new(Shared(unit)), writable, number, vouched: None })
    }
}

/// A server that listens, with one device.
pub struct Rig {
    pub folder: tempfile::TempDir,
    pub server: Arc<Server>,
    pub unit: Arc<Unit>,
    files: Files,
}

impl Rig {
    /// A server with this policy.
    pub fn new(policy: &str) -> Rig {
        Rig::with(file::parse("policy", policy).unwrap())
    }

    pub fn with(policy: Policy) -> Rig {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::default();
        let adapters = Adapters::new(&folder.path().join("sys"));
        let server = Server::new(policy, Box::new(files.clone()), adapters);
        let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
        let accepting = Arc::clone(&server);
        thread::spawn(move || {
            listener.incoming().for_each(|socket| accepting.admit(socket.unwrap()));
        });
        let mut rig = Rig { folder, server, unit: Arc::new(Unit::new()), files };
        rig.unit = rig.add("device");
        rig
    }

    /// One more device.
    pub fn add(&self, name: &str) -> Arc<Unit> {
        let file = File::create_new(self.folder.path().join(name)).unwrap();
        let unit = Arc::new(Unit::new());
        let number = file.metadata().unwrap().ino();
        self.files.0.lock().unwrap().insert(number, Arc::clone(&unit));
        unit
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    pub fn folder_fd(&self) -> File {
        File::open(self.folder.path()).unwrap()
    }

    pub fn open(&self, name: &str, write: bool) -> File {
        let path: &Path = self.folder.path();
        OpenOptions::new().read(true).write(write).open(path.join(name)).unwrap()
    }

    pub fn device(&self) -> File {
        self.open("device", true)
    }

    /// A connection that speaks for itself, past a hello that wants `features`.
    pub fn hello(&self, features: u32) -> Channel {
        let channel = Channel::new(UnixStream::connect(self.socket()).unwrap()).unwrap();
        let mut offered = [0; 4];
        channel.receive(&mut offered, soon()).unwrap();
        assert_eq!(offered, [0x80, 0, 0, 0]);
        channel.send(&features.to_be_bytes(), None, soon()).unwrap();
        channel
    }
}

pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// Whether the other end hangs up without another word.
pub fn is_hung_up(channel: &Channel) -> bool {
    use io::ErrorKind::{ConnectionReset, UnexpectedEof};
    let error = channel.receive(&mut [0], soon()).unwrap_err();
    matches!(error.kind(), UnexpectedEof | ConnectionReset)
}

/// A reply of the plain protocol: status, the start of its sense data, data.
pub fn reply(channel: &Channel) -> (u8, Vec<u8>, Vec<u8>) {
    let mut start = [0; plain::REPLY_LEN];
    channel.receive(&mut start, soon()).unwrap();
    let len = u32::from_be_bytes(start[4..8].try_into().unwrap());
    let mut data = vec![0; usize::try_from(len).unwrap()];
    channel.receive(&mut data, soon()).unwrap();
    assert_eq!(start[..3], [0; 3]);
    (start[3], start[8..].to_vec(), data)
}

/// A device that answers GOOD with data.
pub fn good(data: &[u8]) -> Does {
    Does::End(Completion::default(), data.to_vec())
}

/// A device that ends commands with this status and host status.
pub fn ends(status: u8, host_status: HostStatus, sense: &[u8]) -> Does {
    let (status, sense) = (Status(status), sense.to_vec());
    Does::End(Completion { status, sense, host_status, resid: 0 }, Vec::new())
}

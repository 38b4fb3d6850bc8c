//! One client's connection: requests are read, judged, carried out and answered, one at a time.
//!
//! It owns the broker's side of the protocol. A client that violates it is hung up on.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use storage::host::broker::channel::Channel;
use storage::host::broker::protocol::{
    Direction, EXTENDED, Header, Kind, PERSISTENT_RESERVE_IN, Reply, Vport, plain,
};
use storage::host::{Completion, HostStatus, whole};
use storage::scsi::sense::{Sense, SenseCode};
use storage::scsi::status::Status;

use crate::device::Device;
use crate::peer::Peer;
use crate::policy::Refused;
use crate::server::Place;

/// How long a client may take over the rest of a request that it has begun, or to read an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a command may take of which the protocol does not say it.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long a command may take at least: the host's error recovery after a time-out stops all
/// devices of its adapter, and no client is to have that for the asking. As `BLK_MIN_SG_TIMEOUT`
/// of Linux, which holds on block nodes alone.
const LEAST_TIMEOUT: Duration = Duration::from_secs(7);
/// Bytes of a CDB that PERSISTENT RESERVE has.
const RESERVE_CDB: usize = 10;

pub(crate) struct Session {
    place: Place,
    peer: Peer,
    channel: Channel,
}

/// A command that a client wants sent.
struct Command<'a> {
    cdb: &'a [u8],
    parameters: &'a [u8],
    /// Bytes that may come from the device.
    len: usize,
    timeout: Duration,
}

/// How a command ended, and its data.
type Ended = io::Result<(Completion, Vec<u8>)>;

fn violation(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Session {
    pub(crate) fn new(place: Place, peer: Peer, channel: Channel) -> Session {
        Session { place, peer, channel }
    }

    pub(crate) fn name(&self) -> u64 {
        self.place.name
    }

    /// Serves the client until it goes, or violates the protocol.
    pub(crate) fn run(self) {
        let ended = self.serve();
        if let Err(error) = ended
            && error.kind() == io::ErrorKind::InvalidData
        {
            self.place.log(&self.peer, &format!("hung up on: {error}"));
        }
    }

    fn serve(&self) -> io::Result<()> {
        let extended = self.hello()?;
        loop {
            self.channel.wait_for_more()?;
            self.place.wait_turn();
            if extended { self.extended()? } else { self.plain()? }
        }
    }

    /// Whether the client wants extended requests.
    fn hello(&self) -> io::Result<bool> {
        let deadline = Instant::now() + PATIENCE;
        self.channel.send(&EXTENDED.to_be_bytes(), None, deadline)?;
        let mut wanted = [0; 4];
        self.channel.receive(&mut wanted, deadline)?;
        match u32::from_be_bytes(wanted) {
            0 => Ok(false),
            EXTENDED => Ok(true),
            _ => Err(violation("it wants features that are not offered")),
        }
    }

    fn plain(&self) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut cdb = [0; plain::CDB_LEN];
        let fd = self.channel.receive_with_fd(&mut cdb, deadline)?;
        let fd = fd.ok_or_else(|| violation("no descriptor came with a request"))?;
        let (direction, len) = plain::transfer(&cdb)
            .ok_or_else(|| violation("the command or its length is none of the protocol"))?;
        let parameters = match direction {
            Direction::Out => self.read(len, deadline)?,
            Direction::In | Direction::None => Vec::new(),
        };
        let len = if direction == Direction::In { len } else { 0 };
        let cdb = cdb.get(..RESERVE_CDB).unwrap_or(&cdb);
        let command = Command { cdb, parameters: &parameters, len, timeout: TIMEOUT };
        let (status, sense, data) = plain_end(self.command(&command, fd));
        let data_len = u32::try_from(data.len()).unwrap_or(0);
        self.answer(&plain::reply(status, &sense, data_len), &data)
    }

    fn extended(&self) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut bytes = [0; Header::LEN];
        let fd = self.channel.receive_with_fd(&mut bytes, deadline)?;
        let header =
            Header::from_bytes(&bytes).ok_or_else(|| violation("the request is malformed"))?;
        let out = self.read(header.data_len(), deadline)?;
        let ended = match (header.kind, fd) {
            (Kind::Command, Some(fd)) => self.send(&header, &out, fd),
            (Kind::Ask, Some(fd)) => self.would_send(&header, fd),
            (Kind::Reset, Some(fd)) => self.reset(fd),
            (Kind::CreateVport | Kind::DeleteVport, None) => self.vport(header.kind, &out)?,
            _ => return Err(violation("a request came with or without a descriptor wrongly")),
        };
        let (errno, (completion, data)) = match ended {
            Ok(ended) => (0, ended),
            Err(error) => (error.raw_os_error().unwrap_or(libc::EIO), Default::default()),
        };
        let reply = Reply { errno, completion, data_len: data.len() };
        self.answer(&reply.to_bytes(), &data)
    }

    /// Reads data as it comes, so that a length that is only claimed takes up nothing.
    fn read(&self, len: usize, deadline: Instant) -> io::Result<Vec<u8>> {
        const PIECE: usize = 64 << 10;
        let mut data = Vec::new();
        while data.len() < len {
            let done = data.len();
            data.resize(len.min(done + PIECE), 0);
            self.channel.receive(data.get_mut(done..).unwrap_or(&mut []), deadline)?;
        }
        Ok(data)
    }

    fn answer(&self, start: &[u8], data: &[u8]) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        self.channel.send(start, None, deadline)?;
        self.channel.send(data, None, deadline)
    }

    fn send(&self, header: &Header, out: &[u8], fd: OwnedFd) -> Ended {
        let timeout = header.timeout.max(LEAST_TIMEOUT);
        let timeout = timeout.min(self.place.server.policy().limits.timeout);
        let len = if header.direction == Direction::In { header.len } else { 0 };
        self.command(&Command { cdb: &header.cdb, parameters: out, len, timeout }, fd)
    }

    /// Sends a command, or says why not.
    fn command(&self, command: &Command<'_>, fd: OwnedFd) -> Ended {
        let device = match self.place.server.devices.open(fd) {
            Ok(device) => device,
            Err(refused) => return Ok(self.refuse(command.cdb, &refused)),
        };
        if let Err(refused) = self.judge(&device, command.cdb, Some(command.parameters)) {
            return Ok(self.refuse(command.cdb, &refused));
        }
        let Some(_turn) = self.place.server.at_device(device.number) else {
            let status = Status::BUSY;
            return Ok((Completion { status, ..Completion::default() }, Vec::new()));
        };
        let Command { cdb, parameters, len, timeout } = *command;
        if len > 0 || parameters.is_empty() {
            return whole::receive(&*device.host, cdb, len, timeout);
        }
        whole::send(&*device.host, cdb, parameters, timeout)
            .map(|completion| (completion, Vec::new()))
    }

    /// Answers whether a command would be sent, as if it had been.
    fn would_send(&self, header: &Header, fd: OwnedFd) -> Ended {
        let judged = match self.place.server.devices.open(fd) {
            Ok(device) => self.judge(&device, &header.cdb, None),
            Err(refused) => Err(refused),
        };
        let completion =
            judged.map_or_else(|refused| check(&refused.sense), |()| Completion::default());
        Ok((completion, Vec::new()))
    }

    fn reset(&self, fd: OwnedFd) -> Ended {
        let (server, policy) = (&self.place.server, self.place.server.policy());
        let device = match server.devices.open(fd) {
            Ok(device) => device,
            Err(refused) => return self.deny("LOGICAL UNIT RESET", &refused),
        };
        let judged = if device.writable {
            policy.reset(&self.peer, || device.names())
        } else {
            Err(Refused::because("the device is not open for writing"))
        };
        match judged {
            Ok(()) => device.host.reset_logical_unit().map(|()| Default::default()),
            Err(refused) => self.deny("LOGICAL UNIT RESET", &refused),
        }
    }

    fn vport(&self, kind: Kind, text: &[u8]) -> io::Result<Ended> {
        let vport = Vport::from_text(text).ok_or_else(|| violation("no virtual port is named"))?;
        Ok(self.tell_adapter(kind, &vport))
    }

    fn tell_adapter(&self, kind: Kind, vport: &Vport) -> Ended {
        let server = &self.place.server;
        let parent = server.adapters.port_name(vport.host)?;
        if !server.policy().vport(&self.peer, vport, parent) {
            let what = format!("virtual port {}", vport.to_text());
            return self.deny(&what, &Refused::because("no rule allows it"));
        }
        let done = match kind {
            Kind::DeleteVport => server.adapters.delete(vport),
            _ => server.adapters.create(vport),
        };
        done.map(|()| Default::default())
    }

    /// A device that is open for reading only is sent nothing but PERSISTENT RESERVE IN: the
    /// client had no right to change it.
    fn judge(&self, device: &Device, cdb: &[u8], parameters: Option<&[u8]>) -> Result<(), Refused> {
        if !device.writable && cdb.first() != Some(&PERSISTENT_RESERVE_IN) {
            return Err(Refused::because("the device is not open for writing"));
        }
        let names = || device.names();
        self.place.server.policy().command(&self.peer, cdb, parameters, names)
    }

    fn refuse(&self, cdb: &[u8], refused: &Refused) -> (Completion, Vec<u8>) {
        let opcode = cdb.first().copied().unwrap_or(0);
        self.place.log(&self.peer, &format!("command {opcode:02x}h refused: {}", refused.why));
        (check(&refused.sense), Vec::new())
    }

    fn deny(&self, what: &str, refused: &Refused) -> Ended {
        self.place.log(&self.peer, &format!("{what} refused: {}", refused.why));
        Err(io::Error::from_raw_os_error(libc::EPERM))
    }
}

fn check(sense: &Sense) -> Completion {
    let (status, sense) = (Status::CHECK_CONDITION, sense.to_fixed().to_vec());
    Completion { status, sense, ..Completion::default() }
}

/// The end of a command in the protocol that has no words for what failed on the way.
fn plain_end(ended: Ended) -> (Status, Vec<u8>, Vec<u8>) {
    let failed = |code: SenseCode| {
        (Status::CHECK_CONDITION, Sense::from(code).to_fixed().to_vec(), Vec::new())
    };
    match ended {
        Err(_) => failed(SenseCode::LOGICAL_UNIT_COMMUNICATION_FAILURE),
        Ok((completion, data)) => match (completion.status, completion.host_status) {
            (Status::GOOD, HostStatus::OK) => (Status::GOOD, Vec::new(), data),
            (Status::GOOD, HostStatus::TIME_OUT) => {
                failed(SenseCode::LOGICAL_UNIT_COMMUNICATION_TIME_OUT)
            }
            (Status::GOOD, _) => failed(SenseCode::LOGICAL_UNIT_COMMUNICATION_FAILURE),
            (status, _) => (status, completion.sense, Vec::new()),
        },
    }
}

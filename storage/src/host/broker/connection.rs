//! A client's connection to a broker: the hello, and one exchange at a time.
//!
//! It owns the translation between a command and a request of either protocol. It must not know
//! where connections come from.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::channel::{Channel, violation};
use super::protocol::{Direction, EXTENDED, Header, Kind, Reply, plain};
use super::protocol::{PERSISTENT_RESERVE_IN, PERSISTENT_RESERVE_OUT};
use crate::buffer::DataBuf;
use crate::host::{Completion, Data, Request};
use crate::scsi::sense::{Sense, SenseCode};
use crate::scsi::status::Status;
use crate::scsi::wire::{put_bytes, put_u16, u16_at, u32_at};

/// How long the broker may take to say hello, or to read a request.
const PATIENCE: Duration = Duration::from_secs(5);
/// How much longer than its command it may take to answer: for its own questions to the device,
/// and for what the host does after a time-out before it gives up.
const GRACE: Duration = Duration::from_secs(30);

/// A connection past the hello.
#[derive(Debug)]
pub(super) struct Connection {
    channel: Channel,
    extended: bool,
}

/// An answer, which may be an error of the host, or the end of the connection.
pub(super) type Exchange<T> = Result<io::Result<T>, Broken>;

/// Why a connection is of no more use.
#[derive(Debug)]
pub(super) enum Broken {
    /// The request did not get out whole, so nobody has acted on it.
    NotSent(io::Error),
    /// Nobody knows what became of the request.
    Lost(io::Error),
}

/// Reading comes after sending.
impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Broken {
        Broken::Lost(error)
    }
}

impl Connection {
    /// Connects to the broker at `path` and says hello.
    pub(super) fn new(path: &Path) -> io::Result<Connection> {
        let channel = Channel::connect(path)?;
        let deadline = Instant::now() + PATIENCE;
        let mut offered = [0; 4];
        channel.receive(&mut offered, deadline)?;
        let wanted = u32::from_be_bytes(offered) & EXTENDED;
        channel.send(&wanted.to_be_bytes(), None, deadline)?;
        Ok(Connection { channel, extended: wanted == EXTENDED })
    }

    pub(super) fn is_open(&self) -> bool {
        self.channel.is_quiet()
    }

    pub(super) fn socket(&self) -> &UnixStream {
        self.channel.socket()
    }

    /// Sends a command to the device.
    pub(super) fn command(
        &self,
        fd: BorrowedFd<'_>,
        request: &mut Request<'_>,
    ) -> Exchange<Completion> {
        if self.extended { self.extended(fd, request) } else { self.plain(fd, request) }
    }

    /// Whether the broker would send it.
    pub(super) fn may(&self, fd: BorrowedFd<'_>, cdb: &[u8]) -> Exchange<bool> {
        if !self.extended {
            return Ok(Ok(plain::transfer(cdb.get(..1).unwrap_or(&[])).is_some()));
        }
        let header = Header {
            kind: Kind::Ask,
            cdb: cdb.to_vec(),
            direction: Direction::None,
            len: 0,
            timeout: PATIENCE,
        };
        let reply = self.round_trip(&header, Some(fd), &[], None)?;
        Ok(succeeded(&reply).map(|()| reply.completion.status == Status::GOOD))
    }

    /// Has the broker do something that is no command.
    pub(super) fn ask(&self, kind: Kind, fd: Option<BorrowedFd<'_>>, data: &[u8]) -> Exchange<()> {
        if !self.extended {
            return Ok(Err(denied()));
        }
        let reply = self.round_trip(&Header::of(kind, data), fd, data, None)?;
        Ok(succeeded(&reply))
    }

    fn plain(&self, fd: BorrowedFd<'_>, request: &mut Request<'_>) -> Exchange<Completion> {
        let (cdb, parameters) = match plain_request(request) {
            Ok(Ok(made)) => made,
            Ok(Err(refused)) => return Ok(Ok(refused)),
            Err(error) => return Ok(Err(error)),
        };
        let deadline = Instant::now() + PATIENCE;
        self.send(&cdb, Some(fd), deadline)?;
        self.send(&parameters, None, deadline)?;
        let brings_data = cdb[0] == PERSISTENT_RESERVE_IN;
        let deadline = self.reply_deadline(brings_data, request.timeout)?;
        let mut reply = [0; plain::REPLY_LEN];
        self.channel.receive(&mut reply, deadline)?;
        let most = if cdb[0] == PERSISTENT_RESERVE_IN { u16_at(&cdb, 7) } else { 0 };
        let (status, sense, len) = plain::read_reply(&reply)
            .filter(|(_, _, len)| *len <= usize::from(most))
            .ok_or_else(|| violation("the broker's reply is none"))?;
        let mut data = vec![0; len];
        self.channel.receive(&mut data, deadline)?;
        if is_cut(&cdb, request, &data) {
            let refused = Sense::invalid_field(7, None);
            return Ok(Ok(refusal(refused, request)));
        }
        let moved = parameters.len() + put(request, &data);
        let resid = resid(request, moved);
        let sense = sense.to_vec();
        Ok(Ok(Completion { status, sense, resid, ..Completion::default() }))
    }

    fn extended(&self, fd: BorrowedFd<'_>, request: &mut Request<'_>) -> Exchange<Completion> {
        let (direction, len) = match &request.data {
            Data::In(buf) if !buf.is_empty() => (Direction::In, buf.len()),
            Data::Out(buf) if !buf.is_empty() => (Direction::Out, buf.len()),
            _ => (Direction::None, 0),
        };
        let fits = len <= Header::MAX_DATA && (1..=Header::MAX_CDB).contains(&request.cdb.len());
        if !fits {
            return Ok(Err(io::Error::from_raw_os_error(libc::EMSGSIZE)));
        }
        let out = match &request.data {
            Data::Out(buf) => copied(buf, buf.len()),
            _ => Vec::new(),
        };
        let (cdb, timeout) = (request.cdb.to_vec(), request.timeout);
        let header = Header { kind: Kind::Command, cdb, direction, len, timeout };
        let reply = self.round_trip(&header, Some(fd), &out, Some(request))?;
        Ok(succeeded(&reply).map(|()| reply.completion))
    }

    /// Sends an extended request and takes the reply, whose data goes to `request`.
    fn round_trip(
        &self,
        header: &Header,
        fd: Option<BorrowedFd<'_>>,
        out: &[u8],
        request: Option<&mut Request<'_>>,
    ) -> Result<Reply, Broken> {
        let deadline = Instant::now() + PATIENCE;
        self.send(&header.to_bytes(), fd, deadline)?;
        self.send(out, None, deadline)?;
        let only_tells = header.direction == Direction::In || header.kind == Kind::Ask;
        let deadline = self.reply_deadline(only_tells, header.timeout)?;
        let mut start = [0; Reply::LEN];
        self.channel.receive(&mut start, deadline)?;
        let most = if header.direction == Direction::In { header.len } else { 0 };
        let (mut reply, sense_len) = Reply::from_bytes(&start)
            .filter(|(reply, _)| reply.data_len <= most)
            .ok_or_else(|| violation("the broker's reply is none"))?;
        reply.completion.sense = vec![0; sense_len];
        self.channel.receive(&mut reply.completion.sense, deadline)?;
        let mut data = vec![0; reply.data_len];
        self.channel.receive(&mut data, deadline)?;
        if let Some(request) = request {
            put(request, &data);
        }
        Ok(reply)
    }

    /// By when the reply is to be there. What changes something must not be done after it was
    /// said to have failed: its reply is waited for, or the end of the connection. Even a broker
    /// that is killed closes that only once its command at a block node has ended.
    fn reply_deadline(&self, only_tells: bool, timeout: Duration) -> io::Result<Instant> {
        const LONGEST: Duration = Duration::from_secs(7 * 24 * 60 * 60);
        if !only_tells {
            self.channel.wait_for_more()?;
        }
        Ok(Instant::now() + timeout.min(LONGEST) + GRACE)
    }

    fn send(
        &self,
        bytes: &[u8],
        fd: Option<BorrowedFd<'_>>,
        deadline: Instant,
    ) -> Result<(), Broken> {
        self.channel.send(bytes, fd, deadline).map_err(Broken::NotSent)
    }
}

/// A CDB for the protocol without features, and the parameter list that goes with it; or the end
/// of a command that cannot be sent whole.
type Plain = Result<([u8; plain::CDB_LEN], Vec<u8>), Completion>;

fn plain_request(request: &Request<'_>) -> io::Result<Plain> {
    let mut cdb = [0; plain::CDB_LEN];
    put_bytes(&mut cdb, 0, request.cdb.get(..plain::CDB_LEN).unwrap_or(request.cdb));
    match (cdb[0], &request.data) {
        (PERSISTENT_RESERVE_IN, Data::In(buf)) => {
            let most = buf.len().min(plain::MAX_DATA).min(u16_at(&cdb, 7).into());
            put_u16(&mut cdb, 7, u16::try_from(most).unwrap_or(u16::MAX));
            Ok(Ok((cdb, Vec::new())))
        }
        (PERSISTENT_RESERVE_IN, Data::None) => {
            put_u16(&mut cdb, 7, 0);
            Ok(Ok((cdb, Vec::new())))
        }
        (PERSISTENT_RESERVE_OUT, data @ (Data::Out(_) | Data::None)) => {
            let len = usize::try_from(u32_at(&cdb, 5)).unwrap_or(usize::MAX);
            let parameters = match data {
                Data::Out(buf) if len <= plain::MAX_DATA => copied(buf, len),
                _ => Vec::new(),
            };
            if parameters.len() == len {
                Ok(Ok((cdb, parameters)))
            } else {
                let short = SenseCode::PARAMETER_LIST_LENGTH_ERROR;
                Ok(Err(refusal(short.into(), request)))
            }
        }
        (PERSISTENT_RESERVE_IN | PERSISTENT_RESERVE_OUT, _) => {
            Err(io::Error::from_raw_os_error(libc::EINVAL))
        }
        _ => Err(denied()),
    }
}

/// Whether the initiator asked for more than the protocol carries, and there is more.
fn is_cut(sent: &[u8; plain::CDB_LEN], request: &Request<'_>, data: &[u8]) -> bool {
    let Data::In(buf) = &request.data else { return false };
    let (sent, asked) = (usize::from(u16_at(sent, 7)), usize::from(u16_at(request.cdb, 7)));
    sent < asked && sent < buf.len() && data.len() == sent
}

fn refusal(sense: Sense, request: &Request<'_>) -> Completion {
    Completion {
        status: Status::CHECK_CONDITION,
        sense: sense.to_fixed().to_vec(),
        resid: resid(request, 0),
        ..Completion::default()
    }
}

/// What is left of a command's buffer after so many bytes.
fn resid(request: &Request<'_>, moved: usize) -> i32 {
    let len = match &request.data {
        Data::None => 0,
        Data::In(buf) => buf.len(),
        Data::Out(buf) => buf.len(),
    };
    i32::try_from(len.saturating_sub(moved)).unwrap_or(i32::MAX)
}

fn put(request: &mut Request<'_>, bytes: &[u8]) -> usize {
    match &mut request.data {
        Data::In(buf) => buf.write(bytes),
        Data::None | Data::Out(_) => 0,
    }
}

fn copied(buf: &DataBuf, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len.min(buf.len())];
    let read = buf.read(&mut bytes);
    bytes.truncate(read);
    bytes
}

fn succeeded(reply: &Reply) -> io::Result<()> {
    match reply.errno {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

fn denied() -> io::Error {
    io::Error::from_raw_os_error(libc::EPERM)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{RecvTimeoutError, channel};
    use std::thread;

    #[test]
    fn what_changes_something_is_waited_for_whatever_time_it_may_take() {
        let (ours, broker) = UnixStream::pair().unwrap();
        let connection = Connection { channel: Channel::new(ours).unwrap(), extended: true };
        let soon = connection.reply_deadline(true, Duration::ZERO).unwrap();
        assert!(soon <= Instant::now() + GRACE);
        let (done, awaited) = channel();
        let waits = thread::spawn(move || {
            // The deadline would be long past.
            done.send(connection.reply_deadline(false, Duration::ZERO).is_ok()).unwrap();
        });
        let early = awaited.recv_timeout(Duration::from_millis(50));
        assert_eq!(early, Err(RecvTimeoutError::Timeout));
        drop(broker);
        assert_eq!(awaited.recv_timeout(Duration::from_secs(60)), Ok(true));
        waits.join().unwrap();
    }
}

//! The client of a privileged broker, which sends commands that the host lets this process not
//! send: the socket of a `vmm-broker`, or of a `qemu-pr-helper`, which carries PERSISTENT RESERVE
//! IN and OUT only.
//!
//! A command in flight has a connection of its own, so that none waits for another; one that is
//! idle is kept. The broker may be started, and started anew, at any time. A command that it has
//! taken is never sent twice.
//!
//! This file must not know which commands need a broker.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use self::connection::{Broken, Connection, Exchange};
use self::protocol::{Kind, Vport, plain};
use super::{Completion, Request};
use crate::scsi::cdb::Cdb;
use crate::scsi::command::service_action;

pub mod channel;
mod connection;
pub mod protocol;

/// How long a broker may be gone before a command fails.
const RECONNECT: Duration = Duration::from_secs(5);
/// How long to wait between two attempts to reach it.
const PAUSE: Duration = Duration::from_millis(100);
/// How long nobody asks again what a broker can do that has not said.
const SILENCE: Duration = Duration::from_secs(60);
/// How often a request is sent that does not get out whole.
const ATTEMPTS: u32 = 3;
/// Connections that are kept for later.
const IDLE: usize = 2;

/// A way to send commands with another process's privilege.
#[derive(Debug)]
pub struct Broker {
    path: PathBuf,
    reconnect: Duration,
    state: Mutex<State>,
    /// That [`Broker::close`] was called.
    closed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    idle: Vec<Connection>,
    /// The sockets of commands in flight.
    busy: HashMap<u64, UnixStream>,
    next: u64,
    /// What the broker lets through, by operation code and service action.
    known: HashMap<(u8, u16), bool>,
    /// When it was found out that the broker does not say.
    silent: Option<Instant>,
}

impl Broker {
    /// The broker at the socket `path`, which is connected to when it is needed.
    #[must_use]
    pub fn new(path: &Path) -> Broker {
        Broker {
            path: path.into(),
            reconnect: RECONNECT,
            state: Mutex::default(),
            closed: Condvar::new(),
        }
    }

    /// The same broker, which may be gone for so long before a command fails.
    #[must_use]
    pub fn with_reconnect(self, reconnect: Duration) -> Broker {
        Broker { reconnect, ..self }
    }

    /// Its socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sends a command to the device that is open as `fd`, and waits for its end. What the broker
    /// refuses ends with CHECK CONDITION.
    ///
    /// # Errors
    /// `PermissionDenied` for a command that this broker's protocol does not carry. The host's own,
    /// where there is no broker. Otherwise nobody knows whether the command was carried out:
    /// `UnexpectedEof` or `ConnectionReset` where the broker vanished meanwhile, `InvalidData` where
    /// it violates the protocol, `TimedOut` where it does not answer one that brings data. Any other
    /// may change the medium as long as there is no answer: that is waited for.
    pub fn execute(&self, fd: BorrowedFd<'_>, mut request: Request<'_>) -> io::Result<Completion> {
        self.exchange(|connection| connection.command(fd, &mut request))
    }

    /// Resets the logical unit of the device that is open as `fd`, and waits for that.
    ///
    /// # Errors
    /// `PermissionDenied` where the broker refuses it or cannot; as [`Broker::execute`].
    pub fn reset_logical_unit(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.ask(Kind::Reset, Some(fd), &[])
    }

    /// Creates a virtual port.
    ///
    /// # Errors
    /// As those of [`Broker::reset_logical_unit`].
    pub fn create_vport(&self, vport: &Vport) -> io::Result<()> {
        self.ask(Kind::CreateVport, None, vport.to_text().as_bytes())
    }

    /// Deletes a virtual port.
    ///
    /// # Errors
    /// As those of [`Broker::reset_logical_unit`].
    pub fn delete_vport(&self, vport: &Vport) -> io::Result<()> {
        self.ask(Kind::DeleteVport, None, vport.to_text().as_bytes())
    }

    /// Whether the broker sends a command such as `cdb` to the device that is open as `fd`. The
    /// answer for an operation code and service action is remembered until another broker
    /// answers; while there is none it is what was true last, or what any broker can do.
    #[must_use]
    pub fn can(&self, fd: BorrowedFd<'_>, cdb: &[u8]) -> bool {
        let name = (cdb.first().copied().unwrap_or(0), service_action(&Cdb::new(cdb)));
        let (known, silent) = {
            let state = self.lock();
            (state.known.get(&name).copied(), state.silent.is_some_and(|at| at.elapsed() < SILENCE))
        };
        if let Some(known) = known {
            return known;
        }
        let found = if silent { None } else { self.find_out(fd, cdb).ok() };
        let mut state = self.lock();
        match found {
            Some(can) => drop(state.known.insert(name, can)),
            None if !silent => state.silent = Some(Instant::now()),
            None => {}
        }
        found.unwrap_or_else(|| plain::transfer(cdb.get(..1).unwrap_or(&[])).is_some())
    }

    /// Gives up: commands in flight fail, and so does everything from now on, with
    /// `ConnectionAborted`.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.idle.clear();
        if !state.busy.is_empty() {
            let (count, path) = (state.busy.len(), self.path.display());
            log::warn!("{count} commands are left to the broker at {path}, and may go on");
        }
        // A socket that is closed already needs no shutdown.
        state.busy.values().for_each(|socket| drop(socket.shutdown(Shutdown::Both)));
        self.closed.notify_all();
    }

    fn find_out(&self, fd: BorrowedFd<'_>, cdb: &[u8]) -> io::Result<bool> {
        // Whoever asks can go on without an answer.
        self.exchange_within(Duration::ZERO, |connection| connection.may(fd, cdb))
    }

    fn ask(&self, kind: Kind, fd: Option<BorrowedFd<'_>>, data: &[u8]) -> io::Result<()> {
        self.exchange(|connection| connection.ask(kind, fd, data))
    }

    fn exchange<T>(&self, then: impl FnMut(&Connection) -> Exchange<T>) -> io::Result<T> {
        self.exchange_within(self.reconnect, then)
    }

    /// Has one exchange by a connection of its own, which is kept unless it breaks. A request that
    /// did not get out whole is sent again by another connection. The broker may be gone for as
    /// long as `reconnect`.
    fn exchange_within<T>(
        &self,
        reconnect: Duration,
        mut then: impl FnMut(&Connection) -> Exchange<T>,
    ) -> io::Result<T> {
        let mut attempts = ATTEMPTS;
        loop {
            attempts -= 1;
            let connection = self.connection(reconnect)?;
            let name = self.enter(&connection)?;
            let outcome = then(&connection);
            match self.leave(name, connection, outcome)? {
                Ok(answer) => return answer,
                Err(Broken::NotSent(error)) if attempts > 0 && is_hangup(&error) => {}
                Err(Broken::NotSent(error) | Broken::Lost(error)) => return Err(error),
            }
        }
    }

    fn enter(&self, connection: &Connection) -> io::Result<u64> {
        let socket = connection.socket().try_clone()?;
        let mut state = self.lock();
        if state.closed {
            return Err(closed());
        }
        let name = state.next;
        state.next = name.wrapping_add(1);
        state.busy.insert(name, socket);
        Ok(name)
    }

    fn leave<T>(
        &self,
        name: u64,
        connection: Connection,
        outcome: Exchange<T>,
    ) -> io::Result<Exchange<T>> {
        let mut state = self.lock();
        state.busy.remove(&name);
        match outcome {
            Ok(answer) => {
                if !state.closed && state.idle.len() < IDLE {
                    state.idle.push(connection);
                }
                Ok(Ok(answer))
            }
            Err(_) if state.closed => Err(closed()),
            Err(broken) => Ok(Err(broken)),
        }
    }

    /// An idle connection that is still one, or a new one.
    fn connection(&self, reconnect: Duration) -> io::Result<Connection> {
        loop {
            let idle = self.lock().idle.pop();
            match idle {
                Some(idle) if idle.is_open() => return Ok(idle),
                Some(_) => {}
                None => return self.connect(reconnect),
            }
        }
    }

    /// Connects, for as long as a broker may take to be started anew.
    fn connect(&self, reconnect: Duration) -> io::Result<Connection> {
        let deadline = Instant::now() + reconnect;
        loop {
            let error = match Connection::new(&self.path) {
                Ok(connection) => {
                    let mut state = self.lock();
                    state.known.clear();
                    state.silent = None;
                    return Ok(connection);
                }
                Err(error) => error,
            };
            let state = self.lock();
            if state.closed {
                return Err(closed());
            }
            if Instant::now() >= deadline || !may_pass(&error) {
                return Err(error);
            }
            let wait = self.closed.wait_timeout_while(state, PAUSE, |state| !state.closed);
            drop(wait.unwrap_or_else(PoisonError::into_inner));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_hangup(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

/// Whether a broker that is being started would explain it.
fn may_pass(error: &io::Error) -> bool {
    use ErrorKind::{ConnectionRefused, ConnectionReset, NotFound, UnexpectedEof, WouldBlock};
    matches!(
        error.kind(),
        ConnectionRefused | ConnectionReset | NotFound | UnexpectedEof | WouldBlock
    )
}

fn closed() -> io::Error {
    io::Error::new(ErrorKind::ConnectionAborted, "the broker is not used any more")
}

#[cfg(test)]
mod tests;

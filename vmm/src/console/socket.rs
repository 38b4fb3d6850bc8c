//! The console on a Unix socket: one client at a time, who may come and go.
//!
//! The main thread accepts and reads; the output's thread writes, and waits for a client who is
//! slow. They share the [`Seat`], which the one who first finds the client gone vacates. What the
//! guest writes while nobody is there is lost, as on any serial line.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::input::Backlog;

const BUSY: &[u8] = b"vmm: this console has a client already\r\n";

/// The socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    /// Something else has that name.
    #[error("there is a file of this name, and it is no socket: remove it, or choose another name")]
    NoSocket,
    /// Another program, perhaps this guest, has it.
    #[error("another program listens there: end it, or choose another name")]
    InUse,
    /// The host refuses.
    #[error("cannot listen there: {0}: check that its folder exists and can be written to")]
    Host(#[from] io::Error),
}

/// The client, if there is one.
#[derive(Clone, Debug, Default)]
pub(super) struct Seat(Arc<Mutex<Option<Arc<UnixStream>>>>);

impl Seat {
    fn client(&self) -> Option<Arc<UnixStream>> {
        self.lock().clone()
    }

    fn give(&self, stream: UnixStream) {
        *self.lock() = Some(Arc::new(stream));
    }

    /// Sees `client` off, unless that has been done. A thread that still waits for it hears from
    /// the host that it is gone.
    fn vacate(&self, client: &Arc<UnixStream>) {
        self.lock().take_if(|current| Arc::ptr_eq(current, client));
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<UnixStream>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Seat {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(client) = self.client() {
            match (&*client).write(bytes) {
                Err(error) if error.kind() != ErrorKind::Interrupted => self.vacate(&client),
                other => return other,
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The socket, with its file, which goes when this is dropped.
#[derive(Debug)]
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file.
    file: (u64, u64),
    seat: Seat,
    /// Whether the client may still send.
    sends: bool,
}

impl Socket {
    /// Listens at `path`. The file that a dead process left there is replaced.
    ///
    /// # Errors
    /// [`SocketError`]
    pub(super) fn listen(path: &Path) -> Result<Self, SocketError> {
        let listener = bind(path)?;
        listener.set_nonblocking(true)?;
        let file = identity(path)?;
        let (path, seat) = (path.to_owned(), Seat::default());
        Ok(Socket { listener, path, file, seat, sends: false })
    }

    /// The client's place, for output.
    pub(super) fn seat(&self) -> Seat {
        self.seat.clone()
    }

    /// The client, to be waited for.
    pub(super) fn client(&self) -> Option<Client> {
        self.seat.client().map(Client)
    }

    /// Whether the client's input is wanted now.
    pub(super) fn wants_more(&self, waiting: &Backlog) -> bool {
        self.sends && !waiting.is_full()
    }

    /// Takes a client if there is none; any other is told so and sent away.
    pub(super) fn accept(&mut self) {
        match self.listener.accept() {
            // A new socket has room for one line; it is gone if even that fails.
            Ok((mut stream, _)) if self.seat.client().is_some() => drop(stream.write(BUSY)),
            Ok((stream, _)) => {
                self.seat.give(stream);
                self.sends = true;
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => log::warn!("console: a client cannot be accepted: {error}"),
        }
    }

    /// Reads what the client sent; the end of its input ends input only.
    pub(super) fn read(&mut self, client: &Client, waiting: &mut Backlog) {
        let mut bytes = [0; 256];
        match (&*client.0).read(&mut bytes) {
            Ok(0) => self.sends = false,
            Ok(len) => bytes.iter().take(len).for_each(|byte| waiting.push(*byte)),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => self.seat.vacate(&client.0),
        }
    }

    /// Sees a client off who hung up, after what it still sent.
    pub(super) fn dismiss(&mut self, client: &Client, waiting: &mut Backlog) {
        while self.wants_more(waiting) && self.seat.client().is_some() {
            self.read(client, waiting);
        }
        self.seat.vacate(&client.0);
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.listener.as_raw_fd()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|file| file == self.file)
            && let Err(error) = fs::remove_file(&self.path)
        {
            log::warn!("console: {}: cannot be removed: {error}", self.path.display());
        }
    }
}

/// A client.
#[derive(Debug)]
pub(super) struct Client(Arc<UnixStream>);

impl AsRawFd for Client {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn bind(path: &Path) -> Result<UnixListener, SocketError> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            remove_stale(path)?;
            Ok(UnixListener::bind(path)?)
        }
        other => Ok(other?),
    }
}

/// Removes the socket file of a process that is gone.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(SocketError::NoSocket);
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(fs::remove_file(path)?),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(error.into()),
        _ => Err(SocketError::InUse),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let file = fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}

//! The console on a Unix socket: one client at a time, who may come and go.
//!
//! The main thread accepts and reads; the output's thread writes, and waits for a client who is
//! slow. They share the [`Seat`], which the one who first finds the client gone vacates. What the
//! guest writes while nobody is there is lost, as on any serial line.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::input::Backlog;

const BUSY: &[u8] = b"vmm: this console has a client already\r\n";

/// How long a client waits whom the host lacks a file descriptor for; it would be told of him all
/// the time.
const REST: Duration = Duration::from_secs(1);

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
    /// When to accept again after the host had not what that takes.
    rests_until: Option<Instant>,
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
        Ok(Socket { listener, path, file, seat, sends: false, rests_until: None })
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
            Err(error) => {
                self.rests_until = Some(Instant::now() + REST);
                log::warn!("console: a client cannot be accepted: {error}");
            }
        }
    }

    /// Until when no client is to be accepted.
    pub(super) fn rests_until(&self) -> Option<Instant> {
        self.rests_until.filter(|instant| *instant > Instant::now())
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
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let _locked = lock(folder.unwrap_or(Path::new(".")));
    match UnixListener::bind(path) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            remove_stale(path)?;
            Ok(UnixListener::bind(path)?)
        }
        other => Ok(other?),
    }
}

/// Locks a folder, so that of several who find an old socket there one replaces it, and the others
/// find the new one. Others lock folders for reasons of their own, perhaps for ever, or it cannot
/// be read: then it has to do without.
fn lock(folder: &Path) -> Option<File> {
    const TRIES: usize = 100;
    let folder = File::open(folder).ok()?;
    for _ in 0..TRIES {
        if folder.try_lock().is_ok() {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    Some(folder)
}

/// Removes the socket file of a process that is gone.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(SocketError::NoSocket);
    }
    if is_in_use(path)? {
        return Err(SocketError::InUse);
    }
    Ok(fs::remove_file(path)?)
}

/// Whether some process has the socket at `path`. It is not disturbed: a datagram never reaches a
/// console, but the host looks whether there is a socket before it looks of what type that is.
///
/// # Errors
/// When the host does not tell.
pub(crate) fn is_in_use(path: &Path) -> io::Result<bool> {
    match UnixDatagram::unbound()?.connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(false),
        Err(error) if error.raw_os_error() != Some(libc::EPROTOTYPE) => Err(error),
        _ => Ok(true),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let file = fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn of_several_who_want_an_old_socket_one_gets_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console.sock");
        let start = Barrier::new(3);
        let listen = || {
            start.wait();
            Socket::listen(&path)
        };
        for _ in 0..1000 {
            drop(UnixListener::bind(&path).unwrap());
            let sockets = thread::scope(|scope| {
                [(); 3].map(|()| scope.spawn(listen)).map(|thread| thread.join().unwrap())
            });
            assert_eq!(sockets.iter().filter(|socket| socket.is_ok()).count(), 1, "{sockets:?}");
            assert!(is_in_use(&path).unwrap());
        }
    }
}

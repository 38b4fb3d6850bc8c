//! The serial console: where the guest's output goes, and where its input comes from.
//!
//! It outlives the machine, which is built anew at each reboot. Output goes through a thread
//! ([`Output`]), so that no reader holds up a vCPU; input is read by the main loop and waits
//! here ([`input`]) until the UART takes it. Must not know the UART: bytes are offered to it by a
//! closure, and it writes to a [`Write`].

mod input;
mod socket;
mod terminal;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use self::input::{Backlog, Stdin, Typed};
pub(crate) use self::socket::is_in_use;
use self::socket::{Client, Socket, SocketError};
use self::terminal::RawMode;
pub(crate) use self::terminal::is_raw;
use crate::output::{Lost, Output};
use crate::poll::{Interest, Place, PollSet};
use crate::spec::SerialSpec;

/// The console cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConsoleError {
    /// The file cannot be written to.
    #[error("console.serial: {path}: cannot be opened to write to")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The socket cannot be listened on.
    #[error("console.serial: {path}")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: SocketError,
    },
    /// The host lacks something.
    #[error("console: the host refuses {what}")]
    Host {
        /// What was refused.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// The console.
#[derive(Debug)]
pub(crate) struct Console {
    source: Source,
    waiting: Backlog,
    /// `None` where nobody listens.
    output: Option<Output>,
    room: EventFd,
}

/// Where input comes from.
#[derive(Debug)]
enum Source {
    Nothing,
    Stdin(Stdin, Option<RawMode>),
    Socket(Socket),
}

/// What the console waits for.
#[derive(Debug)]
pub(crate) struct Watch {
    room: Place,
    input: Option<Place>,
    client: Option<(Client, Place)>,
    listener: Option<Place>,
}

impl Console {
    /// A console that keeps what is written to it until what `spec` names is
    /// [opened](Self::open).
    ///
    /// # Errors
    /// When the host has no file descriptor left.
    pub(crate) fn new(spec: &SerialSpec) -> Result<Self, ConsoleError> {
        let room = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(host("an event"))?;
        let output = (*spec != SerialSpec::Null).then(Output::default);
        Ok(Console { source: Source::Nothing, waiting: Backlog::default(), output, room })
    }

    /// Opens what `spec` names, and makes it where it is not there. The terminal stays as it is.
    ///
    /// # Errors
    /// [`ConsoleError`]
    pub(crate) fn open(&mut self, spec: &SerialSpec) -> Result<(), ConsoleError> {
        match spec {
            SerialSpec::Stdio => {
                let no_descriptor = host("a descriptor");
                let stdout = io::stdout().as_fd().try_clone_to_owned().map_err(no_descriptor)?;
                self.write_to(File::from(stdout))?;
                let stdin = Stdin::new().map_err(host("a descriptor"))?;
                self.source = Source::Stdin(stdin, None);
            }
            SerialSpec::Null => {}
            SerialSpec::File(path) => self.write_to(open_file(path)?)?,
            SerialSpec::Socket(path) => {
                let refused = |source| ConsoleError::Socket { path: path.clone(), source };
                let socket = Socket::listen(path).map_err(refused)?;
                self.write_to(socket.seat())?;
                self.source = Source::Socket(socket);
            }
        }
        Ok(())
    }

    fn write_to(&self, sink: impl Write + Send + 'static) -> Result<(), ConsoleError> {
        let started = self.output.as_ref().map(|output| output.start("console", sink));
        started.transpose().map_err(host("a thread")).map(drop)
    }

    /// Where a UART writes; it never blocks and never fails.
    pub(crate) fn writer(&self) -> Box<dyn Write + Send> {
        match &self.output {
            Some(output) => Box::new(output.writer()),
            None => Box::new(io::sink()),
        }
    }

    /// What a UART signals when it may take input again.
    ///
    /// # Errors
    /// When the host has no file descriptor left.
    pub(crate) fn room(&self) -> io::Result<EventFd> {
        self.room.try_clone()
    }

    /// If the console is on a terminal: takes it, in raw mode, and the Ctrl-A keys with it.
    ///
    /// # Errors
    /// When the terminal refuses.
    pub(crate) fn take_terminal(&mut self) -> io::Result<()> {
        if let Source::Stdin(stdin, raw @ None) = &mut self.source {
            *raw = RawMode::enter()?;
            if raw.is_some() {
                stdin.take_keys();
            }
        }
        Ok(())
    }

    /// Gives the terminal back as it was; what is typed from now on is for others.
    pub(crate) fn give_terminal_back(&mut self) {
        if let Source::Stdin(..) = self.source {
            self.source = Source::Nothing;
        }
    }

    /// Adds what the console waits for.
    pub(crate) fn watch(&self, set: &mut PollSet) -> Watch {
        let room = set.add(&self.room, Interest::Input);
        let mut watch = Watch { room, input: None, client: None, listener: None };
        match &self.source {
            Source::Nothing => {}
            Source::Stdin(stdin, _) => {
                let wanted = stdin.wants_more(&self.waiting);
                watch.input = wanted.then(|| set.add(stdin, Interest::Input));
            }
            Source::Socket(socket) => {
                let wanted = socket.wants_more(&self.waiting);
                let interest = if wanted { Interest::Input } else { Interest::HangUp };
                watch.client = socket.client().map(|client| {
                    let place = set.add(&client, interest);
                    (client, place)
                });
                match socket.rests_until() {
                    Some(instant) => set.add_deadline(instant),
                    None => watch.listener = Some(set.add(socket, Interest::Input)),
                }
            }
        }
        watch
    }

    /// Serves what `set` has found. `accept` is offered the bytes that wait for the guest and says
    /// how many it took. Returns whether the keys that end the VMM were pressed.
    pub(crate) fn serve(
        &mut self,
        set: &PollSet,
        watch: &Watch,
        accept: impl FnOnce(&[u8]) -> usize,
    ) -> bool {
        if set.is_ready(watch.room) {
            // Whether it was still set does not matter: all that waits is offered.
            let _ = self.room.read();
        }
        let quit = match &mut self.source {
            Source::Nothing => false,
            Source::Stdin(stdin, _) => {
                watch.input.is_some_and(|place| set.is_ready(place))
                    && stdin.read(&mut self.waiting) == Typed::Quit
            }
            Source::Socket(socket) => {
                serve_socket(socket, &mut self.waiting, set, watch);
                false
            }
        };
        self.waiting.offer(accept);
        quit
    }

    /// Waits until all output is written, or its reader has taken nothing for a while.
    pub(crate) fn finish(&self) {
        let lost = self.output.as_ref().map(Output::finish);
        if let Some(Lost { bytes, why }) = lost.filter(|lost| lost.bytes > 0) {
            log::warn!("console: {bytes} bytes of output were lost: {why}");
        }
    }
}

fn serve_socket(socket: &mut Socket, waiting: &mut Backlog, set: &PollSet, watch: &Watch) {
    if let Some((client, place)) = &watch.client {
        if set.is_hung_up(*place) {
            socket.dismiss(client, waiting);
        } else if set.is_ready(*place) {
            socket.read(client, waiting);
        }
    }
    if watch.listener.is_some_and(|place| set.is_ready(place)) {
        socket.accept();
    }
}

/// What a file held before is kept: it may tell of a crash.
fn open_file(path: &Path) -> Result<File, ConsoleError> {
    let mut options = File::options();
    // A FIFO that nobody reads is an error rather than a wait, and a terminal does not become ours.
    options.append(true).create(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    options.open(path).map_err(|source| ConsoleError::File { path: path.to_owned(), source })
}

fn host(what: &'static str) -> impl Fn(io::Error) -> ConsoleError {
    move |source| ConsoleError::Host { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Read;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::time::{Duration, Instant};
    use tempfile::TempDir;

    const LIMIT: Duration = Duration::from_secs(20);

    fn socket(folder: &TempDir) -> (SerialSpec, PathBuf) {
        let path = folder.path().join("console.sock");
        (SerialSpec::Socket(path.clone()), path)
    }

    fn open(spec: &SerialSpec) -> Result<Console, ConsoleError> {
        let mut console = Console::new(spec)?;
        console.open(spec)?;
        Ok(console)
    }

    fn connect(path: &Path) -> UnixStream {
        let client = UnixStream::connect(path).unwrap();
        client.set_read_timeout(Some(LIMIT)).unwrap();
        client
    }

    /// Serves the console as the main loop does, until `done` says so of what the guest got.
    fn serve_until(console: &mut Console, done: impl Fn(&Console, &[u8]) -> bool) -> Vec<u8> {
        let (start, mut got) = (Instant::now(), Vec::new());
        while !done(console, &got) {
            assert!(start.elapsed() < LIMIT, "got {:?}", String::from_utf8_lossy(&got));
            let mut set = PollSet::default();
            let watch = console.watch(&mut set);
            set.wait(Some(Instant::now() + Duration::from_millis(10))).unwrap();
            console.serve(&set, &watch, |bytes| {
                got.extend_from_slice(bytes);
                bytes.len()
            });
        }
        got
    }

    fn has_client(console: &Console) -> bool {
        matches!(&console.source, Source::Socket(socket) if socket.client().is_some())
    }

    fn read(client: &mut UnixStream, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        client.read_exact(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_client_reads_and_writes_and_the_next_one_may_come() {
        let folder = TempDir::new().unwrap();
        let (spec, path) = socket(&folder);
        let mut console = open(&spec).unwrap();
        let mut guest = console.writer();
        guest.write_all(b"nobody hears this").unwrap();
        assert_eq!(console.output.as_ref().unwrap().finish().bytes, 0, "it is not counted as lost");
        for name in [b"one", b"two"] {
            let mut client = connect(&path);
            client.write_all(name).unwrap();
            assert_eq!(serve_until(&mut console, |_, got| got.len() == 3), name);
            guest.write_all(b"hello ").unwrap();
            guest.write_all(name).unwrap();
            assert_eq!(read(&mut client, 9), [&b"hello "[..], name].concat());
            drop(client);
            serve_until(&mut console, |console, _| !has_client(console));
        }
    }

    #[test]
    fn a_second_client_is_told_and_the_first_one_stays() {
        let folder = TempDir::new().unwrap();
        let (spec, path) = socket(&folder);
        let mut console = open(&spec).unwrap();
        let mut first = connect(&path);
        serve_until(&mut console, |console, _| has_client(console));
        let mut second = connect(&path);
        first.write_all(b"x").unwrap();
        serve_until(&mut console, |_, got| got == b"x");
        serve_until(&mut console, |_, _| is_over(&second));
        let mut said = String::new();
        second.read_to_string(&mut said).unwrap();
        assert!(said.contains("has a client already"), "{said}");
        console.writer().write_all(b"still here").unwrap();
        assert_eq!(read(&mut first, 10), b"still here");
    }

    /// Whether the other side has closed.
    fn is_over(client: &UnixStream) -> bool {
        let mut set = PollSet::default();
        let place = set.add(client, Interest::HangUp);
        set.wait(Some(Instant::now())).unwrap();
        set.is_hung_up(place)
    }

    #[test]
    fn a_client_that_only_listens_keeps_listening() {
        let folder = TempDir::new().unwrap();
        let (spec, path) = socket(&folder);
        let mut console = open(&spec).unwrap();
        let mut client = connect(&path);
        client.write_all(b"last").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(serve_until(&mut console, |_, got| got.len() == 4), b"last");
        serve_until(
            &mut console,
            |console, _| matches!(&console.source, Source::Socket(socket) if !socket.wants_more(&console.waiting)),
        );
        console.writer().write_all(b"output").unwrap();
        assert_eq!(read(&mut client, 6), b"output");
        drop(client);
        serve_until(&mut console, |console, _| !has_client(console));
    }

    #[test]
    fn what_a_client_sent_before_it_left_arrives() {
        let folder = TempDir::new().unwrap();
        let (spec, path) = socket(&folder);
        let mut console = open(&spec).unwrap();
        let mut client = connect(&path);
        client.write_all(&[b'x'; 10_000]).unwrap();
        drop(client);
        let got =
            serve_until(&mut console, |console, got| got.len() == 10_000 && !has_client(console));
        assert_eq!(got, [b'x'; 10_000]);
    }

    #[test]
    fn a_client_that_reads_nothing_holds_nobody_up_and_may_be_followed() {
        let folder = TempDir::new().unwrap();
        let (spec, path) = socket(&folder);
        let mut console = open(&spec).unwrap();
        let client = connect(&path);
        serve_until(&mut console, |console, _| has_client(console));
        let mut guest = console.writer();
        for _ in 0..64 {
            guest.write_all(&[b'x'; 64 << 10]).unwrap();
        }
        drop(client);
        serve_until(&mut console, |console, _| !has_client(console));
        // What was still to be written went with the client.
        assert!(
            console.output.as_ref().unwrap().finish().bytes > 1 << 20,
            "what exceeded the buffer"
        );
        let mut next = connect(&path);
        serve_until(&mut console, |console, _| has_client(console));
        guest.write_all(b"next").unwrap();
        assert_eq!(read(&mut next, 4), b"next");
    }

    #[test]
    fn a_stale_socket_is_replaced_a_live_one_and_other_files_are_not() {
        let folder = TempDir::new().unwrap();
        let (spec, path) = socket(&folder);
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "as a process leaves it that was killed");
        let console = open(&spec).unwrap();
        let refusal = |spec| {
            let ConsoleError::Socket { source, .. } = open(spec).unwrap_err() else {
                panic!("not refused for the socket");
            };
            source
        };
        assert!(matches!(refusal(&spec), SocketError::InUse));
        drop(console);
        assert!(!path.exists(), "it goes with the console");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(refusal(&spec), SocketError::NoSocket));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        let nowhere = SerialSpec::Socket(path.join("console.sock"));
        assert!(matches!(refusal(&nowhere), SocketError::Host(_)));
    }

    #[test]
    fn a_socket_that_another_has_put_in_place_is_left_alone() {
        let folder = TempDir::new().unwrap();
        let (spec, path) = socket(&folder);
        let console = open(&spec).unwrap();
        fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(console);
        assert!(path.exists());
    }

    #[test]
    fn a_file_is_appended_to() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("console.log");
        for _ in 0..2 {
            let console = open(&SerialSpec::File(path.clone())).unwrap();
            console.writer().write_all(b"line\n").unwrap();
            console.finish();
        }
        assert_eq!(fs::read(&path).unwrap(), b"line\nline\n");
        let bad = [folder.path().to_owned(), path.join("console.log")];
        for path in bad {
            let error = open(&SerialSpec::File(path)).unwrap_err();
            assert!(matches!(error, ConsoleError::File { .. }), "{error}");
        }
    }

    #[test]
    fn a_fifo_that_nobody_reads_is_an_error() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let error = open(&SerialSpec::File(path)).unwrap_err();
        let ConsoleError::File { source, .. } = error else { panic!("{error}") };
        assert_eq!(source.raw_os_error(), Some(libc::ENXIO));
    }
}

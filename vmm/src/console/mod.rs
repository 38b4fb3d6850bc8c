//! The serial console: where the guest's output goes, and where its input comes from.
//!
//! It outlives the machine, which is built anew at each reboot. Output goes through a thread
//! ([`output`]), so that no reader holds up a vCPU; input is read by the main loop and waits
//! here ([`input`]) until the UART takes it. Must not know the UART: bytes are offered to it by a
//! closure, and it writes to a [`Write`].

mod input;
mod output;
mod socket;
mod terminal;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use self::input::{Backlog, Stdin, Typed};
use self::output::Output;
use self::socket::{Client, Socket, SocketError};
use self::terminal::RawMode;
pub(crate) use self::terminal::is_raw;
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
    /// Opens what `spec` names. The terminal stays as it is.
    ///
    /// # Errors
    /// [`ConsoleError`]
    pub(crate) fn open(spec: &SerialSpec) -> Result<Self, ConsoleError> {
        match spec {
            SerialSpec::Stdio => {
                let no_descriptor = host("a descriptor");
                let stdout = io::stdout().as_fd().try_clone_to_owned().map_err(no_descriptor)?;
                let stdin = Stdin::new().map_err(host("a descriptor"))?;
                Console::new(Source::Stdin(stdin, None), Some(writing(File::from(stdout))?))
            }
            SerialSpec::Null => Console::new(Source::Nothing, None),
            SerialSpec::File(path) => {
                Console::new(Source::Nothing, Some(writing(open_file(path)?)?))
            }
            SerialSpec::Socket(path) => {
                let refused = |source| ConsoleError::Socket { path: path.clone(), source };
                let socket = Socket::listen(path).map_err(refused)?;
                let output = writing(socket.seat())?;
                Console::new(Source::Socket(socket), Some(output))
            }
        }
    }

    fn new(source: Source, output: Option<Output>) -> Result<Self, ConsoleError> {
        let room = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(host("an event"))?;
        Ok(Console { source, waiting: Backlog::default(), output, room })
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

    /// Gives the terminal back as it was.
    pub(crate) fn give_terminal_back(&mut self) {
        if let Source::Stdin(_, raw) = &mut self.source {
            *raw = None;
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
                watch.listener = Some(set.add(socket, Interest::Input));
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
        let lost = self.output.as_ref().map_or(0, Output::finish);
        if lost > 0 {
            log::warn!(
                "console: {lost} bytes of output were lost, as their reader was slow or gone"
            );
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

fn writing(sink: impl Write + Send + 'static) -> Result<Output, ConsoleError> {
    Output::new(sink).map_err(host("a thread"))
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

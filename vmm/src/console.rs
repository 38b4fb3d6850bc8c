//! The serial console on standard input and output.
//!
//! [`RawMode`] owns the terminal's settings, [`Input`] what was typed and not yet taken by the
//! UART, [`Output`] what the guest wrote and nobody has read yet. Must not know the UART: bytes
//! are offered to it by a closure, and it writes to a [`Writer`].

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use vmm_sys_util::signal::register_signal_handler;

const CTRL_A: u8 = 1;
/// Typed bytes that wait for the guest; a terminal's further ones are lost.
const INPUT_LIMIT: usize = 64 << 10;
/// Bytes of output that wait for their reader; further ones are lost.
const OUTPUT_LIMIT: usize = 1 << 20;
/// Bytes written at once, and so the measure of a reader's progress.
const CHUNK: usize = 4096;
const RETRY: Duration = Duration::from_millis(10);
/// How long the end waits for a reader that reads nothing.
const PATIENCE: Duration = Duration::from_secs(2);

static RAW: AtomicBool = AtomicBool::new(false);

/// The terminal's settings before, for a way out that runs no destructors.
static SAVED: OnceLock<libc::termios> = OnceLock::new();

/// What ends a program that has a bug, or that somebody wants to look like it.
const FATAL: [libc::c_int; 7] = [
    libc::SIGABRT,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGSEGV,
    libc::SIGSYS,
    libc::SIGTRAP,
];

/// Whether the terminal is in raw mode, where a new line needs a carriage return.
pub(crate) fn is_raw() -> bool {
    RAW.load(Ordering::Relaxed)
}

/// Standard input's terminal in raw mode, until this is dropped.
#[derive(Debug)]
pub(crate) struct RawMode(libc::termios);

impl RawMode {
    /// Puts the terminal into raw mode; `None` if standard input is no terminal.
    ///
    /// # Errors
    /// When the terminal refuses.
    #[expect(unsafe_code, reason = "termios")]
    pub(crate) fn enter() -> io::Result<Option<Self>> {
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
        // SAFETY: termios is plain integers, for which zero is a value.
        let mut settings: libc::termios = unsafe { mem::zeroed() };
        // SAFETY: `settings` is a termios to fill in.
        check(unsafe { libc::tcgetattr(libc::STDIN_FILENO, &raw mut settings) })?;
        let saved = RawMode(settings);
        SAVED.get_or_init(|| settings);
        for signal in FATAL {
            register_signal_handler(signal, restore_and_die)?;
        }
        // SAFETY: `settings` is a termios to change.
        unsafe { libc::cfmakeraw(&raw mut settings) };
        set_terminal(&settings)?;
        RAW.store(true, Ordering::Relaxed);
        Ok(Some(saved))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        RAW.store(false, Ordering::Relaxed);
        if let Err(error) = set_terminal(&self.0) {
            log::error!("the terminal's settings cannot be restored ({error}): run `stty sane`");
        }
    }
}

/// Restores the terminal and lets the signal do what it does by default.
#[expect(unsafe_code, reason = "a signal handler")]
extern "C" fn restore_and_die(
    signal: libc::c_int,
    _info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    if let Some(settings) = SAVED.get() {
        let _ = set_terminal(settings);
    }
    // SAFETY: both calls may be made from a signal handler.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

#[expect(unsafe_code, reason = "termios")]
fn set_terminal(settings: &libc::termios) -> io::Result<()> {
    // SAFETY: `settings` is a valid termios that is only read.
    check(unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, settings) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What came out of reading standard input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    /// Bytes for the guest, or nothing.
    Bytes,
    /// The keys that end the VMM.
    Quit,
    /// The end of the input.
    End,
}

/// What was typed and waits for room in the UART.
#[derive(Debug)]
pub(crate) struct Input {
    source: File,
    keys: Option<Keys>,
    pending: VecDeque<u8>,
    open: bool,
}

impl Input {
    /// Standard input; `keys` says whether Ctrl-A is ours.
    ///
    /// # Errors
    /// When the host has no file descriptor left.
    pub(crate) fn stdin(keys: bool) -> io::Result<Self> {
        let source = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        Ok(Input::new(source, keys))
    }

    fn new(source: File, keys: bool) -> Self {
        let keys = keys.then(Keys::default);
        Input { source, keys, pending: VecDeque::new(), open: true }
    }

    /// Whether more should be read. A terminal is always listened to, so that the keys work
    /// while the guest does not; what comes by a pipe or file waits there.
    pub(crate) fn wants_more(&self) -> bool {
        self.open && (self.keys.is_some() || self.pending.is_empty())
    }

    /// Reads what there is, waiting if there is nothing.
    pub(crate) fn read(&mut self) -> Typed {
        let mut bytes = [0; 256];
        match self.source.read(&mut bytes) {
            Ok(0) => self.end(),
            Ok(len) => self.take(bytes.get(..len).unwrap_or_default()),
            Err(error)
                if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) =>
            {
                Typed::Bytes
            }
            Err(error) => {
                log::warn!("standard input: {error}; the console gets no more input");
                self.end()
            }
        }
    }

    fn end(&mut self) -> Typed {
        self.open = false;
        Typed::End
    }

    fn take(&mut self, bytes: &[u8]) -> Typed {
        for &byte in bytes {
            let meant = self.keys.as_mut().map_or(Meaning::Byte(byte), |keys| keys.press(byte));
            match meant {
                Meaning::Byte(byte) if self.pending.len() < INPUT_LIMIT => {
                    self.pending.push_back(byte);
                }
                Meaning::Byte(_) | Meaning::Nothing => {}
                Meaning::Quit => return Typed::Quit,
            }
        }
        Typed::Bytes
    }

    /// Gives `accept` what waits; it says how many bytes it took.
    pub(crate) fn offer(&mut self, accept: impl FnOnce(&[u8]) -> usize) {
        if !self.pending.is_empty() {
            let taken = accept(self.pending.make_contiguous());
            self.pending.drain(..taken.min(self.pending.len()));
        }
    }
}

impl AsRawFd for Input {
    fn as_raw_fd(&self) -> RawFd {
        self.source.as_raw_fd()
    }
}

/// The keys behind Ctrl-A.
#[derive(Debug, Default)]
struct Keys {
    escaped: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    Byte(u8),
    Nothing,
    Quit,
}

impl Keys {
    fn press(&mut self, byte: u8) -> Meaning {
        match (mem::take(&mut self.escaped), byte) {
            (false, CTRL_A) => {
                self.escaped = true;
                Meaning::Nothing
            }
            (true, b'x' | b'X') => Meaning::Quit,
            (true, CTRL_A) | (false, _) => Meaning::Byte(byte),
            (true, _) => Meaning::Nothing,
        }
    }
}

/// The guest's output on its way to a reader, who may be slow or gone: a thread writes it, so
/// that no vCPU waits.
#[derive(Debug)]
pub(crate) struct Output(Arc<Queue>);

/// The guest's end of an [`Output`]. Writing to it never blocks and never fails.
#[derive(Clone, Debug)]
pub(crate) struct Writer(Arc<Queue>);

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    /// Bytes that the thread took and has not written yet.
    writing: usize,
    written: u64,
    lost: u64,
    gone: bool,
}

impl Output {
    /// Standard output.
    ///
    /// # Errors
    /// When the host has no file descriptor or thread left.
    pub(crate) fn stdout() -> io::Result<Self> {
        Output::new(File::from(io::stdout().as_fd().try_clone_to_owned()?))
    }

    fn new(sink: impl Write + Send + 'static) -> io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let shared = Arc::clone(&queue);
        // Never joined: a reader who does not read would keep it for ever.
        thread::Builder::new().name("console".to_owned()).spawn(move || shared.drain(sink))?;
        Ok(Output(queue))
    }

    /// A guest's end.
    pub(crate) fn writer(&self) -> Writer {
        Writer(Arc::clone(&self.0))
    }

    /// Waits until all is written, or the reader has taken nothing for a while; returns how many
    /// bytes were lost in all.
    pub(crate) fn finish(&self) -> u64 {
        self.0.finish(PATIENCE)
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, bytes: &[u8]) {
        let mut state = self.lock();
        if state.gone || state.waiting.len() + bytes.len() > OUTPUT_LIMIT {
            state.lost += bytes.len() as u64;
            return;
        }
        let idle = state.waiting.is_empty();
        state.waiting.extend_from_slice(bytes);
        if idle {
            self.changed.notify_all();
        }
    }

    fn drain(&self, mut sink: impl Write) {
        loop {
            for chunk in self.next().chunks(CHUNK) {
                if write_all(&mut sink, chunk).is_err() {
                    return self.close();
                }
                let mut state = self.lock();
                state.writing -= chunk.len();
                state.written += chunk.len() as u64;
                self.changed.notify_all();
            }
        }
    }

    fn close(&self) {
        let mut state = self.lock();
        state.gone = true;
        state.lost += (mem::take(&mut state.writing) + state.waiting.len()) as u64;
        state.waiting = Vec::new();
        self.changed.notify_all();
    }

    /// Waits for output and takes it.
    fn next(&self) -> Vec<u8> {
        let state = self.lock();
        let mut state = self
            .changed
            .wait_while(state, |state| state.waiting.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        let bytes = mem::take(&mut state.waiting);
        state.writing = bytes.len();
        bytes
    }

    fn finish(&self, patience: Duration) -> u64 {
        let mut state = self.lock();
        loop {
            let before = state.written;
            let busy = |state: &mut State| {
                !state.gone && state.waiting.len() + state.writing > 0 && state.written == before
            };
            let (next, timeout) = self
                .changed
                .wait_timeout_while(state, patience, busy)
                .unwrap_or_else(PoisonError::into_inner);
            state = next;
            let left = (state.waiting.len() + state.writing) as u64;
            if state.gone || left == 0 || timeout.timed_out() {
                return state.lost + left;
            }
        }
    }
}

/// Writes all of `bytes`, even where another program made standard output non-blocking.
fn write_all(sink: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match sink.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::os::fd::OwnedFd;
    use std::sync::mpsc;

    /// An output whose bytes come out of a channel.
    pub(crate) fn collector() -> (Output, mpsc::Receiver<u8>) {
        struct Sender(mpsc::Sender<u8>);

        impl Write for Sender {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let sent = bytes.iter().try_for_each(|byte| self.0.send(*byte));
                sent.map(|()| bytes.len()).map_err(io::Error::other)
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        let (sender, receiver) = mpsc::channel();
        (Output::new(Sender(sender)).unwrap(), receiver)
    }

    fn pipe() -> (File, File) {
        let (reader, writer) = io::pipe().unwrap();
        (File::from(OwnedFd::from(reader)), File::from(OwnedFd::from(writer)))
    }

    fn input(keys: bool, bytes: &[u8]) -> (Input, Typed) {
        let (reader, mut writer) = pipe();
        let mut input = Input::new(reader, keys);
        writer.write_all(bytes).unwrap();
        let typed = input.read();
        (input, typed)
    }

    fn pending(mut input: Input) -> Vec<u8> {
        let mut taken = Vec::new();
        input.offer(|bytes| {
            taken.extend_from_slice(bytes);
            bytes.len()
        });
        taken
    }

    #[test]
    fn ctrl_a_x_quits_and_ctrl_a_twice_is_one() {
        assert_eq!(input(true, b"ls\x01x").1, Typed::Quit);
        assert_eq!(input(true, b"\x01X").1, Typed::Quit);
        let (input, typed) = input(true, b"a\x01\x01x\x01bc");
        assert_eq!(typed, Typed::Bytes);
        assert_eq!(pending(input), b"a\x01xc");
    }

    #[test]
    fn the_keys_mean_nothing_where_there_is_no_terminal() {
        let (input, typed) = input(false, b"\x01x");
        assert_eq!(typed, Typed::Bytes);
        assert_eq!(pending(input), b"\x01x");
    }

    #[test]
    fn bytes_wait_until_they_are_taken() {
        let (mut input, _) = input(false, b"abcdef");
        assert!(!input.wants_more());
        input.offer(|bytes| {
            assert_eq!(bytes, b"abcdef");
            4
        });
        input.offer(|bytes| {
            assert_eq!(bytes, b"ef");
            2
        });
        assert!(input.wants_more());
        assert_eq!(input.read(), Typed::End);
        assert!(!input.wants_more());
    }

    #[test]
    fn a_terminal_is_listened_to_while_the_guest_takes_nothing() {
        let (mut input, _) = input(true, b"abc");
        input.offer(|_| 0);
        assert!(input.wants_more());
    }

    #[test]
    fn output_arrives_whole_and_in_order() {
        let (mut reader, sink) = pipe();
        let output = Output::new(sink).unwrap();
        let expected: Vec<u8> = (0..100_000u32).map(|index| (index % 251) as u8).collect();
        let mut writer = output.writer();
        let count = expected.len();
        let collected = thread::spawn(move || {
            let mut bytes = vec![0; count];
            reader.read_exact(&mut bytes).unwrap();
            bytes
        });
        expected.chunks(7).for_each(|chunk| writer.write_all(chunk).unwrap());
        assert_eq!(output.finish(), 0);
        assert_eq!(collected.join().unwrap(), expected);
    }

    #[test]
    fn a_reader_who_does_not_read_blocks_nobody() {
        let (_reader, sink) = pipe();
        let output = Output::new(sink).unwrap();
        let mut writer = output.writer();
        for _ in 0..64 {
            writer.write_all(&[b'x'; 64 << 10]).unwrap();
        }
        let lost = output.0.finish(Duration::from_millis(100));
        // What fits in the pipe is with the reader; all else is lost.
        assert!(lost >= (64 * (64 << 10)) - (128 << 10), "{lost}");
    }

    #[test]
    fn a_reader_who_is_gone_blocks_nobody() {
        let (reader, sink) = pipe();
        let output = Output::new(sink).unwrap();
        drop(reader);
        let mut writer = output.writer();
        writer.write_all(b"hello").unwrap();
        assert_eq!(output.finish(), 5);
        writer.write_all(b"again").unwrap();
        assert_eq!(output.finish(), 10);
    }
}

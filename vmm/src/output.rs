//! What was written and nobody has read yet: the guest's output, and the log.

use std::io::{self, ErrorKind, Write};
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Bytes of output that wait for their reader; further ones are lost.
const OUTPUT_LIMIT: usize = 1 << 20;
/// Bytes written at once, and so the measure of a reader's progress.
const CHUNK: usize = 4096;
const RETRY: Duration = Duration::from_millis(10);
/// How long the end waits for a reader that reads nothing.
const PATIENCE: Duration = Duration::from_secs(2);

/// Bytes on their way to a reader, who may be slow or gone: a thread writes them, so that neither a
/// vCPU nor the main loop waits.
#[derive(Debug, Default)]
pub(crate) struct Output(Arc<Queue>);

/// A writer's end of an [`Output`]. Writing to it never blocks and never fails.
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
    /// Bytes that the thread wrote or could not write.
    tried: u64,
    lost: u64,
    gone: bool,
    /// What went wrong last.
    error: Option<io::Error>,
}

/// What did not arrive.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    /// How much.
    pub(crate) bytes: u64,
    /// Why.
    pub(crate) why: String,
}

impl Output {
    /// An output to `sink`, which may block, by a thread of that name.
    ///
    /// # Errors
    /// When the host cannot start a thread.
    pub(crate) fn new(name: &str, sink: impl Write + Send + 'static) -> io::Result<Self> {
        let output = Output::default();
        output.start(name, sink)?;
        Ok(output)
    }

    /// Begins to write to `sink`, which may block, by a thread of that name. What `sink` has no
    /// room for is lost; any other error of it ends the output.
    ///
    /// # Errors
    /// When the host cannot start a thread.
    pub(crate) fn start(&self, name: &str, sink: impl Write + Send + 'static) -> io::Result<()> {
        let shared = Arc::clone(&self.0);
        // Never joined: a reader who does not read would keep it for ever.
        thread::Builder::new().name(name.to_owned()).spawn(move || shared.drain(sink)).map(drop)
    }

    /// A writer's end.
    pub(crate) fn writer(&self) -> Writer {
        Writer(Arc::clone(&self.0))
    }

    /// Waits until all is written, or the reader has taken nothing for a while; returns what was
    /// lost in all.
    pub(crate) fn finish(&self) -> Lost {
        let bytes = self.0.finish(PATIENCE);
        let state = self.0.lock();
        let slow = || "their reader was slow".to_owned();
        Lost { bytes, why: state.error.as_ref().map_or_else(slow, io::Error::to_string) }
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
                let result = write_all(&mut sink, chunk);
                if self.is_gone_after(chunk.len(), result) {
                    return;
                }
            }
        }
    }

    /// Accounts for `len` bytes that were to be written; returns whether the reader is gone.
    fn is_gone_after(&self, len: usize, result: io::Result<()>) -> bool {
        let mut state = self.lock();
        state.writing -= len;
        state.tried += len as u64;
        self.changed.notify_all();
        let Err(error) = result else { return false };
        state.lost += len as u64;
        state.gone = !may_pass(&error);
        if state.gone {
            state.lost += (mem::take(&mut state.writing) + state.waiting.len()) as u64;
            state.waiting = Vec::new();
        }
        let (gone, text) = (state.gone, error.to_string());
        let first = state.error.replace(error).is_none();
        // The log may be this very queue.
        drop(state);
        if first && !gone {
            let thread = thread::current();
            let name = thread.name().unwrap_or_default();
            log::warn!("{name}: {text}: what cannot be written is lost");
        }
        gone
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
            let before = state.tried;
            let busy = |state: &mut State| {
                !state.gone && state.waiting.len() + state.writing > 0 && state.tried == before
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

/// Whether later output may be written after such an error: on a file system that is full, or a
/// medium with a bad place.
fn may_pass(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG | libc::EIO))
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
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Seek};

    #[test]
    fn output_arrives_whole_and_in_order() {
        let (mut reader, sink) = io::pipe().unwrap();
        let output = Output::new("test", sink).unwrap();
        let expected: Vec<u8> = (0..100_000u32).map(|index| (index % 251) as u8).collect();
        let mut writer = output.writer();
        let count = expected.len();
        let collected = thread::spawn(move || {
            let mut bytes = vec![0; count];
            reader.read_exact(&mut bytes).unwrap();
            bytes
        });
        expected.chunks(7).for_each(|chunk| writer.write_all(chunk).unwrap());
        assert_eq!(output.finish().bytes, 0);
        assert_eq!(collected.join().unwrap(), expected);
    }

    #[test]
    fn a_reader_who_does_not_read_blocks_nobody() {
        let (_reader, sink) = io::pipe().unwrap();
        let output = Output::new("test", sink).unwrap();
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
        let (reader, sink) = io::pipe().unwrap();
        let output = Output::new("test", sink).unwrap();
        drop(reader);
        let mut writer = output.writer();
        writer.write_all(b"hello").unwrap();
        assert_eq!(output.finish().bytes, 5);
        writer.write_all(b"again").unwrap();
        let lost = output.finish();
        assert_eq!(lost, Lost { bytes: 10, why: "Broken pipe (os error 32)".to_owned() });
    }

    /// A disk that is full from time to time.
    struct Disk(File, bool);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                Err(io::Error::from_raw_os_error(libc::ENOSPC))
            } else {
                self.0.write(bytes)
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_a_full_disk_does_not_take_is_lost_and_the_next_is_not() {
        let mut file = tempfile::tempfile().unwrap();
        let output = Output::new("test", Disk(file.try_clone().unwrap(), false)).unwrap();
        for text in ["lost", "kept", "lost too", "kept too"] {
            output.writer().write_all(text.as_bytes()).unwrap();
            output.finish();
        }
        let why = "No space left on device (os error 28)".to_owned();
        assert_eq!(output.finish(), Lost { bytes: 12, why });
        file.rewind().unwrap();
        assert_eq!(io::read_to_string(file).unwrap(), "keptkept too");
    }
}

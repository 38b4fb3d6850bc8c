//! What was typed and waits for the guest, and the keys that are ours.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, RawFd};

const CTRL_A: u8 = 1;
/// Bytes that wait for the guest at most.
const LIMIT: usize = 64 << 10;

/// Bytes that wait for room in the UART.
#[derive(Debug, Default)]
pub(super) struct Backlog(VecDeque<u8>);

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= LIMIT
    }

    /// Appends a byte; it is lost if there are too many.
    pub(super) fn push(&mut self, byte: u8) {
        if !self.is_full() {
            self.0.push_back(byte);
        }
    }

    /// Gives `accept` what waits; it says how many bytes it took.
    pub(super) fn offer(&mut self, accept: impl FnOnce(&[u8]) -> usize) {
        if !self.0.is_empty() {
            let taken = accept(self.0.make_contiguous());
            self.0.drain(..taken.min(self.0.len()));
        }
    }
}

/// What came out of reading standard input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// Bytes for the guest, or nothing.
    Bytes,
    /// The keys that end the VMM.
    Quit,
    /// The end of the input.
    End,
}

/// Standard input.
#[derive(Debug)]
pub(super) struct Stdin {
    source: File,
    keys: Option<Keys>,
    open: bool,
}

impl Stdin {
    /// # Errors
    /// When the host has no file descriptor left.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Stdin::from(File::from(io::stdin().as_fd().try_clone_to_owned()?)))
    }

    fn from(source: File) -> Self {
        Stdin { source, keys: None, open: true }
    }

    /// From now on Ctrl-A is ours.
    pub(super) fn take_keys(&mut self) {
        self.keys.get_or_insert_default();
    }

    /// Whether more should be read. A terminal is always listened to, so that the keys work
    /// while the guest does not; what comes by a pipe or file waits there.
    pub(super) fn wants_more(&self, waiting: &Backlog) -> bool {
        self.open && (self.keys.is_some() || waiting.is_empty())
    }

    /// Reads what there is, waiting if there is nothing.
    pub(super) fn read(&mut self, waiting: &mut Backlog) -> Typed {
        let mut bytes = [0; 256];
        match self.source.read(&mut bytes) {
            Ok(0) => self.end(),
            Ok(len) => self.take(bytes.get(..len).unwrap_or_default(), waiting),
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

    fn take(&mut self, bytes: &[u8], waiting: &mut Backlog) -> Typed {
        for &byte in bytes {
            match self.keys.as_mut().map_or(Meaning::Byte(byte), |keys| keys.press(byte)) {
                Meaning::Byte(byte) => waiting.push(byte),
                Meaning::Nothing => {}
                Meaning::Quit => return Typed::Quit,
            }
        }
        Typed::Bytes
    }
}

impl AsRawFd for Stdin {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::OwnedFd;

    /// Standard input after `bytes` and its end were written to it, once read.
    fn stdin(keys: bool, bytes: &[u8]) -> (Stdin, Backlog, Typed) {
        let (reader, mut writer) = io::pipe().unwrap();
        let mut stdin = Stdin::from(File::from(OwnedFd::from(reader)));
        if keys {
            stdin.take_keys();
        }
        writer.write_all(bytes).unwrap();
        let mut waiting = Backlog::default();
        let typed = stdin.read(&mut waiting);
        (stdin, waiting, typed)
    }

    fn all(mut waiting: Backlog) -> Vec<u8> {
        let mut taken = Vec::new();
        waiting.offer(|bytes| {
            taken.extend_from_slice(bytes);
            bytes.len()
        });
        taken
    }

    #[test]
    fn ctrl_a_x_quits_and_ctrl_a_twice_is_one() {
        assert_eq!(stdin(true, b"ls\x01x").2, Typed::Quit);
        assert_eq!(stdin(true, b"\x01X").2, Typed::Quit);
        let (_, waiting, typed) = stdin(true, b"a\x01\x01x\x01bc");
        assert_eq!(typed, Typed::Bytes);
        assert_eq!(all(waiting), b"a\x01xc");
    }

    #[test]
    fn the_keys_mean_nothing_where_there_is_no_terminal() {
        let (_, waiting, typed) = stdin(false, b"\x01x");
        assert_eq!(typed, Typed::Bytes);
        assert_eq!(all(waiting), b"\x01x");
    }

    #[test]
    fn bytes_wait_until_they_are_taken() {
        let (mut stdin, mut waiting, _) = stdin(false, b"abcdef");
        assert!(!stdin.wants_more(&waiting));
        waiting.offer(|bytes| {
            assert_eq!(bytes, b"abcdef");
            4
        });
        waiting.offer(|bytes| {
            assert_eq!(bytes, b"ef");
            2
        });
        assert!(stdin.wants_more(&waiting));
        assert_eq!(stdin.read(&mut waiting), Typed::End);
        assert!(!stdin.wants_more(&waiting));
    }

    #[test]
    fn a_terminal_is_listened_to_while_the_guest_takes_nothing() {
        let (stdin, waiting, _) = stdin(true, b"abc");
        assert!(stdin.wants_more(&waiting));
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut waiting = Backlog::default();
        (0..2 * LIMIT).for_each(|_| waiting.push(b'x'));
        assert_eq!(all(waiting).len(), LIMIT);
    }
}

//! A terminal, and what a person at it types and sees.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{OpenptyResult, openpty};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};

/// A pseudo-terminal: the test holds the keyboard and the screen.
#[derive(Debug)]
pub struct Terminal {
    person: File,
    program: OwnedFd,
    seen: Vec<u8>,
}

impl Terminal {
    /// A new terminal in its usual, cooked mode.
    ///
    /// # Errors
    /// When the host has no terminal left.
    pub fn new() -> io::Result<Terminal> {
        let OpenptyResult { master, slave } = openpty(None, None)?;
        Ok(Terminal { person: master.into(), program: slave, seen: Vec::new() })
    }

    /// Gives `command` the terminal as stdin and stdout.
    ///
    /// # Errors
    /// When the host has no descriptor left.
    pub fn attach(&self, command: &mut Command) -> io::Result<()> {
        command.stdin(Stdio::from(self.program.try_clone()?));
        command.stdout(Stdio::from(self.program.try_clone()?));
        Ok(())
    }

    /// The terminal's mode.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn mode(&self) -> io::Result<Termios> {
        Ok(tcgetattr(self.program.as_fd())?)
    }

    /// Waits until a program has set the terminal to raw mode.
    ///
    /// # Errors
    /// When none has after `limit`.
    pub fn wait_for_raw_mode(&self, limit: Duration) -> io::Result<()> {
        let start = Instant::now();
        while self.mode()?.local_flags.contains(LocalFlags::ICANON) {
            if start.elapsed() > limit {
                return Err(io::ErrorKind::TimedOut.into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Types `keys`.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn type_keys(&mut self, keys: &[u8]) -> io::Result<()> {
        self.person.write_all(keys)
    }

    /// Reads the screen until `wanted` is there, and forgets all up to its end.
    ///
    /// # Errors
    /// When it is not there after `limit`; the error tells what is.
    pub fn wait_for(&mut self, wanted: &[u8], limit: Duration) -> io::Result<()> {
        let start = Instant::now();
        loop {
            let found = self.seen.windows(wanted.len()).position(|window| window == wanted);
            if let Some(at) = found {
                self.seen.drain(..at + wanted.len());
                return Ok(());
            }
            let Some(left) = limit.checked_sub(start.elapsed()) else {
                let seen = String::from_utf8_lossy(&self.seen).into_owned();
                return Err(io::Error::new(io::ErrorKind::TimedOut, seen));
            };
            self.read_some(left)?;
        }
    }

    /// Waits for a guest's shell, lets it reckon, interrupts a command with Ctrl-C, and sees that
    /// the shell goes on.
    ///
    /// # Errors
    /// When an answer does not come.
    pub fn try_a_shell(&mut self) -> io::Result<()> {
        const BOOT: Duration = Duration::from_secs(200);
        const ANSWER: Duration = Duration::from_secs(30);
        self.wait_for(b"# ", BOOT)?;
        self.type_keys(b"echo $((6 * 7))\r")?;
        self.wait_for(b"\n42\r", ANSWER)?;
        self.type_keys(b"sleep 1000\r")?;
        self.wait_for(b"sleep 1000\r", ANSWER)?;
        // Time to start; a Ctrl-C that comes sooner ends the line, and the test sees no less.
        std::thread::sleep(Duration::from_secs(2));
        self.type_keys(b"\x03")?;
        self.type_keys(b"echo inter''rupted\r")?;
        self.wait_for(b"\ninterrupted\r", ANSWER)
    }

    fn read_some(&mut self, limit: Duration) -> io::Result<()> {
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let mut ready = [PollFd::new(self.person.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ready, limit)? > 0 {
            let mut bytes = [0; 4096];
            let count = self.person.read(&mut bytes)?;
            self.seen.extend(&bytes[..count]);
        }
        Ok(())
    }
}

//! A `vmm` that runs: what it prints, what it uses, how it ends.
//!
//! This file must not know what a guest is made of.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// How long a guest may run. A boot takes seconds; under an emulated L1, some ten.
const DEADLINE: Duration = Duration::from_secs(300);

/// A program and all that it starts, ended with the test: one that fails leaves nothing running.
#[derive(Debug)]
pub struct Program(Child);

impl Program {
    /// Starts `command` as the head of a process group.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> io::Result<Program> {
        Ok(Program(command.process_group(0).spawn()?))
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill(Pid::from_raw(self.0.id().cast_signed()), signal)?)
    }

    /// Waits for its end, and brings it about when the deadline has passed.
    ///
    /// # Errors
    /// When it had to be ended.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        let start = Instant::now();
        while start.elapsed() < DEADLINE {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(20));
        }
        self.0.kill()?;
        self.0.wait()?;
        Err(io::Error::new(io::ErrorKind::TimedOut, "the guest did not power off"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let group = Pid::from_raw(self.0.id().cast_signed());
            let _ = killpg(group, Signal::SIGTERM);
            let grace = Instant::now() + Duration::from_secs(5);
            while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < grace {
                thread::sleep(Duration::from_millis(20));
            }
            let _ = killpg(group, Signal::SIGKILL);
            let _ = self.0.wait();
        }
    }
}

/// A guest that has been started, with its console at hand.
#[derive(Debug)]
pub struct Running {
    program: Program,
    arriving: Receiver<Vec<u8>>,
    console: String,
    waited_to: usize,
    stderr: JoinHandle<String>,
    started: Instant,
}

impl Running {
    /// Starts `command`, without input.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> io::Result<Running> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut program = Program::start(command)?;
        let (sender, arriving) = channel();
        let (stdout, stderr) = (program.0.stdout.take(), program.0.stderr.take());
        thread::spawn(move || read(stdout, |bytes| sender.send(bytes.into()).is_ok()));
        let stderr = thread::spawn(move || {
            let mut all = Vec::new();
            read(stderr, |bytes| {
                eprint!("{}", String::from_utf8_lossy(bytes));
                all.extend(bytes);
                true
            });
            String::from_utf8_lossy(&all).into_owned()
        });
        Ok(Running {
            program,
            arriving,
            console: String::new(),
            waited_to: 0,
            stderr,
            started: Instant::now(),
        })
    }

    /// The program, to be looked at or signalled.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Waits until the guest has printed a line that begins with `words`, after the one waited for
    /// before, and returns the rest of it.
    ///
    /// # Errors
    /// When the guest ends without, or has not printed it at the deadline.
    pub fn wait_for(&mut self, words: &str) -> io::Result<String> {
        let start = Instant::now();
        loop {
            while let Some((line, rest)) = self.console[self.waited_to..].split_once('\n') {
                let found = line.strip_prefix(words).map(str::to_owned);
                self.waited_to = self.console.len() - rest.len();
                if let Some(found) = found {
                    return Ok(found);
                }
            }
            let left = DEADLINE.saturating_sub(start.elapsed());
            self.receive(left).map_err(|error| {
                let end = if error == RecvTimeoutError::Timeout { "yet" } else { "at its end" };
                io::Error::other(format!("no line {words:?} {end}:\n{}", self.console))
            })?;
        }
    }

    fn receive(&mut self, limit: Duration) -> Result<(), RecvTimeoutError> {
        let bytes = self.arriving.recv_timeout(limit)?;
        self.console += &String::from_utf8_lossy(&bytes).replace('\r', "");
        Ok(())
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// When it had to be ended.
    pub fn finish(mut self) -> io::Result<Outcome> {
        let status = self.program.wait();
        while self.receive(Duration::from_secs(5)).is_ok() {}
        let stderr = self.stderr.join().unwrap_or_default();
        println!("{}\nthis guest took {:.1} s", self.console, self.started.elapsed().as_secs_f64());
        Ok(Outcome { status: status?, console: self.console, stderr })
    }
}

/// Hands on what arrives at `pipe` until its end, or until nobody wants it.
fn read(pipe: Option<impl Read>, mut wanted: impl FnMut(&[u8]) -> bool) {
    let mut bytes = [0; 4096];
    let Some(mut pipe) = pipe else { return };
    while let Ok(count @ 1..) = pipe.read(&mut bytes) {
        if !wanted(&bytes[..count]) {
            return;
        }
    }
}

/// What a guest and its VMM left behind.
#[derive(Debug)]
pub struct Outcome {
    /// How `vmm` ended.
    pub status: ExitStatus,
    /// What the guest wrote to its console.
    pub console: String,
    /// What `vmm` wrote to stderr.
    pub stderr: String,
}

impl Outcome {
    /// What the guest printed between the lines `<name>` and `</name>`.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<&str> {
        let (_, rest) = self.console.split_once(&format!("\n<{name}>\n"))?;
        let (section, _) = rest.split_once(&format!("</{name}>\n"))?;
        Some(section)
    }

    /// # Panics
    /// When the guest did not power off by itself.
    pub fn assert_powered_off(&self) {
        assert_eq!(self.status.code(), Some(0), "power-off is exit 0: {}", self.stderr);
    }

    /// # Panics
    /// When the section is not there, or lacks any of the texts.
    pub fn assert_has(&self, section: &str, wanted: &[&str]) {
        let text = self.section(section).unwrap_or_else(|| panic!("no section {section}"));
        for wanted in wanted {
            assert!(text.contains(wanted), "{section} lacks {wanted:?}:\n{text}");
        }
    }

    /// # Panics
    /// When a section's command did not end with status 0.
    pub fn assert_good(&self, sections: &[&str]) {
        for section in sections {
            self.assert_has(section, &["status 0\n"]);
        }
    }
}

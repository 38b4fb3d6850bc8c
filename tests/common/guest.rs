//! A guest for one test: a folder with its configuration and images, and the `vmm` that runs it.

use std::fs;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::cpio;
use crate::image::Image;

/// How long a guest may run. A boot takes seconds; under an emulated L1, some ten.
const DEADLINE: Duration = Duration::from_secs(240);

/// The built `vmm`.
#[must_use]
pub fn vmm() -> PathBuf {
    env_path("VMM_BINARY", "target/release/vmm")
}

/// A file that `scripts/guest` made.
#[must_use]
pub fn guest_file(kernel: &str, name: &str) -> PathBuf {
    env_path("VMM_GUEST", "target/guest").join(kernel).join(name)
}

/// A path from the environment, or one in the repository.
fn env_path(variable: &str, default: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"));
    root.join(std::env::var_os(variable).unwrap_or_else(|| default.into()))
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

/// A guest to be.
#[derive(Debug)]
pub struct Guest {
    folder: TempDir,
    machine: String,
    luns: String,
}

impl Guest {
    /// A guest with `vcpus` and no logical unit yet.
    ///
    /// # Errors
    /// When the host has no room for its folder.
    pub fn new(vcpus: u8) -> io::Result<Guest> {
        let machine = format!("name = \"guest\"\nvcpus = {vcpus}\nmemory = \"384MiB\"\n");
        Ok(Guest { folder: TempDir::new()?, machine, luns: String::new() })
    }

    /// A new image, and a logical unit with these lines of configuration on it.
    ///
    /// # Errors
    /// When the image cannot be made.
    pub fn lun(&mut self, image: &str, size: u64, lines: &str) -> io::Result<Image> {
        self.luns += &format!("[[controller.lun]]\nimage = \"{image}\"\n{lines}\n");
        Image::create(&self.folder.path().join(image), size)
    }

    /// The command that runs the guest on `kernel`. It executes `script`, then powers off;
    /// without a script it gives a shell.
    ///
    /// # Errors
    /// When the guest's files cannot be written.
    pub fn command(&self, kernel: &str, script: Option<&str>) -> io::Result<Command> {
        let initramfs = self.folder.path().join("initramfs.cpio");
        let mut archive = fs::read(guest_file(kernel, "initramfs.cpio"))?;
        if let Some(script) = script {
            archive.extend(cpio::archive("cmd", script.as_bytes()));
        }
        fs::write(&initramfs, archive)?;
        let config = self.folder.path().join("guest.toml");
        let boot = format!(
            "[boot]\nkernel = {:?}\ninitramfs = \"initramfs.cpio\"\ncmdline = \"console=ttyS0 quiet\"\n",
            guest_file(kernel, "vmlinuz")
        );
        let (machine, luns) = (&self.machine, &self.luns);
        fs::write(&config, format!("[machine]\n{machine}\n{boot}\n[[controller]]\n{luns}"))?;
        let mut command = Command::new(vmm());
        command.arg("--config").arg(config);
        Ok(command)
    }

    /// Boots `kernel`, runs `script` in the guest, and waits for the power-off.
    ///
    /// # Errors
    /// When `vmm` cannot be started, or the guest is still running at the deadline.
    pub fn run(&self, kernel: &str, script: &str) -> io::Result<Outcome> {
        self.run_with(kernel, script, |_| {})
    }

    /// As [`Guest::run`], with a change to the command.
    ///
    /// # Errors
    /// As [`Guest::run`].
    pub fn run_with(
        &self,
        kernel: &str,
        script: &str,
        change: impl FnOnce(&mut Command),
    ) -> io::Result<Outcome> {
        let mut command = self.command(kernel, Some(script))?;
        change(&mut command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let (stdout, stderr) = (reader(child.stdout.take()), reader(child.stderr.take()));
        let status = wait(&mut child);
        let text = |reader: thread::JoinHandle<Vec<u8>>| {
            let bytes = reader.join().unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\r', "")
        };
        let (console, stderr) = (text(stdout), text(stderr));
        println!("{console}\n{stderr}");
        Ok(Outcome { status: status?, console, stderr })
    }
}

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

    /// Waits for its end, as [`wait`] does.
    ///
    /// # Errors
    /// When it had to be ended.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        wait(&mut self.0)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let (Ok(None), Ok(group)) = (self.0.try_wait(), i32::try_from(self.0.id())) {
            let _ = killpg(Pid::from_raw(group), Signal::SIGTERM);
            let _ = self.0.wait();
        }
    }
}

/// Waits for `child`, and ends it when the deadline has passed.
///
/// # Errors
/// When it had to be ended.
pub fn wait(child: &mut Child) -> io::Result<ExitStatus> {
    let start = Instant::now();
    while start.elapsed() < DEADLINE {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        thread::sleep(Duration::from_millis(20));
    }
    child.kill()?;
    child.wait()?;
    Err(io::Error::new(io::ErrorKind::TimedOut, "the guest did not power off"))
}

fn reader(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

impl Outcome {
    /// What the guest printed between the lines `<name>` and `</name>`.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<&str> {
        let (_, rest) = self.console.split_once(&format!("\n<{name}>\n"))?;
        let (section, _) = rest.split_once(&format!("</{name}>\n"))?;
        Some(section)
    }
}

/// Shell functions for scripts. `section NAME COMMAND…` prints the command's output as
/// [`Outcome::section`] finds it, with its exit status as the last line; `disk H:C:T:L` and
/// `generic H:C:T:L` print a logical unit's names, which Linux gives in no certain order.
pub const SECTION: &str = r#"
section() { name=$1; shift; echo; echo "<$name>"; "$@" 2>&1; echo "status $?"; echo "</$name>"; }
name() { for name in /sys/class/scsi_device/$1/device/$2/*; do echo "/dev/${name##*/}"; done; }
disk() { name "$1" block; }
generic() { name "$1" scsi_generic; }
"#;

//! From exec to the first line that a stock guest's init prints, and what that costs the host:
//! `vmm` beside QEMU, on the same files. `scripts/bench boot` runs it where KVM is.
//!
//! Prints a table, and writes boot.txt and boot.csv to the folder VMM_RESULTS.

use std::fmt::Write;
use std::io::{Error, Result};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};
use std::{env, fs};

use nix::sys::signal::Signal;
use tempfile::TempDir;
use tests::cpio;
use tests::footprint::Footprint;
use tests::guest::{guest_file, vmm};
use tests::image::Image;
use tests::running::Running;

const KERNEL: &str = "6.1";
const MEMORY: u64 = 512; // MiB
const FIRST_LINE: &str = "the first line of init";
const QEMU: &str = "qemu-system-x86_64";

/// A way to start the guest.
struct Contestant {
    machine: &'static str,
    /// As `scripts/guest` calls it.
    kernel: &'static str,
    rounds: Vec<Round>,
    failure: Option<String>,
}

/// What one start took.
struct Round {
    time: Duration,
    footprint: Footprint,
}

/// The files that all guests start from.
struct Files {
    folder: TempDir,
}

impl Files {
    fn make() -> Result<Files> {
        let files = Files { folder: TempDir::new()? };
        let busybox = fs::read(program("busybox")?)?;
        let init = format!("#!/busybox sh\necho {FIRST_LINE}\nexec /busybox sleep 1000\n");
        let initramfs =
            [cpio::archive("busybox", &busybox), cpio::archive("init", init.as_bytes())];
        fs::write(files.path("initramfs.cpio"), initramfs.concat())?;
        Image::create(&files.path("disk.img"), 64 << 20)?;
        Ok(files)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn vmm(&self, kernel: &Path) -> Result<Command> {
        let config = self.path("guest.toml");
        fs::write(
            &config,
            format!(
                "[machine]\nmemory = \"{MEMORY}MiB\"\n[boot]\nkernel = {kernel:?}\n\
                 initramfs = \"initramfs.cpio\"\ncmdline = \"console=ttyS0 quiet\"\n\
                 [[controller]]\n[[controller.lun]]\nimage = \"disk.img\"\n"
            ),
        )?;
        let mut command = Command::new(vmm());
        command.arg("--config").arg(config);
        Ok(command)
    }

    fn qemu(&self, machine: &str, kernel: &Path) -> Command {
        let hba = if machine == "microvm" { "virtio-scsi-device" } else { "virtio-scsi-pci" };
        let mut command = Command::new(QEMU);
        command
            .args(["-M", machine, "-accel", "kvm", "-cpu", "host", "-m", &format!("{MEMORY}M")])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"])
            .args(["-global", "virtio-mmio.force-legacy=false"])
            .args(["-device", hba, "-device", "scsi-hd,drive=disk", "-blockdev"])
            .arg(format!(
                "raw,node-name=disk,file.driver=file,file.filename={}",
                self.text("disk.img")
            ))
            .arg("-kernel")
            .arg(kernel)
            .args(["-initrd", &self.text("initramfs.cpio"), "-append", "console=ttyS0 quiet"]);
        command
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }
}

impl Contestant {
    fn new(machine: &'static str, kernel: &'static str) -> Contestant {
        Contestant { machine, kernel, rounds: Vec::new(), failure: None }
    }

    /// Starts the guest once, unless it has failed before.
    fn start(&mut self, files: &Files) {
        if self.failure.is_none() {
            match self.measure(files) {
                Ok(round) => self.rounds.push(round),
                Err(error) => self.failure = Some(error.to_string()),
            }
        }
    }

    fn measure(&self, files: &Files) -> Result<Round> {
        let kernel = guest_file(KERNEL, self.kernel);
        let mut command = match self.machine {
            "vmm" => files.vmm(&kernel)?,
            machine => files.qemu(machine.trim_start_matches("QEMU "), &kernel),
        };
        let start = Instant::now();
        let mut guest = Running::start(&mut command)?;
        guest.wait_for(FIRST_LINE)?;
        let time = start.elapsed();
        let footprint = Footprint::of(guest.program().id(), MEMORY << 20)?;
        guest.program().signal(Signal::SIGKILL)?;
        Ok(Round { time, footprint })
    }

    fn program(&self) -> Result<PathBuf> {
        if self.machine == "vmm" { Ok(vmm()) } else { program(QEMU) }
    }

    /// A row of the table, without its end.
    fn row(&self) -> Result<String> {
        let Contestant { machine, kernel, rounds, failure } = self;
        if let Some(failure) = failure {
            let why = failure.lines().next().unwrap_or_default();
            return Ok(format!("{machine:14} {kernel:8} did not boot: {why}"));
        }
        let seconds = spread(rounds, |round| round.time.as_secs_f64());
        let resident = spread(rounds, |round| mib(round.footprint.resident));
        let proportional = spread(rounds, |round| mib(round.footprint.proportional));
        let threads = spread(rounds, |round| round.footprint.threads as f64);
        let [alone, with_libraries] = sizes(&self.program()?)?.map(mib);
        Ok(format!(
            "{machine:14} {kernel:8} {:>18} {:>23} {:8.1} {:8.0} {alone:8.1} {with_libraries:9.1}",
            seconds.text(2),
            resident.text(1),
            proportional.median,
            threads.median,
        ))
    }

    fn csv(&self, text: &mut String) {
        for (index, Round { time, footprint }) in self.rounds.iter().enumerate() {
            let Footprint { resident, proportional, threads, .. } = footprint;
            let _ = writeln!(
                text,
                "{},{},{},{:.3},{resident},{proportional},{threads}",
                self.machine,
                self.kernel,
                index + 1,
                time.as_secs_f64()
            );
        }
    }
}

struct Spread {
    least: f64,
    median: f64,
    most: f64,
}

impl Spread {
    fn text(&self, decimals: usize) -> String {
        let Spread { least, median, most } = self;
        format!("{median:.decimals$} ({least:.decimals$}..{most:.decimals$})")
    }
}

fn spread(rounds: &[Round], value: impl Fn(&Round) -> f64) -> Spread {
    let mut values: Vec<f64> = rounds.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    Spread { least: at(0), median: at(values.len() / 2), most: at(values.len().saturating_sub(1)) }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Bytes of a program, and of it together with the libraries that it is linked with.
fn sizes(program: &Path) -> Result<[u64; 2]> {
    let alone = fs::metadata(program)?.len();
    let output = Command::new("ldd").arg(program).output()?.stdout;
    let mut all = alone;
    for word in String::from_utf8_lossy(&output).split_whitespace() {
        if word.starts_with('/') {
            all += fs::metadata(word)?.len();
        }
    }
    Ok([alone, all])
}

fn program(name: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|folder| folder.join(name)).find(|file| {
        fs::metadata(file).is_ok_and(|file| file.is_file() && file.permissions().mode() & 1 == 1)
    });
    found.ok_or_else(|| Error::other(format!("{name} is not installed")))
}

fn table(contestants: &[Contestant], rounds: usize) -> Result<String> {
    let mut text = format!(
        "Debian {KERNEL}, 1 vCPU, {MEMORY} MiB, one disk; {rounds} rounds, one after the other: median (least..most)\n\n\
         machine        kernel     exec to init, s   beyond the guest, MiB      PSS  threads  program  and libs\n"
    );
    for contestant in contestants {
        text += &format!("{}\n", contestant.row()?);
    }
    Ok(text)
}

fn run(folder: &Path, rounds: usize) -> Result<()> {
    let files = Files::make()?;
    let mut contestants = [
        Contestant::new("vmm", "vmlinuz"),
        Contestant::new("QEMU microvm", "vmlinuz"),
        Contestant::new("QEMU q35", "vmlinuz"),
        Contestant::new("vmm", "vmlinux"),
        Contestant::new("QEMU microvm", "vmlinux"),
    ];
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        contestants.iter_mut().for_each(|contestant| contestant.start(&files));
    }
    let table = table(&contestants, rounds)?;
    print!("{table}");
    fs::write(folder.join("boot.txt"), table)?;
    let mut csv = String::from("machine,kernel,round,seconds,rss,pss,threads\n");
    contestants.iter().for_each(|contestant| contestant.csv(&mut csv));
    fs::write(folder.join("boot.csv"), csv)
}

fn main() -> ExitCode {
    let folder = env::var_os("VMM_RESULTS");
    let rounds = env::args().nth(1).and_then(|rounds| rounds.parse().ok());
    let (Some(folder), Some(rounds @ 1..)) = (folder, rounds) else {
        eprintln!("usage: VMM_RESULTS=FOLDER bench_boot ROUNDS");
        return ExitCode::from(2);
    };
    match run(Path::new(&folder), rounds) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench_boot: {error}");
            ExitCode::FAILURE
        }
    }
}

//! A guest that SCSI devices of this machine are passed to, by `vmm` or, to be compared, by QEMU.
//!
//! A serial port is slow, and an emulated one slower: what the guest's script prints travels on a
//! disk.

use std::env;
use std::fs;
use std::io::Result;
use std::path::{Path, PathBuf};
use std::process;

use crate::guest::{ANY, Cell, Guest, guest_file};
use crate::image::Image;
use crate::qemu::Qemu;
use crate::running::{Outcome, Running};
use crate::scsi::command::{Command, Completion};

/// What runs the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Monitor {
    /// The built `vmm`.
    Vmm,
    /// The QEMU that is installed.
    Qemu,
}

impl Monitor {
    /// `vmm`, unless `VMM_MONITOR=qemu` asks to see what QEMU does differently.
    #[must_use]
    pub fn chosen() -> Monitor {
        match env::var("VMM_MONITOR").as_deref() {
            Ok("qemu") => Monitor::Qemu,
            _ => Monitor::Vmm,
        }
    }
}

/// A guest to be, with the devices that it will have: the logical units of target 0, from 0 on.
#[derive(Debug)]
pub struct Machine {
    monitor: Monitor,
    guest: Guest,
    nodes: Vec<(PathBuf, bool)>,
    vhost: Option<String>,
    privileged: bool,
    output: Image,
    steps: Image,
}

/// The disk on which the script's output travels.
const OUTPUT_WWN: &str = "naa.30000000000000ff";
const OUTPUT_SIZE: u64 = 16 << 20;

/// The disk on which a script reads what it is to do next.
const STEPS_WWN: &str = "naa.30000000000000fe";

impl Machine {
    /// A guest without devices yet.
    ///
    /// # Errors
    /// When the host has no room for its files.
    pub fn new(monitor: Monitor) -> Result<Machine> {
        Machine::of(monitor, ANY)
    }

    /// The same, as this cell of the matrix says.
    ///
    /// # Errors
    /// When the host has no room for its files.
    pub fn of(monitor: Monitor, cell: Cell) -> Result<Machine> {
        let mut guest = Guest::new(cell)?;
        let lines = format!("target = 1\nlun = 0\nwwn = \"{OUTPUT_WWN}\"");
        let output = guest.lun("output.img", OUTPUT_SIZE, &lines)?;
        let lines = format!("target = 1\nlun = 1\nread_only = true\nwwn = \"{STEPS_WWN}\"");
        let steps = guest.lun("steps.img", 1 << 20, &lines)?;
        Ok(Machine {
            monitor,
            guest,
            nodes: Vec::new(),
            vhost: None,
            privileged: true,
            output,
            steps,
        })
    }

    /// Passes a device by its node, with these lines of configuration, of which QEMU knows `read_only = true` alone.
    pub fn pass(&mut self, node: &Path, lines: &str) {
        let lines = format!("target = 0\nlun = {}\n{lines}", self.nodes.len());
        self.guest.medium("passthrough", node, &lines);
        self.nodes.push((node.into(), lines.contains("read_only = true")));
    }

    /// Gives QEMU's guest a controller that is LIO's.
    pub fn vhost(&mut self, target: &str) {
        self.vhost = Some(target.into());
    }

    /// Has the guest be run without any capability, though by root, whose files these are.
    pub fn drop_privileges(&mut self) {
        self.privileged = false;
    }

    /// The guest, to be changed.
    pub fn guest(&mut self) -> &mut Guest {
        &mut self.guest
    }

    /// Puts commands into the guest, as the file `commands.NUMBER`, and the program that sends
    /// them.
    ///
    /// # Errors
    /// When the program cannot be read.
    pub fn carry(&mut self, replay: &str, number: usize, commands: &[Command]) -> Result<()> {
        if number == 0 {
            self.guest.carry("replay", &fs::read(replay)?);
        }
        let lines: String = commands.iter().map(|command| format!("{command}\n")).collect();
        self.guest.carry(&format!("commands.{number}"), lines.as_bytes());
        Ok(())
    }

    /// Lets a script go on that waits with `await_step NAME`.
    ///
    /// # Errors
    /// What the host says.
    pub fn step(&self, name: &str) -> Result<()> {
        self.steps.write(0, format!("{name:511}\n").as_bytes())
    }

    /// Starts the guest with `script`. What that prints arrives when the guest has ended; what is
    /// to be waited for, it has to `tell`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, script: &str) -> Result<Running> {
        let script = format!(
            "{STEPS}\nscript() {{\n{script}\n}}\n\
             find_disk {STEPS_WWN}; steps=$disk\n\
             script >/tmp/output 2>&1\n\
             echo >>/tmp/output\n\
             find_disk {OUTPUT_WWN}\n\
             dd if=/tmp/output of=$disk bs=64k conv=sync oflag=direct 2>/dev/null\n"
        );
        let mut command = self.command(&script)?;
        if self.privileged {
            return Running::start(&mut command);
        }
        let mut setpriv = process::Command::new("setpriv");
        setpriv.args(["--bounding-set=-all", "--inh-caps=-all"]).arg(command.get_program());
        Running::start(setpriv.args(command.get_args()))
    }

    fn command(&self, script: &str) -> Result<process::Command> {
        match self.monitor {
            Monitor::Vmm => self.guest.command(Some(script)),
            Monitor::Qemu => self.qemu(script),
        }
    }

    fn qemu(&self, script: &str) -> Result<process::Command> {
        let initramfs = self.guest.write_initramfs(Some(script))?;
        let kernel = guest_file(ANY.kernel, "vmlinux");
        let mut qemu = Qemu::new(&kernel, &initramfs, self.guest.memory_bytes());
        qemu.disk(self.output.path(), OUTPUT_WWN, 0);
        qemu.disk(self.steps.path(), STEPS_WWN, 1);
        for (lun, (node, read_only)) in self.nodes.iter().enumerate() {
            qemu.pass(lun, node, *read_only);
        }
        if let Some(target) = &self.vhost {
            qemu.vhost(target);
        }
        Ok(qemu.command())
    }

    /// Waits for the guest's end, and returns its console followed by what the script printed.
    ///
    /// # Errors
    /// When it had to be ended.
    pub fn finish(&self, running: Running) -> Result<Outcome> {
        let mut outcome = running.finish()?;
        let output = fs::read(self.output.path())?;
        let end = output.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let output = String::from_utf8_lossy(&output[..end]);
        for line in output.lines() {
            println!("{}", line.get(..200).unwrap_or(line));
        }
        outcome.console = format!("{}\n{output}", outcome.console);
        Ok(outcome)
    }

    /// Boots, executes `script` in the guest, and waits for the power-off.
    ///
    /// # Errors
    /// As [`Machine::start`], and when the guest is still running at the deadline.
    pub fn run(&self, script: &str) -> Result<Outcome> {
        self.finish(self.start(script)?)
    }
}

impl Outcome {
    /// What came of the commands that `replay` sent in a section.
    ///
    /// # Panics
    /// When the section is not there.
    #[must_use]
    pub fn completions(&self, section: &str) -> Vec<Result<Completion>> {
        let text = self.section(section).unwrap_or_else(|| panic!("no section {section}"));
        let lines = text.lines().filter(|line| line.contains(" host ") || line.contains("errno "));
        lines.map(str::parse).collect()
    }
}

/// What keeps a script and its test in step.
const STEPS: &str = include_str!("../guest/steps.sh");

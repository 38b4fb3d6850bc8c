//! Two guests with a nexus of their own each on one logical unit: persistent reservations, fencing
//! and preemption work between them as between two hosts.

use std::fs;
use std::io::Result;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use tests::guest::vmm;
use tests::host;
use tests::passthrough::{Machine, Monitor};
use tests::running::{Program, Running};
use tests::scsi::lio::{Port, Storage};

const MIB: u64 = 1 << 20;

/// What both guests can do.
const FUNCTIONS: &str = "
    disk=$(disk 0:0:0:0) node=$(generic 0:0:0:0)
    pr_out() { sg_persist --out \"$@\" $node; }
    pr_in() { sg_persist --in \"$@\" $node; }
    put() { printf '%-512s' $1 | dd of=$disk bs=512 oflag=direct 2>/dev/null; }
    get() { dd if=$disk bs=512 count=1 iflag=direct 2>/dev/null | tr -d ' \\0'; }
";

/// Registers, reserves, and is fenced by the other.
const VICTIM: &str = "
    section capabilities pr_in --report-capabilities
    section register pr_out --register --param-sark=0xa1
    tell registered
    await_step reserve
    section reserve pr_out --reserve --param-rk=0xa1 --prout-type=5
    section write put mine
    tell reserved
    await_step fenced
    section fenced put late
    section fenced-again put late
    section keys pr_in --read-keys
    section register-again pr_out --register --param-sark=0xa2
    section read get
    tell done
    await_step end
";

/// Registers, is refused the reservation, and takes it.
const FENCER: &str = "
    section unregistered put early
    section register pr_out --register --param-sark=0xb1
    section status pr_in --read-full-status
    section reserve pr_out --reserve --param-rk=0xb1 --prout-type=5
    section holder pr_in --read-reservation
    section preempt pr_out --preempt --param-rk=0xb1 --param-sark=0xa1 --prout-type=5
    section keys pr_in --read-keys
    section write put yours
    tell fenced
    await_step end
    section after pr_in --read-full-status
    section clear pr_out --clear --param-rk=0xb1
";

/// Who sends the commands that take privilege.
enum Sender {
    /// The VMM itself.
    Vmm,
    /// A program that listens on a socket, for VMMs without privilege.
    Broker(Broker),
}

/// That program.
struct Broker {
    _program: Program,
    folder: TempDir,
}

impl Broker {
    /// Starts `vmm-broker`, with a policy that lets root reserve whatever there is.
    fn ours() -> Result<Broker> {
        let folder = TempDir::new()?;
        let policy = folder.path().join("broker.toml");
        let rule =
            "[[rule]]\nuser = \"root\"\nlu = \"any\"\nallow = [\"persistent-reservations\"]\n";
        fs::write(&policy, rule)?;
        let mut command = Command::new(vmm().with_file_name("vmm-broker"));
        command.arg("--socket").arg(folder.path().join("socket")).arg("--policy").arg(policy);
        Broker::start(&mut command, folder)
    }

    /// Starts the helper that comes with QEMU.
    fn qemus() -> Result<Broker> {
        let folder = TempDir::new()?;
        let mut command = Command::new("qemu-pr-helper");
        command.arg("-k").arg(folder.path().join("socket"));
        Broker::start(&mut command, folder)
    }

    fn start(command: &mut Command, folder: TempDir) -> Result<Broker> {
        let broker = Broker { _program: Program::start(command)?, folder };
        host::await_some("a socket", || Ok(broker.socket().exists().then_some(())))?;
        Ok(broker)
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }
}

/// A guest with the device at `node`.
fn start(node: &Path, sender: &Sender, script: &str) -> Result<(Machine, Running)> {
    let mut machine = Machine::new(Monitor::chosen())?;
    let mut lines = "policy = \"cluster\"\n".to_owned();
    if let Sender::Broker(broker) = sender {
        machine.drop_privileges();
        lines += &format!("broker = {:?}\n", broker.socket());
    }
    machine.pass(node, &lines);
    let running = machine.start(&format!("{FUNCTIONS}{script}"))?;
    Ok((machine, running))
}

fn one_guest_fences_the_other(sender: &Sender) -> Result<()> {
    const TARGETS: [&str; 2] = ["naa.5001405000000001", "naa.5001405000000002"];
    const INITIATORS: [&str; 2] = ["naa.50014050000000a1", "naa.50014050000000a2"];
    let storage = Storage::memory("quorum", 16 * MIB)?;
    let ports = [0, 1].map(|n| Port::loopback(TARGETS[n], INITIATORS[n], &[&storage]));
    let [first, second] = ports;
    let (first, second) = (first?, second?);

    let (victim, mut first) = start(&first.devices()?[0].block(), sender, VICTIM)?;
    first.wait_for("registered")?;
    victim.step("reserve")?;
    first.wait_for("reserved")?;
    let (fencer, mut second) = start(&second.devices()?[0].block(), sender, FENCER)?;
    second.wait_for("fenced")?;
    victim.step("fenced")?;
    first.wait_for("done")?;
    victim.step("end")?;
    fencer.step("end")?;
    let (victim, fencer) = (victim.finish(first)?, fencer.finish(second)?);

    victim.assert_powered_off();
    fencer.assert_powered_off();
    victim.assert_good(&["capabilities", "register", "reserve", "write"]);
    fencer.assert_has("unregistered", &["status 1\n"]);
    fencer.assert_good(&["register", "status", "holder", "preempt", "write", "after", "clear"]);
    // Exit status 24 is RESERVATION CONFLICT (sg3_utils(8)).
    fencer.assert_has("reserve", &["status 24\n"]);
    fencer.assert_has("status", &["0xa1", "0xb1", "50014050000000a1", "50014050000000a2"]);
    fencer.assert_has("holder", &["Key=0xa1"]);
    for keys in [&victim, &fencer] {
        keys.assert_has("keys", &["0xb1"]);
        assert!(!keys.section("keys").unwrap().contains("0xa1"), "the key is gone");
    }
    victim.assert_has("fenced", &["status 1\n"]);
    victim.assert_has("fenced-again", &["status 1\n"]);
    victim.assert_has("read", &["yours"]);
    victim.assert_good(&["register-again"]);
    fencer.assert_has("after", &["0xa2", "0xb1"]);
    Ok(())
}

#[test]
fn one_guest_fences_the_other_by_the_nexus_of_each() -> Result<()> {
    one_guest_fences_the_other(&Sender::Vmm)
}

#[test]
fn one_guest_fences_the_other_without_privilege_by_the_broker() -> Result<()> {
    one_guest_fences_the_other(&Sender::Broker(Broker::ours()?))
}

#[test]
fn one_guest_fences_the_other_without_privilege_by_qemus_helper() -> Result<()> {
    one_guest_fences_the_other(&Sender::Broker(Broker::qemus()?))
}

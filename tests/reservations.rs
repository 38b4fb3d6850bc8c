//! Two guests with a nexus of their own each on one logical unit: persistent reservations, fencing
//! and preemption work between them as between two hosts.

use std::io::Result;
use std::path::Path;

use tests::passthrough::{Machine, Monitor};
use tests::running::Running;
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

/// A guest with the device at `node`.
fn start(node: &Path, lines: &str, script: &str) -> Result<(Machine, Running)> {
    let mut machine = Machine::new(Monitor::chosen())?;
    machine.pass(node, lines);
    let running = machine.start(&format!("{FUNCTIONS}{script}"))?;
    Ok((machine, running))
}

fn one_guest_fences_the_other(lines: &str) -> Result<()> {
    const TARGETS: [&str; 2] = ["naa.5001405000000001", "naa.5001405000000002"];
    const INITIATORS: [&str; 2] = ["naa.50014050000000a1", "naa.50014050000000a2"];
    let storage = Storage::memory("quorum", 16 * MIB)?;
    let ports = [0, 1].map(|n| Port::loopback(TARGETS[n], INITIATORS[n], &[&storage]));
    let [first, second] = ports;
    let (first, second) = (first?, second?);

    let (victim, mut first) = start(&first.devices()?[0].block(), lines, VICTIM)?;
    first.wait_for("registered")?;
    victim.step("reserve")?;
    first.wait_for("reserved")?;
    let (fencer, mut second) = start(&second.devices()?[0].block(), lines, FENCER)?;
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
    one_guest_fences_the_other("policy = \"cluster\"")
}

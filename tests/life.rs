//! How a stock guest's life ends, and begins again: reboots, crashes, signals.

use std::io::Result;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tests::footprint::Footprint;
use tests::guest::{ANY, Cell, Guest, long};
use tests::image::pattern;
use tests::running::Outcome;

const MIB: u64 = 1 << 20;

/// What may come and go between two boots: the buffers of what is under way, and what the allocator
/// keeps.
const MEMORY_TOLERANCE: u64 = MIB;

fn nothing_is_left_behind_by_reboots(cell: Cell) -> Result<()> {
    let wanted = if long() { 50 } else { 5 };
    let mut guest = Guest::new(cell)?;
    guest.lun("load.img", 64 * MIB, "")?;
    guest.lun("counter.img", MIB, "")?;
    let script = format!("wanted={wanted}\n{}", include_str!("guest/reboots.sh"));
    let mut running = guest.start(&script)?;
    let mut footprints = Vec::new();
    for boot in 1..=wanted {
        assert_eq!(running.wait_for("boot ")?, boot.to_string());
        let footprint = Footprint::of(running.program().id(), guest.memory_bytes())?;
        println!("boot {boot}: {footprint:?}");
        footprints.push(footprint);
    }
    running.finish()?.assert_powered_off();
    // The first boot is that of a process which has never had a load.
    let second = footprints[1];
    for (index, footprint) in footprints.iter().enumerate().skip(2) {
        assert_eq!(footprint.fds, second.fds, "descriptors at boot {}", index + 1);
        assert_eq!(footprint.threads, second.threads, "threads at boot {}", index + 1);
        let limit = second.anonymous + MEMORY_TOLERANCE;
        let memory = footprint.anonymous;
        assert!(memory <= limit, "{memory} bytes at boot {}", index + 1);
    }
    Ok(())
}

#[test]
fn nothing_is_left_behind_by_reboots_with_6_1() -> Result<()> {
    nothing_is_left_behind_by_reboots(Cell { vcpus: 2, ..ANY })
}

#[test]
#[ignore = "only with --long"]
fn nothing_is_left_behind_by_reboots_with_6_12_and_mmio() -> Result<()> {
    let transport = tests::guest::Transport::Mmio;
    nothing_is_left_behind_by_reboots(Cell { transport, kernel: "6.12", vcpus: 1 })
}

/// Runs `script`, with `machine` in the configuration, to whatever end.
fn end_of(machine: &str, cmdline: &str, script: &str) -> Result<Outcome> {
    let mut guest = Guest::new(ANY)?;
    guest.machine(machine);
    guest.cmdline(cmdline);
    guest.lun("disk.img", MIB, "")?;
    guest.run(script)
}

#[test]
fn a_reboot_may_end_it() -> Result<()> {
    let seen = end_of("on_reboot = \"exit\"", "", "reboot -f\nsleep 100")?;
    assert_eq!(seen.status.code(), Some(0), "{}", seen.stderr);
    assert!(!seen.console.contains("guest: exit"), "it was the reboot that ended it");
    Ok(())
}

/// With the drivers through which a guest tells of it.
const PANIC: &str = "modprobe -a pvpanic-mmio pvpanic-pci\necho c >/proc/sysrq-trigger\nsleep 100";

#[test]
fn a_panic_is_a_crash() -> Result<()> {
    let seen = end_of("", "", PANIC)?;
    assert_eq!(seen.status.code(), Some(3), "{}", seen.stderr);
    assert!(seen.stderr.contains("panic"), "{}", seen.stderr);
    Ok(())
}

#[test]
fn a_triple_fault_is_a_crash() -> Result<()> {
    let seen = end_of("", "reboot=t", "echo b >/proc/sysrq-trigger\nsleep 100")?;
    assert_eq!(seen.status.code(), Some(3), "{}", seen.stderr);
    assert!(seen.stderr.contains("triple fault"), "{}", seen.stderr);
    Ok(())
}

/// The disk remembers that the guest has been there.
#[test]
fn a_crash_may_start_it_again() -> Result<()> {
    let script = format!(
        "disk=$(disk 0:0:0:0)
         if dd if=$disk bs=4 count=1 2>/dev/null | grep -q been; then exit; fi
         printf '%-512s' been | dd of=$disk bs=512 oflag=direct 2>/dev/null
         {PANIC}"
    );
    let seen = end_of("on_crash = \"restart\"", "", &script)?;
    seen.assert_powered_off();
    assert!(seen.console.contains("guest: exit 0"));
    assert!(seen.stderr.contains("panic"), "{}", seen.stderr);
    Ok(())
}

/// Starts a guest that waits, and sends its VMM a signal once it does.
fn signalled(machine: &str, script: &str, signal: Signal) -> Result<Outcome> {
    let mut guest = Guest::new(ANY)?;
    guest.machine(machine);
    let disk = guest.lun("disk.img", 8 * MIB, "")?;
    let mut running = guest.start(&format!("{script}\necho ready\nsleep 1000"))?;
    running.wait_for("ready")?;
    running.program().signal(signal)?;
    let start = Instant::now();
    let seen = running.finish()?;
    assert!(start.elapsed() < Duration::from_secs(60), "it took {:?}", start.elapsed());
    if script.contains("dd ") {
        assert_eq!(disk.sha256(0, 4)?, tests::image::sha256(b"kept"));
    }
    Ok(seen)
}

#[test]
fn sigterm_powers_off() -> Result<()> {
    let seen = signalled("", "", Signal::SIGTERM)?;
    seen.assert_powered_off();
    assert!(seen.console.contains("reboot: Power down"), "by the guest itself");
    Ok(())
}

/// Nobody in the guest hears the button; what it has written is kept all the same.
#[test]
fn a_guest_that_will_not_power_off_is_ended() -> Result<()> {
    let script = "killall acpid
        printf '%-512s' kept | dd of=$(disk 0:0:0:0) bs=512 oflag=direct 2>/dev/null";
    let seen = signalled("stop_timeout = \"3s\"", script, Signal::SIGTERM)?;
    assert_eq!(seen.status.code(), Some(1), "{}", seen.stderr);
    assert!(!seen.console.contains("Power down"), "not by itself");
    Ok(())
}

/// What a killed VMM had told its guest to be written is there for the next one: the page cache
/// is the host's, and so is the lock's end.
#[test]
fn another_vmm_goes_on_after_one_is_killed() -> Result<()> {
    let mut guest = Guest::new(ANY)?;
    let disk = guest.lun("disk.img", 8 * MIB, "")?;
    let mut running = guest.start(
        "dd if=/dev/urandom of=/tmp/data bs=1M count=2 2>/dev/null
         dd if=/tmp/data of=$(disk 0:0:0:0) bs=64k oflag=direct conv=fsync 2>/dev/null
         section sum sha256sum /tmp/data
         echo ready; sleep 1000",
    )?;
    running.wait_for("ready")?;
    running.program().signal(Signal::SIGKILL)?;
    let killed = running.finish()?;
    killed.assert_has("sum", &[&disk.sha256(0, 2 << 20)?]);
    disk.write(4 * MIB, &pattern(9, 1 << 20))?;
    let seen = guest.run(
        "section sum sh -c \"dd if=$(disk 0:0:0:0) bs=1M count=2 iflag=direct 2>/dev/null | sha256sum\"",
    )?;
    seen.assert_powered_off();
    seen.assert_has("sum", &[&disk.sha256(0, 2 << 20)?]);
    Ok(())
}

//! libiscsi's conformance tests of SCSI devices, on the host and in a guest that the devices are
//! passed to: nothing fails in the guest that does not fail on the host.

use std::collections::BTreeSet;
use std::io::Result;
use std::path::Path;

use tests::host;
use tests::passthrough::{Machine, Monitor};
use tests::scsi::device::Device;
use tests::scsi::lio::{Port, Storage};
use tests::scsi::scsi_debug::ScsiDebug;

const MIB: u64 = 1 << 20;

/// The suites for any SCSI device but `without`. Each is a process of its own: one that crashes
/// loses its own results only.
fn suites(without: &[&str]) -> Result<Vec<String>> {
    let list = host::run("iscsi-test-cu", &["--list"])?;
    let names = list.lines().filter_map(|line| line.strip_prefix("SCSI."));
    let suites = names.filter(|name| !name.contains('.') && !name.starts_with("iSCSI"));
    Ok(suites.filter(|name| !without.contains(name)).map(str::to_owned).collect())
}

fn script(suites: &[String], node: &str) -> String {
    let suites = suites.join(" ");
    format!(
        "suites() {{
           node={node}
           for suite in {suites}; do
             timeout 120 iscsi-test-cu --dataloss --test=SCSI.$suite $node || echo \"Suite $suite ends with $?\"
           done
         }}
         suites"
    )
}

/// What the tests came to, by SUITE.TEST.
#[derive(Debug, Default)]
struct Results {
    ran: BTreeSet<String>,
    failed: BTreeSet<String>,
}

impl Results {
    /// Reads what CUnit prints: `Suite: NAME`, and for each test `  Test: NAME ...`, what it has
    /// to say, and `passed` or `FAILED`.
    fn of(text: &str) -> Results {
        let mut results = Results::default();
        let (mut suite, mut test) = ("", String::new());
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("Suite: ") {
                suite = name.trim();
            } else if let Some(rest) = line.trim_start().strip_prefix("Test: ") {
                test = format!("{suite}.{}", rest.split([' ', '.']).next().unwrap_or_default());
                results.ran.insert(test.clone());
            } else if let Some(rest) = line.strip_prefix("Suite ") {
                results.failed.insert(rest.into());
            }
            if line.ends_with("FAILED") {
                results.failed.insert(test.clone());
            }
        }
        results
    }
}

/// Runs all suites but `without` on the host and in a guest.
fn nothing_fails_but_on_the_host(device: &Device, without: &[&str]) -> Result<()> {
    let suites = suites(without)?;
    let node = device.generic().display().to_string();
    let on_host = Results::of(&host::run("bash", &["-c", &script(&suites, &node)])?);
    let mut machine = Machine::new(Monitor::chosen())?;
    machine.pass(Path::new(&node), "policy = \"full\"\nshared_nexus = true");
    let in_guest =
        format!("all() {{\n{}\n}}\nsection all all", script(&suites, "$(generic 0:0:0:0)"));
    let seen = machine.run(&in_guest)?;
    seen.assert_powered_off();
    let in_guest = Results::of(seen.section("all").unwrap());
    println!(
        "the host ran {} and failed {}: {:?}\nthe guest ran {} and failed {}",
        on_host.ran.len(),
        on_host.failed.len(),
        on_host.failed,
        in_guest.ran.len(),
        in_guest.failed.len()
    );
    assert!(on_host.ran.len() > 150, "the suites have run");
    assert_eq!(in_guest.ran, on_host.ran);
    let more: Vec<&String> = in_guest.failed.difference(&on_host.failed).collect();
    assert!(more.is_empty(), "fails in the guest alone: {more:?}");
    Ok(())
}

#[test]
fn lio_conforms_in_a_guest_as_it_does_on_the_host() -> Result<()> {
    let storage = Storage::memory("conformance", 64 * MIB)?;
    for attribute in ["emulate_tpu", "emulate_tpws", "emulate_3pc"] {
        storage.set(&format!("attrib/{attribute}"), "1")?;
    }
    let port = Port::loopback("naa.5001405000000001", "naa.50014050000000a1", &[&storage])?;
    nothing_fails_but_on_the_host(&port.devices()?[0], &[])
}

/// Without GET LBA STATUS: one beyond the end makes scsi_debug's kernel fault.
#[test]
#[ignore = "only with --long"]
fn scsi_debug_conforms_in_a_guest_as_it_does_on_the_host() -> Result<()> {
    let debug = ScsiDebug::new(1, &["dev_size_mb=64", "lbpu=1", "lbpws=1", "lbpws10=1"])?;
    nothing_fails_but_on_the_host(debug.device(), &["GetLBAStatus"])
}

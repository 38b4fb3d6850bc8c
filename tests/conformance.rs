//! libiscsi's conformance tests of SCSI devices, on the host and in a guest that the devices are
//! passed to: nothing fails in the guest that does not fail on the host.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Result;
use std::path::Path;

use tempfile::TempDir;
use tests::host;
use tests::passthrough::{Machine, Monitor};
use tests::scsi::device::Device;
use tests::scsi::lio::{Port, Storage};
use tests::scsi::scsi_debug::ScsiDebug;

const MIB: u64 = 1 << 20;

/// Every suite for SCSI devices, in one process: starting one takes an emulated machine a second.
const ALL: &str = "SCSI";

/// The suites for any SCSI device but `without`, each a process of its own.
fn suites(without: &[&str]) -> Result<String> {
    let list = host::run("iscsi-test-cu", &["--list"])?;
    let names = list.lines().filter(|line| line.starts_with("SCSI."));
    let suites = names.filter(|name| {
        let suite = &name["SCSI.".len()..];
        !suite.contains('.') && !suite.starts_with("iSCSI") && !without.contains(&suite)
    });
    Ok(suites.collect::<Vec<&str>>().join(" "))
}

/// A function that runs these suites on a device.
fn script(suites: &str, node: &str) -> String {
    format!(
        "suites() {{
           node={node}
           for suite in {suites}; do
             timeout 300 iscsi-test-cu --dataloss --test=$suite $node || echo \"Suite $suite ends with $?\"
           done
         }}\n"
    )
}

/// What the tests came to, by SUITE.TEST.
#[derive(Debug, Default)]
struct Results {
    ran: BTreeSet<String>,
    failed: BTreeSet<String>,
    skipped: BTreeSet<String>,
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
            }
            if line.ends_with("FAILED") {
                results.failed.insert(test.clone());
            }
            if line.contains("[SKIPPED]") {
                results.skipped.insert(test.clone());
            }
        }
        results
    }
}

/// Runs suites on the host and in a guest, in which these may fail besides.
fn nothing_fails_but_on_the_host(device: &Device, suites: &str, but: &[&str]) -> Result<()> {
    let node = device.generic().display().to_string();
    let on_host = script(suites, &node) + "suites";
    let on_host = Results::of(&host::run("bash", &["-c", &on_host])?);
    let mut machine = Machine::new(Monitor::chosen())?;
    machine.pass(Path::new(&node), "policy = \"full\"");
    let seen = machine.run(&(script(suites, "$(generic 0:0:0:0)") + "section all suites"))?;
    seen.assert_powered_off();
    let in_guest = Results::of(seen.section("all").unwrap());
    println!("on the host {on_host:#?}");
    assert!(on_host.ran.len() > 150, "the suites have run");
    assert_eq!(in_guest.ran, on_host.ran);
    let more: Vec<&String> = in_guest.skipped.difference(&on_host.skipped).collect();
    assert!(more.is_empty(), "skipped in the guest alone: {more:?}");
    let more: Vec<&String> = in_guest.failed.difference(&on_host.failed).collect();
    assert_eq!(more, but, "fails in the guest alone");
    Ok(())
}

#[test]
fn lio_conforms_in_a_guest_as_it_does_on_the_host() -> Result<()> {
    let folder = TempDir::new()?;
    let file = folder.path().join("file");
    File::create(&file)?.set_len(64 * MIB)?;
    let storage = Storage::file("conformance", &file, 64 * MIB)?;
    for attribute in ["emulate_tpu", "emulate_tpws", "emulate_3pc"] {
        storage.set(&format!("attrib/{attribute}"), "1")?;
    }
    let port = Port::loopback("naa.5001405000000001", "naa.50014050000000a1", &[&storage])?;
    // It sends a READ of 1 MiB, which the guest's kernel refuses: LIO's 256 segments can carry less.
    nothing_fails_but_on_the_host(&port.devices()?[0], ALL, &["ExtendedCopy.Simple"])
}

/// Without GET LBA STATUS: one beyond the end makes scsi_debug's kernel fault.
#[test]
#[ignore = "only with --long"]
fn scsi_debug_conforms_in_a_guest_as_it_does_on_the_host() -> Result<()> {
    let debug = ScsiDebug::new(1, &["dev_size_mb=64", "lbpu=1", "lbpws=1", "lbpws10=1"])?;
    nothing_fails_but_on_the_host(debug.device(), &suites(&["GetLBAStatus"])?, &[])
}

//! Devices of the host: what a LUN that is one may say, and the line about each thing that it may
//! have wrong.

use std::os::unix::net::UnixListener;
use std::path::Path;

use storage::host::OpenError;
use storage::lun::passthrough::policy::{PolicySpec, Preset};
use storage::lun::spec::{LunSpec, Naa, Overlay, PassthroughSpec};

use super::*;

const DEVICE: &str = "[[controller]]\n[[controller.lun]]\npassthrough = 'a.raw'\n";

/// As [`super::each_has_one_problem`], where `{DEVICE}` stands for a section without fault.
fn each_has_one_problem(cases: &[(&str, &str)]) {
    let cases: Vec<_> =
        cases.iter().map(|(text, why)| (text.replace("{DEVICE}", DEVICE), *why)).collect();
    let cases: Vec<_> = cases.iter().map(|(text, why)| (text.as_str(), *why)).collect();
    super::each_has_one_problem(&cases);
}

fn devices(spec: &GuestSpec) -> Vec<&PassthroughSpec> {
    let device = |lun: &'_ &AddressedLun| matches!(lun.spec, LunSpec::Passthrough(_));
    let luns = luns(spec).into_iter().filter(device);
    luns.map(|lun| match &lun.spec {
        LunSpec::Passthrough(device) => device,
        LunSpec::Disk(_) => unreachable!("only devices are left"),
    })
    .collect()
}

#[test]
fn the_least_device_has_every_default() {
    let fixture = Fixture::new();
    let spec = fixture.good(&format!("{BOOT}{DEVICE}"));
    assert_eq!(devices(&spec), [&PassthroughSpec::new(&fixture.path("a.raw"))]);
    assert_eq!(addresses(&spec), [(0, 0)]);
}

#[test]
fn every_key_of_a_device_is_read() {
    let fixture = Fixture::new();
    let _broker = UnixListener::bind(fixture.path("broker.sock")).unwrap();
    let spec = fixture.good(&format!(
        "{BOOT}{DEVICE}target = 3
        lun = 7
        expect = 'naa.60014051234567890123456789abcdef'
        policy = 'cluster'
        allow = ['4c', '9e/12']
        deny = ['c0-ff']
        read_only = true
        timeout = '90s'
        path_timeout = '0s'
        queue_depth = 16
        shared_nexus = true
        force = true
        broker = 'broker.sock'
        serial = 'S 1'
        wwn = '50:01:43:80:12:34:56:78'"
    ));
    let expected = PassthroughSpec {
        path: fixture.path("a.raw"),
        expect: Some("naa.60014051234567890123456789abcdef".parse().unwrap()),
        policy: PolicySpec {
            preset: Preset::Cluster,
            allow: vec!["4c".parse().unwrap(), "9e/12".parse().unwrap()],
            deny: vec!["c0-ff".parse().unwrap()],
        },
        read_only: true,
        timeout: Some(Duration::from_secs(90)),
        path_timeout: Duration::ZERO,
        queue_depth: Some(16),
        shared_nexus: true,
        force: true,
        broker: Some(fixture.path("broker.sock")),
        overlay: Overlay {
            serial: Some("S 1".into()),
            wwn: Some(Naa::parse("5001438012345678").unwrap()),
        },
    };
    assert_eq!(devices(&spec), [&expected]);
    assert_eq!(addresses(&spec), [(3, 7)]);
}

#[test]
fn each_policy_has_its_name() {
    let fixture = Fixture::new();
    for (name, preset) in [
        ("read-only", Preset::ReadOnly),
        ("disk-rw", Preset::DiskRw),
        ("cluster", Preset::Cluster),
        ("full", Preset::Full),
    ] {
        let spec = fixture.good(&format!("{BOOT}{DEVICE}policy = '{name}'"));
        assert_eq!(devices(&spec)[0].policy.preset, preset, "{name}");
    }
}

#[test]
fn which_device_and_what_is_allowed() {
    each_has_one_problem(&[
        (
            "{BOOT}[[controller]]\n[[controller.lun]]\npassthrough = { target_wwpn = \
             '500143801234567a', lun = 7 }",
            "5:15: controller.lun.passthrough = {…}: not supported yet; write the path of a \
             device",
        ),
        (
            "{BOOT}[[controller]]\n[[controller.lun]]\npassthrough = 7",
            "5:15: controller.lun.passthrough = 7: not a string; write it in quotes",
        ),
        (
            "{BOOT}{DEVICE}expect = '60014051234567890123456789abcdef'",
            "6:10: controller.lun.expect = \"60014051234567890123456789abcdef\": not a \
             designator; it must be naa., eui., t10. or name. and the name, as in \
             naa.600140512345678",
        ),
        (
            "{BOOT}{DEVICE}policy = 'all'",
            "6:10: controller.lun.policy = \"all\": no such choice; use \"read-only\" or \
             \"disk-rw\" or \"cluster\" or \"full\"",
        ),
        (
            "{BOOT}{DEVICE}allow = '4c'",
            "6:9: controller.lun.allow = \"4c\": not an array; write the values in [ ]",
        ),
        (
            "{BOOT}{DEVICE}deny = ['42', 5]",
            "6:15: controller.lun.deny = 5: not a string; write it in quotes",
        ),
        (
            "{BOOT}{DEVICE}allow = ['4c', 'report luns']",
            "6:16: controller.lun.allow = \"report luns\": the VMM answers it itself; remove it",
        ),
    ]);
}

#[test]
fn options() {
    each_has_one_problem(&[
        (
            "{BOOT}{DEVICE}read_only = 1",
            "6:13: controller.lun.read_only = 1: not a boolean; write true or false",
        ),
        (
            "{BOOT}{DEVICE}timeout = '0s'",
            "6:11: controller.lun.timeout = \"0s\": out of range; write a time from \"1ms\" to \
             \"24h\"",
        ),
        (
            "{BOOT}{DEVICE}path_timeout = 30",
            "6:16: controller.lun.path_timeout = 30: not a time; write a string such as \"60s\" \
             (ms, s, m or h)",
        ),
        (
            "{BOOT}{DEVICE}queue_depth = 0",
            "6:15: controller.lun.queue_depth = 0: out of range; write an integer from 1 to 256",
        ),
        (
            "{BOOT}{DEVICE}shared_nexus = 'yes'",
            "6:16: controller.lun.shared_nexus = \"yes\": not a boolean; write true or false",
        ),
        (
            "{BOOT}{DEVICE}force = 'yes'",
            "6:9: controller.lun.force = \"yes\": not a boolean; write true or false",
        ),
        (
            "{BOOT}{DEVICE}broker = 'none.sock'",
            "6:10: controller.lun.broker = \"none.sock\": none.sock cannot be opened: no such \
             file; create it, or correct the path",
        ),
        (
            "{BOOT}{DEVICE}broker = 'b.raw'",
            "6:10: controller.lun.broker = \"b.raw\": b.raw is a regular file; name the socket \
             of a broker",
        ),
        (
            "{BOOT}{DEVICE}serial = ''",
            "6:10: controller.lun.serial = \"\": not a serial number; use 1 to 36 printable \
             ASCII characters",
        ),
        (
            "{BOOT}{DEVICE}wwn = 'x'",
            "6:7: controller.lun.wwn = \"x\": not a WWN; it must be 16 hex digits that begin \
             with 2, 3 or 5, or 32 that begin with 6",
        ),
    ]);
}

#[test]
fn each_command_that_there_is_not_has_a_line() {
    let lines = Fixture::new().problems(format!("{BOOT}{DEVICE}allow = ['4c', 'zz',\n'4c-3b']"));
    let starts = ["6:16: controller.lun.allow = \"zz\"", "7:1: controller.lun.allow = \"4c-3b\""];
    assert_eq!(lines.len(), starts.len(), "{lines:?}");
    for (line, start) in lines.iter().zip(starts) {
        assert!(line.starts_with(&format!("guest1.toml:{start}: names no command; ")), "{line}");
    }
}

#[test]
fn a_broker_that_does_not_serve_is_refused() {
    let fixture = Fixture::new();
    drop(UnixListener::bind(fixture.path("old.sock")).unwrap());
    let why = "guest1.toml:6:10: controller.lun.broker = \"old.sock\": nobody serves old.sock; \
               start the broker";
    assert_eq!(fixture.problems(format!("{BOOT}{DEVICE}broker = 'old.sock'")), [why]);
}

#[test]
fn keys_of_disks_do_not_go_with_a_device() {
    let keys = "format = 'raw'\nshared = true\ndirect = true\nwrite_cache = 'back'\n\
                discard = true\nblock_size = 512\nphysical_block_size = 512\nrotational = true\n\
                vendor = 'A'\nproduct = 'B'\nrevision = 'C'\n";
    let names: Vec<_> = keys.lines().map(|line| line.split(' ').next().unwrap()).collect();
    let lines = Fixture::new().problems(format!("{BOOT}{DEVICE}{keys}"));
    assert_eq!(lines.len(), names.len(), "{lines:#?}");
    for (name, line) in names.iter().zip(&lines) {
        let with = format!(": controller.lun.{name} with the passthrough at line 5: ");
        assert!(line.contains(&with) && line.contains("; "), "{line}");
    }
    assert_eq!(
        lines[4],
        "guest1.toml:10:11: controller.lun.discard with the passthrough at line 5: the device \
         itself answers UNMAP; remove it; deny = [\"UNMAP\"] refuses it"
    );
}

#[test]
fn keys_of_devices_do_not_go_with_a_disk() {
    let keys = "expect = 'x'\npolicy = 'full'\nallow = []\ndeny = []\ntimeout = '1s'\n\
                path_timeout = '1s'\nqueue_depth = 1\nshared_nexus = true\nforce = true\n\
                broker = 's'\n";
    let names: Vec<_> = keys.lines().map(|line| line.split(' ').next().unwrap()).collect();
    let lines = Fixture::new().problems(format!("{BOOT}{LUN}{keys}"));
    assert_eq!(lines.len(), names.len(), "{lines:#?}");
    for (name, line) in names.iter().zip(&lines) {
        let with = format!(": controller.lun.{name} with the image at line 5: ");
        assert!(line.contains(&with) && line.contains("; "), "{line}");
    }
    assert_eq!(
        lines[0],
        "guest1.toml:6:10: controller.lun.expect with the image at line 5: an emulated disk has \
         the designator that it is given; write wwn instead"
    );
}

#[test]
fn a_device_and_an_image_exclude_each_other() {
    let lines = Fixture::new().problems(format!("{BOOT}{LUN}passthrough = 'b.raw'\nforce = 1"));
    let expected = [
        "guest1.toml:4:1: [[controller.lun]]: image and passthrough exclude each other; keep one \
         of them",
        "guest1.toml:7:9: controller.lun.force = 1: not a boolean; write true or false",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn a_device_is_one_luns() {
    each_has_one_problem(&[
        (
            "{BOOT}{DEVICE}[[controller.lun]]\npassthrough = 'link.raw'",
            "7:15: controller.lun.passthrough: link.raw: used already at line 5; give each LUN a \
             device of its own",
        ),
        (
            "{BOOT}{DEVICE}shared_nexus = true\n[[controller.lun]]\npassthrough = 'hard.raw'\n\
             shared_nexus = true",
            "8:15: controller.lun.passthrough: hard.raw: used already at line 5; give each LUN a \
             device of its own",
        ),
        (
            "{BOOT}{DEVICE}[[controller.lun]]\nimage = 'a.raw'",
            "7:9: controller.lun.image: a.raw: used already at line 5; give each LUN a device of \
             its own",
        ),
        (
            "{BOOT}{LUN}[[controller.lun]]\npassthrough = 'a.raw'\n",
            "7:15: controller.lun.passthrough: a.raw: used already at line 5; give each LUN a \
             device of its own",
        ),
    ]);
}

#[test]
fn one_name_is_one_logical_units() {
    const WWN: &str = "wwn = '5001438012345678'\n";
    let fixture = Fixture::new();
    let two = |first: &str, second: &str| {
        format!(
            "{BOOT}{DEVICE}{WWN}{first}[[controller.lun]]\npassthrough = 'b.raw'\n{WWN}{second}"
        )
    };
    let (a, b) = ("expect = 'naa.5001405000000001'\n", "expect = 'naa.5001405000000002'\n");
    fixture.good(&two(a, a));
    for (text, line) in [(two("", ""), 9), (two(a, ""), 10), (two(a, b), 10)] {
        let why = format!(
            "guest1.toml:{line}:7: controller.lun.wwn naa.5001438012345678: used already at line \
             6; give each medium a wwn of its own"
        );
        assert_eq!(fixture.problems(text), [why]);
    }
}

#[test]
fn nobody_fences_by_a_nexus_that_is_shared() {
    let fixture = Fixture::new();
    fixture.good(&format!("{BOOT}{DEVICE}policy = 'cluster'\nshared_nexus = true"));
    fixture.good(&format!("{BOOT}{DEVICE}allow = ['5f']\nshared_nexus = false"));
    each_has_one_problem(&[(
        "{BOOT}{DEVICE}shared_nexus = true\nallow = ['5e', '5f/03']",
        "7:9: controller.lun.allow with the shared_nexus at line 6: a reservation would hold for \
         everybody who shares the nexus; remove what reserves, or use a nexus of the guest's own",
    )]);
}

#[test]
fn who_expects_another_device_is_told_where() {
    fn another(_: &LunSpec) -> Result<(), storage::lun::OpenError> {
        let expected = "naa.5001405000000001".parse().unwrap();
        let mismatch = OpenError::Mismatch { expected, found: "naa.5001405000000002".into() };
        Err(storage::lun::OpenError::device("a.raw".as_ref(), mismatch))
    }
    let host = Host { device: another, ..plenty() };
    let text = format!("{BOOT}{DEVICE}expect = 'naa.5001405000000001'");
    let lines = Fixture::new().problems_on(&host, text);
    let why = "guest1.toml:6:10: controller.lun.expect with the passthrough at line 5: a.raw is \
               not naa.5001405000000001 but naa.5001405000000002; ";
    assert!(lines.len() == 1 && lines[0].starts_with(why), "{lines:?}");
}

#[test]
fn a_device_that_cannot_be_opened_is_refused_beside_all_else() {
    let fixture = Fixture::new();
    let host = Host { device: storage::lun::check, ..plenty() };
    let lines = fixture.problems_on(&host, format!("{BOOT}{DEVICE}timeout = 1"));
    let why = "guest1.toml:5:15: controller.lun.passthrough: a.raw is not a SCSI device; name a \
               /dev/sg or /dev/sd node, or emulate a disk on it by block";
    assert_eq!(lines.first().map(String::as_str), Some(why));
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(!Path::new("a.raw").exists());
}

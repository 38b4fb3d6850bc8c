use std::cell::Cell;
use std::os::unix::fs::{PermissionsExt, chown};

use super::*;

const POLICY: &str = r#"
[[rule]]
user = 107
cgroup = "/machine.slice/guest1.scope"
lu = "naa.5001405000000001"
allow = "persistent-reservations"

[[rule]]
group = 36
lu = ["naa.5001405000000001", "t10.LIO-ORG x"]
allow = ["5f", "89", "9e/12"]

[[rule]]
user = "root"
lu = "any"
allow = "logical-unit-reset"
"#;

fn policy() -> Policy {
    file::parse("p", POLICY).unwrap()
}

fn peer(uid: u32, gids: &[u32], cgroup: &str) -> Peer {
    let cgroup = (!cgroup.is_empty()).then(|| cgroup.to_owned());
    Peer { pid: 1, uid, gids: gids.to_vec(), cgroup }
}

fn guest() -> Peer {
    peer(107, &[107], "/machine.slice/guest1.scope")
}

fn name(text: &str) -> Designator {
    text.parse().unwrap()
}

fn judge(peer: &Peer, cdb: &[u8], parameters: &[u8], unit: &str) -> Result<(), (u8, u8)> {
    let judged = policy().command(peer, cdb, Some(parameters), || Ok(vec![name(unit)]));
    judged.map_err(|refused| (refused.sense.code.asc, refused.sense.code.ascq))
}

const UNIT: &str = "naa.5001405000000001";
const NO_COMMAND: Result<(), (u8, u8)> = Err((0x20, 0));

#[test]
fn everything_that_a_rule_says_of_a_peer_must_hold() {
    let report = [0x5e, 0];
    assert_eq!(judge(&guest(), &report, &[], UNIT), Ok(()));
    assert_eq!(judge(&peer(107, &[107], ""), &report, &[], UNIT), NO_COMMAND);
    assert_eq!(
        judge(&peer(108, &[107], "/machine.slice/guest1.scope"), &report, &[], UNIT),
        NO_COMMAND
    );
    for (cgroup, is_in) in [
        ("/machine.slice/guest1.scope/emulator", true),
        ("/machine.slice/guest1.scope2", false),
        ("/machine.slice", false),
        ("/x/machine.slice/guest1.scope", false),
    ] {
        assert_eq!(judge(&peer(107, &[], cgroup), &report, &[], UNIT).is_ok(), is_in, "{cgroup}");
    }
    // A supplementary group counts.
    assert_eq!(judge(&peer(1, &[1, 36], ""), &[0x89], &[], UNIT), Ok(()));
    assert_eq!(judge(&peer(1, &[1], ""), &[0x89], &[], UNIT), NO_COMMAND);
}

#[test]
fn only_units_that_are_named_are_served() {
    assert_eq!(judge(&guest(), &[0x5e], &[], "naa.5001405000000002"), NO_COMMAND);
    let other = peer(1, &[36], "");
    assert_eq!(judge(&other, &[0x89], &[], "t10.LIO-ORG x"), Ok(()));
    assert_eq!(judge(&other, &[0x89], &[], "name.LIO-ORG x"), NO_COMMAND);
}

#[test]
fn reservations_do_not_cover_other_initiators() {
    assert_eq!(judge(&guest(), &[0x5f, 7], &[0; 24], UNIT), Err((0x24, 0)));
    let mut list = [0; 24];
    list[20] = 0x0d;
    let register = [0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0];
    assert_eq!(judge(&guest(), &register, &list, UNIT), Err((0x26, 0)));
    list[20] = 0x05;
    assert_eq!(judge(&guest(), &register, &list, UNIT), Ok(()));
    // What is not sent cannot be judged.
    for len in [0, 20, 23] {
        assert_eq!(judge(&guest(), &register, &list[..len], UNIT), Err((0x1a, 0)), "{len}");
    }
    let longer = [0x5f, 0, 0, 0, 0, 0, 1, 0, 24];
    assert_eq!(judge(&guest(), &longer, &list, UNIT), Err((0x1a, 0)));
    policy().command(&guest(), &register, None, || Ok(vec![name(UNIT)])).unwrap();
    // By its operation code, everything is meant.
    let other = peer(1, &[36], "");
    list[20] = 0x08;
    assert_eq!(judge(&other, &[0x5f, 7], &list, UNIT), Ok(()));
    assert_eq!(judge(&other, &[0x5e], &[], UNIT), NO_COMMAND);
    assert_eq!(judge(&other, &[0x9e, 0x12], &[], UNIT), Ok(()));
    assert_eq!(judge(&other, &[0x9e, 0x10], &[], UNIT), Err((0x24, 0)));
    assert_eq!(judge(&other, &[], &[], UNIT), NO_COMMAND);
}

#[test]
fn a_device_is_asked_for_its_name_once_and_only_if_that_matters() {
    let asked = Cell::new(0);
    let names = || {
        asked.set(asked.get() + 1);
        Err(io::Error::other("hm"))
    };
    let both = peer(107, &[36], "/machine.slice/guest1.scope");
    let refused = policy().command(&both, &[0x5e], None, names).unwrap_err();
    assert_eq!(refused.why, "the device does not tell who it is: hm");
    assert_eq!(asked.get(), 1);
    policy().reset(&peer(0, &[0], ""), names).unwrap();
    policy().command(&peer(5, &[5], ""), &[0x5e], None, names).unwrap_err();
    assert_eq!(asked.get(), 1);
    assert!(policy().reset(&guest(), || Ok(vec![name(UNIT)])).is_err());
    assert!(policy().known(&guest()).is_some() && policy().known(&peer(5, &[5], "")).is_none());
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let lu = "lu = \"any\"\nallow = \"89\"\n";
    let cases = [
        ("[[rule]\n", "p:1:"),
        ("rules = []", "p:1:1: unknown key \"rules\"; there are rule, limits"),
        ("rule = 1", "p:1:8: must be tables: write [[rule]]"),
        ("[[rule]]\nuser = 1", "p:1:1: allows nothing; give"),
        ("[[rule]]\nlu = \"any\"\nallow = \"89\"", "p:1:1: applies to nobody; give"),
        ("[[rule]]\nuser = 1\nlu = \"any\"", "p:1:1: \"lu\" and \"allow\" go together"),
        ("[[rule]]\nuser = 1\nlu = []\nallow = \"89\"", "p:3:6: must not be empty"),
        ("[[rule]]\nuser = 1\nlu = \"all\"\nallow = \"89\"", "p:3:6: \"all\" must be naa."),
        ("[[rule]]\nuser = 1\nlu = [\"any\", 1]\nallow = \"89\"", "p:3:7: \"any\" must be naa."),
        ("[[rule]]\nuser = 1\nlu = \"any\"\nallow = \"all\"", "p:4:9: \"all\" must be persistent"),
        ("[[rule]]\nuser = 1\nlu = \"any\"\nallow = \"UNMAP\"", "p:4:9: \"UNMAP\" must be written"),
        ("[[rule]]\nuser = 1\nlu = \"any\"\nallow = \"89-88\"", "p:4:9: \"89-88\" must be"),
        ("[[rule]]\nuser = -1\nvports = \"any\"", "p:2:8: must be a number from 0 to"),
        ("[[rule]]\nuser = \"no such\"\nvports = \"any\"", "p:2:8: there is no user \"no such\""),
        ("[[rule]]\ncgroup = \"a\"\nvports = \"any\"", "p:2:10: must be a path that begins with /"),
        ("[[rule]]\nuser = 1\nvports = \"2100000000000001\"", "p:3:10: \"2100000000000001\" must"),
        ("[[rule]]\nuser = 1\nvports = \"21:20\"", "p:3:10: \"21:20\" must be 16 hex"),
        ("[limits]\nconnections = 0", "p:2:15: must be a number from 1"),
        ("[limits]\ntimeout = 1", "p:2:1: unknown key \"timeout\""),
    ];
    for (text, expected) in cases {
        let error = file::parse("p", text).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{text:?} {error}");
        assert!(!error.contains('\n'), "{error}");
    }
    let parents = format!("[[rule]]\nuser = 1\n{lu}parents = \"any\"");
    let error = file::parse("p", &parents).unwrap_err().to_string();
    assert_eq!(error, "p:1:1: \"parents\" without \"vports\" has no effect");
}

#[test]
fn limits_are_read() {
    assert_eq!(file::parse("p", "").unwrap(), Policy::default());
    let text = "[limits]\nconnections = 7\nrequests_per_second = 9\ntimeout_seconds = 60\n";
    let limits = file::parse("p", text).unwrap().limits;
    let expected = Limits {
        connections: 7,
        requests_per_second: 9,
        timeout: Duration::from_secs(60),
        ..Limits::default()
    };
    assert_eq!(limits, expected);
}

#[test]
fn the_example_is_a_policy() {
    let example = include_str!("../../../configs/broker.toml");
    let policy = file::parse("example", example).unwrap();
    assert_eq!((policy.rules.len(), policy.limits), (2, Limits::default()));
}

#[test]
fn only_a_file_that_is_roots_alone_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broker.toml");
    let told = || file::load(&path).map(drop).map_err(|error| error.to_string());
    assert!(told().unwrap_err().contains("broker.toml: cannot be read"));
    std::fs::write(&path, POLICY).unwrap();
    let permit = |mode| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    if !nix::unistd::geteuid().is_root() {
        assert!(told().unwrap_err().contains("belongs to user"));
        return;
    }
    permit(0o644);
    assert_eq!(told(), Ok(()));
    for mode in [0o664, 0o646] {
        permit(mode);
        assert!(told().unwrap_err().contains("can be written by others"), "{mode:o}");
    }
    permit(0o600);
    chown(&path, Some(65534), None).unwrap();
    assert!(told().unwrap_err().contains("belongs to user 65534"));
    let error = file::load(folder.path()).unwrap_err().to_string();
    assert!(error.ends_with("is no regular file"), "{error}");
}

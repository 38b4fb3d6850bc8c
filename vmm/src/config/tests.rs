//! Whole files: what they yield, and what is said about those that are no configuration.

mod anything;
mod controllers;
mod examples;
mod hosts;
mod passthrough;
mod refusals;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use storage::lun::spec::{Ascii, Backing, WriteCache};
use tempfile::TempDir;

use super::*;
use crate::host::{Descriptors, Kvm, Memory};
use crate::spec::{AddressedLun, MemoryBacking, OnCrash, OnReboot, SerialSpec, Transport};

/// A host on which nothing is short.
fn plenty() -> Host {
    Host {
        kvm: Ok(Kvm { vcpus: 64, physical_bits: 46 }),
        memory: Some(Memory { total: 1 << 41, available: 1 << 40, huge_pages: 1 << 20 }),
        descriptors: Descriptors { limit: 1 << 20, open: 3 },
        device: |_| Ok(()),
    }
}

/// A directory with a kernel and some images, where a configuration is read from.
struct Fixture(TempDir);

impl Fixture {
    fn new() -> Fixture {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("vmlinuz"), ::tests::tiny::bzimage(&[])).unwrap();
        for (name, size) in [
            ("initramfs", 1),
            ("empty.raw", 0),
            ("odd.raw", 1000),
            ("a.raw", 512),
            ("b.raw", 1024),
            ("c.raw", 512),
            ("d.raw", 512),
            ("pages.raw", 8192),
        ] {
            fs::write(dir.path().join(name), vec![0; size]).unwrap();
        }
        std::os::unix::fs::symlink("a.raw", dir.path().join("link.raw")).unwrap();
        fs::hard_link(dir.path().join("a.raw"), dir.path().join("hard.raw")).unwrap();
        Fixture(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn load(&self, text: impl AsRef<[u8]>, host: &Host) -> Result<GuestSpec, Diagnostics> {
        let path = self.path("guest1.toml");
        fs::write(&path, text).unwrap();
        load(&path, host)
    }

    fn good(&self, text: &str) -> GuestSpec {
        self.load(text, &plenty()).unwrap_or_else(|problems| panic!("{text}\n{problems}"))
    }

    /// The lines about `text`, without the directory.
    fn problems(&self, text: impl AsRef<[u8]>) -> Vec<String> {
        self.problems_on(&plenty(), text)
    }

    fn problems_on(&self, host: &Host, text: impl AsRef<[u8]>) -> Vec<String> {
        let dir = format!("{}/", self.0.path().display());
        let problems = self.load(text, host).unwrap_err();
        problems.lines().iter().map(|line| line.replace(&dir, "")).collect()
    }
}

/// Each text, where `{BOOT}` and `{LUN}` stand for sections without fault, has exactly one
/// problem, of which all but the name of the file is given.
fn each_has_one_problem(cases: &[(&str, &str)]) {
    let fixture = Fixture::new();
    for (text, problem) in cases {
        let text = text.replace("{BOOT}", BOOT).replace("{LUN}", LUN);
        assert_eq!(fixture.problems(&text), [format!("guest1.toml:{problem}")], "{text}");
    }
}

const BOOT: &str = "[boot]\nkernel = 'vmlinuz'\n";
const LUN: &str = "[[controller]]\n[[controller.lun]]\nimage = 'a.raw'\n";

fn luns(spec: &GuestSpec) -> Vec<&AddressedLun> {
    spec.controllers.iter().flat_map(|controller| &controller.luns).collect()
}

fn addresses(spec: &GuestSpec) -> Vec<(u8, u16)> {
    luns(spec).iter().map(|lun| (lun.target, lun.lun)).collect()
}

#[test]
fn the_least_file_has_every_default() {
    let fixture = Fixture::new();
    let spec = fixture.good(&format!("{BOOT}{LUN}"));
    assert_eq!(spec.machine.name, "guest1");
    assert_eq!(spec.machine.uuid, identity::guest_uuid("guest1"));
    assert_eq!((spec.machine.vcpus, spec.machine.memory), (1, 512 << 20));
    assert_eq!(spec.machine.memory_backing, MemoryBacking::Anonymous);
    assert_eq!((spec.machine.on_reboot, spec.machine.on_crash), (OnReboot::Restart, OnCrash::Exit));
    assert_eq!(spec.machine.stop_timeout, Duration::from_secs(60));
    assert_eq!(spec.serial, SerialSpec::Stdio);
    assert_eq!(spec.boot.kernel, fixture.path("vmlinuz"));
    assert_eq!((spec.boot.initramfs, spec.boot.cmdline.as_str()), (None, "console=ttyS0"));
    let [controller] = spec.controllers.as_slice() else { panic!("one controller") };
    assert_eq!(controller.id, "scsi0");
    assert_eq!((controller.request_queues, controller.queue_size), (1, 256));
    assert_eq!(controller.transport, Transport::Pci);
    assert_eq!(controller.tmf_timeout, Duration::from_secs(15));
    let [lun] = controller.luns.as_slice() else { panic!("one lun") };
    assert_eq!((lun.target, lun.lun), (0, 0));
    assert_eq!(lun.disk().backing, Backing::RawImage(fixture.path("a.raw")));
    assert_eq!((lun.disk().read_only, lun.disk().rotational), (false, false));
    assert_eq!((lun.disk().shared, lun.disk().direct, lun.disk().discard), (false, false, true));
    assert_eq!(lun.disk().write_cache, WriteCache::Back);
    assert_eq!((lun.disk().block_size, lun.disk().physical_block_size), (None, None));
    let identity = &lun.disk().identity;
    assert_eq!(identity.vendor, Ascii::new("VMM").unwrap());
    assert_eq!(identity.product, Ascii::new("VIRTUAL DISK").unwrap());
    assert_eq!(identity.revision, Ascii::new("0.1").unwrap());
    assert_eq!(identity.wwn.to_string(), "naa.3e2f3c5c7e1fa9f9");
    assert_eq!(identity.serial, "3e2f3c5c7e1fa9f9");
}

#[test]
fn every_served_key_is_read() {
    let fixture = Fixture::new();
    let spec = fixture.good(
        "[machine]
        name = 'web'
        uuid = '123e4567-e89b-12d3-a456-426614174000'
        vcpus = 3
        memory = '1GiB'
        memory_backing = 'prealloc'
        on_reboot = 'exit'
        on_crash = 'restart'
        stop_timeout = '90s'
        [boot]
        kernel = 'vmlinuz'
        initramfs = './initramfs'
        cmdline = 'root=/dev/sda'
        [console]
        serial = { file = 'console.log' }
        [[controller]]
        id = 'hba'
        transport = 'mmio'
        tmf_timeout = '500ms'
        request_queues = 2
        queue_size = 1024
        [[controller.lun]]
        target = 255
        lun = 16383
        image = 'pages.raw'
        format = 'raw'
        read_only = true
        shared = 'this-host-only'
        direct = true
        write_cache = 'through'
        discard = false
        block_size = 4096
        physical_block_size = '16KiB'
        rotational = true
        serial = 'S 1'
        wwn = '50:01:43:80:12:34:56:78'
        vendor = 'ACME'
        product = 'ROCKET'
        revision = '9'",
    );
    assert_eq!(spec.machine.name, "web");
    assert_eq!(spec.machine.uuid.to_string(), "123e4567-e89b-12d3-a456-426614174000");
    assert_eq!((spec.machine.vcpus, spec.machine.memory), (3, 1 << 30));
    assert_eq!(spec.machine.memory_backing, MemoryBacking::Prealloc);
    assert_eq!((spec.machine.on_reboot, spec.machine.on_crash), (OnReboot::Exit, OnCrash::Restart));
    assert_eq!(spec.machine.stop_timeout, Duration::from_secs(90));
    assert_eq!(spec.boot.initramfs, Some(fixture.path("initramfs")));
    assert_eq!(spec.boot.cmdline, "root=/dev/sda");
    assert_eq!(spec.serial, SerialSpec::File(fixture.path("console.log")));
    assert!(!fixture.path("console.log").exists());
    let controller = &spec.controllers[0];
    assert_eq!(controller.id, "hba");
    assert_eq!(controller.transport, Transport::Mmio);
    assert_eq!(controller.tmf_timeout, Duration::from_millis(500));
    assert_eq!((controller.request_queues, controller.queue_size), (2, 1024));
    let lun = &controller.luns[0];
    assert_eq!((lun.target, lun.lun), (255, 16383));
    assert_eq!((lun.disk().read_only, lun.disk().rotational), (true, true));
    assert_eq!((lun.disk().shared, lun.disk().direct, lun.disk().discard), (true, true, false));
    assert_eq!(lun.disk().write_cache, WriteCache::Through);
    assert_eq!(
        (lun.disk().block_size, lun.disk().physical_block_size),
        (Some(4096), Some(16 << 10))
    );
    assert_eq!(lun.disk().identity.serial, "S 1");
    assert_eq!(lun.disk().identity.wwn.to_string(), "naa.5001438012345678");
    assert_eq!(lun.disk().identity.vendor, Ascii::new("ACME").unwrap());
    assert_eq!(lun.disk().identity.product, Ascii::new("ROCKET").unwrap());
    assert_eq!(lun.disk().identity.revision, Ascii::new("9").unwrap());
}

#[test]
fn request_queues_follow_the_vcpus_up_to_16() {
    let fixture = Fixture::new();
    for (vcpus, queues) in [(2, 2), (16, 16), (17, 16), (64, 16)] {
        let spec = fixture.good(&format!("[machine]\nvcpus = {vcpus}\n{BOOT}{LUN}"));
        assert_eq!(spec.controllers[0].request_queues, queues, "{vcpus}");
    }
}

#[test]
fn a_lun_without_a_number_gets_the_smallest_that_is_free() {
    let fixture = Fixture::new();
    for (luns, expected) in [
        (["", "", "", ""], [(0, 0), (0, 1), (0, 2), (0, 3)]),
        (["", "", "lun = 0", "lun = 2"], [(0, 1), (0, 3), (0, 0), (0, 2)]),
        (["lun = 5", "", "target = 1", ""], [(0, 5), (0, 0), (1, 0), (0, 1)]),
        (["target = 7", "target = 7\nlun = 0", "", ""], [(7, 1), (7, 0), (0, 0), (0, 1)]),
    ] {
        let mut text = format!("{BOOT}[[controller]]\n");
        for (lun, image) in luns.iter().zip(["a", "b", "c", "d"]) {
            text += &format!("[[controller.lun]]\nimage = '{image}.raw'\n{lun}\n");
        }
        assert_eq!(addresses(&fixture.good(&text)), expected, "{luns:?}");
    }
}

#[test]
fn a_target_that_is_full_is_reported() {
    let fixture = Fixture::new();
    let text =
        format!("{BOOT}[[controller]]\n{}", "[[controller.lun]]\nimage = 'x'\n".repeat(16385));
    let full = "guest1.toml:32772:1: controller.lun.lun: no number is free on target 0; \
                use another target";
    assert!(fixture.problems(text).iter().any(|line| line == full));
}

#[test]
fn derived_wwns_do_not_depend_on_order() {
    let fixture = Fixture::new();
    let one = "[[controller]]\nid = 'one'\n";
    let two = "[[controller]]\nid = 'two'\n[[controller.lun]]\nlun = 0\nimage = 'c.raw'\n";
    let a = "[[controller.lun]]\nlun = 0\nimage = 'a.raw'\n";
    let b = "[[controller.lun]]\nlun = 1\nimage = 'b.raw'\n";
    let identities = |text: &str| {
        let spec = fixture.good(text);
        let mut found: Vec<_> = luns(&spec)
            .iter()
            .map(|lun| {
                let identity = &lun.disk().identity;
                let image = format!("{:?}", lun.disk().backing);
                (image, identity.wwn.to_string(), identity.serial.clone())
            })
            .collect();
        found.sort();
        found
    };
    let first = identities(&format!("{BOOT}{one}{a}{b}{two}"));
    assert_eq!(first.len(), 3);
    assert_eq!(identities(&format!("{two}{one}{b}{a}{BOOT}")), first);
    let named = format!("[machine]\nname = 'other'\n{BOOT}{one}{a}{b}{two}");
    assert!(identities(&named).iter().all(|found| !first.contains(found)));
}

#[test]
fn paths_may_be_absolute() {
    let fixture = Fixture::new();
    let image = fixture.path("b.raw");
    let text = format!("{BOOT}[[controller]]\n[[controller.lun]]\nimage = {image:?}\n");
    assert_eq!(luns(&fixture.good(&text))[0].disk().backing, Backing::RawImage(image));
}

#[test]
fn a_read_only_image_is_not_opened_for_writing() {
    use std::os::unix::fs::PermissionsExt;
    let fixture = Fixture::new();
    let path = fixture.path("a.raw");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    fixture.good(&format!("{BOOT}{LUN}read_only = true\n"));
    // Root may write whatever the mode says.
    if fs::OpenOptions::new().write(true).open(&path).is_err() {
        let denied = "guest1.toml:5:9: controller.lun.image = \"a.raw\": a.raw cannot be opened: \
                      permission denied; change its permissions, or run as another user";
        assert_eq!(fixture.problems(format!("{BOOT}{LUN}")), [denied]);
    }
}

#[test]
fn files_that_are_no_text_are_refused() {
    let fixture = Fixture::new();
    let of = |name: &str| {
        let dir = format!("{}/", fixture.0.path().display());
        load(&fixture.path(name), &plenty()).unwrap_err().to_string().replace(&dir, "")
    };
    let check = "check the path of the configuration";
    assert_eq!(of("none.toml"), format!("none.toml: no such file; {check}"));
    fs::create_dir(fixture.path("dir.toml")).unwrap();
    assert_eq!(of("dir.toml"), format!("dir.toml: it is a directory; {check}"));
    assert_eq!(
        fixture.problems(b"# caf\xc3\xa9\n# caf\xe9\n"),
        ["guest1.toml:2:6: text: not UTF-8; save the file as UTF-8"]
    );
    assert_eq!(
        fixture.problems(vec![b'#'; (1 << 20) + 1]),
        [format!("guest1.toml: larger than 1 MiB; {check}")]
    );
}

//! The files of `configs/`, with the files that they name.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::{Fixture, GuestSpec, luns, plenty};

/// The example, read beside empty files in place of those that it names, where block devices are
/// images, and SCSI devices whatever they are.
fn example(name: &str) -> GuestSpec {
    let fixture = Fixture::new();
    let folder = fixture.path("configs");
    fs::create_dir(&folder).unwrap();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let text = fs::read_to_string(examples.join(name)).unwrap();
    let text = text.replace("block = \"/dev/", "image = \"devices/");
    let text = text.replace("passthrough = \"/dev/", "passthrough = \"devices/");
    let text = text.replace("\"/run/vmm/", "\"");
    let _broker = UnixListener::bind(folder.join("broker.sock")).unwrap();
    for path in paths(&text) {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let kernel = path.file_name().is_some_and(|name| name == "vmlinuz");
        let content = if kernel { ::tests::tiny::bzimage(&[]) } else { vec![0; 8192] };
        fs::write(path, content).unwrap();
    }
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    super::load(&path, &plenty()).unwrap_or_else(|problems| panic!("{problems}"))
}

/// The values of kernel, initramfs, image and passthrough.
fn paths(text: &str) -> Vec<PathBuf> {
    let root = DeTable::parse(text).unwrap().into_inner();
    let boot = root["boot"].get_ref().as_table().unwrap();
    let mut paths: Vec<_> =
        ["kernel", "initramfs"].iter().filter_map(|key| boot.get(*key)).collect();
    for controller in root["controller"].get_ref().as_array().unwrap() {
        let luns = controller.get_ref().as_table().unwrap()["lun"].get_ref().as_array().unwrap();
        paths.extend(luns.iter().map(|lun| {
            let lun = lun.get_ref().as_table().unwrap();
            lun.get("image").unwrap_or_else(|| &lun["passthrough"])
        }));
    }
    paths.iter().map(|path| path.get_ref().as_str().unwrap().into()).collect()
}

#[test]
fn each_example_is_good() {
    for (name, controllers, disks) in [
        ("demo.toml", 1, 2),
        ("image.toml", 2, 5),
        ("block.toml", 1, 3),
        ("many-luns.toml", 2, 40),
        ("passthrough.toml", 1, 3),
        ("cluster.toml", 3, 4),
    ] {
        let spec = example(name);
        assert_eq!(spec.controllers.len(), controllers, "{name}");
        assert_eq!(luns(&spec).len(), disks, "{name}");
        assert_eq!(format!("{}.toml", spec.machine.name), name);
    }
    let there = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs")).unwrap();
    // Guests' are beside the broker's and systemd's.
    let others = ["broker.toml", "systemd"];
    let there = there
        .filter(|entry| !others.iter().any(|name| entry.as_ref().unwrap().file_name() == *name));
    assert_eq!(there.count(), 6, "an example without a test");
}

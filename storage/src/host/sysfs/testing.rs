//! A made-up sysfs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;

use super::{BlockNode, Folder, Sysfs};

/// A folder that looks like a sysfs with SCSI in it.
pub(crate) struct Tree(TempDir);

impl Tree {
    pub(crate) fn new() -> Tree {
        let tree = Tree(tempfile::tempdir().unwrap());
        fs::create_dir_all(tree.0.path().join("bus/scsi/devices")).unwrap();
        tree
    }

    pub(crate) fn sysfs(&self) -> Sysfs {
        Sysfs::at(self.0.path())
    }

    pub(crate) fn file(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    }

    pub(crate) fn link(&self, path: &str, target: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(self.0.path().join(target), path).unwrap();
    }

    pub(crate) fn remove(&self, path: &str) {
        fs::remove_dir_all(self.0.path().join(path)).unwrap();
    }

    /// A SCSI device at `address` below `parent`; returns its folder.
    pub(crate) fn device(&self, parent: &str, address: &str) -> String {
        let folder = format!("devices/{parent}/{address}");
        self.file(&format!("{folder}/state"), "running");
        self.file(&format!("{folder}/queue_depth"), "32");
        self.file(&format!("{folder}/type"), "0");
        self.link(&format!("{folder}/subsystem"), "bus/scsi");
        self.link(&format!("bus/scsi/devices/{address}"), &folder);
        folder
    }

    /// The block node `name` with `number` of the device in the folder `device`.
    pub(crate) fn disk(&self, device: &str, name: &str, number: &str) -> String {
        let folder = self.block(&format!("{device}/block/{name}"), number);
        self.link(&format!("{folder}/device"), device);
        folder
    }

    /// A block node in `folder`.
    pub(crate) fn block(&self, folder: &str, number: &str) -> String {
        self.file(&format!("{folder}/dev"), number);
        for (attribute, value) in [
            ("max_sectors_kb", "1280"),
            ("max_hw_sectors_kb", "32767"),
            ("max_segments", "256"),
            ("max_segment_size", "4294967295"),
            ("dma_alignment", "511"),
        ] {
            self.file(&format!("{folder}/queue/{attribute}"), value);
        }
        self.link(&format!("dev/block/{number}"), folder);
        folder.to_owned()
    }

    /// What is known of the block node in `folder`.
    pub(crate) fn block_node(&self, folder: &str) -> BlockNode {
        BlockNode::new(self.sysfs(), Folder(self.0.path().join(folder)))
    }

    /// The character node `name` of `class` of the device in the folder `device`.
    pub(crate) fn char(&self, device: &str, class: &str, name: &str, number: &str) {
        let folder = format!("{device}/{class}/{name}");
        self.file(&format!("{folder}/uevent"), &format!("MAJOR=1\nDEVNAME={name}"));
        self.link(&format!("{folder}/device"), device);
        self.link(&format!("dev/char/{number}"), &folder);
    }

    /// A volume of the device mapper on `legs`.
    pub(crate) fn volume(&self, uuid: &str, legs: &[&str]) -> String {
        let folder = self.block("devices/virtual/block/dm-0", "253:0");
        self.file(&format!("{folder}/dm/uuid"), uuid);
        self.file(&format!("{folder}/dm/name"), "mpatha");
        for leg in legs {
            let name = Path::new(leg).file_name().unwrap().to_str().unwrap();
            self.link(&format!("{folder}/slaves/{name}"), leg);
            self.link(&format!("{leg}/holders/dm-0"), &folder);
        }
        folder
    }
}

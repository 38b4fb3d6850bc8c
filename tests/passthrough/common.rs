//! What the tests of this program share.

use std::fs::File;
use std::io::Result;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tests::host;

/// The program that sends commands in a guest.
pub const REPLAY: &str = env!("CARGO_BIN_EXE_replay");

/// Bytes.
pub const MIB: u64 = 1 << 20;

/// An empty file of `size` bytes in a folder.
pub fn empty_file(folder: &TempDir, name: &str, size: u64) -> Result<PathBuf> {
    let path = folder.path().join(name);
    File::create(&path)?.set_len(size)?;
    Ok(path)
}

/// A block device of 4096-byte blocks on a file.
#[derive(Debug)]
pub struct Loop4096(PathBuf);

impl Loop4096 {
    pub fn new(file: &Path) -> Result<Loop4096> {
        host::load(&["loop"])?;
        let file = file.display().to_string();
        Ok(Loop4096(host::run("losetup", &["-b", "4096", "-f", "--show", &file])?.into()))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Loop4096 {
    fn drop(&mut self) {
        let _ = host::run("losetup", &["-d", &self.0.display().to_string()]);
    }
}

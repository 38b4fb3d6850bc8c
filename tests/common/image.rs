//! Disk images as a test makes and inspects them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// A raw image file.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    file: File,
}

impl Image {
    /// A sparse image of `size` bytes at `path`.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(path: &Path, size: u64) -> io::Result<Image> {
        let file = File::options().read(true).write(true).create_new(true).open(path)?;
        file.set_len(size)?;
        Ok(Image { path: path.into(), file })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Stores `bytes` at `offset`.
    ///
    /// # Errors
    /// What the host says.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    /// The SHA-256 of `len` bytes from `offset`, as `sha256sum` prints it.
    ///
    /// # Errors
    /// What the host says.
    pub fn sha256(&self, offset: u64, len: usize) -> io::Result<String> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(sha256(&bytes))
    }
}

/// The SHA-256 of `bytes`, as `sha256sum` prints it.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `len` bytes that do not repeat soon: a xorshift sequence from `seed`.
#[must_use]
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(len).collect()
}

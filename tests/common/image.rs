//! Disk images as a test makes and inspects them.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
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

impl Image {
    /// How many bytes the host stores for it.
    ///
    /// # Errors
    /// What the host says.
    pub fn allocated(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.blocks() * 512)
    }

    /// Whether the `len` bytes from `offset` are a hole: the host stores nothing for them.
    ///
    /// # Errors
    /// What the host says.
    pub fn is_hole(&self, offset: u64, len: u64) -> io::Result<bool> {
        let start = i64::try_from(offset).map_err(io::Error::other)?;
        match lseek(&self.file, start, Whence::SeekData) {
            Ok(data) => Ok(data.cast_unsigned() >= offset + len),
            Err(Errno::ENXIO) => Ok(true), // no data up to the end
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the `len` bytes from `offset` are those of `block`, over and over.
    ///
    /// # Errors
    /// What the host says.
    pub fn repeats(&self, offset: u64, len: usize, block: &[u8]) -> io::Result<bool> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes.chunks(block.len()).all(|chunk| chunk == block))
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

//! What a logical unit is made from: typed values that the configuration yields.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::passthrough::policy::PolicySpec;
use crate::scsi::designator::Designator;

/// A logical unit to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LunSpec {
    /// An emulated disk.
    Disk(DiskSpec),
    /// A SCSI device of the host.
    Passthrough(PassthroughSpec),
}

impl LunSpec {
    /// What it is on.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            LunSpec::Disk(disk) => disk.backing.path(),
            LunSpec::Passthrough(passthrough) => &passthrough.path,
        }
    }
}

/// A SCSI device of the host as a logical unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassthroughSpec {
    /// The device: an sg or block node, or a link to one.
    pub path: PathBuf,
    /// The device must have this designator (SPC-6, Device Identification VPD page).
    pub expect: Option<Designator>,
    /// What the initiator may ask of it.
    pub policy: PolicySpec,
    /// Refuse every command that modifies anything.
    pub read_only: bool,
    /// How long a command may take that has no reason to take longer; `None` for what its kind
    /// usually takes.
    pub timeout: Option<Duration>,
    /// How long a command that can be repeated is held while no path leads to the device.
    pub path_timeout: Duration,
    /// Commands at the device at a time; `None` for what the host allows it.
    pub queue_depth: Option<u16>,
    /// Others may use the device by the same I_T nexus.
    pub shared_nexus: bool,
    /// Open it even though the host itself uses it.
    pub force: bool,
    /// The socket of a broker, for commands that need more privilege than the VMM has.
    pub broker: Option<PathBuf>,
    /// What it says instead of what the device says.
    pub overlay: Overlay,
}

impl PassthroughSpec {
    /// The path timeout where none is given.
    pub const PATH_TIMEOUT: Duration = Duration::from_secs(30);

    /// The device at `path`, with every option at its default.
    #[must_use]
    pub fn new(path: &Path) -> PassthroughSpec {
        PassthroughSpec {
            path: path.into(),
            expect: None,
            policy: PolicySpec::default(),
            read_only: false,
            timeout: None,
            path_timeout: PassthroughSpec::PATH_TIMEOUT,
            queue_depth: None,
            shared_nexus: false,
            force: false,
            broker: None,
            overlay: Overlay::default(),
        }
    }
}

/// Names that take the place of a device's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overlay {
    /// PRODUCT SERIAL NUMBER (SPC-6, Unit Serial Number VPD page).
    pub serial: Option<String>,
    /// The only designator of the logical unit (SPC-6, Device Identification VPD page).
    pub wwn: Option<Naa>,
}

/// A disk over a file or a block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSpec {
    /// What holds its data.
    pub backing: Backing,
    /// Refuse every command that modifies the medium.
    pub read_only: bool,
    /// Report a medium of which no initiator is told that it does not rotate (SBC-4, Block Device
    /// Characteristics VPD page).
    pub rotational: bool,
    /// Others may have it open too.
    pub shared: bool,
    /// Past the host's page cache (`O_DIRECT`).
    pub direct: bool,
    /// Whether a write may be answered before it is stable.
    pub write_cache: WriteCache,
    /// Give unmapped blocks back to the host, where the backing can.
    pub discard: bool,
    /// Bytes of a logical block, 512 or 4096; `None` for what the backing has, else 512.
    pub block_size: Option<u32>,
    /// Bytes of a physical block; `None` for what the backing has.
    pub physical_block_size: Option<u32>,
    /// Who it says it is.
    pub identity: Identity,
}

/// What holds the data of a logical unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backing {
    /// A raw image file.
    RawImage(PathBuf),
    /// A block device of the host.
    BlockDevice(PathBuf),
}

impl Backing {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Backing::RawImage(path) | Backing::BlockDevice(path) => path,
        }
    }
}

/// Whether a logical unit has a volatile write cache (WCE of the Caching mode page).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriteCache {
    /// It has: a write is stable after the next SYNCHRONIZE CACHE.
    #[default]
    Back,
    /// It has none: a write is stable when it is answered.
    Through,
}

/// The names that a logical unit reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// T10 VENDOR IDENTIFICATION (SPC-6 6.7.2).
    pub vendor: Ascii<8>,
    /// PRODUCT IDENTIFICATION (SPC-6 6.7.2).
    pub product: Ascii<16>,
    /// PRODUCT REVISION LEVEL (SPC-6 6.7.2).
    pub revision: Ascii<4>,
    /// PRODUCT SERIAL NUMBER (SPC-6, Unit Serial Number VPD page): printable ASCII, at most
    /// [`Identity::SERIAL_MAX`] characters.
    pub serial: String,
    /// The NAA designator (SPC-6, NAA designator).
    pub wwn: Naa,
}

impl Identity {
    /// The longest serial number, in characters.
    pub const SERIAL_MAX: usize = 36;
}

/// A fixed-width ASCII data field: left-aligned, padded with spaces (SPC-6, ASCII data field
/// requirements).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Ascii<const N: usize>([u8; N]);

/// A text does not fit an ASCII data field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be printable ASCII of at most {max} characters")]
pub struct AsciiError {
    max: usize,
}

impl<const N: usize> Ascii<N> {
    /// # Errors
    /// When `text` is longer than `N` or not printable ASCII.
    pub fn new(text: &str) -> Result<Self, AsciiError> {
        if text.len() > N || !is_printable(text) {
            return Err(AsciiError { max: N });
        }
        let mut field = [b' '; N];
        for (to, from) in field.iter_mut().zip(text.bytes()) {
            *to = from;
        }
        Ok(Ascii(field))
    }

    /// The field as it goes over the wire.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; N] {
        &self.0
    }
}

impl<const N: usize> fmt::Debug for Ascii<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

/// Whether `text` is made of the graphic codes and spaces that an ASCII data field may hold.
#[must_use]
pub fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
}

/// An NAA designator of 8 bytes, or of 16 where its NAA field is 6 (SPC-6, NAA designator).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Naa {
    bytes: [u8; 16],
    len: u8,
}

/// A text or number is no NAA designator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 16 hex digits that begin with 2, 3 or 5, or 32 that begin with 6")]
pub struct NaaError;

impl Naa {
    /// NAA 3: a locally assigned name; `value`'s low 60 bits (SPC-6, NAA Locally Assigned
    /// designator).
    #[must_use]
    pub fn locally_assigned(value: u64) -> Naa {
        let name = (value & !(0xf << 60)) | 3 << 60;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&name.to_be_bytes());
        Naa { bytes, len: 8 }
    }

    /// Reads hex digits, with or without colons and a `0x` or `naa.` prefix.
    ///
    /// # Errors
    /// When they are not a designator of a kind that names a logical unit.
    pub fn parse(text: &str) -> Result<Naa, NaaError> {
        let text = text.strip_prefix("naa.").or_else(|| text.strip_prefix("0x")).unwrap_or(text);
        let digits: String = text.chars().filter(|&c| c != ':').collect();
        let value = u128::from_str_radix(&digits, 16).map_err(|_| NaaError)?;
        match (digits.len(), digits.as_bytes().first()) {
            (16, Some(b'2' | b'3' | b'5')) => {
                Ok(Naa { bytes: (value << 64).to_be_bytes(), len: 8 })
            }
            (32, Some(b'6')) => Ok(Naa { bytes: value.to_be_bytes(), len: 16 }),
            _ => Err(NaaError),
        }
    }

    /// The designator as it goes over the wire: 8 or 16 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Display for Naa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "naa.")?;
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Naa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ascii_fields_are_padded_and_bounded() {
        assert_eq!(Ascii::<8>::new("VMM").unwrap().as_bytes(), b"VMM     ");
        assert!(Ascii::<4>::new("12345").is_err());
        assert!(Ascii::<4>::new("é").is_err());
    }

    #[test]
    fn naa_is_read_in_each_spelling() {
        let bytes = [0x50, 1, 0x43, 0x80, 0x12, 0x34, 0x56, 0x78];
        for text in [
            "5001438012345678",
            "0x5001438012345678",
            "naa.5001438012345678",
            "50:01:43:80:12:34:56:78",
        ] {
            assert_eq!(Naa::parse(text).unwrap().as_bytes(), bytes);
        }
        let long = "naa.60014051234567890123456789012345";
        assert_eq!(Naa::parse(long).unwrap().to_string(), long);
        for bad in [
            "",
            "5",
            "6001438012345678",
            "1001438012345678",
            "+001438012345678",
            "5001438012345678ff",
        ] {
            assert_eq!(Naa::parse(bad), Err(NaaError), "{bad}");
        }
    }

    #[test]
    fn locally_assigned_names_carry_naa_3() {
        assert_eq!(Naa::locally_assigned(u64::MAX).to_string(), "naa.3fffffffffffffff");
    }
}

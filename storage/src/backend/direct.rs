//! What direct I/O on a file has to keep to.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use super::open::{OpenError, Options};
use super::{Alignment, queue, sys};

/// The units that are tried where nobody says which it is, in bytes.
const UNITS: [u32; 4] = [512, 1024, 2048, 4096];

/// What transfers on `file`, which is open as `options` say, have to keep to.
pub(super) fn alignment(
    file: &File,
    options: &Options,
    block_size: u32,
) -> Result<Alignment, OpenError> {
    if !options.direct {
        return Ok(Alignment::NONE);
    }
    let alignment = match sys::direct_alignment(file).map_err(OpenError::Examine)? {
        Some(Alignment { offset: 0, .. }) => return Err(OpenError::NoDirect),
        Some(stated) => stated,
        None => unstated(file)?,
    };
    if block_size.is_multiple_of(alignment.offset) {
        Ok(alignment)
    } else {
        Err(OpenError::DirectUnit { unit: alignment.offset, block_size })
    }
}

/// Before Linux 6.1, and on file systems that do not say: the logical block of the device below,
/// else the smallest that is not refused. What is good for offsets is good for memory.
fn unstated(file: &File) -> Result<Alignment, OpenError> {
    let device = file.metadata().map_err(OpenError::Examine)?.dev();
    let below = sys::logical_block_size(file).ok().or_else(|| queue::logical_block_size(device));
    let unit = match below {
        Some(unit) => unit,
        None => smallest_unit(|unit| try_unit(file, unit))?,
    };
    Ok(Alignment { offset: unit, memory: unit })
}

/// The smallest unit that `attempt` does not refuse.
fn smallest_unit(attempt: impl Fn(u32) -> io::Result<()>) -> Result<u32, OpenError> {
    for unit in UNITS {
        match attempt(unit) {
            Ok(()) => return Ok(unit),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            Err(error) => return Err(OpenError::Examine(error)),
        }
    }
    Err(OpenError::NoDirect)
}

fn try_unit(file: &File, unit: u32) -> io::Result<()> {
    let alignment = Alignment { offset: unit, memory: unit };
    let mut memory = super::descriptor::Bounce::new(unit as usize, alignment);
    file.read_at(memory.bytes(), 0).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_unit_is_found_by_trying() {
        let refuses_below = |least| {
            smallest_unit(move |unit| match unit >= least {
                true => Ok(()),
                false => Err(io::Error::from_raw_os_error(libc::EINVAL)),
            })
        };
        assert_eq!(refuses_below(1).unwrap(), 512);
        assert_eq!(refuses_below(4096).unwrap(), 4096);
        assert!(matches!(refuses_below(8192), Err(OpenError::NoDirect)));
        let failed = smallest_unit(|_| Err(io::Error::from_raw_os_error(libc::EIO)));
        assert!(matches!(failed, Err(OpenError::Examine(_))));
    }

    #[test]
    fn a_file_of_a_device_has_its_unit_or_finds_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(8192).unwrap();
        let alignment = unstated(file.as_file()).unwrap();
        assert!(UNITS.contains(&alignment.offset), "{alignment:?}");
        assert_eq!(alignment.memory, alignment.offset);
    }
}

//! The UNMAP parameter list (SBC-4, UNMAP parameter list).

use super::sense::{Sense, SenseCode};
use super::wire::{u16_at, u32_at, u64_at};

/// Length of the header, in bytes.
pub const HEADER_LEN: usize = 8;

/// Length of a block descriptor, in bytes.
pub const DESCRIPTOR_LEN: usize = 16;

/// An UNMAP block descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// UNMAP LOGICAL BLOCK ADDRESS
    pub lba: u64,
    /// NUMBER OF LOGICAL BLOCKS
    pub blocks: u32,
}

/// The block descriptors of `list`, which is as long as the CDB said. One that is cut off, by the
/// list's end or by a length in its header, is ignored.
///
/// # Errors
/// PARAMETER LIST LENGTH ERROR where not even the header is there.
pub fn descriptors(list: &[u8]) -> Result<impl ExactSizeIterator<Item = Descriptor>, Sense> {
    let (header, rest) =
        list.split_at_checked(HEADER_LEN).ok_or(SenseCode::PARAMETER_LIST_LENGTH_ERROR)?;
    let data_len = usize::from(u16_at(header, 0)).saturating_sub(HEADER_LEN - 2);
    let descriptors_len = usize::from(u16_at(header, 2)).min(data_len);
    let descriptors = rest.get(..descriptors_len).unwrap_or(rest);
    Ok(descriptors
        .chunks_exact(DESCRIPTOR_LEN)
        .map(|bytes| Descriptor { lba: u64_at(bytes, 0), blocks: u32_at(bytes, 8) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIST: [u8; 40] = [
        0, 38, 0, 32, 0, 0, 0, 0, //
        0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, //
        0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 1, 0, 0, 0, 0, 0,
    ];

    fn read(list: &[u8]) -> Vec<Descriptor> {
        descriptors(list).unwrap().collect()
    }

    #[test]
    fn descriptors_are_read_in_order() {
        let expected =
            [Descriptor { lba: 1 << 32 | 2, blocks: 3 }, Descriptor { lba: 9, blocks: 256 }];
        assert_eq!(read(&LIST), expected);
    }

    #[test]
    fn a_descriptor_that_is_cut_off_is_ignored() {
        assert_eq!(read(&LIST[..39]).len(), 1);
        assert_eq!(read(&LIST[..8]).len(), 0);
        for (data_len, descriptors_len, count) in [(38, 31, 1), (37, 32, 1), (6, 32, 0), (38, 0, 0)]
        {
            let mut list = LIST;
            (list[1], list[3]) = (data_len, descriptors_len);
            assert_eq!(read(&list).len(), count, "{data_len} {descriptors_len}");
        }
    }

    #[test]
    fn a_list_without_a_whole_header_is_too_short() {
        for len in 0..8 {
            let refused = descriptors(&LIST[..len]).err();
            assert_eq!(refused, Some(SenseCode::PARAMETER_LIST_LENGTH_ERROR.into()));
        }
    }

    proptest! {
        #[test]
        fn no_list_panics(list in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(descriptors) = descriptors(&list) {
                prop_assert!(descriptors.count() <= list.len() / DESCRIPTOR_LEN);
            }
        }
    }
}

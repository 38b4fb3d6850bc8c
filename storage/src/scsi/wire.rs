//! Big-endian fields at byte offsets, the way the SCSI standards draw them.
//!
//! Reading past the end yields zeros and writing past the end is dropped, so that no length that
//! a guest chose can panic; the codecs' own tests show that their offsets fit.

/// Reads a big-endian integer of `N` bytes at `offset`.
macro_rules! field {
    ($get:ident, $put:ident, $int:ty) => {
        #[doc = concat!("The big-endian `", stringify!($int), "` at `offset`.")]
        #[must_use]
        pub fn $get(bytes: &[u8], offset: usize) -> $int {
            <$int>::from_be_bytes(array(bytes, offset))
        }

        #[doc = concat!("Stores `value` as a big-endian `", stringify!($int), "` at `offset`.")]
        pub fn $put(bytes: &mut [u8], offset: usize, value: $int) {
            put_bytes(bytes, offset, &value.to_be_bytes());
        }
    };
}

field!(u16_at, put_u16, u16);
field!(u32_at, put_u32, u32);
field!(u64_at, put_u64, u64);

/// Copies `value` to `offset`.
pub fn put_bytes(bytes: &mut [u8], offset: usize, value: &[u8]) {
    if let Some(to) = bytes.get_mut(offset..).and_then(|rest| rest.get_mut(..value.len())) {
        to.copy_from_slice(value);
    }
}

fn array<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut field = [0; N];
    let from = bytes.get(offset..).and_then(|rest| rest.get(..N));
    field.copy_from_slice(from.unwrap_or(&[0; N]));
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_big_endian_and_bounded() {
        let mut bytes = [0; 8];
        put_u32(&mut bytes, 2, 0x0102_0304);
        assert_eq!(bytes, [0, 0, 1, 2, 3, 4, 0, 0]);
        assert_eq!(u16_at(&bytes, 4), 0x0304);
        put_u64(&mut bytes, 1, u64::MAX);
        assert_eq!(u64_at(&bytes, 1), 0);
        assert_eq!(u64_at(&bytes, 0), 0x0000_0102_0304_0000);
    }
}

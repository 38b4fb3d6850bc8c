//! Address decoding: which device answers a guest's access.
//!
//! One [`Bus`] for memory-mapped and one for port I/O. A vCPU looks the device up, drops the
//! lock, and calls; a device guards its own state.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

/// A device that decodes a range of addresses. `offset` counts from the start of its range.
pub trait BusDevice: Send + Sync {
    /// Fills `data` (1 to 8 bytes) with what the guest reads at `offset`.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// Takes the `data` (1 to 8 bytes) that the guest writes at `offset`.
    fn write(&self, offset: u64, data: &[u8]);
}

/// A guest's read at `offset` of registers that hold `bytes`; what lies past their end is zero.
pub(crate) fn read_bytes(bytes: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let from = usize::try_from(offset).unwrap_or(usize::MAX);
    bytes.iter().skip(from).zip(data).for_each(|(from, to)| *to = *from);
}

/// A range could not be given to a device.
#[derive(Debug, thiserror::Error)]
#[error("addresses {base:#x} to {last:#x} overlap those of another device")]
pub struct Overlap {
    base: u64,
    last: u64,
}

struct Range {
    last: u64,
    device: Arc<dyn BusDevice>,
}

/// A map of address ranges to devices. Accesses that no device claims read as all ones, and
/// writes to them vanish, as on real hardware.
#[derive(Default)]
pub struct Bus {
    ranges: RwLock<BTreeMap<u64, Range>>,
}

impl Bus {
    /// Gives the `size` addresses from `base` to `device`.
    ///
    /// # Errors
    /// [`Overlap`] when another device has one of them, or the range is empty or wraps.
    pub fn insert(&self, base: u64, size: u64, device: Arc<dyn BusDevice>) -> Result<(), Overlap> {
        let last = base.wrapping_add(size).wrapping_sub(1);
        let mut ranges = self.ranges.write().unwrap_or_else(PoisonError::into_inner);
        let below = ranges.range(..=last).next_back();
        if last < base || below.is_some_and(|(_, range)| range.last >= base) {
            return Err(Overlap { base, last });
        }
        ranges.insert(base, Range { last, device });
        Ok(())
    }

    /// A guest's read of `data.len()` bytes at `address`.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address, data.len()) {
            Some((offset, device)) => device.read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// A guest's write of `data` at `address`.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((offset, device)) = self.find(address, data.len()) {
            device.write(offset, data);
        }
    }

    fn find(&self, address: u64, len: usize) -> Option<(u64, Arc<dyn BusDevice>)> {
        let ranges = self.ranges.read().unwrap_or_else(PoisonError::into_inner);
        let (base, range) = ranges.range(..=address).next_back()?;
        let end = address.checked_add(len as u64)?.checked_sub(1)?;
        (end <= range.last).then(|| (address - base, Arc::clone(&range.device)))
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges = self.ranges.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_list().entries(ranges.iter().map(|(base, range)| *base..=range.last)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<(u64, Vec<u8>)>>);

    impl BusDevice for Recorder {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data.fill(offset.to_le_bytes()[0]);
        }

        fn write(&self, offset: u64, data: &[u8]) {
            self.0.lock().unwrap().push((offset, data.to_vec()));
        }
    }

    #[test]
    fn an_access_reaches_the_device_of_its_range() {
        let (bus, device) = (Bus::default(), Arc::new(Recorder::default()));
        bus.insert(0x1000, 0x10, device.clone()).unwrap();
        bus.write(0x1004, &[1, 2]);
        let mut data = [0; 2];
        bus.read(0x100e, &mut data);
        assert_eq!(data, [0xe, 0xe]);
        assert_eq!(*device.0.lock().unwrap(), [(4, vec![1, 2])]);
    }

    #[test]
    fn an_access_that_nobody_claims_whole_reads_all_ones() {
        let bus = Bus::default();
        bus.insert(0x1000, 0x10, Arc::new(Recorder::default())).unwrap();
        for address in [0, 0xfff, 0x100f, 0x1010, u64::MAX] {
            let mut data = [0; 2];
            bus.read(address, &mut data);
            assert_eq!(data, [0xff; 2], "{address:#x}");
        }
    }

    #[test]
    fn overlapping_ranges_are_refused() {
        let bus = Bus::default();
        bus.insert(0x1000, 0x10, Arc::new(Recorder::default())).unwrap();
        for (base, size) in [(0x1000, 0x10), (0xfff, 2), (0x100f, 1), (0xf00, 0x1000), (0x2000, 0)]
        {
            assert!(bus.insert(base, size, Arc::new(Recorder::default())).is_err());
        }
        bus.insert(0x1010, 1, Arc::new(Recorder::default())).unwrap();
        bus.insert(0xfff, 1, Arc::new(Recorder::default())).unwrap();
    }
}

//! PVH: what a kernel that is entered by it is told.
//!
//! Follows the Xen x86/HVM direct boot ABI (docs/misc/pvh.pandoc) and
//! xen/include/public/arch-x86/hvm/start_info.h: the start info, the list of modules, of which the
//! initramfs is the only one, and the memory map, which has the types of e820.

use super::{e820, low32};
use crate::x86_64::layout::{self, Layout, Region};

const MAGIC: u32 = 0x336e_c578;
const VERSION: u32 = 1;
const MODULES: u64 = 0x40;
const MEMORY_MAP: u64 = 0x80;

/// The contents of [`layout::START_INFO`] for a kernel whose command line lies at
/// [`layout::CMDLINE`] and whose ACPI tables lie at [`layout::ACPI`].
pub fn start_info(layout: &Layout, initramfs: Option<Region>) -> Vec<u8> {
    let at = |offset| layout::START_INFO.base + offset;
    let map = e820(layout);
    let modules = u32::from(initramfs.is_some());
    let mut info = Info(Vec::new());
    info.words([MAGIC, VERSION, 0, modules]);
    info.long_words([if modules > 0 { at(MODULES) } else { 0 }]);
    info.long_words([layout::CMDLINE.base, layout::ACPI.base, at(MEMORY_MAP)]);
    info.words([u32::try_from(map.len()).unwrap_or_default(), 0]);
    if let Some(initramfs) = initramfs {
        info.pad(MODULES);
        // It has no command line.
        info.long_words([initramfs.base, initramfs.size, 0, 0]);
    }
    info.pad(MEMORY_MAP);
    for entry in map {
        info.long_words([entry.addr, entry.size]);
        info.words([entry.r#type, 0]);
    }
    info.0
}

struct Info(Vec<u8>);

impl Info {
    fn words<const N: usize>(&mut self, words: [u32; N]) {
        self.0.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }

    fn long_words<const N: usize>(&mut self, words: [u64; N]) {
        self.0.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }

    fn pad(&mut self, offset: u64) {
        self.0.resize(low32(offset) as usize, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn word(info: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(info[at..at + 4].try_into().unwrap())
    }

    fn long(info: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(info[at..at + 8].try_into().unwrap())
    }

    fn place(address: u64) -> usize {
        usize::try_from(address - layout::START_INFO.base).unwrap()
    }

    #[test]
    fn the_start_info_names_everything() {
        let layout = Layout::new(4096 * MIB, 40).unwrap();
        let info = start_info(&layout, Some(Region { base: 0x1f00_0000, size: 77 }));
        assert!(info.len() as u64 <= layout::START_INFO.size);
        assert_eq!((word(&info, 0), word(&info, 4), word(&info, 8)), (0x336e_c578, 1, 0));
        assert_eq!(word(&info, 12), 1);
        let module = place(long(&info, 16));
        assert_eq!((long(&info, module), long(&info, module + 8)), (0x1f00_0000, 77));
        assert_eq!((long(&info, 24), long(&info, 32)), (0x2_0000, 0xe_0000));
        let (map, entries) = (place(long(&info, 40)), word(&info, 48));
        assert_eq!(entries as usize, e820(&layout).len());
        assert_eq!(info.len(), map + 24 * entries as usize);
        let last = map + 24 * 4;
        assert_eq!((long(&info, last), long(&info, last + 8)), (4096 * MIB, 1024 * MIB));
        assert_eq!(word(&info, last + 16), 1);
    }

    #[test]
    fn without_an_initramfs_there_is_no_module() {
        let info = start_info(&Layout::new(64 * MIB, 40).unwrap(), None);
        assert_eq!((word(&info, 12), long(&info, 16)), (0, 0));
    }
}

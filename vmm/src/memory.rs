//! The guest's memory: anonymous, zeroed, and given to KVM.
//!
//! Owns the mappings and KVM's slots. Must not know what lies where in it: that is
//! `arch::layout`. Each life of the guest has mappings of its own, so that whatever the host may
//! still have to write for the one before goes to pages that are no longer anybody's memory.
//!
//! A mapping begins at a multiple of 2 MiB, as guest physical memory does, so that KVM can map
//! both sides with huge pages.

use std::fs;
use std::io::{self, ErrorKind};
use std::mem;
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use arch::layout::{Layout, Region};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::mmap::{MmapRegion, MmapRegionBuilder};
use vm_memory::{
    GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
    MemoryRegionAddress,
};

use crate::spec::MemoryBacking;

const PAGE: usize = 4 << 10;
const HUGE_PAGE: usize = 2 << 20;
const MIB: u64 = 1 << 20;
/// Bytes that are provided at once, between two looks at whether they are still wanted.
const PART: usize = 256 << 20;
/// Of 2 MiB each.
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// Bytes of a KVM slot, at most: KVM_MEM_MAX_NR_PAGES.
pub(crate) const SLOT_MAX: u64 = ((1 << 31) - 1) * PAGE as u64;

/// Guest memory could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MemoryError {
    /// The host has no room for it.
    #[error("the host cannot map {} MiB of guest memory: give the machine less", .bytes / MIB)]
    Map {
        /// Bytes of the mapping.
        bytes: u64,
        /// Why.
        source: io::Error,
    },
    /// The host has not as many pages.
    #[error(
        "the host cannot provide all {} MiB of guest memory beforehand: give the machine less, or \
         take memory_backing = \"anonymous\"", .bytes / MIB
    )]
    Populate {
        /// Bytes of the mapping.
        bytes: u64,
        /// Why.
        source: io::Error,
    },
    /// Not whole huge pages.
    #[error(
        "{0} bytes of guest memory are not whole huge pages: memory_backing = \"hugepages\" takes \
         multiples of 2 MiB"
    )]
    NotHugePages(u64),
    /// Too few huge pages.
    #[error(
        "the host has {free} huge pages of 2 MiB to give away, and the machine takes {wanted}: \
         raise their number to {} (sysctl vm.nr_hugepages), or give the machine less",
        .total + .wanted.saturating_sub(*.free)
    )]
    FewHugePages {
        /// Pages that nobody has.
        free: u64,
        /// Pages in the pool.
        total: u64,
        /// Pages of the machine.
        wanted: u64,
        /// Why.
        source: io::Error,
    },
    /// The memory cannot be described.
    #[error("guest memory cannot be described")]
    Regions(#[from] vm_memory::GuestRegionCollectionError),
    /// KVM refused it.
    #[error("KVM refuses the guest memory at {address:#x}: give the machine less")]
    Slot {
        /// Guest physical address of the region.
        address: u64,
        /// Why.
        source: kvm_ioctls::Error,
    },
}

/// The guest's RAM. It is unmapped when this is dropped, which whoever shares it must not outlive.
#[derive(Debug)]
pub(crate) struct Ram {
    /// `None` only while it is dropped.
    memory: Option<Arc<GuestMemoryMmap>>,
    mappings: Vec<Mapping>,
}

impl Ram {
    /// Maps the RAM that `layout` describes. To provide it beforehand takes its time, and stops
    /// with an error when `wanted` says no.
    ///
    /// # Errors
    /// [`MemoryError`] says what the host lacks.
    pub(crate) fn map(
        layout: &Layout,
        backing: MemoryBacking,
        wanted: &dyn Fn() -> bool,
    ) -> Result<Self, MemoryError> {
        let all: u64 = layout.ram().map(|region| region.size).sum();
        if backing == MemoryBacking::Hugepages && !all.is_multiple_of(HUGE_PAGE as u64) {
            return Err(MemoryError::NotHugePages(all));
        }
        let mut mappings = Vec::new();
        let mut regions = Vec::new();
        for region in layout.ram() {
            let mapping = Mapping::of(region, backing, all)?;
            if backing != MemoryBacking::Anonymous {
                let populated = mapping.populate(wanted);
                populated.map_err(|source| MemoryError::Populate { bytes: region.size, source })?;
            }
            regions.extend(GuestRegionMmap::new(mapping.region(), GuestAddress(region.base)));
            mappings.push(mapping);
        }
        let memory = GuestMemoryMmap::from_regions(regions)?;
        Ok(Ram { memory: Some(Arc::new(memory)), mappings })
    }

    /// The memory, for those who end before this is dropped.
    pub(crate) fn share(&self) -> Arc<GuestMemoryMmap> {
        self.memory.as_ref().map_or_else(Arc::default, Arc::clone)
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        if self.memory.take().and_then(Arc::into_inner).is_none() {
            log::error!("bug: the guest's memory is still in use, and stays mapped");
            mem::take(&mut self.mappings).into_iter().for_each(mem::forget);
        }
    }
}

/// A mapping of anonymous memory.
#[derive(Debug)]
struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping belongs to the whole process; this only remembers where it is.
#[expect(unsafe_code, reason = "a raw pointer is neither by itself")]
unsafe impl Send for Mapping {}
// SAFETY: as above; nothing is read or written through a shared reference.
#[expect(unsafe_code, reason = "a raw pointer is neither by itself")]
unsafe impl Sync for Mapping {}

impl Mapping {
    /// The memory behind `region`, of a machine that has `all` bytes.
    fn of(region: Region, backing: MemoryBacking, all: u64) -> Result<Self, MemoryError> {
        let len = usize::try_from(region.size).unwrap_or(usize::MAX);
        let flags = match backing {
            MemoryBacking::Anonymous => libc::MAP_NORESERVE,
            MemoryBacking::Prealloc => 0,
            MemoryBacking::Hugepages => libc::MAP_HUGETLB | libc::MAP_HUGE_2MB,
        };
        let mapping = Mapping::new(len, flags).map_err(|source| match backing {
            MemoryBacking::Hugepages => few_huge_pages(all, source),
            _ => MemoryError::Map { bytes: region.size, source },
        })?;
        if backing != MemoryBacking::Hugepages {
            // A host without transparent huge pages says no, and that is all.
            let _ = mapping.advise(0..mapping.len, libc::MADV_HUGEPAGE);
        }
        Ok(mapping)
    }

    /// Maps `len` bytes of zeros, aligned to a huge page.
    #[expect(unsafe_code, reason = "mmap")]
    fn new(len: usize, flags: libc::c_int) -> io::Result<Self> {
        let space = Mapping::reserve(len.checked_add(HUGE_PAGE).ok_or(ErrorKind::OutOfMemory)?)?;
        let skipped = space.base.align_offset(HUGE_PAGE);
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        // SAFETY: `len` bytes from here lie within `space`, which nobody else knows of.
        let base = unsafe { space.base.add(skipped) };
        // SAFETY: as above; what is replaced is address space that was reserved for this.
        let mapped = unsafe { libc::mmap(base.as_ptr().cast(), len, access, flags, -1, 0) };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let end = skipped + len;
        let rest = space.len - end;
        mem::forget(space);
        // SAFETY: these are the parts of `space` before and behind the mapping.
        let (before, behind) = unsafe { (base.sub(skipped), base.add(len)) };
        drop(Mapping { base: before, len: skipped });
        drop(Mapping { base: behind, len: rest });
        Ok(Mapping { base, len })
    }

    /// Reserves address space.
    #[expect(unsafe_code, reason = "mmap")]
    fn reserve(len: usize) -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice changes nothing that is there.
        let base = unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0) };
        match NonNull::new(base.cast::<u8>()) {
            Some(address) if base != libc::MAP_FAILED => Ok(Mapping { base: address, len }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Advises the kernel about a part of this mapping.
    #[expect(unsafe_code, reason = "madvise")]
    fn advise(&self, part: Range<usize>, advice: libc::c_int) -> io::Result<()> {
        debug_assert!(part.end <= self.len);
        // SAFETY: the part lies in this mapping.
        let start = unsafe { self.base.add(part.start) };
        // SAFETY: as above, and neither advice that is given changes its contents.
        match unsafe { libc::madvise(start.as_ptr().cast(), part.len(), advice) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Has the host provide every page, as long as they are wanted.
    fn populate(&self, wanted: &dyn Fn() -> bool) -> io::Result<()> {
        for start in (0..self.len).step_by(PART) {
            if !wanted() {
                return Err(ErrorKind::Interrupted.into());
            }
            let part = start..self.len.min(start + PART);
            match self.advise(part.clone(), libc::MADV_POPULATE_WRITE) {
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => self.touch(part),
                other => other?,
            }
        }
        Ok(())
    }

    /// The same for a host that does not know the advice.
    #[expect(unsafe_code, reason = "memory that nobody else knows of yet")]
    fn touch(&self, part: Range<usize>) {
        debug_assert!(part.end <= self.len);
        for offset in part.step_by(PAGE) {
            // SAFETY: the byte lies in this mapping, which is writable and holds zeros.
            unsafe { self.base.add(offset).write_volatile(0) };
        }
    }

    /// The mapping to vm-memory, which does not own it.
    #[expect(unsafe_code, reason = "a mapping made here")]
    fn region(&self) -> MmapRegion {
        let builder = MmapRegionBuilder::new(self.len);
        // SAFETY: it is a mapping of that length, and `Ram` keeps it for as long as the region is.
        let builder = unsafe { builder.with_raw_mmap_pointer(self.base.as_ptr()) };
        let access = libc::PROT_READ | libc::PROT_WRITE;
        builder.with_mmap_prot(access).build().expect("it begins at a page")
    }
}

impl Drop for Mapping {
    #[expect(unsafe_code, reason = "munmap")]
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: the mapping is this value's own, and whoever knew of it is gone.
            unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
        }
    }
}

fn few_huge_pages(bytes: u64, source: io::Error) -> MemoryError {
    let count = |name: &str| {
        let text = fs::read_to_string(format!("{POOL}/{name}")).unwrap_or_default();
        text.trim().parse::<u64>().unwrap_or(0)
    };
    let free = count("free_hugepages").saturating_sub(count("resv_hugepages"));
    let wanted = bytes / HUGE_PAGE as u64;
    MemoryError::FewHugePages { free, total: count("nr_hugepages"), wanted, source }
}

/// Makes `memory` the guest's; it must outlive `vm` and its vCPUs.
///
/// # Errors
/// [`MemoryError::Slot`]
#[expect(unsafe_code, reason = "KVM is told addresses of this process")]
pub(crate) fn give_to(vm: &VmFd, memory: &GuestMemoryMmap) -> Result<(), MemoryError> {
    for (slot, region) in (0..).zip(memory.iter()) {
        let address = region.start_addr().0;
        let refused = |source| MemoryError::Slot { address, source };
        let host = region
            .get_host_address(MemoryRegionAddress(0))
            .map_err(|_| refused(kvm_ioctls::Error::new(libc::EFAULT)))?;
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: address,
            memory_size: region.len(),
            userspace_addr: host as u64,
        };
        // SAFETY: the range is one whole mapping of `memory`, which outlives the VM (the caller
        // promises), and slots do not overlap because regions do not.
        unsafe { vm.set_user_memory_region(region) }.map_err(refused)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use vm_memory::Bytes;

    const GIB: u64 = 1 << 30;

    fn map(bytes: u64, backing: MemoryBacking) -> Result<Ram, MemoryError> {
        Ram::map(&Layout::new(bytes, 46).unwrap(), backing, &|| true)
    }

    /// What /proc says of the mapping that holds `address`.
    fn smaps(address: usize) -> Vec<String> {
        let text = fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = text.lines().skip_while(|line| {
            let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
            let [from, to] = [range.map(|range| range.0), range.map(|range| range.1)]
                .map(|end| usize::from_str_radix(end.unwrap_or_default(), 16).unwrap_or(0));
            !(from..to).contains(&address)
        });
        let head = lines.next().expect("it is mapped").to_owned();
        let rest = lines.take_while(|line| line.split(' ').next().unwrap().ends_with(':'));
        std::iter::once(head).chain(rest.map(str::to_owned)).collect()
    }

    fn kib(smaps: &[String], name: &str) -> u64 {
        let line = smaps.iter().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_end_matches("kB").trim().parse().unwrap()
    }

    fn host(ram: &Ram, address: u64) -> usize {
        ram.share().get_host_address(GuestAddress(address)).unwrap() as usize
    }

    #[test]
    fn memory_is_zeroed_and_leaves_the_hole() {
        let ram = map(arch::layout::HOLE.base + (1 << 20), MemoryBacking::Anonymous).unwrap();
        let memory = ram.share();
        let read = |address| memory.read_obj::<u64>(GuestAddress(address));
        assert_eq!(read(0x1000).unwrap(), 0);
        assert_eq!(read((4 << 30) + 0xf_fff8).unwrap(), 0);
        assert!(read(arch::layout::HOLE.base).is_err());
        assert!(read((4 << 30) + 0x10_0000).is_err());
        drop(memory);
    }

    #[test]
    fn tens_of_gib_are_mapped_at_huge_page_boundaries_on_both_sides_of_the_hole() {
        let ram = map(48 * GIB + (1 << 20), MemoryBacking::Anonymous).unwrap();
        for address in [0, 4 * GIB] {
            assert!(host(&ram, address).is_multiple_of(HUGE_PAGE));
        }
        let last = GuestAddress(49 * GIB + (1 << 20) - 8);
        ram.share().write_obj(7_u64, last).unwrap();
        assert_eq!(ram.share().read_obj::<u64>(last).unwrap(), 7);
        // The flag is "hg", MADV_HUGEPAGE, on hosts that have transparent huge pages.
        if fs::exists("/sys/kernel/mm/transparent_hugepage").unwrap() {
            let smaps = smaps(host(&ram, 4 * GIB));
            assert!(smaps.iter().any(|line| line.starts_with("VmFlags") && line.contains(" hg")));
        }
    }

    #[test]
    fn only_what_is_preallocated_is_there_beforehand() {
        let anonymous = map(64 << 20, MemoryBacking::Anonymous).unwrap();
        assert_eq!(kib(&smaps(host(&anonymous, 0)), "Rss:"), 0);
        let prealloc = map(64 << 20, MemoryBacking::Prealloc).unwrap();
        assert_eq!(kib(&smaps(host(&prealloc, 0)), "Rss:"), 64 << 10);
    }

    #[test]
    fn what_is_not_wanted_any_longer_is_not_provided() {
        let looks = Cell::new(0);
        let mapping = Mapping::new(2 * PART, 0).unwrap();
        let populated = mapping.populate(&|| looks.replace(looks.get() + 1) == 0);
        assert_eq!(populated.unwrap_err().kind(), ErrorKind::Interrupted);
        assert_eq!(kib(&smaps(mapping.base.as_ptr() as usize), "Rss:"), (PART as u64) >> 10);
    }

    #[test]
    fn memory_can_be_touched_page_by_page_where_the_host_cannot_populate_it() {
        let mapping = Mapping::new(64 << 20, 0).unwrap();
        mapping.touch(0..mapping.len);
        assert_eq!(kib(&smaps(mapping.base.as_ptr() as usize), "Rss:"), 64 << 10);
    }

    #[test]
    fn huge_pages_come_from_the_pool_or_the_error_names_it() {
        match map(64 << 20, MemoryBacking::Hugepages) {
            Ok(ram) => assert_eq!(kib(&smaps(host(&ram, 0)), "KernelPageSize:"), 2048),
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("takes 32:"), "{text}");
                assert!(text.contains("vm.nr_hugepages"), "{text}");
            }
        }
        let odd = map((64 << 20) + 4096, MemoryBacking::Hugepages).unwrap_err();
        assert!(matches!(odd, MemoryError::NotHugePages(_)));
    }

    #[test]
    fn nothing_stays_mapped() {
        // More in all than the 128 TiB of address space that a process has.
        for _ in 0..200 {
            map(1 << 40, MemoryBacking::Anonymous).unwrap();
        }
    }

    #[test]
    fn memory_that_somebody_still_has_stays_mapped() {
        let ram = map(16 << 20, MemoryBacking::Anonymous).unwrap();
        let memory = ram.share();
        drop(ram);
        memory.write_obj(1_u8, GuestAddress(0)).unwrap();
    }
}

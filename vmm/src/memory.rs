//! The guest's memory: anonymous, zeroed, and given to KVM.
//!
//! Owns the mapping and its slots. Must not know what lies where in it: that is `arch::layout`.

use arch::layout::Layout;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{
    GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MemoryRegionAddress,
};

/// Guest memory could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MemoryError {
    /// The host has no room for it.
    #[error("the host cannot map {bytes} bytes of guest memory: give the machine less")]
    Map {
        /// The machine's memory in bytes.
        bytes: u64,
        /// Why.
        source: vm_memory::mmap::FromRangesError,
    },
    /// KVM refused it.
    #[error("KVM refuses the guest memory at {address:#x}")]
    Slot {
        /// Guest physical address of the region.
        address: u64,
        /// Why.
        source: kvm_ioctls::Error,
    },
}

/// Maps the RAM that `layout` describes.
///
/// # Errors
/// [`MemoryError::Map`]
pub(crate) fn map(layout: &Layout) -> Result<GuestMemoryMmap, MemoryError> {
    let ranges: Vec<_> = layout
        .ram()
        .map(|region| {
            (GuestAddress(region.base), usize::try_from(region.size).unwrap_or(usize::MAX))
        })
        .collect();
    GuestMemoryMmap::from_ranges(&ranges).map_err(|source| MemoryError::Map {
        bytes: layout.ram().map(|region| region.size).sum(),
        source,
    })
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
    use vm_memory::Bytes;

    #[test]
    fn memory_is_zeroed_and_leaves_the_hole() {
        let layout = Layout::new(arch::layout::HOLE.base + (1 << 20), 40).unwrap();
        let memory = map(&layout).unwrap();
        let read = |address| memory.read_obj::<u64>(GuestAddress(address));
        assert_eq!(read(0x1000).unwrap(), 0);
        assert_eq!(read((4 << 30) + 0xf_fff8).unwrap(), 0);
        assert!(read(arch::layout::HOLE.base).is_err());
        assert!(read((4 << 30) + 0x10_0000).is_err());
    }
}

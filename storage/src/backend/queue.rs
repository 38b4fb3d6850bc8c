//! What sysfs says about a block device's request queue.

use std::fs;
use std::path::{Path, PathBuf};

/// The attributes of one device; those of a partition are its disk's.
#[derive(Debug)]
pub(super) struct Queue {
    folder: PathBuf,
}

impl Queue {
    /// The queue of the device with this number.
    pub(super) fn of(device: u64) -> Queue {
        let (major, minor) = (libc::major(device), libc::minor(device));
        Queue::below(Path::new(&format!("/sys/dev/block/{major}:{minor}")))
    }

    fn below(device: &Path) -> Queue {
        let folder = if device.join("partition").exists() { "../queue" } else { "queue" };
        Queue { folder: device.join(folder) }
    }

    fn text(&self, attribute: &str) -> Option<String> {
        let text = fs::read_to_string(self.folder.join(attribute)).ok()?;
        Some(text.trim_end().to_owned())
    }

    fn number(&self, attribute: &str) -> Option<u64> {
        self.text(attribute)?.parse().ok()
    }

    /// Whether its zones refuse what is not written in order.
    pub(super) fn is_host_managed(&self) -> bool {
        self.text("zoned").is_some_and(|model| model == "host-managed")
    }

    /// Bytes of the smallest piece that it discards; `None` where it does not.
    pub(super) fn discard_granularity(&self) -> Option<u32> {
        self.number("discard_max_bytes").filter(|max| *max > 0)?;
        let granularity = self.number("discard_granularity").filter(|bytes| *bytes > 0)?;
        u32::try_from(granularity).ok()
    }

    /// Whether what it zeroes is unmapped. Before Linux 6.17 nobody says.
    pub(super) fn zeroing_unmaps(&self) -> bool {
        self.number("write_zeroes_unmap_max_bytes").is_some_and(|max| max > 0)
    }
}

/// Bytes of a logical block of the device with this number, if there is one.
pub(super) fn logical_block_size(device: u64) -> Option<u32> {
    u32::try_from(Queue::of(device).number("logical_block_size")?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(attributes: &[(&str, &str)]) -> (tempfile::TempDir, Queue) {
        let device = tempfile::tempdir().unwrap();
        fs::create_dir(device.path().join("queue")).unwrap();
        for (name, value) in attributes {
            fs::write(device.path().join("queue").join(name), format!("{value}\n")).unwrap();
        }
        let queue = Queue::below(device.path());
        (device, queue)
    }

    #[test]
    fn only_host_managed_zones_are_in_the_way() {
        for (zoned, refused) in
            [("none", false), ("host-aware", false), ("host-managed", true), ("", false)]
        {
            assert_eq!(queue(&[("zoned", zoned)]).1.is_host_managed(), refused, "{zoned}");
        }
        assert!(!queue(&[]).1.is_host_managed());
    }

    #[test]
    fn a_device_that_discards_says_how_much() {
        let with = |max, granularity| {
            let attributes = [("discard_max_bytes", max), ("discard_granularity", granularity)];
            queue(&attributes).1.discard_granularity()
        };
        assert_eq!(with("4294966784", "4096"), Some(4096));
        assert_eq!(with("0", "512"), None);
        assert_eq!(with("4096", "0"), None);
        assert_eq!(queue(&[]).1.discard_granularity(), None);
    }

    #[test]
    fn zeroing_unmaps_only_where_the_kernel_says_so() {
        assert!(!queue(&[("write_zeroes_max_bytes", "65536")]).1.zeroing_unmaps());
        assert!(!queue(&[("write_zeroes_unmap_max_bytes", "0")]).1.zeroing_unmaps());
        assert!(queue(&[("write_zeroes_unmap_max_bytes", "65536")]).1.zeroing_unmaps());
    }

    #[test]
    fn a_partition_has_the_queue_of_its_disk() {
        let (disk, _) = queue(&[("zoned", "host-managed")]);
        let partition = disk.path().join("sda1");
        fs::create_dir(&partition).unwrap();
        fs::write(partition.join("partition"), "1\n").unwrap();
        assert!(Queue::below(&partition).is_host_managed());
    }
}

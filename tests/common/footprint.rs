//! What a process holds: descriptors, threads, memory, as /proc tells.

use std::fs;
use std::io;

/// What a VMM holds besides its guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Open file descriptors.
    pub fds: usize,
    /// Threads, without those that the kernel adds for io_uring as it needs them.
    pub threads: usize,
    /// Resident bytes.
    pub resident: u64,
    /// Those of them that are no file's.
    pub anonymous: u64,
    /// Resident bytes, those shared with other processes in part.
    pub proportional: u64,
}

impl Footprint {
    /// Of process `id`, whose guest has `memory` bytes: a mapping at least as large is the guest's.
    ///
    /// # Errors
    /// When the process has ended, or belongs to somebody else.
    pub fn of(id: u32, memory: u64) -> io::Result<Footprint> {
        let maps = fs::read_to_string(format!("/proc/{id}/smaps"))?;
        let own: Vec<Mapping> =
            mappings(&maps).into_iter().filter(|map| map.size < memory).collect();
        Ok(Footprint {
            fds: fs::read_dir(format!("/proc/{id}/fd"))?.count(),
            threads: threads(id)?,
            resident: own.iter().map(|map| map.resident).sum(),
            anonymous: own.iter().map(|map| map.anonymous).sum(),
            proportional: own.iter().map(|map| map.proportional).sum(),
        })
    }
}

fn threads(id: u32) -> io::Result<usize> {
    let mut count = 0;
    for thread in fs::read_dir(format!("/proc/{id}/task"))? {
        let name = fs::read_to_string(thread?.path().join("comm"));
        count += usize::from(name.is_ok_and(|name| !name.starts_with("iou-")));
    }
    Ok(count)
}

/// One mapping's sizes in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mapping {
    size: u64,
    resident: u64,
    anonymous: u64,
    proportional: u64,
}

/// The mappings that the text of /proc/PID/smaps tells of (proc(5)).
fn mappings(smaps: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (name, value) = (words.next(), words.next().and_then(|word| word.parse::<u64>().ok()));
        let bytes = value.unwrap_or(0) * 1024;
        match (name, mappings.last_mut()) {
            (Some("Size:"), _) => mappings.push(Mapping { size: bytes, ..Mapping::default() }),
            (Some("Rss:"), Some(last)) => last.resident = bytes,
            (Some("Pss:"), Some(last)) => last.proportional = bytes,
            (Some("Anonymous:"), Some(last)) => last.anonymous = bytes,
            _ => {}
        }
    }
    mappings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smaps_gives_each_mapping_its_sizes() {
        let text = "00400000-00500000 r-xp 00000000 08:01 1 /bin/x\nSize: 1024 kB\n\
                    KernelPageSize: 4 kB\nRss: 512 kB\nPss: 256 kB\nPss_Dirty: 3 kB\nAnonymous: 8 kB\n\
                    7f00-7f01 rw-p 0 00:00 0\nSize: 4 kB\nRss: 0 kB\nPss: 0 kB\n";
        let (resident, proportional) = (1 << 19, 1 << 18);
        let first = Mapping { size: 1 << 20, resident, anonymous: 8 << 10, proportional };
        let second = Mapping { size: 4096, ..Mapping::default() };
        assert_eq!(mappings(text), [first, second]);
    }

    #[test]
    fn a_process_has_a_footprint_without_what_is_large() -> io::Result<()> {
        let id = std::process::id();
        let footprint = Footprint::of(id, u64::MAX)?;
        assert!(footprint.fds >= 3 && footprint.threads >= 1 && footprint.resident > 0);
        assert_eq!(Footprint::of(id, 0)?.resident, 0);
        Ok(())
    }
}

//! What this process may do beyond its files: the kernel asks for it at each command.

use std::fs;

/// Number of CAP_SYS_RAWIO (linux/capability.h).
const SYS_RAWIO: u32 = 17;
/// Number of CAP_SYS_ADMIN.
const SYS_ADMIN: u32 = 21;

/// Whether the kernel carries every command for the calling thread.
#[must_use]
pub fn has_rawio() -> bool {
    has(SYS_RAWIO)
}

/// Whether the kernel resets logical units for the calling thread.
#[must_use]
pub fn may_reset() -> bool {
    has(SYS_RAWIO) && has(SYS_ADMIN)
}

fn has(capability: u32) -> bool {
    fs::read_to_string("/proc/thread-self/status")
        .is_ok_and(|status| effective(&status).is_some_and(|set| set >> capability & 1 == 1))
}

/// The effective capabilities in `/proc/PID/status`.
fn effective(status: &str) -> Option<u64> {
    let digits = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(digits.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_set_is_read() {
        let status = "Name:\tvmm\nCapPrm:\t000001ffffffffff\nCapEff:\t0000000000220000\n";
        assert_eq!(effective(status), Some(1 << SYS_RAWIO | 1 << SYS_ADMIN));
        assert_eq!(effective("CapEff:\t\n"), None);
        assert_eq!(effective(""), None);
    }
}

//! What this process keeps of root's privilege: no more than commands take.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::policy::Limits;
use crate::sys::{self, SYS_ADMIN, SYS_RAWIO};

/// Descriptors besides those of clients.
const DESCRIPTORS: usize = 64;

/// SG_IO of any command takes CAP_SYS_RAWIO; SG_SCSI_RESET takes CAP_SYS_ADMIN too.
const KEPT: [u32; 2] = [SYS_RAWIO, SYS_ADMIN];

/// Whether this process has what it needs.
///
/// # Errors
/// The host's own.
pub fn suffices() -> io::Result<bool> {
    sys::has(&KEPT)
}

/// Gives up everything else, for good, and bounds what this process can take up. To be called
/// while it has one thread.
///
/// # Errors
/// The host's own; the process must not go on.
pub fn confine(limits: &Limits) -> io::Result<()> {
    // Each has its socket, a device, and for a moment what identifies its peer.
    let descriptors = DESCRIPTORS.saturating_add(limits.connections.saturating_mul(4));
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let descriptors = u64::try_from(descriptors).unwrap_or(hard).min(hard);
    setrlimit(Resource::RLIMIT_NOFILE, descriptors, descriptors)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    sys::keep_only(&KEPT)
}

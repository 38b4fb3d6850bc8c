//! What carries forwarded commands: SCSI devices of the host.
//!
//! A [`ScsiHost`] is a nexus to one logical unit. It blocks; who calls it has threads for that.
//! Nothing here knows what a command means, whether an initiator may send it, or who that is.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::buffer::DataBuf;
use crate::scsi::status::Status;

pub mod broker;
pub mod filter;
mod in_use;
pub mod lent;
pub mod multipath;
pub mod nexus;
mod open;
pub mod privilege;
pub mod privileged;
pub mod sg;
mod sys;
pub mod sysfs;
pub mod uevent;
pub mod whole;

pub use open::{OpenError, Options};

/// A way to one logical unit of a device.
pub trait ScsiHost: fmt::Debug + Send + Sync {
    /// Sends a command and waits for its end.
    ///
    /// # Errors
    /// The host's own, where the command was not carried out by the host's SCSI layer:
    /// `PermissionDenied` (EPERM) where the host does not let this process send it. After ENODEV,
    /// EINTR and EFAULT nobody knows whether the device has it; after all others it has not.
    fn execute(&self, request: Request<'_>) -> io::Result<Completion>;

    /// Has the device end all commands of the logical unit (SAM-6, LOGICAL UNIT RESET), and
    /// nothing beyond the logical unit. Waits for that.
    ///
    /// # Errors
    /// The host's own; `PermissionDenied` (EPERM or EACCES) where this process may not.
    fn reset_logical_unit(&self) -> io::Result<()>;

    /// Whether it is for this process to send commands with the opcode and service action of
    /// `cdb`; what is not ends with `PermissionDenied`.
    fn carries(&self, cdb: &[u8]) -> bool;

    /// Takes note of paths that have come, gone, or come back, where there are several. Waits for
    /// the device.
    fn refresh_paths(&self) {}

    /// Nobody waits for commands under way any more; what another process has of them may go on.
    fn close(&self) {}

    /// What it can carry, as of now.
    ///
    /// # Errors
    /// The host's own, as when the device is gone.
    fn limits(&self) -> io::Result<HostLimits>;
}

/// A command to be sent.
#[derive(Debug)]
pub struct Request<'a> {
    /// The CDB, of its own length, at most 32 bytes.
    pub cdb: &'a [u8],
    /// The data that goes with it.
    pub data: Data<'a>,
    /// How long it may take until the host ends it.
    pub timeout: Duration,
}

/// The data of a command, which the host's SCSI layer moves.
#[derive(Debug)]
pub enum Data<'a> {
    /// There is none.
    None,
    /// From the device.
    In(&'a mut DataBuf),
    /// To the device.
    Out(&'a DataBuf),
}

/// How a command ended, in the words of the host's SCSI layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Completion {
    /// The device's status; GOOD says nothing unless `host_status` is OK.
    pub status: Status,
    /// Sense data as it came, of any length, or none.
    pub sense: Vec<u8>,
    /// Bytes of the data that were not transferred; negative where the device wanted more.
    pub resid: i32,
    /// What became of the way to the device.
    pub host_status: HostStatus,
}

/// The host byte of a result (include/scsi/scsi_status.h of Linux). Values without a name here go
/// through unchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostStatus(pub u16);

impl HostStatus {
    /// The device answered.
    pub const OK: HostStatus = HostStatus(0x00);
    /// There is no device.
    pub const NO_CONNECT: HostStatus = HostStatus(0x01);
    /// The bus stayed busy.
    pub const BUS_BUSY: HostStatus = HostStatus(0x02);
    /// The time was up.
    pub const TIME_OUT: HostStatus = HostStatus(0x03);
    /// The target does not answer.
    pub const BAD_TARGET: HostStatus = HostStatus(0x04);
    /// The command was aborted.
    pub const ABORT: HostStatus = HostStatus(0x05);
    /// Data arrived damaged.
    pub const PARITY: HostStatus = HostStatus(0x06);
    /// The host adapter failed.
    pub const ERROR: HostStatus = HostStatus(0x07);
    /// A reset ended the command.
    pub const RESET: HostStatus = HostStatus(0x08);
    /// An interrupt that nobody expected.
    pub const BAD_INTR: HostStatus = HostStatus(0x09);
    /// The command went past the host's SCSI layer.
    pub const PASSTHROUGH: HostStatus = HostStatus(0x0a);
    /// The host adapter wants it tried again.
    pub const SOFT_ERROR: HostStatus = HostStatus(0x0b);
    /// Try again at once.
    pub const IMM_RETRY: HostStatus = HostStatus(0x0c);
    /// Try again later.
    pub const REQUEUE: HostStatus = HostStatus(0x0d);
    /// The transport broke; it may come back.
    pub const TRANSPORT_DISRUPTED: HostStatus = HostStatus(0x0e);
    /// The transport gave up.
    pub const TRANSPORT_FAILFAST: HostStatus = HostStatus(0x0f);
    /// The transport is marginal.
    pub const TRANSPORT_MARGINAL: HostStatus = HostStatus(0x14);
}

/// What the host can carry to a device in one command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostLimits {
    /// Bytes of data that the host wants to carry (max_sectors_kb).
    pub max_bytes: u64,
    /// Bytes of data beyond which the host fails the command (max_hw_sectors_kb).
    pub max_hw_bytes: u64,
    /// Segments of data beyond which the host fails the command.
    pub max_segments: u32,
    /// What segments begin and end at a multiple of, in bytes, so that the host need not copy.
    pub alignment: u32,
    /// Commands that the device takes at a time.
    pub queue_depth: u16,
}

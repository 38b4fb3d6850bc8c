//! What happens on a bus without a command having asked for it.

use super::address::LunAddress;
use crate::scsi::sense::SenseCode;

/// Something that the initiator may want to know at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusEvent {
    /// A logical unit came.
    Attached(LunAddress),
    /// A logical unit went.
    Detached(LunAddress),
    /// A property of a logical unit changed; this unit attention says which.
    Changed(LunAddress, SenseCode),
}

/// Whoever passes events on to the initiator. Called from any thread.
pub trait EventSink: Send + Sync {
    /// Takes one event.
    fn event(&self, event: BusEvent);
}

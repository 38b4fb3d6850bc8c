//! Who is addressed, and what comes before the logical unit.
//!
//! A [`Bus`] is one initiator's SCSI domain: its targets and their logical units. Each request
//! queue's thread has a [`Lane`] into it, through which a command goes by the
//! [gauntlet](gauntlet) to its logical unit, and through which its answer comes back.

pub mod address;
mod attention;
mod bus;
mod event;
mod gate;
mod gauntlet;
mod lane;
mod management;
mod responders;
mod wakers;

pub use bus::{AttachError, Bus, DetachError, FlushError};
pub use event::{BusEvent, EventSink};
pub use lane::Lane;
pub use management::{Function, Management, Outcome, Reply};

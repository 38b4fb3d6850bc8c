//! virtio-scsi (virtio 1.2, 5.6): the rings of a SCSI host, served by a thread for each request
//! queue and one for the control and event queues.
//!
//! Nothing here knows what a command means: a request becomes a task for the
//! [bus](storage::target::Bus), and its answer a response.

mod control;
mod device;
mod events;
mod mailbox;
mod notices;
mod queue;
mod slots;
mod wire;

pub use device::{Controller, ControllerSpec};
pub use queue::{RequestQueue, Setup};
pub use wire::Sizes;

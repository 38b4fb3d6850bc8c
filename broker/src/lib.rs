//! Sends the SCSI commands that take privilege, for those who may not send them.
//!
//! [`server`] lets clients in and bounds what they take up, [`session`] speaks with one of them,
//! [`policy`] says what they may, [`device`] and [`vport`] do it. The protocol itself is
//! `storage`'s, which has the client.
//!
//! Nothing here trusts a client: what one sends may be anything, and what one does must harm no
//! other.

mod budget;
pub mod device;
pub mod peer;
pub mod policy;
pub mod privilege;
pub mod server;
mod session;
mod sys;
pub mod vport;

/// Whether others can connect to a socket, one by one.
///
/// # Errors
/// The host's own.
pub fn listens(socket: impl std::os::fd::AsFd) -> std::io::Result<bool> {
    sys::listens(socket.as_fd())
}

/// The first descriptor that whoever started this process left to it, beside the standard ones.
/// To be called once.
///
/// # Errors
/// Where there is none.
pub fn passed_descriptor() -> std::io::Result<std::os::fd::OwnedFd> {
    sys::passed()
}

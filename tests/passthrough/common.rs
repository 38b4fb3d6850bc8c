//! What the tests of this program share.

use std::env;

use tests::passthrough::Monitor;

/// The program that sends commands in a guest.
pub const REPLAY: &str = env!("CARGO_BIN_EXE_replay");

/// What runs the guests.
pub fn monitor() -> Monitor {
    match env::var("VMM_MONITOR").as_deref() {
        Ok("qemu") => Monitor::Qemu,
        _ => Monitor::Vmm,
    }
}

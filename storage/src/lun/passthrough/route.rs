//! What becomes of a command: decided once, by its CDB and the lengths of its buffers.

use std::time::Duration;

use super::unit::Unit;
use crate::scsi::cdb::Cdb;
use crate::task::{Response, ServiceResponse, Task};

/// Which way data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    None,
    In,
    Out,
}

/// A command for the device.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) cdb: Cdb,
    pub(super) cdb_len: usize,
    pub(super) direction: Direction,
    /// Bytes of data that it moves at most.
    pub(super) len: usize,
    pub(super) timeout: Duration,
    pub(super) idempotent: bool,
}

/// What becomes of a command.
#[derive(Debug)]
pub(super) enum Route {
    /// It is answered here.
    Answer(Response),
    /// The device is to answer it.
    Forward(Plan),
}

/// What becomes of `task`.
pub(super) fn route(unit: &Unit, task: &Task) -> Route {
    let (data_in, data_out) = (task.data_in.len(), task.data_out.len());
    let (direction, len) = match (data_in, data_out) {
        (0, 0) => (Direction::None, 0),
        (_, 0) => (Direction::In, data_in),
        (0, _) => (Direction::Out, data_out),
        _ => return Route::Answer(Response::Failed(ServiceResponse::Overrun)),
    };
    Route::Forward(Plan {
        cdb: task.cdb,
        cdb_len: cdb_len(&task.cdb),
        direction,
        len,
        timeout: unit.spec.timeout.unwrap_or(Duration::from_secs(60)),
        idempotent: direction != Direction::Out,
    })
}

fn cdb_len(cdb: &Cdb) -> usize {
    match cdb.opcode() >> 5 {
        0 => 6,
        1 | 2 => 10,
        5 => 12,
        _ => 16,
    }
}

//! What becomes of a command: decided once, by its CDB and the lengths of its buffers.

use std::sync::Arc;
use std::time::Duration;

use super::fixup::Fixup;
use super::policy::{Verdict, Virtual};
use super::split::{Pieces, Split, split};
use super::unit::Unit;
use super::view::View;
use crate::lun::spec::PassthroughSpec;
use crate::scsi::cdb::Cdb;
use crate::scsi::command::{self, Command, Direction, Effect};
use crate::scsi::sense::{Sense, SenseCode};
use crate::scsi::start_stop::StartStop;
use crate::scsi::supported;
use crate::task::{ServiceResponse, Task};

/// What becomes of a command.
#[derive(Debug)]
pub(super) enum Route {
    /// It is done.
    Good,
    /// It is answered with data, cut to its allocation length.
    Data { bytes: Vec<u8>, allocation_length: usize },
    /// It cannot be carried out with its buffers.
    Fail(ServiceResponse),
    /// The device is to answer it.
    Forward(Plan),
}

/// A command for the device.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) view: Arc<View>,
    pub(super) cdb: Cdb,
    pub(super) cdb_len: usize,
    pub(super) way: Way,
    /// Bytes of the task's buffer that it is about.
    pub(super) len: usize,
    pub(super) timeout: Duration,
    pub(super) idempotent: bool,
    pub(super) manner: Manner,
    pub(super) then: Then,
}

/// Which way data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Nowhere,
    In,
    Out,
}

/// How a command's data goes.
#[derive(Debug)]
pub(super) enum Manner {
    /// Between the device and the task's buffer.
    Direct,
    /// The same, a part after the other.
    Pieces(Pieces),
    /// By way of memory of our own, where the whole response is edited.
    Edited(Fixup),
    /// By way of memory of our own, where what is not allowed is taken out of a list.
    Filtered,
    /// By way of memory of our own, where the block size is looked at.
    Observed,
    /// The task's buffer is read once: what was judged is what is sent.
    Judged,
}

/// What follows when the device has done it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    Nothing,
    /// The initiator takes the device for stopped.
    Stop,
    /// The device may be another one than before.
    Examine,
}

/// What becomes of `task`.
///
/// # Errors
/// The sense data of a command that is refused.
pub(super) fn route(unit: &Unit, view: Arc<View>, task: &Task) -> Result<Route, Sense> {
    const REPD: u8 = 7;
    let cdb = &task.cdb;
    let command = view.command(cdb);
    match view.policy.judge(cdb) {
        Verdict::Refuse(sense) => {
            unit.refused(cdb, &sense);
            Err(sense)
        }
        Verdict::Virtual(Virtual::StartStopUnit) => start_stop_unit(unit, view, cdb),
        Verdict::Virtual(Virtual::ReportSupportedTaskManagementFunctions) => Ok(Route::Data {
            bytes: supported::task_management_functions(cdb.bit(2, REPD)),
            allocation_length: usize::try_from(cdb.u32(6)).unwrap_or(usize::MAX),
        }),
        // The target answers it for all its logical units.
        Verdict::Virtual(Virtual::ReportLuns) => {
            Err(SenseCode::INVALID_COMMAND_OPERATION_CODE.into())
        }
        Verdict::Forward if unit.is_stopped() => when_stopped(unit, view, command, task),
        Verdict::Forward => forward(unit, view, command, task),
    }
}

fn forward(
    unit: &Unit,
    view: Arc<View>,
    command: Option<&Command>,
    task: &Task,
) -> Result<Route, Sense> {
    let cdb = task.cdb;
    let (way, len) = match data_of(&view, command, task) {
        Ok(data) => data,
        Err(why) => return Ok(Route::Fail(why)),
    };
    let manner = manner(&view, &cdb, way, len)?;
    Ok(Route::Forward(Plan {
        cdb_len: cdb_len(command, &cdb),
        way,
        len,
        timeout: view.timeout(&unit.spec, &cdb),
        idempotent: command.is_some_and(|it| it.idempotent(view.facts.device_type())),
        manner,
        then: then(command, &cdb),
        cdb,
        view,
    }))
}

/// Which way data goes, and how much; or why it cannot: the buffers must hold what the CDB moves.
fn data_of(
    view: &View,
    command: Option<&Command>,
    task: &Task,
) -> Result<(Way, usize), ServiceResponse> {
    let (data_in, data_out) = (task.data_in.len(), task.data_out.len());
    let by_buffers = match (data_in, data_out) {
        (0, 0) => Some((Way::Nowhere, 0)),
        (_, 0) => Some((Way::In, data_in)),
        (0, _) => Some((Way::Out, data_out)),
        _ => None,
    };
    let Some(command) = command else { return by_buffers.ok_or(ServiceResponse::Overrun) };
    let (way, room) = match command.direction_of(&task.cdb) {
        Direction::None => return Ok((Way::Nowhere, 0)),
        Direction::In => (Way::In, data_in),
        Direction::Out => (Way::Out, data_out),
        Direction::Either => by_buffers.ok_or(ServiceResponse::Overrun)?,
        Direction::Bidirectional => return Err(ServiceResponse::Overrun),
    };
    let len = match view.transfer_length(command, &task.cdb) {
        Some(len) => usize::try_from(len).map_err(|_| ServiceResponse::Overrun)?,
        None => room,
    };
    match len {
        0 => Ok((Way::Nowhere, 0)),
        _ if len <= room => Ok((way, len)),
        _ => Err(ServiceResponse::Overrun),
    }
}

pub(super) const READ_CAPACITY_10: u8 = 0x25;

fn manner(view: &View, cdb: &Cdb, way: Way, len: usize) -> Result<Manner, Sense> {
    /// More than there is to be seen in READ CAPACITY parameter data, or judged in a list.
    const LONG: usize = 64 << 10;
    let device_type = view.facts.device_type();
    if way == Way::In
        && let Some(fixup) = Fixup::of(cdb, device_type)
    {
        return Ok(Manner::Edited(fixup));
    }
    match (cdb.opcode(), cdb.u8(1) & 0x1f) {
        (0xa3, 0x0c) if way == Way::In => return Ok(Manner::Filtered),
        (READ_CAPACITY_10, _) | (0x9e, 0x10) if way == Way::In && len <= LONG => {
            return Ok(Manner::Observed);
        }
        _ if way != Way::Out || !view.policy.judges_parameters(cdb) => {}
        _ if len <= LONG => return Ok(Manner::Judged),
        _ => return Err(SenseCode::PARAMETER_LIST_LENGTH_ERROR.into()),
    }
    match split(cdb, device_type, len as u64, &view.limits) {
        Split::Whole => Ok(Manner::Direct),
        Split::Pieces(pieces) => Ok(Manner::Pieces(pieces)),
        Split::Refused(sense) => Err(sense),
    }
}

/// Length of a CDB: of one of variable length, what it says itself (SPC-6, ADDITIONAL CDB LENGTH).
fn cdb_len(command: Option<&Command>, cdb: &Cdb) -> usize {
    let len = command.map_or(command::cdb_len(cdb.opcode()), |command| command.cdb_len);
    usize::from(len).min(Cdb::MAX_LEN)
}

fn then(command: Option<&Command>, cdb: &Cdb) -> Then {
    const FORMAT_UNIT: u8 = 0x04;
    const MODE_SELECT: [u8; 2] = [0x15, 0x55];
    match cdb.opcode() {
        opcode if MODE_SELECT.contains(&opcode) => Then::Examine,
        FORMAT_UNIT if command.is_some_and(|it| it.effect == Effect::Medium) => Then::Examine,
        _ => Then::Nothing,
    }
}

/// START STOP UNIT of a device that others use too: it goes on, and the initiator is told
/// otherwise. What it has written is made stable first, unless it wants not.
fn start_stop_unit(unit: &Unit, view: Arc<View>, cdb: &Cdb) -> Result<Route, Sense> {
    let StartStop { start, flush } = StartStop::read(cdb)?;
    if start || !flush || unit.spec.read_only {
        unit.set_stopped(!start);
        return Ok(Route::Good);
    }
    Ok(Route::Forward(synchronize_cache(&unit.spec, view, Then::Stop)))
}

/// SYNCHRONIZE CACHE(10) of all blocks.
pub(super) fn synchronize_cache(spec: &PassthroughSpec, view: Arc<View>, then: Then) -> Plan {
    let cdb = Cdb::new(&[0x35]);
    let timeout = view.timeout(spec, &cdb);
    let (way, manner) = (Way::Nowhere, Manner::Direct);
    Plan { view, cdb, cdb_len: 10, way, len: 0, timeout, idempotent: true, manner, then }
}

/// A stopped device tells what it is, but does nothing with its medium (SBC-4, Stopped power
/// condition).
fn when_stopped(
    unit: &Unit,
    view: Arc<View>,
    command: Option<&Command>,
    task: &Task,
) -> Result<Route, Sense> {
    const TEST_UNIT_READY: u8 = 0x00;
    const REQUEST_SENSE: u8 = 0x03;
    let stopped = Sense::from(SenseCode::INITIALIZING_COMMAND_REQUIRED);
    let cdb = &task.cdb;
    match (cdb.opcode(), command.map(|command| command.effect)) {
        (TEST_UNIT_READY, _) | (_, Some(Effect::Reads | Effect::Medium)) => Err(stopped),
        (REQUEST_SENSE, _) => Ok(Route::Data {
            bytes: stopped.to_bytes(cdb.bit(1, 0)),
            allocation_length: cdb.u8(4).into(),
        }),
        _ => forward(unit, view, command, task),
    }
}

//! What a command passes before its logical unit, in the order that SAM-6 and SPC-6 force:
//! unit attentions of the reset class, then the other unit attentions, then execution.

use super::bus::{Target, Unit};
use super::responders;
use crate::engine::IoContext;
use crate::lun::Submitted;
use crate::scsi::opcode::{Opcode, Operation};
use crate::scsi::sense::SenseCode;
use crate::task::Task;

/// Takes a task that was counted in at the gate of `unit`.
pub(super) fn run(target: &Target, unit: &Unit, task: Task, io: &mut IoContext) -> Submitted {
    let operation = Opcode::find(&task.cdb).ok();
    let exempt = operation.is_some_and(|row| row.attention_exempt);
    if !exempt && let Some(code) = next_attention(unit) {
        return Submitted::Done(task.answer_sense(code));
    }
    match operation.map(|row| row.operation) {
        Some(Operation::ReportLuns) => Submitted::Done(responders::report_luns(target, task)),
        // What has no room for the condition must not take it away.
        Some(Operation::RequestSense) if responders::has_room_for_sense(&task) => {
            match next_attention(unit) {
                Some(code) => Submitted::Done(responders::request_sense(task, code)),
                None => unit.lun.submit(task, io),
            }
        }
        _ => unit.lun.submit(task, io),
    }
}

/// The condition to report now. Reservation conflicts come between the two classes.
fn next_attention(unit: &Unit) -> Option<SenseCode> {
    unit.attention.take_reset().or_else(|| unit.attention.take_any())
}

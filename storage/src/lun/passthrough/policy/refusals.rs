//! Refused commands: counted, and logged so seldom that a guest cannot fill a disk with them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::scsi::cdb::Cdb;
use crate::scsi::command::Command;
use crate::scsi::sense::{FieldPointer, Sense, SenseCode};

/// The refusals of one logical unit.
#[derive(Debug)]
pub struct Refusals {
    name: String,
    device_type: u8,
    count: AtomicU64,
    causes: Mutex<[Window; Cause::COUNT]>,
}

/// Why a command is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Command,
    Field,
    WriteProtected,
}

impl Cause {
    const COUNT: usize = 3;

    fn of(sense: &Sense) -> Cause {
        match sense.code {
            SenseCode::WRITE_PROTECTED => Cause::WriteProtected,
            SenseCode::INVALID_COMMAND_OPERATION_CODE => Cause::Command,
            _ => Cause::Field,
        }
    }
}

/// What is logged of one cause.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    logged: Option<Instant>,
    suppressed: u64,
}

impl Window {
    /// How many were suppressed since the last line, if there is to be one now.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        let recent = self
            .logged
            .is_some_and(|logged| now.saturating_duration_since(logged) < Refusals::INTERVAL);
        if recent {
            self.suppressed = self.suppressed.saturating_add(1);
            return None;
        }
        self.logged = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

impl Refusals {
    /// Of each cause there is at most one line in this time.
    pub const INTERVAL: Duration = Duration::from_secs(60);

    /// Those of the logical unit `name`, as the log calls it, of `device_type`.
    #[must_use]
    pub fn new(name: String, device_type: u8) -> Refusals {
        Refusals { name, device_type, count: AtomicU64::new(0), causes: Mutex::default() }
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Counts that `cdb` was refused with `sense`, and logs it if it is time.
    pub fn refused(&self, cdb: &Cdb, sense: &Sense) {
        if let Some(line) = self.line(cdb, sense, Instant::now()) {
            log::warn!("{line}");
        }
    }

    /// Counts a refusal at `now`; the line to be logged, if it is time.
    fn line(&self, cdb: &Cdb, sense: &Sense, now: Instant) -> Option<String> {
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut causes = self.causes.lock().unwrap_or_else(PoisonError::into_inner);
        let window = causes.get_mut(Cause::of(sense) as usize)?;
        let suppressed = window.admit(now)?;
        drop(causes);
        let more = match suppressed {
            0 => String::new(),
            more => format!(" ({more} more like it since the last such line)"),
        };
        Some(format!("{}: {} refused: {}{more}", self.name, self.command(cdb), why(sense)))
    }

    fn command(&self, cdb: &Cdb) -> String {
        match Command::find(self.device_type, cdb) {
            Some(command) => format!("{} ({:02x}h)", command.name, cdb.opcode()),
            None => format!("command {:02x}h", cdb.opcode()),
        }
    }
}

fn why(sense: &Sense) -> String {
    match (Cause::of(sense), sense.field) {
        (Cause::Command, _) => "the policy does not allow it".into(),
        (Cause::WriteProtected, _) => "the logical unit is read-only".into(),
        (Cause::Field, None) => "the policy does not allow a field of it".into(),
        (Cause::Field, Some(FieldPointer { in_cdb, byte, .. })) => {
            let of = if in_cdb { "its CDB" } else { "its parameter list" };
            format!("the policy does not allow byte {byte} of {of}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITE_BUFFER: Cdb = {
        let mut cdb = [0; Cdb::MAX_LEN];
        cdb[0] = 0x3b;
        Cdb(cdb)
    };
    const OPCODE: SenseCode = SenseCode::INVALID_COMMAND_OPERATION_CODE;

    #[test]
    fn the_first_is_logged_and_the_next_are_counted() {
        let refusals = Refusals::new("scsi0:0:2".into(), 0);
        let start = Instant::now();
        let line = |after: u64| {
            refusals.line(&WRITE_BUFFER, &OPCODE.into(), start + Duration::from_secs(after))
        };
        let first = "scsi0:0:2: WRITE BUFFER (3bh) refused: the policy does not allow it";
        assert_eq!(line(0).as_deref(), Some(first));
        assert_eq!((line(1), line(59)), (None, None));
        let later = format!("{first} (2 more like it since the last such line)");
        assert_eq!(line(60), Some(later));
        assert_eq!(line(61), None);
        assert_eq!(
            line(200).unwrap(),
            format!("{first} (1 more like it since the last such line)")
        );
        assert_eq!(refusals.count(), 6);
    }

    #[test]
    fn each_cause_has_lines_of_its_own() {
        let refusals = Refusals::new("lun".into(), 0);
        let now = Instant::now();
        let line = |opcode: u8, sense: Sense| refusals.line(&Cdb::new(&[opcode]), &sense, now);
        assert!(line(0xc1, OPCODE.into()).unwrap().contains("command c1h refused"));
        let protected = line(0x2a, SenseCode::WRITE_PROTECTED.into()).unwrap();
        assert_eq!(protected, "lun: WRITE(10) (2ah) refused: the logical unit is read-only");
        let field = line(0x4d, Sense::invalid_field(1, Some(0))).unwrap();
        assert!(field.ends_with("the policy does not allow byte 1 of its CDB"), "{field}");
        assert_eq!(line(0x5f, Sense::invalid_parameter(20, Some(3))), None);
        assert_eq!(refusals.count(), 4);
    }

    #[test]
    fn a_clock_that_steps_back_is_no_reason_to_log() {
        let refusals = Refusals::new("lun".into(), 0);
        let now = Instant::now();
        let later = now + Duration::from_secs(5);
        assert!(refusals.line(&WRITE_BUFFER, &OPCODE.into(), later).is_some());
        assert_eq!(refusals.line(&WRITE_BUFFER, &OPCODE.into(), now), None);
    }
}

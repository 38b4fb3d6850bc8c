//! What an initiator may ask of a device: the verdict on each command, by device type, opcode,
//! service action and then fields. What is not known to be allowed is refused.
//!
//! It knows commands, not who carries them, nor what a device answers beyond REPORT SUPPORTED
//! OPERATION CODES, which it makes agree with itself.

use crate::scsi::cdb::Cdb;
use crate::scsi::command::{
    Command, Effect, Purpose, VARIABLE_LENGTH, control_offset, service_action,
};
use crate::scsi::sense::{Sense, SenseCode};

mod explain;
mod fields;
mod pattern;
mod refusals;
mod rules;
mod supported;

pub use explain::{Explained, Standing};
pub use pattern::{CommandPattern, PatternError};
pub use refusals::Refusals;

use rules::{Ruling, Slot};

/// What is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicySpec {
    /// To begin with.
    pub preset: Preset,
    /// Besides that.
    pub allow: Vec<CommandPattern>,
    /// Not even then.
    pub deny: Vec<CommandPattern>,
}

/// A set of commands for each device type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Preset {
    /// What changes nothing.
    ReadOnly,
    /// And what a disk, a tape or another device is there for.
    #[default]
    DiskRw,
    /// And persistent reservations and COMPARE AND WRITE, by a nexus of one's own.
    Cluster,
    /// Everything, by a nexus of one's own.
    Full,
}

/// What becomes of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a verdict is carried out"]
pub enum Verdict {
    /// It goes to the device, unless [`Policy::judge_parameters`] refuses its parameter list.
    Forward,
    /// It is answered in the device's place.
    Virtual(Virtual),
    /// It ends with CHECK CONDITION and this sense data.
    Refuse(Sense),
}

/// A command that concerns the virtual device and not the one behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Virtual {
    /// SPC-6, REPORT LUNS: of this guest's logical units only.
    ReportLuns,
    /// SPC-6, REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS: they are ours.
    ReportSupportedTaskManagementFunctions,
    /// SBC-4, START STOP UNIT: one initiator does not stop a disk that others use.
    StartStopUnit,
}

/// The policy of one logical unit.
#[derive(Clone, Debug)]
pub struct Policy {
    device_type: u8,
    /// Whether what is only protected from writing is refused as such.
    protects: bool,
    /// By opcode.
    slots: Box<[Slot; 256]>,
}

impl Policy {
    /// The policy `spec` for a device of `device_type` (PERIPHERAL DEVICE TYPE). With `read_only`
    /// nothing that modifies it is forwarded, whatever `spec` says; with `shared_nexus` nothing
    /// that makes or breaks reservations, since they would be those of others too.
    #[must_use]
    pub fn new(spec: &PolicySpec, read_only: bool, shared_nexus: bool, device_type: u8) -> Policy {
        let device_type = device_type & 0x1f;
        let rules = rules::Rules { spec, read_only, shared_nexus, device_type };
        Policy { device_type, protects: rules.protects(), slots: rules.slots() }
    }

    /// Whether the initiator should find the medium write-protected (WP of MODE SENSE): the user
    /// asked for that, and nothing that writes it is forwarded.
    #[must_use]
    pub fn write_protected(&self) -> bool {
        let writes = |command: &Command| {
            let rule = self.slot(command.opcode).rule(command.service_action.unwrap_or(0));
            command.effect == Effect::Medium && rule.is_forwarded()
        };
        self.protects && !Command::of_type(self.device_type).any(writes)
    }

    /// Whether something is forwarded that initiators fence each other with: reservations, and
    /// COMPARE AND WRITE.
    #[must_use]
    pub fn fences(&self) -> bool {
        Command::of_type(self.device_type).any(|command| {
            let rule = self.slot(command.opcode).rule(command.service_action.unwrap_or(0));
            let tells_only = command.effect == Effect::Nothing;
            command.purpose == Purpose::Sharing && !tells_only && rule.is_forwarded()
        })
    }

    /// Refuses from now on what `carries` says no to of all that would be forwarded: commands that
    /// this host does not let the VMM send. It is asked with CDBs that have nothing but an opcode
    /// and a service action.
    pub fn withhold(&mut self, carries: impl Fn(&Cdb) -> bool) {
        for (opcode, slot) in (0..=u8::MAX).zip(self.slots.iter_mut()) {
            slot.withhold(|action| carries(&bare_cdb(opcode, action)));
        }
    }

    /// What becomes of `cdb`.
    pub fn judge(&self, cdb: &Cdb) -> Verdict {
        self.decide(cdb).unwrap_or_else(Verdict::Refuse)
    }

    fn decide(&self, cdb: &Cdb) -> Result<Verdict, Sense> {
        let slot = self.slot(cdb.opcode());
        let rule = slot.rule(service_action(cdb));
        if rule.is_supported() {
            check_control(cdb)?;
            check_length(cdb)?;
        }
        match rule.ruling {
            Ruling::Refuse if slot.is_refused() => {
                Err(SenseCode::INVALID_COMMAND_OPERATION_CODE.into())
            }
            Ruling::Refuse => Err(invalid_service_action(cdb)),
            Ruling::Virtual(answer) => Ok(Verdict::Virtual(answer)),
            Ruling::Forward(_) if rule.protected => Err(SenseCode::WRITE_PROTECTED.into()),
            Ruling::Forward(fields) => fields.check(cdb).map(|()| Verdict::Forward),
        }
    }

    /// Whether [`Policy::judge_parameters`] has something to say of the parameter list of `cdb`,
    /// which [`Policy::judge`] would forward.
    #[must_use]
    pub fn judges_parameters(&self, cdb: &Cdb) -> bool {
        matches!(self.slot(cdb.opcode()).rule(service_action(cdb)).ruling,
            Ruling::Forward(fields) if fields.has_parameters())
    }

    /// Whether `cdb`, which [`Policy::judge`] would forward, may be sent with this parameter list:
    /// the very bytes that are sent, as far as `cdb` says that there are some.
    ///
    /// # Errors
    /// The sense data of a refusal.
    pub fn judge_parameters(&self, cdb: &Cdb, parameters: &[u8]) -> Result<(), Sense> {
        match self.slot(cdb.opcode()).rule(service_action(cdb)).ruling {
            Ruling::Forward(fields) => fields.check_parameters(parameters),
            _ => Ok(()),
        }
    }

    fn slot(&self, opcode: u8) -> &Slot {
        &self.slots[usize::from(opcode)]
    }
}

/// A CDB with nothing but an opcode and a service action.
#[must_use]
pub fn bare_cdb(opcode: u8, action: Option<u16>) -> Cdb {
    let [high, low] = action.unwrap_or(0).to_be_bytes();
    match opcode {
        VARIABLE_LENGTH => Cdb::new(&[opcode, 0, 0, 0, 0, 0, 0, 0x18, high, low]),
        _ => Cdb::new(&[opcode, low & 0x1f]),
    }
}

fn invalid_service_action(cdb: &Cdb) -> Sense {
    match cdb.opcode() {
        VARIABLE_LENGTH => Sense::invalid_field(8, None),
        _ => Sense::invalid_field(1, Some(4)),
    }
}

/// There is no ACA, and there are no linked commands (SAM-6, CONTROL byte).
fn check_control(cdb: &Cdb) -> Result<(), Sense> {
    const NACA: u8 = 2;
    const LINK: u8 = 0;
    let Some(offset) = control_offset(cdb.opcode()) else { return Ok(()) };
    let set = [NACA, LINK].into_iter().find(|&bit| cdb.bit(offset.into(), bit));
    set.map_or(Ok(()), |bit| Err(Sense::invalid_field(offset.into(), Some(bit))))
}

/// No longer CDB is carried, and no standard has a shorter one of variable length.
fn check_length(cdb: &Cdb) -> Result<(), Sense> {
    const ADDITIONAL_CDB_LENGTH: u16 = 7;
    const OF_32_BYTES: u8 = 32 - 8;
    let additional = cdb.u8(ADDITIONAL_CDB_LENGTH.into());
    if cdb.opcode() == VARIABLE_LENGTH && additional != OF_32_BYTES {
        return Err(Sense::invalid_field(ADDITIONAL_CDB_LENGTH, None));
    }
    Ok(())
}

#[cfg(test)]
mod tests;

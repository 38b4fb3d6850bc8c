//! The policy as a whole.

use super::*;

mod fields;
mod golden;
mod lists;
mod presets;
mod supported;

/// INVALID COMMAND OPERATION CODE
const OPCODE: Verdict = Verdict::Refuse(sense(SenseCode::INVALID_COMMAND_OPERATION_CODE));
/// WRITE PROTECTED
const PROTECTED: Verdict = Verdict::Refuse(sense(SenseCode::WRITE_PROTECTED));
/// INVALID FIELD IN CDB at SERVICE ACTION
const ACTION: Verdict = Verdict::Refuse(Sense::invalid_field(1, Some(4)));

const PRESETS: [Preset; 4] = [Preset::ReadOnly, Preset::DiskRw, Preset::Cluster, Preset::Full];

const fn sense(code: SenseCode) -> Sense {
    Sense { code, field: None, information: None, descriptor_format: false }
}

/// A policy of nothing but a preset.
fn policy(preset: Preset, device_type: u8) -> Policy {
    Policy::new(&spec(preset), false, false, device_type)
}

fn spec(preset: Preset) -> PolicySpec {
    PolicySpec { preset, ..PolicySpec::default() }
}

fn patterns(texts: &[&str]) -> Vec<CommandPattern> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn judge(policy: &Policy, cdb: &[u8]) -> Verdict {
    policy.judge(&Cdb::new(cdb))
}

/// A CDB with nothing but an opcode and a service action.
fn bare(opcode: u8, action: Option<u16>) -> Cdb {
    bare_cdb(opcode, action)
}

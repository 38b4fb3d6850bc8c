//! `[[controller]]`
//!
//! This file must not know how a LUN is described.

use std::path::Path;
use std::time::Duration;

use super::claims::{Claim, Claims};
use super::lun::{self, Initiator};
use super::machine::Machine;
use super::problems::{Problems, Refusal};
use super::tree::{Field, Table};
use super::{keys, values};
use crate::spec::{ControllerSpec, Transport};

const REQUEST_QUEUES_MAX: u16 = 64;
const REQUEST_QUEUES_DEFAULT_MAX: u16 = 16;
const QUEUE_SIZE_DEFAULT: u16 = 256;
const TMF_TIMEOUT_DEFAULT: Duration = Duration::from_secs(15);

/// Reads every `[[controller]]`. Relative paths are relative to `base`.
pub(super) fn controllers(
    tables: &Field<Vec<Table<'_>>>,
    machine: &Machine,
    base: &Path,
    problems: &mut Problems<'_>,
) -> Option<Vec<ControllerSpec>> {
    let tables = match tables {
        Field::Given { value, .. } if !value.is_empty() => value,
        Field::Refused => return None,
        Field::Absent | Field::Given { .. } => {
            let refusal = Refusal::new("missing", "add at least one, with the guest's disks");
            problems.report(0, "[[controller]]", &refusal);
            return None;
        }
    };
    let mut claims = Claims::default();
    let ids = ids(tables, &mut claims.controllers, problems);
    let mut specs = Vec::new();
    for (table, id) in tables.iter().zip(ids) {
        specs.push(controller(table, id, machine, base, &mut claims, problems));
    }
    specs.into_iter().collect()
}

/// The id of each controller, by default scsi and its index.
fn ids(
    tables: &[Table<'_>],
    claim: &mut Claim<String>,
    problems: &mut Problems<'_>,
) -> Vec<Option<String>> {
    let mut ids = Vec::new();
    for (index, table) in tables.iter().enumerate() {
        let (at, id) = match table.read("id", values::name, problems) {
            Field::Absent => (table.at(), Some(format!("scsi{index}"))),
            Field::Refused => (table.at(), None),
            Field::Given { at, value } => (at, Some(value)),
        };
        ids.push(id.filter(|id| {
            let what = || format!("controller.id {id:?}");
            claim.take(id.clone(), at, what, "give each controller an id of its own", problems)
        }));
    }
    ids
}

fn controller(
    table: &Table<'_>,
    id: Option<String>,
    machine: &Machine,
    base: &Path,
    claims: &mut Claims,
    problems: &mut Problems<'_>,
) -> Option<ControllerSpec> {
    let request_queues = |value: &_| values::number(value, &(1..=REQUEST_QUEUES_MAX));
    let request_queues = table.read("request_queues", request_queues, problems);
    let queue_size = |value: &_| values::power_of_two(value, &(8..=1024));
    let queue_size = table.read("queue_size", queue_size, problems);
    let luns = table.tables("lun", &keys::LUN, problems);
    let initiator = Initiator { guest: machine.uuid, controller: id.as_deref() };
    let luns = lun::luns(luns.or(Vec::new()), &initiator, base, claims, problems);
    let vcpus = u16::from(machine.vcpus.unwrap_or(1));
    Some(ControllerSpec {
        transport: Transport::default(),
        tmf_timeout: TMF_TIMEOUT_DEFAULT,
        request_queues: request_queues.or(vcpus.min(REQUEST_QUEUES_DEFAULT_MAX))?,
        queue_size: queue_size.or(QUEUE_SIZE_DEFAULT)?,
        luns: luns?,
        id: id?,
    })
}

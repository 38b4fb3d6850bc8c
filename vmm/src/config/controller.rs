//! `[[controller]]`
//!
//! This file must not know how a LUN is described.

use std::time::Duration;

use arch::layout;
use devices::pci::root::PLACES;

use super::claims::{Claim, Claims};
use super::lun::{self, Initiator};
use super::machine::Machine;
use super::problems::{Problems, Refusal};
use super::tree::{Field, Placed, Table};
use super::{Surroundings, keys, values};
use crate::irq;
use crate::spec::{ControllerSpec, Transport};

const REQUEST_QUEUES_MAX: u16 = 64;
const REQUEST_QUEUES_DEFAULT_MAX: u16 = 16;
const QUEUE_SIZE_DEFAULT: u16 = 256;
const TMF_TIMEOUT_DEFAULT: Duration = Duration::from_secs(15);
/// MSI vectors besides those of request queues: control queue, event queue, configuration.
const OTHER_VECTORS: u16 = 3;
const TRANSPORTS: [(&str, Transport); 2] = [("pci", Transport::Pci), ("mmio", Transport::Mmio)];

/// Reads every `[[controller]]`.
pub(super) fn controllers(
    tables: &Field<Vec<Table<'_>>>,
    machine: &Machine,
    around: Surroundings<'_>,
    claims: &mut Claims,
    problems: &mut Problems<'_>,
) -> Option<Vec<ControllerSpec>> {
    let tables = match tables {
        Field::Given(Placed { value, .. }) if !value.is_empty() => value,
        Field::Refused => return None,
        Field::Absent | Field::Given(_) => {
            let refusal = Refusal::new("missing", "add at least one, with the guest's disks");
            problems.report(0, "[[controller]]", &refusal);
            return None;
        }
    };
    let ids = ids(tables, &mut claims.controllers, problems);
    let mut specs = Vec::new();
    for (table, id) in tables.iter().zip(ids) {
        specs.push(controller(table, id, machine, around, claims, problems));
    }
    check_places(tables, &specs, problems);
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
            Field::Given(Placed { at, value }) => (at, Some(value)),
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
    around: Surroundings<'_>,
    claims: &mut Claims,
    problems: &mut Problems<'_>,
) -> Option<ControllerSpec> {
    let request_queues = |value: &_| values::number(value, &(1..=REQUEST_QUEUES_MAX));
    let request_queues = table.read("request_queues", request_queues, problems);
    let queue_size = |value: &_| values::power_of_two(values::number(value, &(8_u16..=1024))?);
    let queue_size = table.read("queue_size", queue_size, problems);
    let transport = |value: &_| values::one_of(value, &TRANSPORTS);
    let transport = table.read("transport", transport, problems);
    let tmf_timeout = table.read("tmf_timeout", values::duration, problems);
    let luns = table.tables("lun", &keys::LUN, problems);
    let initiator = Initiator { guest: machine.uuid, controller: id.as_deref() };
    let luns = lun::luns(luns.or(Vec::new()), &initiator, around, claims, problems);
    let vcpus = machine.vcpus.map_or(1, |vcpus| u16::from(vcpus.value));
    Some(ControllerSpec {
        transport: transport.or(Transport::default())?,
        tmf_timeout: tmf_timeout.or(TMF_TIMEOUT_DEFAULT)?,
        request_queues: request_queues.or(vcpus.min(REQUEST_QUEUES_DEFAULT_MAX))?,
        queue_size: queue_size.or(QUEUE_SIZE_DEFAULT)?,
        luns: luns?,
        id: id?,
    })
}

/// Reports the first controller that its transport has no place or no interrupts for.
fn check_places(
    tables: &[Table<'_>],
    specs: &[Option<ControllerSpec>],
    problems: &mut Problems<'_>,
) {
    let slots_max = layout::VIRTIO_MMIO_IRQS.len();
    let (mut functions, mut vectors, mut slots) = (0, 0, 0);
    for (table, spec) in tables.iter().zip(specs) {
        let Some(spec) = spec else { continue };
        match spec.transport {
            Transport::Pci => {
                functions += 1;
                vectors += usize::from(spec.request_queues + OTHER_VECTORS);
            }
            Transport::Mmio => slots += 1,
        }
        let refusal = if functions > PLACES {
            let why = format!("the {PLACES} places of the PCI bus are taken");
            Refusal::new(why, "use fewer controllers with more LUNs each")
        } else if vectors > irq::msi_vectors_max() {
            let why = format!("the {} MSI vectors of KVM are taken", irq::msi_vectors_max());
            Refusal::new(why, "use fewer controllers or fewer request_queues")
        } else if slots > slots_max {
            let why = format!("the {slots_max} interrupt lines for MMIO are taken");
            Refusal::new(why, "use transport = \"pci\", or fewer controllers")
        } else {
            continue;
        };
        problems.report(table.at(), table.header(), &refusal);
        return;
    }
}

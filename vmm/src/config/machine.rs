//! `[machine]`
//!
//! This file must not know what the host has.

use std::path::Path;
use std::time::Duration;

use uuid::Uuid;

use super::problems::{Problems, Refusal};
use super::tree::{Field, Placed, Table};
use super::{identity, values};
use crate::spec::{MachineSpec, MemoryBacking, OnCrash, OnReboot};

const VCPUS_MAX: u8 = 64;
const VCPUS_DEFAULT: u8 = 1;
const MEMORY_DEFAULT: u64 = 512 << 20;
const STOP_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);

const MEMORY_BACKINGS: [(&str, MemoryBacking); 3] = [
    ("anonymous", MemoryBacking::Anonymous),
    ("prealloc", MemoryBacking::Prealloc),
    ("hugepages", MemoryBacking::Hugepages),
];
const ON_REBOOT: [(&str, OnReboot); 2] = [("restart", OnReboot::Restart), ("exit", OnReboot::Exit)];
const ON_CRASH: [(&str, OnCrash); 2] = [("exit", OnCrash::Exit), ("restart", OnCrash::Restart)];

/// What has been read of `[machine]`; nothing where a value is refused.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    name: Option<String>,
    pub(super) uuid: Option<Uuid>,
    pub(super) vcpus: Option<Placed<u8>>,
    pub(super) memory: Option<Placed<u64>>,
    pub(super) memory_backing: Option<Placed<MemoryBacking>>,
    on_reboot: Option<OnReboot>,
    on_crash: Option<OnCrash>,
    stop_timeout: Option<Duration>,
}

impl Machine {
    /// Reads `[machine]`; `file` is the configuration's own path.
    pub(super) fn read(table: &Table<'_>, file: &Path, problems: &mut Problems<'_>) -> Machine {
        let at = table.at();
        let name = match table.read("name", values::name, problems) {
            Field::Absent => default_name(file, at, problems),
            given => given.given().map(|name| name.value),
        };
        let uuid = match table.read("uuid", values::uuid, problems) {
            Field::Absent => name.as_deref().map(identity::guest_uuid),
            given => given.given().map(|uuid| uuid.value),
        };
        let vcpus = |value: &_| values::number(value, &(1..=VCPUS_MAX));
        let backing = |value: &_| values::one_of(value, &MEMORY_BACKINGS);
        let on_reboot = |value: &_| values::one_of(value, &ON_REBOOT);
        let on_crash = |value: &_| values::one_of(value, &ON_CRASH);
        let stop_timeout = table.read("stop_timeout", values::duration, problems);
        Machine {
            name,
            uuid,
            vcpus: table.read("vcpus", vcpus, problems).or_at(at, VCPUS_DEFAULT),
            memory: table.read("memory", values::memory, problems).or_at(at, MEMORY_DEFAULT),
            memory_backing: table
                .read("memory_backing", backing, problems)
                .or_at(at, MemoryBacking::default()),
            on_reboot: table.read("on_reboot", on_reboot, problems).or(OnReboot::default()),
            on_crash: table.read("on_crash", on_crash, problems).or(OnCrash::default()),
            stop_timeout: stop_timeout.or(STOP_TIMEOUT_DEFAULT),
        }
    }

    /// The specification, if nothing of it was refused.
    pub(super) fn into_spec(self) -> Option<MachineSpec> {
        Some(MachineSpec {
            name: self.name?,
            uuid: self.uuid?,
            vcpus: self.vcpus?.value,
            memory: self.memory?.value,
            memory_backing: self.memory_backing?.value,
            on_reboot: self.on_reboot?,
            on_crash: self.on_crash?,
            stop_timeout: self.stop_timeout?,
        })
    }
}

/// The file's stem.
fn default_name(file: &Path, at: usize, problems: &mut Problems<'_>) -> Option<String> {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let name = values::name_of_text(&stem);
    if name.is_err() {
        let why = format!("missing, and the file's stem {stem:?} cannot stand in for it");
        problems.report(at, "machine.name", &Refusal::new(why, "add name to [machine]"));
    }
    name.ok()
}

//! `[machine]`, `[boot]` and `[console]`.
//!
//! This file must not know of controllers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use uuid::Uuid;

use super::problems::{Problems, Refusal};
use super::tree::{Field, Table};
use super::{files, identity, values};
use crate::spec::{BootSpec, MachineSpec, MemoryBacking, OnCrash, OnReboot};

const VCPUS_MAX: u8 = 64;
const VCPUS_DEFAULT: u8 = 1;
const MEMORY_DEFAULT: u64 = 512 << 20;
const STOP_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
const CMDLINE_DEFAULT: &str = "console=ttyS0";

/// What has been read of `[machine]`; nothing where a value is refused.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    name: Option<String>,
    pub(super) uuid: Option<Uuid>,
    pub(super) vcpus: Option<u8>,
    memory: Option<u64>,
}

impl Machine {
    /// Reads `[machine]`, which may be absent; `file` is the configuration's own path.
    pub(super) fn read(
        table: &Field<Table<'_>>,
        file: &Path,
        problems: &mut Problems<'_>,
    ) -> Machine {
        let Field::Given { value: table, .. } = table else {
            return Machine::default_of(file, problems);
        };
        let name = match table.read("name", values::name, problems) {
            Field::Absent => default_name(file, table.at(), problems),
            given => given.given(),
        };
        let uuid = match table.read("uuid", values::uuid, problems) {
            Field::Absent => name.as_deref().map(identity::guest_uuid),
            given => given.given(),
        };
        let vcpus = |value: &_| values::number(value, &(1..=VCPUS_MAX));
        Machine {
            name,
            uuid,
            vcpus: table.read("vcpus", vcpus, problems).or(VCPUS_DEFAULT),
            memory: table.read("memory", values::memory, problems).or(MEMORY_DEFAULT),
        }
    }

    fn default_of(file: &Path, problems: &mut Problems<'_>) -> Machine {
        let name = default_name(file, 0, problems);
        Machine {
            uuid: name.as_deref().map(identity::guest_uuid),
            name,
            vcpus: Some(VCPUS_DEFAULT),
            memory: Some(MEMORY_DEFAULT),
        }
    }

    /// The specification, if nothing of it was refused.
    pub(super) fn into_spec(self) -> Option<MachineSpec> {
        Some(MachineSpec {
            name: self.name?,
            uuid: self.uuid?,
            vcpus: self.vcpus?,
            memory: self.memory?,
            memory_backing: MemoryBacking::default(),
            on_reboot: OnReboot::default(),
            on_crash: OnCrash::default(),
            stop_timeout: STOP_TIMEOUT_DEFAULT,
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

/// Reads `[boot]`. Relative paths are relative to `base`.
pub(super) fn boot(
    table: &Field<Table<'_>>,
    base: &Path,
    problems: &mut Problems<'_>,
) -> Option<BootSpec> {
    let table = match table {
        Field::Given { value, .. } => value,
        Field::Refused => return None,
        Field::Absent => {
            let remedy = "add it, with the kernel to boot";
            problems.report(0, "[boot]", &Refusal::new("missing", remedy));
            return None;
        }
    };
    let kernel = table.read("kernel", |value| file_at(value, base), problems);
    if kernel == Field::Absent {
        let refusal = Refusal::new("missing", "add the path of a bzImage");
        problems.report(table.at(), "boot.kernel", &refusal);
    }
    let initramfs = table.read("initramfs", |value| file_at(value, base), problems);
    let cmdline = table.read("cmdline", values::cmdline, problems);
    Some(BootSpec {
        kernel: kernel.given()?,
        initramfs: initramfs.optional()?,
        cmdline: cmdline.or(CMDLINE_DEFAULT.to_owned())?,
    })
}

fn file_at(value: &toml::de::DeValue<'_>, base: &Path) -> Result<PathBuf, Refusal> {
    files::readable(base.join(values::path(value)?))
}

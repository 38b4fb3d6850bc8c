//! `[[controller.lun]]` with `passthrough`: which device of the host it is, and what a guest may do
//! with it.
//!
//! This file must not know how a device is opened, nor what a command means.

use std::path::{Path, PathBuf};

use storage::host::OpenError;
use storage::lun::passthrough::Passthrough;
use storage::lun::passthrough::policy::{CommandPattern, PolicySpec};
use storage::lun::spec::{LunSpec, Overlay, PassthroughSpec};
use storage::lun::{self, Reason};
use toml::de::DeValue;

use super::claims::{Claims, Use};
use super::media::MediumId;
use super::problems::{Problems, Refusal};
use super::tree::{Field, Placed, Table};
use super::{Surroundings, files, values};
use crate::host::Host;
use crate::spec::PRESETS;

/// Reads one LUN.
pub(super) fn spec(
    table: &Table<'_>,
    around: Surroundings<'_>,
    claims: &mut Claims,
    problems: &mut Problems<'_>,
) -> Option<PassthroughSpec> {
    let before = problems.count();
    let path = table.read("passthrough", |value| path(value, around.base), problems).given();
    let wwn = table.read("wwn", values::naa, problems).given();
    let spec = PassthroughSpec {
        overlay: Overlay {
            serial: given(table.read("serial", values::serial, problems)),
            wwn: wwn.map(|wwn| wwn.value),
        },
        policy: policy(table, problems),
        ..options(table, path.as_ref(), around.base, problems)
    };
    fencing(table, &spec, problems);
    if let Some(path) = &path {
        let device = check(table, path, &spec, around.host, problems);
        let claim = Use {
            medium: device,
            writes: !spec.read_only,
            wwn,
            passthrough: true,
            logical_unit: spec.expect.clone(),
            ..Use::default()
        };
        let name = || format!("controller.lun.passthrough: {}", spec.path.display());
        claims.lun(&claim, name, problems);
    }
    // Something was put in place of whatever is refused.
    (path.is_some() && problems.count() == before).then_some(spec)
}

fn path(value: &DeValue<'_>, base: &Path) -> Result<PathBuf, Refusal> {
    if value.is_table() {
        return Err(Refusal::new("not supported yet", "write the path of a device"));
    }
    values::path(value).map(|path| base.join(path))
}

/// What else is said of a device, with defaults for what is refused, so that the rest is looked at
/// all the same.
fn options(
    table: &Table<'_>,
    path: Option<&Placed<PathBuf>>,
    base: &Path,
    problems: &mut Problems<'_>,
) -> PassthroughSpec {
    let path_timeout = table.read("path_timeout", values::duration_or_none, problems);
    let queue_depth = |value: &_| values::number(value, &(1..=Passthrough::MAX_THREADS));
    let broker = |value: &_| broker(value, base);
    let mut flag = |key| given(table.read(key, values::flag, problems)).unwrap_or_default();
    PassthroughSpec {
        read_only: flag("read_only"),
        shared_nexus: flag("shared_nexus"),
        force: flag("force"),
        expect: given(table.read("expect", values::designator, problems)),
        timeout: given(table.read("timeout", values::duration, problems)),
        path_timeout: given(path_timeout).unwrap_or(PassthroughSpec::PATH_TIMEOUT),
        queue_depth: given(table.read("queue_depth", queue_depth, problems)),
        broker: given(table.read("broker", broker, problems)),
        ..PassthroughSpec::new(path.map_or(Path::new(""), |path| &path.value))
    }
}

fn given<T>(field: Field<T>) -> Option<T> {
    field.given().map(|placed| placed.value)
}

fn broker(value: &DeValue<'_>, base: &Path) -> Result<PathBuf, Refusal> {
    let path = base.join(values::path(value)?);
    files::service(&path)?;
    Ok(path)
}

fn policy(table: &Table<'_>, problems: &mut Problems<'_>) -> PolicySpec {
    let preset = |value: &_| values::one_of(value, &PRESETS);
    let preset = given(table.read("policy", preset, problems)).unwrap_or_default();
    let allow = table.read_each("allow", allowed, problems);
    let deny = table.read_each("deny", values::commands, problems);
    PolicySpec {
        preset,
        allow: given(allow).unwrap_or_default(),
        deny: given(deny).unwrap_or_default(),
    }
}

fn allowed(value: &DeValue<'_>) -> Result<CommandPattern, Refusal> {
    let commands = values::commands(value)?;
    match commands.never_forwarded() {
        Some(why) => Err(Refusal::new(why, "remove it")),
        None => Ok(commands),
    }
}

/// Reports that reservations are to be made by a nexus that others share: they would hold for all
/// of them, and nobody would be fenced.
fn fencing(table: &Table<'_>, spec: &PassthroughSpec, problems: &mut Problems<'_>) {
    let (Some(allow), Some(shared)) = (table.place("allow"), table.place("shared_nexus")) else {
        return;
    };
    if spec.shared_nexus && spec.policy.allow.iter().any(CommandPattern::reserves) {
        let what =
            format!("controller.lun.allow with the shared_nexus at line {}", problems.line(shared));
        let why = "a reservation would hold for everybody who shares the nexus";
        let remedy = "remove what reserves, or use a nexus of the guest's own";
        problems.report(allow, what, &Refusal::new(why, remedy));
    }
}

/// Whether a device is there, and not the one that is wanted.
fn is_another(error: &lun::OpenError) -> bool {
    matches!(error.reason(), Reason::Device(OpenError::Mismatch { .. }))
}

/// Reports a device that cannot be used as `spec` says, or tells which it is.
fn check(
    table: &Table<'_>,
    path: &Placed<PathBuf>,
    spec: &PassthroughSpec,
    host: &Host,
    problems: &mut Problems<'_>,
) -> Option<Placed<MediumId>> {
    if let Err(error) = (host.device)(&LunSpec::Passthrough(spec.clone())) {
        let refusal = Refusal::new(error.why(), error.remedy());
        let pin = table.place("expect").filter(|_| is_another(&error));
        match pin {
            None => problems.report(path.at, "controller.lun.passthrough", &refusal),
            Some(at) => {
                let line = problems.line(path.at);
                let what = format!("controller.lun.expect with the passthrough at line {line}");
                problems.report(at, what, &refusal);
            }
        }
        return None;
    }
    Some(Placed { at: path.at, value: MediumId::of_device(&spec.path)? })
}

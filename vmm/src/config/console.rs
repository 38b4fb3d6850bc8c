//! `[console]`
//!
//! This file must not know what becomes of the guest's output.

use std::path::Path;

use toml::de::DeValue;

use super::claims::Claims;
use super::files;
use super::media::MediumId;
use super::problems::{Problems, Refusal};
use super::tree::{Placed, Table};
use super::values;
use crate::spec::SerialSpec;

/// Reads where the serial port goes. Relative paths are relative to `base`.
pub(super) fn serial(
    table: &Table<'_>,
    base: &Path,
    claims: &mut Claims,
    problems: &mut Problems<'_>,
) -> Option<SerialSpec> {
    let serial = table.read("serial", |value| end(value, base), problems);
    let placed = serial.or_at(table.at(), (SerialSpec::default(), None))?;
    let (serial, file) = placed.value;
    let name = || "console.serial".to_owned();
    let takes = |value| claims.output(Placed { at: placed.at, value }, name, problems);
    file.is_none_or(takes).then_some(serial)
}

/// What a value says, and which file that is if there is one already.
fn end(value: &DeValue<'_>, base: &Path) -> Result<(SerialSpec, Option<MediumId>), Refusal> {
    let only = value.as_table().filter(|table| table.len() == 1);
    let path = |key| only.and_then(|table| table.get(key));
    if let Some(value) = path("file") {
        let path = base.join(values::path(value.get_ref())?);
        let id = files::output(&path)?;
        return Ok((SerialSpec::File(path), id));
    }
    if let Some(value) = path("socket") {
        let path = base.join(values::path(value.get_ref())?);
        files::socket(&path)?;
        return Ok((SerialSpec::Socket(path), None));
    }
    match value.as_str() {
        Some("stdio") => Ok((SerialSpec::Stdio, None)),
        Some("null") => Ok((SerialSpec::Null, None)),
        _ => Err(Refusal::new(
            "no such choice",
            "use \"stdio\", \"null\", { file = \"…\" } or { socket = \"…\" }",
        )),
    }
}

//! The configuration: one TOML file read into a [`GuestSpec`], or every problem of it at once.
//!
//! toml's spanned tree ([`tree`]) is checked against the tables of keys ([`keys`]) and walked
//! section by section ([`machine`], [`controller`], [`lun`]); each value goes through a reader
//! ([`values`], [`files`]), what may be used once is claimed ([`claims`]), and whatever is refused
//! joins one list ([`problems`]). What the file leaves open is derived ([`identity`]).
//!
//! Nothing here opens a device or starts anything.

mod claims;
mod controller;
mod files;
mod identity;
mod keys;
mod lun;
mod machine;
mod problems;
#[cfg(test)]
mod tests;
mod tree;
mod values;

use std::path::Path;

use toml::de::DeTable;

use self::machine::Machine;
pub(crate) use self::problems::Diagnostics;
use self::problems::{Problems, Refusal};
use self::tree::Table;
use crate::spec::{GuestSpec, SerialSpec};

/// Reads the guest that the file at `path` describes. The paths in it that are relative are
/// relative to the file.
///
/// # Errors
/// Every problem of the file, sorted by place; of its syntax only, where that is wrong.
pub(crate) fn load(path: &Path) -> Result<GuestSpec, Diagnostics> {
    let text = files::read_config(path)?;
    let mut problems = Problems::new(path, &text);
    let root = parse(&text, &mut problems);
    // A tree with holes would be blamed for what is missing from it.
    let spec = if problems.is_empty() { guest(&root, path, &mut problems) } else { None };
    match spec {
        Some(spec) if problems.is_empty() => Ok(spec),
        _ => {
            debug_assert!(!problems.is_empty(), "whatever is refused is reported");
            Err(problems.into_diagnostics())
        }
    }
}

fn parse<'a>(text: &'a str, problems: &mut Problems<'_>) -> DeTable<'a> {
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let at = error.span().map_or(0, |span| span.start);
        problems.report(at, "syntax", &Refusal::new(error.message(), "correct the TOML"));
    }
    root.into_inner()
}

fn guest(root: &DeTable<'_>, path: &Path, problems: &mut Problems<'_>) -> Option<GuestSpec> {
    let base = path.parent().unwrap_or(Path::new(""));
    let root = Table::open(&keys::ROOT, 0, root, problems);
    root.table("console", &keys::CONSOLE, problems);
    let machine = Machine::read(&root.table("machine", &keys::MACHINE, problems), path, problems);
    let boot = machine::boot(&root.table("boot", &keys::BOOT, problems), base, problems);
    let tables = root.tables("controller", &keys::CONTROLLER, problems);
    let controllers = controller::controllers(&tables, &machine, base, problems);
    Some(GuestSpec {
        machine: machine.into_spec()?,
        boot: boot?,
        serial: SerialSpec::default(),
        controllers: controllers?,
    })
}

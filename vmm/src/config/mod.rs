//! The configuration: one TOML file read into a [`GuestSpec`], or every problem of it at once.
//!
//! toml's spanned tree ([`tree`]) is checked against the tables of keys ([`keys`]) and walked
//! section by section ([`machine`], [`boot`], [`console`], [`controller`], [`lun`], [`disk`],
//! [`passthrough`]); each value goes through a reader ([`values`], [`files`]), what may be used once is claimed
//! ([`claims`]), and whatever is refused joins one list ([`problems`]). What the file leaves open
//! is derived ([`identity`]). Last, what the host has is held against all of it ([`capacity`]).
//!
//! Nothing here changes or starts anything.

mod boot;
mod capacity;
mod claims;
mod console;
mod controller;
mod disk;
mod files;
mod identity;
mod keys;
mod lun;
mod machine;
mod media;
mod passthrough;
mod problems;
#[cfg(test)]
mod tests;
mod tree;
mod values;

use std::path::Path;

use toml::de::DeTable;

use self::boot::Boot;
use self::claims::Claims;
use self::machine::Machine;
pub(crate) use self::problems::Diagnostics;
use self::problems::{Problems, Refusal};
use self::tree::Table;
pub(crate) use self::values::time;
use crate::host::Host;
use crate::spec::GuestSpec;

/// Where a configuration is read.
#[derive(Clone, Copy, Debug)]
struct Surroundings<'a> {
    /// What relative paths are relative to.
    base: &'a Path,
    /// The host that has the devices.
    host: &'a Host,
}

/// Reads the guest that the file at `path` describes, and checks whether `host` can run it. The
/// paths in it that are relative are relative to the file.
///
/// # Errors
/// Every problem of the file, sorted by place, then those of the host; of its syntax only, where
/// that is wrong.
pub(crate) fn load(path: &Path, host: &Host) -> Result<GuestSpec, Diagnostics> {
    let text = files::read_config(path)?;
    let mut problems = Problems::new(path, &text);
    let root = parse(&text, &mut problems);
    // A tree with holes would be blamed for what is missing from it.
    let spec = if problems.is_empty() { guest(&root, path, host, &mut problems) } else { None };
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

fn guest(
    root: &DeTable<'_>,
    path: &Path,
    host: &Host,
    problems: &mut Problems<'_>,
) -> Option<GuestSpec> {
    let base = path.parent().unwrap_or(Path::new(""));
    let nothing = DeTable::new();
    let root = Table::open(&keys::ROOT, 0, root, problems);
    let mut claims = Claims::default();
    claims.source(path, "this configuration".to_owned());

    let machine = root.table_or("machine", &keys::MACHINE, &nothing, problems);
    let machine = Machine::read(&machine, path, problems);
    let boot = Boot::read(&root.table("boot", &keys::BOOT, problems), base, problems);
    boot.iter().for_each(|boot| boot.claim(&mut claims, problems));
    let console = root.table_or("console", &keys::CONSOLE, &nothing, problems);
    let serial = console::serial(&console, base, &mut claims, problems);
    let controllers = root.tables("controller", &keys::CONTROLLER, problems);
    let around = Surroundings { base, host };
    let controllers =
        controller::controllers(&controllers, &machine, around, &mut claims, problems);

    capacity::machine(&machine, boot.as_ref(), host, problems);
    let guest = GuestSpec {
        machine: machine.into_spec()?,
        boot: boot?.into_spec()?,
        serial: serial?,
        controllers: controllers?,
    };
    capacity::descriptors(&guest, host.descriptors, problems);
    Some(guest)
}

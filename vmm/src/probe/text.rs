//! The form that a person reads.
//!
//! Owns the layout. It must not know where anything comes from.

use std::fmt;

use super::model::{Command, Device, Field, Identity, Limit, Page, Policy, Report, Reservations};
use super::model::{Missing, Value, Verdict};

/// Shows a report.
pub(super) struct Text<'a>(pub(super) &'a Report);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.0;
        let identity = &report.identity;
        let names = [&identity.vendor, &identity.product, &identity.revision];
        let names = names.map(String::as_str).join(" ");
        writeln!(f, "{}: {}, {names}", report.path, identity.type_name)?;
        show_identity(f, identity)?;
        show_device(f, &report.device)?;
        show_limits(f, &report.limits)?;
        show_policy(f, &report.policy)?;
        show_reservations(f, &report.reservations)?;
        writeln!(f, "\npages, as the device gives them and as a guest gets them")?;
        report.pages.iter().try_for_each(|page| show_page(f, page))?;
        show_missing(f, &report.missing)
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, value: impl fmt::Display) -> fmt::Result {
    writeln!(f, "  {name:<16} {value}")
}

fn rows(f: &mut fmt::Formatter<'_>, name: &str, values: &[String]) -> fmt::Result {
    if values.is_empty() { Ok(()) } else { row(f, name, values.join(", ")) }
}

fn show_identity(f: &mut fmt::Formatter<'_>, identity: &Identity) -> fmt::Result {
    rows(f, "serial", identity.serial.as_slice())?;
    for named in &identity.designators {
        row(f, named.association, &named.designator)?;
    }
    let Some(capacity) = identity.capacity else { return Ok(()) };
    let bytes = u128::from(capacity.blocks) * u128::from(capacity.block_size);
    let (blocks, block_size) = (capacity.blocks, capacity.block_size);
    row(f, "capacity", format_args!("{blocks} blocks of {block_size} bytes, {}", size(bytes)))
}

fn size(bytes: u128) -> String {
    const UNITS: [&str; 7] = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut shown = (bytes, UNITS[0]);
    for unit in UNITS.into_iter().skip(1) {
        if shown.0 < 10 * 1024 {
            break;
        }
        shown = (shown.0 / 1024, unit);
    }
    format!("{} {}", shown.0, shown.1)
}

fn show_device(f: &mut fmt::Formatter<'_>, device: &Device) -> fmt::Result {
    rows(f, "nodes", &device.nodes)?;
    rows(f, "address", device.address.as_slice())?;
    rows(f, "transport", device.transport.as_slice())?;
    rows(f, "initiator port", device.initiator_port.as_slice())?;
    rows(f, "target port", device.target_port.as_slice())?;
    rows(f, "paths", &device.paths)?;
    rows(f, "in use", &device.in_use)?;
    rows(f, "unit attentions", &device.attentions)
}

fn show_limits(f: &mut fmt::Formatter<'_>, limits: &[Limit]) -> fmt::Result {
    if limits.is_empty() {
        return Ok(());
    }
    writeln!(f, "\nlimits; those with * are what a guest is told")?;
    let width = limits.iter().map(|limit| limit.name.len()).max().unwrap_or(0);
    for Limit { name, value, unit, from, effective } in limits {
        let mark = if *effective { '*' } else { ' ' };
        let value = format!("{value} {unit}");
        writeln!(f, "{mark} {name:<width$}  {value:<18} {from}")?;
    }
    Ok(())
}

fn show_policy(f: &mut fmt::Formatter<'_>, policy: &Policy) -> fmt::Result {
    write!(f, "\ncommands, policy {}", policy.preset)?;
    write!(f, "{}", if policy.read_only { ", read-only" } else { "" })?;
    writeln!(f, "{}", if policy.shared_nexus { ", shared nexus" } else { "" })?;
    let width = policy.commands.iter().map(|command| command.name.len()).max().unwrap_or(0);
    policy.commands.iter().try_for_each(|command| show_command(f, command, width))
}

fn show_command(f: &mut fmt::Formatter<'_>, command: &Command, width: usize) -> fmt::Result {
    let action = command.service_action.as_ref();
    let code =
        action.map_or(command.opcode.clone(), |action| format!("{}/{action}", command.opcode));
    let verdict = match command.verdict {
        Verdict::Allowed => "allowed",
        Verdict::Virtual => "virtual",
        Verdict::Refused => "refused",
    };
    write!(f, "  {code:<8} {:<width$}  {verdict}", command.name)?;
    if let Some(why) = &command.why {
        write!(f, ": {why}")?;
    }
    if let Some(timeout) = command.timeout {
        write!(f, ", {timeout} s")?;
    }
    if let Some(from) = command.timeout_from {
        write!(f, " ({from})")?;
    }
    writeln!(f)
}

fn show_reservations(f: &mut fmt::Formatter<'_>, found: &Reservations) -> fmt::Result {
    writeln!(f, "\nreservations")?;
    if let Some(generation) = found.generation {
        row(f, "generation", generation)?;
    }
    rows(f, "keys", &found.keys)?;
    match &found.holder {
        Some(holder) => row(f, "reserved", format_args!("{}, key {}", holder.kind, holder.key))?,
        None if found.generation.is_some() => row(f, "reserved", "no")?,
        None => {}
    }
    for it in &found.registrations {
        let port =
            it.target_port.map_or("every target port".into(), |port| format!("target port {port}"));
        let holder = if it.holder { ", holder" } else { "" };
        row(f, "registration", format_args!("{} {}, {port}{holder}", it.key, it.initiator_port))?;
    }
    found.unread.iter().try_for_each(|unread| row(f, "not read", unread))
}

fn show_page(f: &mut fmt::Formatter<'_>, page: &Page) -> fmt::Result {
    let changed = match (&page.device, &page.guest) {
        (Some(device), Some(guest)) if device == guest => "",
        (Some(_), Some(_)) => ": changed",
        (None, Some(_)) => ": made for the guest",
        (Some(_), None) => ": kept from the guest",
        (None, None) => ": not there",
    };
    write!(f, "\n  {} {}{changed}", page.page, page.name)?;
    match &page.refused {
        Some(why) => writeln!(f, " (INQUIRY {why})")?,
        None => writeln!(f)?,
    }
    let width = page.fields.iter().map(|field| field.name.len()).max().unwrap_or(0);
    page.fields.iter().try_for_each(|field| show_field(f, field, width))?;
    let (device, guest) = (page.device.as_deref(), page.guest.as_deref());
    show_bytes(f, device.unwrap_or_default(), guest.unwrap_or_default())
}

fn show_field(f: &mut fmt::Formatter<'_>, field: &Field, width: usize) -> fmt::Result {
    let (mark, value) = match (&field.device, &field.guest) {
        (Some(device), Some(guest)) if device != guest => ('*', format!("{device} → {guest}")),
        (Some(value), _) | (None, Some(value)) => (' ', value.to_string()),
        (None, None) => return Ok(()),
    };
    writeln!(f, "  {mark} {:<width$}  {value}", field.name)
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Number(number) => number.fmt(f),
            Value::Text(text) => text.fmt(f),
        }
    }
}

/// The bytes in lines of 16. Where they differ, a line of the device's (-), one of the guest's
/// (+), and, where there are both, a mark below each byte that differs.
fn show_bytes(f: &mut fmt::Formatter<'_>, device: &[u8], guest: &[u8]) -> fmt::Result {
    const LINE: usize = 16;
    let lines = device.len().max(guest.len()).div_ceil(LINE);
    for line in 0..lines {
        let at = line * LINE;
        let part = |bytes| part(bytes, at, LINE);
        let (device, guest) = (part(device), part(guest));
        if device == guest {
            hex_line(f, ' ', at, device)?;
            continue;
        }
        if !device.is_empty() {
            hex_line(f, '-', at, device)?;
        }
        if !guest.is_empty() {
            hex_line(f, '+', at, guest)?;
        }
        if device.is_empty() || guest.is_empty() {
            continue;
        }
        let differs = |i: usize| if device.get(i) == guest.get(i) { "   " } else { " ^^" };
        let marks: String = (0..device.len().max(guest.len())).map(differs).collect();
        writeln!(f, "          {}", marks.trim_end())?;
    }
    Ok(())
}

fn part(bytes: &[u8], at: usize, len: usize) -> &[u8] {
    let rest = bytes.get(at..).unwrap_or_default();
    rest.get(..len).unwrap_or(rest)
}

fn hex_line(f: &mut fmt::Formatter<'_>, mark: char, at: usize, bytes: &[u8]) -> fmt::Result {
    write!(f, "  {mark} {at:04x}  ")?;
    bytes.iter().try_for_each(|byte| write!(f, " {byte:02x}"))?;
    writeln!(f)
}

fn show_missing(f: &mut fmt::Formatter<'_>, missing: &[Missing]) -> fmt::Result {
    if missing.is_empty() {
        return Ok(());
    }
    writeln!(f, "\nmissing")?;
    for Missing { what, effect, remedy } in missing {
        writeln!(f, "  {what}: {effect}; {remedy}")?;
    }
    Ok(())
}

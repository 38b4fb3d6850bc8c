//! The policy's file: TOML of root's own, which nobody else can write.
//!
//! This file owns the keys and their errors, one line each.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use nix::unistd::{Group, User};
use storage::lun::passthrough::policy::CommandPattern;
use storage::lun::spec::Naa;
use storage::scsi::command::{Command, commands};
use storage::scsi::designator::Designator;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Allow, Among, Codes, Limits, Policy, Rule, Who};

/// Where the policy is unless somebody says otherwise.
pub const DEFAULT_PATH: &str = "/etc/vmm/broker.toml";

/// What is none of the things that can be allowed.
const UNKNOWN: &str = "must be persistent-reservations, compare-and-write, logical-unit-reset, a \
                       command's name, or hex: an opcode, opcode/service action, or opcode-opcode";

/// The longest file that is read, in bytes.
const LONGEST: u64 = 1 << 20;

/// Why there is no policy: a line that names the file and the place in it.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", .at.escape_debug())]
pub struct PolicyError {
    at: String,
    why: String,
}

/// Reads the policy at `path`.
///
/// # Errors
/// Where it cannot be read, belongs to somebody else than root, can be written by others, or says
/// something else than a policy.
pub fn load(path: &Path) -> Result<Policy, PolicyError> {
    let at = path.display().to_string();
    let text = read(path).map_err(|why| PolicyError { at: at.clone(), why })?;
    parse(&at, &text)
}

fn read(path: &Path) -> Result<String, String> {
    let told = |error: io::Error| format!("cannot be read: {error}");
    let file = File::open(path).map_err(told)?;
    let metadata = file.metadata().map_err(told)?;
    if !metadata.is_file() {
        return Err("is no regular file".into());
    }
    if metadata.uid() != 0 {
        return Err(format!("belongs to user {}; make it root's (chown root)", metadata.uid()));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err("can be written by others; forbid that (chmod go-w)".into());
    }
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text).map_err(told)?;
    Ok(text)
}

/// Reads a policy from `text`, which errors call `name`.
///
/// # Errors
/// The first thing that is wrong.
pub fn parse(name: &str, text: &str) -> Result<Policy, PolicyError> {
    let wrong = |(at, why): Problem| {
        let before = text.get(..at).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        PolicyError { at: format!("{name}:{line}:{column}"), why }
    };
    let root = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        wrong((at, error.message().replace('\n', " ")))
    })?;
    policy(root.get_ref()).map_err(wrong)
}

/// Where in the file, in bytes, and what.
type Problem = (usize, String);
type Found<T> = Result<T, Problem>;
type Value<'a> = Spanned<DeValue<'a>>;

fn problem<T>(value: &Value<'_>, why: impl Display) -> Found<T> {
    Err((value.span().start, why.to_string()))
}

fn policy(root: &DeTable<'_>) -> Found<Policy> {
    known(root, &["rule", "limits"])?;
    let rules = match root.get("rule") {
        None => Vec::new(),
        Some(value) => list(value)?.iter().map(rule).collect::<Found<_>>()?,
    };
    let limits = root.get("limits").map_or(Ok(Limits::default()), limits)?;
    Ok(Policy { rules, limits })
}

fn limits(value: &Value<'_>) -> Found<Limits> {
    let table = table(value)?;
    let keys =
        ["connections", "connections_per_client", "requests_per_second", "commands_per_device"];
    known(table, &[&keys[..], &["timeout_seconds"]].concat())?;
    let default = Limits::default();
    let count = |key, default: usize| match table.get(key) {
        None => Ok(default),
        Some(value) => integer(value, 1, 65536).map(|count| usize::try_from(count).unwrap_or(1)),
    };
    let rate = table.get(keys[2]).map(|value| integer(value, 1, 1_000_000)).transpose()?;
    let timeout = table.get("timeout_seconds").map(|value| integer(value, 1, 604_800));
    Ok(Limits {
        connections: count(keys[0], default.connections)?,
        connections_per_client: count(keys[1], default.connections_per_client)?,
        requests_per_second: rate.unwrap_or(default.requests_per_second),
        commands_per_device: count(keys[3], default.commands_per_device)?,
        timeout: timeout
            .transpose()?
            .map_or(default.timeout, |seconds| Duration::from_secs(seconds.into())),
    })
}

fn rule(value: &Value<'_>) -> Found<Rule> {
    let table = table(value)?;
    known(table, &["user", "group", "cgroup", "lu", "allow", "vports", "parents"])?;
    let who = who(value, table)?;
    let units = among(table, "lu", |text| text.parse::<Designator>().map_err(|e| e.to_string()))?;
    let allow = table.get("allow").map_or(Ok(Allow::default()), allow)?;
    let vports = among(table, "vports", vport)?;
    let parents = match table.get("parents") {
        None => Among::Any,
        Some(_) => among(table, "parents", wwn)?,
    };
    if table.contains_key("lu") != table.contains_key("allow") {
        return problem(value, "\"lu\" and \"allow\" go together: which logical units, and what");
    }
    if !table.contains_key("lu") && !table.contains_key("vports") {
        return problem(value, "allows nothing; give \"lu\" and \"allow\", or \"vports\"");
    }
    if table.contains_key("parents") && !table.contains_key("vports") {
        return problem(value, "\"parents\" without \"vports\" has no effect");
    }
    Ok(Rule { who, units, allow, vports, parents })
}

fn who(rule: &Value<'_>, table: &DeTable<'_>) -> Found<Who> {
    if !["user", "group", "cgroup"].iter().any(|key| table.contains_key(*key)) {
        return problem(rule, "applies to nobody; give \"user\", \"group\" or \"cgroup\"");
    }
    let user = |name: &str| User::from_name(name).ok().flatten().map(|user| user.uid.as_raw());
    let group = |name: &str| Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw());
    Ok(Who {
        uid: id(table, "user", user)?,
        gid: id(table, "group", group)?,
        cgroup: table.get("cgroup").map(cgroup).transpose()?,
    })
}

/// A number, a name that `find` knows, or "any", which is `None`.
fn id(table: &DeTable<'_>, key: &str, find: impl Fn(&str) -> Option<u32>) -> Found<Option<u32>> {
    let Some(value) = table.get(key) else { return Ok(None) };
    match value.get_ref() {
        DeValue::String(name) if name == "any" => Ok(None),
        DeValue::String(name) => match find(name) {
            Some(id) => Ok(Some(id)),
            None => problem(value, format!("there is no {key} {name:?}")),
        },
        _ => integer(value, 0, u32::MAX - 1).map(Some),
    }
}

fn cgroup(value: &Value<'_>) -> Found<String> {
    match string(value)? {
        path if path.starts_with('/') => Ok(path.into()),
        _ => problem(value, "must be a path that begins with /, as in /proc/PID/cgroup"),
    }
}

fn allow(value: &Value<'_>) -> Found<Allow> {
    let mut allow = Allow::default();
    for value in one_or_more(value)? {
        match string(value)? {
            "persistent-reservations" => allow.reservations = true,
            "logical-unit-reset" => allow.reset = true,
            "compare-and-write" => {
                allow.commands.push(Codes { opcodes: 0x89..=0x89, service_action: None });
            }
            text => match text.parse() {
                Ok(CommandPattern::Code { opcodes, service_action }) => {
                    allow.commands.push(Codes { opcodes, service_action });
                }
                Ok(CommandPattern::Name(name)) => match named(name) {
                    Ok(codes) => allow.commands.extend(codes),
                    Err(why) => return problem(value, format!("{text:?} {why}")),
                },
                Err(_) => return problem(value, format!("{text:?} {UNKNOWN}")),
            },
        }
    }
    Ok(allow)
}

/// The codes of a command that mean nothing else to any type of devices: a rule does not know types.
fn named(name: &str) -> Result<Vec<Codes>, String> {
    let all = commands().filter(|command| command.is_named(name));
    all.map(|command| match commands().find(|other| shares_codes(command, other, name)) {
        None => {
            let Command { opcode, service_action, .. } = *command;
            Ok(Codes { opcodes: opcode..=opcode, service_action })
        }
        Some(other) => Err(format!("is {:?} to other devices; write its code, in hex", other.name)),
    })
    .collect()
}

fn shares_codes(command: &Command, other: &Command, name: &str) -> bool {
    let actions = (command.service_action, other.service_action);
    let apart = matches!(actions, (Some(one), Some(other)) if one != other);
    command.opcode == other.opcode && !apart && !other.is_named(name)
}

fn vport(text: &str) -> Result<(u64, u64), String> {
    let (wwpn, wwnn) = match text.split(':').collect::<Vec<_>>()[..] {
        [wwpn, wwnn] => (wwn(wwpn)?, wwn(wwnn)?),
        _ => return Err("must be WWPN:WWNN, of 16 hex digits each".into()),
    };
    Ok((wwpn, wwnn))
}

fn wwn(text: &str) -> Result<u64, String> {
    let naa = Naa::parse(text).map_err(|error| error.to_string())?;
    naa.as_bytes().try_into().map(u64::from_be_bytes).map_err(|_| "must be 16 hex digits".into())
}

/// "any", one, or a list; none where the key is absent.
fn among<T>(
    table: &DeTable<'_>,
    key: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Found<Among<T>> {
    let Some(value) = table.get(key) else { return Ok(Among::default()) };
    if value.get_ref().as_str() == Some("any") {
        return Ok(Among::Any);
    }
    let one = |value: &Value<'_>| {
        let text = string(value)?;
        parse(text).or_else(|why| problem(value, format!("{text:?} {why}")))
    };
    one_or_more(value)?.iter().map(one).collect::<Found<_>>().map(Among::These)
}

fn one_or_more<'a, 'b>(value: &'a Value<'b>) -> Found<&'a [Value<'b>]> {
    match value.get_ref() {
        DeValue::Array(values) if values.is_empty() => problem(value, "must not be empty"),
        DeValue::Array(values) => Ok(values),
        _ => Ok(std::slice::from_ref(value)),
    }
}

fn list<'a, 'b>(value: &'a Value<'b>) -> Found<&'a [Value<'b>]> {
    match value.get_ref().as_array() {
        Some(values) => Ok(values),
        None => problem(value, "must be tables: write [[rule]]"),
    }
}

fn table<'a, 'b>(value: &'a Value<'b>) -> Found<&'a DeTable<'b>> {
    value.get_ref().as_table().map_or_else(|| problem(value, "must be a table"), Ok)
}

fn string<'a>(value: &'a Value<'_>) -> Found<&'a str> {
    value.get_ref().as_str().map_or_else(|| problem(value, "must be a string"), Ok)
}

fn integer(value: &Value<'_>, least: u32, most: u32) -> Found<u32> {
    let number = value.get_ref().as_integer();
    let number = number.and_then(|it| i64::from_str_radix(it.as_str(), it.radix()).ok());
    match number.and_then(|number| u32::try_from(number).ok()) {
        Some(number) if (least..=most).contains(&number) => Ok(number),
        _ => problem(value, format!("must be a number from {least} to {most}")),
    }
}

fn known(table: &DeTable<'_>, keys: &[&str]) -> Found<()> {
    for key in table.keys() {
        if !keys.contains(&key.get_ref().as_ref()) {
            let why = format!("unknown key {:?}; there are {}", key.get_ref(), keys.join(", "));
            return Err((key.span().start, why));
        }
    }
    Ok(())
}

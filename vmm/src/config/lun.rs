//! `[[controller.lun]]`: the numbers that LUNs get.
//!
//! This file must not know what is behind a number.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;

use storage::lun::spec::{LunSpec, Naa};
use uuid::Uuid;

use super::claims::{Claim, Claims};
use super::problems::{Problems, Refusal};
use super::tree::{Field, Placed, Table};
use super::{Surroundings, disk, identity, keys, passthrough, values};
use crate::spec::AddressedLun;

const LUN_MAX: u16 = 16383;

/// What the derived identities of a controller's LUNs depend on; nothing where it is refused.
#[derive(Debug)]
pub(super) struct Initiator<'a> {
    pub(super) guest: Option<Uuid>,
    pub(super) controller: Option<&'a str>,
}

impl Initiator<'_> {
    fn wwn(&self, address: Option<Address>) -> Option<Naa> {
        let (target, lun) = address?;
        Some(identity::wwn(&self.guest?, self.controller?, target, lun))
    }
}

/// Target and logical unit number.
type Address = (u8, u16);

/// Reads the LUNs of one controller.
pub(super) fn luns(
    tables: Option<Vec<Table<'_>>>,
    initiator: &Initiator<'_>,
    around: Surroundings<'_>,
    claims: &mut Claims,
    problems: &mut Problems<'_>,
) -> Option<Vec<AddressedLun>> {
    let tables = tables?;
    let addresses = addresses(&tables, problems);
    let mut luns = Vec::new();
    for (table, address) in tables.iter().zip(addresses) {
        let spec = spec(table, initiator.wwn(address), around, claims, problems);
        luns.push(addressed(address, spec));
    }
    luns.into_iter().collect()
}

fn addressed(address: Option<Address>, spec: Option<LunSpec>) -> Option<AddressedLun> {
    let (target, lun) = address?;
    Some(AddressedLun { target, lun, spec: spec? })
}

/// Reads what is behind a number, whose designator is `derived` where it is derived.
fn spec(
    table: &Table<'_>,
    derived: Option<Naa>,
    around: Surroundings<'_>,
    claims: &mut Claims,
    problems: &mut Problems<'_>,
) -> Option<LunSpec> {
    let backings: Vec<&str> = keys::BACKINGS.into_iter().filter(|key| table.has(key)).collect();
    let mut disk = |problems: &mut _| disk::spec(table, derived, around.base, claims, problems);
    match backings.as_slice() {
        ["image" | "block"] => {
            refuse(table, &keys::OF_PASSTHROUGH, backings[0], problems);
            disk(problems).map(LunSpec::Disk)
        }
        ["passthrough"] => {
            refuse(table, &keys::OF_DISKS, "passthrough", problems);
            passthrough::spec(table, around, claims, problems).map(LunSpec::Passthrough)
        }
        several => {
            not_one(table, several, problems);
            // Neither is right, and what is wrong by itself is told all the same.
            let _ = disk(problems);
            let _ = passthrough::spec(table, around, claims, problems);
            None
        }
    }
}

/// Reports that a LUN has several backings, or none; one that is not served has been reported.
fn not_one(table: &Table<'_>, backings: &[&str], problems: &mut Problems<'_>) {
    let refusal = match backings {
        [] => Refusal::new("nothing holds its data", "add image, block or passthrough"),
        [_] => return,
        several => Refusal::new(
            format!("{} exclude each other", several.join(" and ")),
            "keep one of them",
        ),
    };
    problems.report(table.at(), table.header(), &refusal);
}

/// Reports the keys of `table` that do not go with its `backing`.
fn refuse(
    table: &Table<'_>,
    foreign: &[keys::Foreign],
    backing: &str,
    problems: &mut Problems<'_>,
) {
    let line = problems.line(table.place(backing).unwrap_or(table.at()));
    for (key, why, remedy) in foreign {
        if let Some(at) = table.place(key) {
            let what = format!("controller.lun.{key} with the {backing} at line {line}");
            problems.report(at, what, &Refusal::new(*why, *remedy));
        }
    }
}

/// The address of each LUN: as it is given, and the smallest number that is free on its target
/// for those that give none.
fn addresses(tables: &[Table<'_>], problems: &mut Problems<'_>) -> Vec<Option<Address>> {
    let given: Vec<_> = tables.iter().map(|table| numbers(table, problems)).collect();
    let mut taken = Claim::default();
    let mut addresses = Vec::new();
    for (target, lun) in &given {
        addresses.push(explicit(*target, lun, &mut taken, problems));
    }
    let mut free = FreeNumbers::besides(addresses.iter().copied().flatten());
    for ((table, address), (target, lun)) in tables.iter().zip(&mut addresses).zip(given) {
        if let (Some(target), Field::Absent) = (target, lun) {
            *address = default_number(target, &mut free, table.at(), problems);
        }
    }
    addresses
}

fn numbers(table: &Table<'_>, problems: &mut Problems<'_>) -> (Option<u8>, Field<u16>) {
    let target = |value: &_| values::number(value, &(0..=u8::MAX));
    let lun = |value: &_| values::number(value, &(0..=LUN_MAX));
    (table.read("target", target, problems).or(0), table.read("lun", lun, problems))
}

fn explicit(
    target: Option<u8>,
    lun: &Field<u16>,
    taken: &mut Claim<Address>,
    problems: &mut Problems<'_>,
) -> Option<Address> {
    let (Some(target), Field::Given(Placed { at, value: lun })) = (target, lun) else {
        return None;
    };
    let what = || format!("target {target} lun {lun}");
    let remedy = "give each LUN of the controller a place of its own";
    taken.take((target, *lun), *at, what, remedy, problems).then_some((target, *lun))
}

fn default_number(
    target: u8,
    free: &mut FreeNumbers,
    at: usize,
    problems: &mut Problems<'_>,
) -> Option<Address> {
    let lun = free.take(target);
    if lun.is_none() {
        let why = format!("no number is free on target {target}");
        problems.report(at, "controller.lun.lun", &Refusal::new(why, "use another target"));
    }
    Some((target, lun?))
}

/// The numbers that no LUN gives explicitly, in ascending order on each target.
struct FreeNumbers {
    explicit: HashSet<Address>,
    ascending: HashMap<u8, RangeInclusive<u16>>,
}

impl FreeNumbers {
    fn besides(explicit: impl Iterator<Item = Address>) -> FreeNumbers {
        FreeNumbers { explicit: explicit.collect(), ascending: HashMap::new() }
    }

    fn take(&mut self, target: u8) -> Option<u16> {
        let ascending = self.ascending.entry(target).or_insert(0..=LUN_MAX);
        ascending.find(|lun| !self.explicit.contains(&(target, *lun)))
    }
}

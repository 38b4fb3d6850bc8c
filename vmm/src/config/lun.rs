//! `[[controller.lun]]`: what a LUN is described by, and the numbers that LUNs get.
//!
//! This file must not know how a backing is opened.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::path::Path;

use storage::lun::spec::{Ascii, Backing, Identity, LunSpec, Naa, WriteCache};
use uuid::Uuid;

use super::claims::{Claim, Claims};
use super::files::{self, Image};
use super::problems::{Problems, Refusal};
use super::tree::{Field, Table};
use super::{identity, keys, values};
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

/// Reads the LUNs of one controller. Relative paths are relative to `base`.
pub(super) fn luns(
    tables: Option<Vec<Table<'_>>>,
    initiator: &Initiator<'_>,
    base: &Path,
    claims: &mut Claims,
    problems: &mut Problems<'_>,
) -> Option<Vec<AddressedLun>> {
    let tables = tables?;
    let addresses = addresses(&tables, problems);
    let mut luns = Vec::new();
    for (table, address) in tables.iter().zip(addresses) {
        let spec = lun(table, initiator.wwn(address), base, claims, problems);
        luns.push(addressed(address, spec));
    }
    luns.into_iter().collect()
}

fn addressed(address: Option<Address>, spec: Option<LunSpec>) -> Option<AddressedLun> {
    let (target, lun) = address?;
    Some(AddressedLun { target, lun, spec: spec? })
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
    let (Some(target), Field::Given { at, value: lun }) = (target, lun) else {
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

fn lun(
    table: &Table<'_>,
    derived: Option<Naa>,
    base: &Path,
    claims: &mut Claims,
    problems: &mut Problems<'_>,
) -> Option<LunSpec> {
    let read_only = table.read("read_only", values::flag, problems).or(false);
    let rotational = table.read("rotational", values::flag, problems).or(false);
    let image = image(table, read_only.unwrap_or(true), base, claims, problems);
    let identity = identity_of(table, derived, claims, problems);
    Some(LunSpec {
        backing: Backing::RawImage(image?.path),
        read_only: read_only?,
        rotational: rotational?,
        shared: false,
        direct: false,
        write_cache: WriteCache::Back,
        discard: true,
        block_size: None,
        physical_block_size: None,
        identity: identity?,
    })
}

fn image(
    table: &Table<'_>,
    read_only: bool,
    base: &Path,
    claims: &mut Claims,
    problems: &mut Problems<'_>,
) -> Option<Image> {
    one_backing(table, problems);
    let open = |value: &_| files::image(base.join(values::path(value)?), read_only);
    let Field::Given { at, value: image } = table.read("image", open, problems) else {
        return None;
    };
    let what = || format!("controller.lun.image: {}", image.path.display());
    let remedy = "give each LUN an image of its own";
    claims.images.take(image.id, at, what, remedy, problems).then_some(image)
}

fn one_backing(table: &Table<'_>, problems: &mut Problems<'_>) {
    let backings: Vec<&str> = keys::BACKINGS.into_iter().filter(|key| table.has(key)).collect();
    let refusal = match backings.as_slice() {
        [_] => return,
        [] => Refusal::new("nothing holds its data", "add an image"),
        several => Refusal::new(
            format!("{} exclude each other", several.join(" and ")),
            "keep one of them",
        ),
    };
    problems.report(table.at(), table.header(), &refusal);
}

fn identity_of(
    table: &Table<'_>,
    derived: Option<Naa>,
    claims: &mut Claims,
    problems: &mut Problems<'_>,
) -> Option<Identity> {
    let vendor = field(table, "vendor", identity::VENDOR, problems);
    let product = field(table, "product", identity::PRODUCT, problems);
    let revision = field(table, "revision", identity::REVISION, problems);
    let serial = table.read("serial", values::serial, problems);
    let wwn = wwn(table, derived, claims, problems);
    Some(Identity {
        vendor: vendor?,
        product: product?,
        revision: revision?,
        serial: serial.or(identity::serial(&wwn?))?,
        wwn: wwn?,
    })
}

fn field<const N: usize>(
    table: &Table<'_>,
    key: &'static str,
    default: &str,
    problems: &mut Problems<'_>,
) -> Option<Ascii<N>> {
    match table.read(key, values::ascii, problems) {
        Field::Absent => Ascii::new(default).ok(),
        given => given.given(),
    }
}

fn wwn(
    table: &Table<'_>,
    derived: Option<Naa>,
    claims: &mut Claims,
    problems: &mut Problems<'_>,
) -> Option<Naa> {
    let (at, wwn) = match table.read("wwn", values::naa, problems) {
        Field::Absent => (table.at(), derived?),
        Field::Refused => return None,
        Field::Given { at, value } => (at, value),
    };
    let what = || format!("controller.lun.wwn {wwn}");
    let remedy = "give each LUN a wwn of its own";
    claims.wwns.take(wwn, at, what, remedy, problems).then_some(wwn)
}

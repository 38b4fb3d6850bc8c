//! `[[controller.lun]]`: what an emulated disk is, its medium and its names.
//!
//! This file must not know how a medium is opened, nor where on the bus the disk is.

use std::path::{Path, PathBuf};

use storage::backend::OpenError;
use storage::lun::spec::{Ascii, Backing, DiskSpec, Identity, LunSpec, Naa, WriteCache};
use storage::lun::{self, Reason};

use super::claims::{Claims, Use};
use super::media::{self, MediumId};
use super::problems::{Problems, Refusal};
use super::tree::{Field, Placed, Table};
use super::values::Sharing;
use super::{identity, values};

const WRITE_CACHES: [(&str, WriteCache); 2] =
    [("back", WriteCache::Back), ("through", WriteCache::Through)];

/// Reads one LUN, whose designator is `derived` unless it gives one. Relative paths are relative
/// to `base`.
pub(super) fn spec(
    table: &Table<'_>,
    derived: Option<Naa>,
    base: &Path,
    claims: &mut Claims,
    problems: &mut Problems<'_>,
) -> Option<DiskSpec> {
    let before = problems.count();
    let medium = medium(table, base, problems);
    let sharing = table.read("shared", values::sharing, problems);
    let wwn = wwn(table, derived, sharing, problems);
    let serial = table.read("serial", values::serial, problems);
    let serial = wwn.and_then(|wwn| serial.or(identity::serial(&wwn.value)));
    let names = names(table, wwn.zip(serial.clone()), problems)?;
    let spec = options(table, sharing, medium.as_ref(), names, problems);
    let at = medium.as_ref().map(|medium| medium.at);
    let id = at.and_then(|at| check_medium(table, at, &spec, sharing, problems));
    let claim = Use {
        medium: id,
        writes: !spec.read_only,
        shared: spec.shared,
        wwn,
        serial,
        block_size: spec.block_size,
        ..Use::default()
    };
    claims.lun(&claim, || named(&spec.backing), problems);
    // Something was put in place of whatever is refused.
    (medium.is_some() && wwn.is_some() && problems.count() == before).then_some(spec)
}

/// The specification, with defaults for what is refused, so that the rest is looked at all the
/// same.
fn options(
    table: &Table<'_>,
    sharing: Field<Sharing>,
    medium: Option<&Placed<Backing>>,
    identity: Identity,
    problems: &mut Problems<'_>,
) -> DiskSpec {
    let nothing = || Backing::RawImage(PathBuf::new());
    let write_cache = |value: &_| values::one_of(value, &WRITE_CACHES);
    let mut flag = |key, default| table.read(key, values::flag, problems).or(default);
    DiskSpec {
        backing: medium.map_or_else(nothing, |medium| medium.value.clone()),
        read_only: flag("read_only", false).unwrap_or(true),
        rotational: flag("rotational", false).unwrap_or_default(),
        direct: flag("direct", false).unwrap_or_default(),
        discard: flag("discard", true).unwrap_or_default(),
        shared: sharing.or(Sharing::None).is_none_or(|sharing| sharing != Sharing::None),
        write_cache: table
            .read("write_cache", write_cache, problems)
            .or(WriteCache::default())
            .unwrap_or_default(),
        block_size: table
            .read("block_size", values::block_size, problems)
            .given()
            .map(|size| size.value),
        physical_block_size: table
            .read("physical_block_size", values::physical_block_size, problems)
            .given()
            .map(|size| size.value),
        identity,
    }
}

fn medium(table: &Table<'_>, base: &Path, problems: &mut Problems<'_>) -> Option<Placed<Backing>> {
    let path = |value: &_| values::path(value).map(|path| base.join(path));
    let image = |value: &_| path(value).map(Backing::RawImage);
    let image = table.read("image", image, problems);
    let block = |value: &_| path(value).map(Backing::BlockDevice);
    let block = table.read("block", block, problems);
    if let (Some(block), Some(format)) = (table.place("block"), table.place("format")) {
        let why = format!("an image has one, and line {} has block", problems.line(block));
        problems.report(format, "controller.lun.format", &Refusal::new(why, "remove it"));
    }
    image.given().or(block.given())
}

/// The key that names a medium.
fn key_of(backing: &Backing) -> &'static str {
    match backing {
        Backing::RawImage(_) => "image",
        Backing::BlockDevice(_) => "block",
    }
}

fn named(backing: &Backing) -> String {
    format!("controller.lun.{}: {}", key_of(backing), backing.path().display())
}

/// Reports a medium, named at the place `at`, that cannot be used as `spec` says, or tells which
/// it is. Where it is another option that does not go with it, that is blamed, and both are named.
fn check_medium(
    table: &Table<'_>,
    at: usize,
    spec: &DiskSpec,
    sharing: Field<Sharing>,
    problems: &mut Problems<'_>,
) -> Option<Placed<MediumId>> {
    let key = key_of(&spec.backing);
    let medium = format!("the {key} at line {}", problems.line(at));
    if let Err(error) = lun::check(&LunSpec::Disk(spec.clone())) {
        let refusal = Refusal::new(error.why(), error.remedy());
        match options_in(error.reason()).iter().find_map(|key| Some((*key, table.place(key)?))) {
            None => problems.report(at, format!("controller.lun.{key}"), &refusal),
            Some((option, place)) => {
                let other = match (error.reason(), table.place("block_size")) {
                    (Reason::Medium(OpenError::PhysicalBlock { .. }), Some(size)) => {
                        format!("the block_size at line {}", problems.line(size))
                    }
                    _ => medium,
                };
                problems.report(place, format!("controller.lun.{option} with {other}"), &refusal);
            }
        }
        return None;
    }
    let id = MediumId::at(spec.backing.path())?;
    if let Some(refusal) = not_alone(sharing, || media::reach(spec.backing.path(), id)) {
        let what = format!("controller.lun.shared with {medium}");
        problems.report(table.place("shared").unwrap_or(at), what, &refusal);
    }
    // The default asks for discards only where there are any.
    if let Some(place) = table.place("discard")
        && spec.discard
        && media::cannot_discard(id)
    {
        let refusal = Refusal::new("the device takes no space back", "remove it, or write false");
        problems.report(place, format!("controller.lun.discard with {medium}"), &refusal);
    }
    Some(Placed { at, value: id })
}

/// The options that may be behind what is wrong with a medium.
fn options_in(reason: &Reason) -> &'static [&'static str] {
    let Reason::Medium(reason) = reason else { return &[] };
    match reason {
        OpenError::PartialBlock { .. } | OpenError::DeviceBlock { .. } => &["block_size"],
        OpenError::DirectUnit { .. } => &["block_size", "direct"],
        OpenError::NoDirect => &["direct"],
        OpenError::PhysicalBlock { .. } => &["physical_block_size"],
        _ => &[],
    }
}

/// Why a medium that other hosts may reach by `way` is not to be shared unless somebody vouches
/// for them.
fn not_alone(
    sharing: Field<Sharing>,
    way: impl FnOnce() -> Option<&'static str>,
) -> Option<Refusal> {
    if sharing.or(Sharing::None) != Some(Sharing::Local) {
        return None;
    }
    let why = format!("other hosts may reach it by {}", way()?);
    Some(Refusal::new(why, "write \"this-host-only\" if none does"))
}

/// What the disk reports, its designator and serial number among it; zeros where those are
/// refused.
fn names(
    table: &Table<'_>,
    wwn_and_serial: Option<(Placed<Naa>, String)>,
    problems: &mut Problems<'_>,
) -> Option<Identity> {
    let (wwn, serial) = wwn_and_serial
        .map_or((Naa::locally_assigned(0), String::new()), |(wwn, serial)| (wwn.value, serial));
    let vendor = field(table, "vendor", identity::VENDOR, problems);
    let product = field(table, "product", identity::PRODUCT, problems);
    let revision = field(table, "revision", identity::REVISION, problems);
    Some(Identity { vendor: vendor?, product: product?, revision: revision?, serial, wwn })
}

fn field<const N: usize>(
    table: &Table<'_>,
    key: &'static str,
    default: &str,
    problems: &mut Problems<'_>,
) -> Option<Ascii<N>> {
    let given = table.read(key, values::ascii, problems).given().map(|field| field.value);
    given.or_else(|| Ascii::new(default).ok())
}

/// The designator. That of a shared medium has to be the same for all who use it, so it is not
/// derived from one of them.
fn wwn(
    table: &Table<'_>,
    derived: Option<Naa>,
    sharing: Field<Sharing>,
    problems: &mut Problems<'_>,
) -> Option<Placed<Naa>> {
    let wwn = table.read("wwn", values::naa, problems);
    match (wwn, sharing) {
        (Field::Absent, Field::Given(Placed { at, value: Sharing::Local | Sharing::Promised })) => {
            let why = "it has no wwn, and none can be derived that all who share it have";
            let remedy = "add wwn, the same wherever it is used";
            problems.report(at, "controller.lun.shared", &Refusal::new(why, remedy));
            None
        }
        (Field::Absent, _) => derived.map(|value| Placed { at: table.at(), value }),
        (given, _) => given.given(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_hosts_reach_is_shared_only_if_somebody_vouches_for_them() {
        let refused =
            |value, way| not_alone(Field::Given(Placed { at: 1, value }), || way).is_some();
        assert!(refused(Sharing::Local, Some("NFS")));
        assert!(!refused(Sharing::Local, None));
        assert!(!refused(Sharing::Promised, Some("NFS")));
        assert!(!refused(Sharing::None, Some("NFS")));
        assert!(not_alone(Field::Absent, || Some("NFS")).is_none());
    }
}

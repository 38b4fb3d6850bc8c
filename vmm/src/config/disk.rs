//! `[[controller.lun]]`: what an emulated disk is, its medium and its names.
//!
//! This file must not know how a medium is opened, nor where on the bus the disk is.

use std::path::Path;

use storage::lun::spec::{Ascii, Backing, Identity, LunSpec, Naa, WriteCache};

use super::claims::{Claims, Use};
use super::files::{self, Medium};
use super::problems::{Problems, Refusal};
use super::tree::{Field, Placed, Table};
use super::values::Sharing;
use super::{identity, keys, remote, values};

const WRITE_CACHES: [(&str, WriteCache); 2] =
    [("back", WriteCache::Back), ("through", WriteCache::Through)];
/// Bytes of a logical block where neither the configuration nor the medium says.
const BLOCK_SIZE_DEFAULT: u32 = 512;

/// Reads one LUN, whose designator is `derived` unless it gives one. Relative paths are relative
/// to `base`.
pub(super) fn spec(
    table: &Table<'_>,
    derived: Option<Naa>,
    base: &Path,
    claims: &mut Claims,
    problems: &mut Problems<'_>,
) -> Option<LunSpec> {
    let options = Options::read(table, problems);
    let medium = medium(table, options.read_only.unwrap_or(true), base, problems);
    if let Some((key, medium)) = &medium {
        options.blocks.fit(key, medium, problems);
        check_sharing(options.sharing, key, medium, problems);
    }
    let wwn = wwn(table, derived, options.sharing, problems);
    let identity = identity_of(table, wwn, problems);
    let shared = options.sharing?.value != Sharing::None;
    let claim = Use {
        medium: medium.as_ref().map(|(_, medium)| Placed { at: medium.at, value: medium.value.id }),
        shared,
        wwn,
        serial: identity.as_ref().map(|identity| identity.serial.clone()),
        block_size: options.blocks.logical(),
    };
    let name =
        || medium.as_ref().map(|(key, medium)| named(key, &medium.value)).unwrap_or_default();
    claims.lun(&claim, name, problems).then_some(())?;
    Some(LunSpec {
        backing: backing(medium?),
        read_only: options.read_only?,
        rotational: options.rotational?,
        shared,
        direct: options.direct?,
        write_cache: options.write_cache?,
        discard: options.discard?,
        block_size: options.blocks.logical(),
        physical_block_size: options.blocks.physical(),
        identity: identity?,
    })
}

fn named(key: &str, medium: &Medium) -> String {
    format!("controller.lun.{key}: {}", medium.path.display())
}

fn backing((key, medium): (&str, Placed<Medium>)) -> Backing {
    match key {
        "block" => Backing::BlockDevice(medium.value.path),
        _ => Backing::RawImage(medium.value.path),
    }
}

/// The options of a disk; nothing where a value is refused.
struct Options {
    read_only: Option<bool>,
    rotational: Option<bool>,
    sharing: Option<Placed<Sharing>>,
    direct: Option<bool>,
    write_cache: Option<WriteCache>,
    discard: Option<bool>,
    blocks: Blocks,
}

impl Options {
    fn read(table: &Table<'_>, problems: &mut Problems<'_>) -> Options {
        let write_cache = |value: &_| values::one_of(value, &WRITE_CACHES);
        let write_cache = table.read("write_cache", write_cache, problems);
        let sharing = table.read("shared", values::sharing, problems);
        Options {
            read_only: table.read("read_only", values::flag, problems).or(false),
            rotational: table.read("rotational", values::flag, problems).or(false),
            sharing: sharing.or_at(table.at(), Sharing::None),
            direct: table.read("direct", values::flag, problems).or(false),
            write_cache: write_cache.or(WriteCache::default()),
            discard: table.read("discard", values::flag, problems).or(true),
            blocks: Blocks::read(table, problems),
        }
    }
}

/// The sizes of blocks, in bytes.
struct Blocks {
    logical: Field<u32>,
    physical: Field<u32>,
}

impl Blocks {
    fn read(table: &Table<'_>, problems: &mut Problems<'_>) -> Blocks {
        let logical = table.read("block_size", values::block_size, problems);
        let physical = table.read("physical_block_size", values::physical_block_size, problems);
        if let (Some(logical), Some(physical)) = (logical.given(), physical.given())
            && physical.value < logical.value
        {
            let why = format!(
                "less than the block_size of {} at line {}",
                logical.value,
                problems.line(logical.at)
            );
            let what = format!("controller.lun.physical_block_size = {}", physical.value);
            let remedy = format!("write {} or more", logical.value);
            problems.report(physical.at, what, &Refusal::new(why, remedy));
        }
        Blocks { logical, physical }
    }

    fn logical(&self) -> Option<u32> {
        self.logical.given().map(|size| size.value)
    }

    fn physical(&self) -> Option<u32> {
        self.physical.given().map(|size| size.value)
    }

    /// Reports a medium whose last block would be cut off.
    fn fit(&self, key: &str, medium: &Placed<Medium>, problems: &mut Problems<'_>) {
        let Some(size) = medium.value.size else { return };
        let Some(block) = self.logical.or_at(medium.at, BLOCK_SIZE_DEFAULT) else { return };
        let (path, bytes) = (medium.value.path.display(), block.value);
        if size.is_multiple_of(bytes.into()) {
            return;
        }
        let (what, whose) = match self.logical {
            Field::Absent => (format!("controller.lun.{key}"), path.to_string()),
            _ => {
                let whose = format!("the {key} at line {}", problems.line(medium.at));
                (format!("controller.lun.block_size = {bytes}"), whose)
            }
        };
        let why = format!("the {size} bytes of {whose} are not a multiple of {bytes}");
        let remedy = format!("extend it, as with truncate -s %{bytes} {path}");
        problems.report(block.at, what, &Refusal::new(why, remedy));
    }
}

/// Reports a medium that is to be shared, and that hosts can reach who would not know.
fn check_sharing(
    sharing: Option<Placed<Sharing>>,
    key: &str,
    medium: &Placed<Medium>,
    problems: &mut Problems<'_>,
) {
    let Some(Placed { at, value: Sharing::Local }) = sharing else { return };
    if let Some(way) = remote::reach(&medium.value.path, medium.value.id) {
        let line = problems.line(medium.at);
        let why = format!("other hosts may reach the {key} at line {line} by {way}");
        let remedy = "write \"this-host-only\" if none does";
        problems.report(at, "controller.lun.shared", &Refusal::new(why, remedy));
    }
}

fn medium(
    table: &Table<'_>,
    read_only: bool,
    base: &Path,
    problems: &mut Problems<'_>,
) -> Option<(&'static str, Placed<Medium>)> {
    one_backing(table, problems);
    let path = |value: &_| values::path(value).map(|path| base.join(path));
    let image = table.read("image", |value| files::image(path(value)?, read_only), problems);
    let block = table.read("block", |value| files::block_device(path(value)?, read_only), problems);
    if let (Some(block), Some(format)) = (table.place("block"), table.place("format")) {
        let why = format!("an image has one, and line {} has block", problems.line(block));
        problems.report(format, "controller.lun.format", &Refusal::new(why, "remove it"));
    }
    let image = image.given().map(|medium| ("image", medium));
    image.or(block.given().map(|medium| ("block", medium)))
}

fn one_backing(table: &Table<'_>, problems: &mut Problems<'_>) {
    let backings: Vec<&str> = keys::BACKINGS.into_iter().filter(|key| table.has(key)).collect();
    let refusal = match backings.as_slice() {
        [_] => return,
        [] => Refusal::new("nothing holds its data", "add image or block"),
        several => Refusal::new(
            format!("{} exclude each other", several.join(" and ")),
            "keep one of them",
        ),
    };
    problems.report(table.at(), table.header(), &refusal);
}

fn identity_of(
    table: &Table<'_>,
    wwn: Option<Placed<Naa>>,
    problems: &mut Problems<'_>,
) -> Option<Identity> {
    let vendor = field(table, "vendor", identity::VENDOR, problems);
    let product = field(table, "product", identity::PRODUCT, problems);
    let revision = field(table, "revision", identity::REVISION, problems);
    let serial = table.read("serial", values::serial, problems);
    let wwn = wwn?.value;
    Some(Identity {
        vendor: vendor?,
        product: product?,
        revision: revision?,
        serial: serial.or(identity::serial(&wwn))?,
        wwn,
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
        given => given.given().map(|field| field.value),
    }
}

/// The designator. That of a shared medium has to be the same for all who use it, so it is not
/// derived from one of them.
fn wwn(
    table: &Table<'_>,
    derived: Option<Naa>,
    sharing: Option<Placed<Sharing>>,
    problems: &mut Problems<'_>,
) -> Option<Placed<Naa>> {
    let wwn = table.read("wwn", values::naa, problems);
    match (wwn, sharing) {
        (Field::Absent, Some(Placed { at, value: Sharing::Local | Sharing::Promised })) => {
            let why = "it has no wwn, and none can be derived that all who share it have";
            let remedy = "add wwn, the same wherever it is used";
            problems.report(at, "controller.lun.shared", &Refusal::new(why, remedy));
            None
        }
        (Field::Absent, _) => derived.map(|value| Placed { at: table.at(), value }),
        (given, _) => given.given(),
    }
}

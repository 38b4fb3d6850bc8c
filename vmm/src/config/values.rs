//! Readers of single values: what a text or number must look like, and how it is refused.
//!
//! This file must not know which key a value belongs to, nor look at any file.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use storage::lun::passthrough::policy::CommandPattern;
use storage::lun::spec::{Ascii, Identity, Naa, is_printable};
use storage::scsi::designator::Designator;
use toml::de::{DeInteger, DeValue};
use uuid::Uuid;

use super::problems::Refusal;

/// Who may use a LUN's medium besides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sharing {
    /// Nobody.
    None,
    /// LUNs of this host, which has to be the only one that reaches it.
    Local,
    /// The same, and the user vouches for that.
    Promised,
}

/// The longest kernel command line, in bytes: Linux' `COMMAND_LINE_SIZE` on x86 without its NUL.
const CMDLINE_MAX: usize = 2047;
/// The longest time that can be written.
const DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest name, in characters.
const NAME_MAX: usize = 64;

/// A string.
pub(super) fn text<'a>(value: &'a DeValue<'_>) -> Result<&'a str, Refusal> {
    value.as_str().ok_or_else(|| Refusal::new("not a string", "write it in quotes"))
}

/// A boolean.
pub(super) fn flag(value: &DeValue<'_>) -> Result<bool, Refusal> {
    value.as_bool().ok_or_else(|| Refusal::new("not a boolean", "write true or false"))
}

/// An integer of `range`.
pub(super) fn number<T>(value: &DeValue<'_>, range: &RangeInclusive<T>) -> Result<T, Refusal>
where
    T: TryFrom<u64> + PartialOrd + Display,
{
    let refusal = |why| {
        Refusal::new(why, format!("write an integer from {} to {}", range.start(), range.end()))
    };
    let integer = value.as_integer().ok_or_else(|| refusal("not an integer"))?;
    let number = unsigned(integer).and_then(|number| T::try_from(number).ok());
    number.filter(|number| range.contains(number)).ok_or_else(|| refusal("out of range"))
}

/// One of a few strings, each of which stands for something.
pub(super) fn one_of<T: Copy>(
    value: &DeValue<'_>,
    choices: &[(&'static str, T)],
) -> Result<T, Refusal> {
    let chosen = choices.iter().find(|(name, _)| value.as_str() == Some(name));
    chosen
        .map(|(_, meaning)| *meaning)
        .ok_or_else(|| no_choice(choices.iter().map(|(name, _)| *name)))
}

/// That a value is none of the strings `names`.
pub(super) fn no_choice<'a>(names: impl Iterator<Item = &'a str>) -> Refusal {
    let names: Vec<_> = names.map(|name| format!("{name:?}")).collect();
    Refusal::new("no such choice", format!("use {}", names.join(" or ")))
}

/// A power of two.
pub(super) fn power_of_two<T: Into<u64> + Copy>(number: T) -> Result<T, Refusal> {
    let wide: u64 = number.into();
    if wide.is_power_of_two() {
        return Ok(number);
    }
    let near = wide.next_power_of_two();
    Err(Refusal::new("not a power of two", format!("write {} or {near}", near / 2)))
}

/// Bytes of a logical block.
pub(super) fn block_size(value: &DeValue<'_>) -> Result<u32, Refusal> {
    match size(value) {
        Ok(512) => Ok(512),
        Ok(4096) => Ok(4096),
        _ => Err(Refusal::new("not a size of blocks that guests can use", "write 512 or 4096")),
    }
}

/// Bytes of a physical block.
pub(super) fn physical_block_size(value: &DeValue<'_>) -> Result<u32, Refusal> {
    const MOST: u32 = 2 << 20;
    let bytes = u32::try_from(size(value)?).ok();
    let bytes = bytes.filter(|bytes| (512..=MOST).contains(bytes));
    let form = "write a power of two from 512 to \"2MiB\"";
    power_of_two(bytes.ok_or_else(|| Refusal::new("out of range", form))?)
}

/// Who else may use a LUN's medium: a boolean, or the only text.
pub(super) fn sharing(value: &DeValue<'_>) -> Result<Sharing, Refusal> {
    match value {
        DeValue::Boolean(false) => Ok(Sharing::None),
        DeValue::Boolean(true) => Ok(Sharing::Local),
        DeValue::String(text) if text == "this-host-only" => Ok(Sharing::Promised),
        _ => Err(Refusal::new("no such choice", "use true, false or \"this-host-only\"")),
    }
}

/// A time: a string of digits and one of ms, s, m, h.
pub(super) fn duration(value: &DeValue<'_>) -> Result<Duration, Refusal> {
    let form = "write a string such as \"60s\" (ms, s, m or h)";
    let text = value.as_str().filter(|text| duration_of_text(text).is_some());
    let text = text.ok_or_else(|| Refusal::new("not a time", form))?;
    let range = || Refusal::new("out of range", "write a time from \"1ms\" to \"24h\"");
    time(text).ok_or_else(range)
}

/// What `text` says, if it is a time from 1ms to 24h.
pub(crate) fn time(text: &str) -> Option<Duration> {
    duration_of_text(text).filter(|time| !time.is_zero() && *time <= DURATION_MAX)
}

/// As [`duration`], or no time at all.
pub(super) fn duration_or_none(value: &DeValue<'_>) -> Result<Duration, Refusal> {
    let nothing = |integer| unsigned(integer) == Some(0);
    let zero = value.as_integer().is_some_and(nothing)
        || value.as_str().and_then(duration_of_text).is_some_and(|time| time.is_zero());
    if zero { Ok(Duration::ZERO) } else { duration(value) }
}

fn duration_of_text(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.split_at(digits);
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        _ => return None,
    };
    count.parse::<u64>().ok()?.checked_mul(milliseconds).map(Duration::from_millis)
}

fn unsigned(integer: &DeInteger<'_>) -> Option<u64> {
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// A size in bytes: an integer, or a string of digits and one of K, M, G, T (binary) with an
/// optional iB.
pub(super) fn size(value: &DeValue<'_>) -> Result<u64, Refusal> {
    let bytes = match value {
        DeValue::Integer(integer) => unsigned(integer),
        DeValue::String(text) => size_of_text(text),
        _ => None,
    };
    bytes.ok_or_else(|| {
        let forms = "write an integer of bytes, or a string such as \"512MiB\" \
                     (K, M, G or T, binary, with an optional iB)";
        Refusal::new("not a size of less than 16 EiB", forms)
    })
}

fn size_of_text(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.split_at(digits);
    let factor = match unit {
        "" => 1,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "T" | "TiB" => 1 << 40,
        _ => return None,
    };
    count.parse::<u64>().ok()?.checked_mul(factor)
}

/// The size of a guest's memory in bytes.
pub(super) fn memory(value: &DeValue<'_>) -> Result<u64, Refusal> {
    const LEAST: u64 = 64 << 20;
    // 46 bits of physical addresses: no host has more to give, and sums with it cannot overflow.
    const MOST: u64 = 64 << 40;
    let bytes = size(value)?;
    if !(LEAST..=MOST).contains(&bytes) {
        return Err(Refusal::new("out of range", "give the guest from 64MiB to 64TiB"));
    }
    if !bytes.is_multiple_of(4096) {
        let near = bytes.next_multiple_of(4096) >> 10;
        return Err(Refusal::new("not a multiple of 4 KiB", format!("write \"{near}KiB\"")));
    }
    Ok(bytes)
}

/// A name that may stand in logs, names of files and derived identities.
pub(super) fn name(value: &DeValue<'_>) -> Result<String, Refusal> {
    name_of_text(text(value)?)
}

/// As [`name`], of a text.
pub(super) fn name_of_text(text: &str) -> Result<String, Refusal> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if begins && text.len() <= NAME_MAX && text.chars().all(plain) {
        return Ok(text.to_owned());
    }
    let form = format!(
        "use at most {NAME_MAX} of A-Z, a-z, 0-9, '-', '_' and '.', with a letter or digit first"
    );
    Err(Refusal::new("not a name", form))
}

/// A UUID.
pub(super) fn uuid(value: &DeValue<'_>) -> Result<Uuid, Refusal> {
    let form = "write 32 hex digits as in \"123e4567-e89b-12d3-a456-426614174000\"";
    Uuid::try_parse(text(value)?).map_err(|_| Refusal::new("not a UUID", form))
}

/// An NAA designator.
pub(super) fn naa(value: &DeValue<'_>) -> Result<Naa, Refusal> {
    Naa::parse(text(value)?).map_err(|why| Refusal::new("not a WWN", format!("it {why}")))
}

/// A designator of any type that names something uniquely.
pub(super) fn designator(value: &DeValue<'_>) -> Result<Designator, Refusal> {
    let designator = text(value)?.parse::<Designator>();
    designator.map_err(|why| Refusal::new("not a designator", format!("it {why}")))
}

/// Some commands.
pub(super) fn commands(value: &DeValue<'_>) -> Result<CommandPattern, Refusal> {
    let pattern = text(value)?.parse::<CommandPattern>();
    pattern.map_err(|why| Refusal::new("names no command", format!("it {why}")))
}

/// A text for an ASCII data field of `N` bytes.
pub(super) fn ascii<const N: usize>(value: &DeValue<'_>) -> Result<Ascii<N>, Refusal> {
    Ascii::new(text(value)?).map_err(|why| Refusal::new("does not fit", format!("it {why}")))
}

/// A serial number.
pub(super) fn serial(value: &DeValue<'_>) -> Result<String, Refusal> {
    let text = text(value)?;
    if (1..=Identity::SERIAL_MAX).contains(&text.len()) && is_printable(text) {
        return Ok(text.to_owned());
    }
    let form = format!("use 1 to {} printable ASCII characters", Identity::SERIAL_MAX);
    Err(Refusal::new("not a serial number", form))
}

/// A kernel's command line.
pub(super) fn cmdline(value: &DeValue<'_>) -> Result<String, Refusal> {
    let text = text(value)?;
    if text.len() <= CMDLINE_MAX && is_printable(text) {
        return Ok(text.to_owned());
    }
    let form = format!("use at most {CMDLINE_MAX} printable ASCII characters");
    Err(Refusal::new("not a kernel command line", form))
}

/// A path, as it is written.
pub(super) fn path(value: &DeValue<'_>) -> Result<PathBuf, Refusal> {
    let text = text(value)?;
    if text.is_empty() || text.contains('\0') {
        return Err(Refusal::new("not a path", "write the path of a file"));
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse<T>(toml: &str, read: impl Fn(&DeValue<'_>) -> Result<T, Refusal>) -> Option<T> {
        read(DeValue::parse(toml).unwrap().get_ref()).ok()
    }

    #[test]
    fn sizes() {
        for (toml, bytes) in [
            ("0", Some(0)),
            ("4_096", Some(4096)),
            ("0x1000", Some(4096)),
            ("'4096'", Some(4096)),
            ("'1K'", Some(1 << 10)),
            ("'1KiB'", Some(1 << 10)),
            ("'3M'", Some(3 << 20)),
            ("'3MiB'", Some(3 << 20)),
            ("'5G'", Some(5 << 30)),
            ("'5GiB'", Some(5 << 30)),
            ("'7T'", Some(7 << 40)),
            ("'7TiB'", Some(7 << 40)),
            ("'16777215T'", Some(16_777_215 << 40)),
            ("'18446744073709551615'", Some(u64::MAX)),
            ("'16777216T'", None),
            ("'18446744073709551616'", None),
            ("18446744073709551616", None),
            ("-1", None),
            ("'-1K'", None),
            ("'+1K'", None),
            ("''", None),
            ("'K'", None),
            ("'1k'", None),
            ("'1KB'", None),
            ("'1B'", None),
            ("'1iB'", None),
            ("'1 K'", None),
            ("'1.5G'", None),
            ("'1é'", None),
            ("'１K'", None),
            ("1.5", None),
            ("true", None),
        ] {
            assert_eq!(parse(toml, size), bytes, "{toml}");
        }
    }

    #[test]
    fn durations() {
        for (toml, milliseconds) in [
            ("'1ms'", Some(1)),
            ("'500ms'", Some(500)),
            ("'60s'", Some(60_000)),
            ("'2m'", Some(120_000)),
            ("'24h'", Some(86_400_000)),
            ("'0s'", None),
            ("'25h'", None),
            ("'99999999999999999999s'", None),
            ("'18446744073709551615h'", None),
            ("'60'", None),
            ("'s'", None),
            ("'-1s'", None),
            ("'1.5s'", None),
            ("'1 s'", None),
            ("'1S'", None),
            ("60", None),
        ] {
            let expected = milliseconds.map(Duration::from_millis);
            assert_eq!(parse(toml, duration), expected, "{toml}");
        }
        for (toml, milliseconds) in
            [("0", Some(0)), ("'0s'", Some(0)), ("'2ms'", Some(2)), ("1", None), ("'25h'", None)]
        {
            let expected = milliseconds.map(Duration::from_millis);
            assert_eq!(parse(toml, duration_or_none), expected, "{toml}");
        }
    }

    #[test]
    fn block_sizes() {
        for (toml, logical, physical) in [
            ("512", Some(512), Some(512)),
            ("'4K'", Some(4096), Some(4096)),
            ("1024", None, Some(1024)),
            ("'2MiB'", None, Some(2 << 20)),
            ("256", None, None),
            ("1536", None, None),
            ("'4MiB'", None, None),
            ("'5G'", None, None),
            ("'x'", None, None),
            ("true", None, None),
        ] {
            assert_eq!(parse(toml, block_size), logical, "{toml}");
            assert_eq!(parse(toml, physical_block_size), physical, "{toml}");
        }
    }

    #[test]
    fn numbers() {
        let read = |value: &DeValue<'_>| number::<u8>(value, &(1..=64));
        for (toml, expected) in [
            ("1", Some(1)),
            ("64", Some(64)),
            ("+2", Some(2)),
            ("0b11", Some(3)),
            ("0", None),
            ("65", None),
            ("257", None),
            ("-1", None),
            ("99999999999999999999999", None),
            ("'1'", None),
            ("1.0", None),
        ] {
            assert_eq!(parse(toml, read), expected, "{toml}");
        }
    }

    #[test]
    fn names() {
        let longest = "a".repeat(NAME_MAX);
        for good in ["a", "0", "guest-1", "a.b_c", &longest] {
            assert!(name_of_text(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "-a", "_a", "a b", "a/b", "é", "a\0", &format!("{longest}a")] {
            assert!(name_of_text(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn texts_are_bounded() {
        let quoted = |c: &str, count| format!("'{}'", c.repeat(count));
        assert!(parse(&quoted("s", 36), serial).is_some());
        assert!(parse(&quoted("s", 37), serial).is_none());
        assert!(parse("''", serial).is_none());
        assert!(parse("'é'", serial).is_none());
        assert!(parse(&quoted("c", CMDLINE_MAX), cmdline).is_some());
        assert!(parse(&quoted("c", CMDLINE_MAX + 1), cmdline).is_none());
        assert!(parse("\"a\\nb\"", cmdline).is_none());
        assert!(parse("\"a\\u0000\"", path).is_none());
        assert!(parse("''", path).is_none());
    }
}

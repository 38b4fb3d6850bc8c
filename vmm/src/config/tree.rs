//! toml's spanned tree, seen through the sections of the configuration: every key is checked
//! against its section, every value is read with its place.
//!
//! This file must not know what any one key means.

use toml::de::{DeTable, DeValue};

use super::keys::{Section, Support};
use super::problems::{Problems, Refusal};

/// A value and where it stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Placed<T> {
    /// Its offset in bytes.
    pub(super) at: usize,
    /// The value.
    pub(super) value: T,
}

/// What a key of a table holds. Whatever is refused has been reported.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Field<T> {
    /// The key is not there.
    Absent,
    /// The key is there, and its value is not accepted.
    Refused,
    /// The key is there.
    Given(Placed<T>),
}

impl<T> Field<T> {
    /// The value or its default; nothing where it is refused.
    pub(super) fn or(self, default: T) -> Option<T> {
        self.or_at(0, default).map(|placed| placed.value)
    }

    /// The value, or its default with `at` to stand for it; nothing where it is refused.
    pub(super) fn or_at(self, at: usize, default: T) -> Option<Placed<T>> {
        match self {
            Field::Absent => Some(Placed { at, value: default }),
            Field::Refused => None,
            Field::Given(placed) => Some(placed),
        }
    }

    /// The value of a key that has no default; nothing where it is refused.
    pub(super) fn optional(self) -> Option<Option<Placed<T>>> {
        match self {
            Field::Absent => Some(None),
            Field::Refused => None,
            Field::Given(placed) => Some(Some(placed)),
        }
    }

    /// The value and its place, where it is given and accepted.
    pub(super) fn given(self) -> Option<Placed<T>> {
        self.optional().flatten()
    }

    fn map<U>(self, then: impl FnOnce(Placed<T>) -> U) -> Field<U> {
        match self {
            Field::Absent => Field::Absent,
            Field::Refused => Field::Refused,
            Field::Given(placed) => Field::Given(Placed { at: placed.at, value: then(placed) }),
        }
    }
}

/// A table of the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table<'a> {
    section: &'static Section,
    at: usize,
    entries: &'a DeTable<'a>,
}

impl<'a> Table<'a> {
    /// A table of which all keys have been checked: those that are unknown or not served yet are
    /// reported. `at` is the offset of its header.
    pub(super) fn open(
        section: &'static Section,
        at: usize,
        entries: &'a DeTable<'a>,
        problems: &mut Problems<'_>,
    ) -> Table<'a> {
        let table = Table { section, at, entries };
        for (key, value) in entries {
            table.check(key.get_ref(), key.span().start, value, problems);
        }
        table
    }

    fn check(
        &self,
        key: &str,
        at: usize,
        value: &toml::Spanned<DeValue<'_>>,
        problems: &mut Problems<'_>,
    ) {
        match self.section.support(key) {
            None => problems.report(at, self.unknown(key), &self.instead_of(key)),
            Some(Support::Served) => {}
            Some(Support::NotYet) => {
                let refusal = Refusal::new("not supported yet", "remove it");
                problems.report(at, self.section.path_to(key), &refusal);
            }
            Some(Support::Only { served, later }) => {
                let text = value.get_ref().as_str().unwrap_or_default();
                if text != *served {
                    let known = later.contains(&text);
                    let why = if known { "not supported yet" } else { "no such choice" };
                    let what = self.assignment(key, value.get_ref());
                    let refusal = Refusal::new(why, format!("use {served:?}"));
                    problems.report(value.span().start, what, &refusal);
                }
            }
        }
    }

    fn unknown(&self, key: &str) -> String {
        match self.section.header {
            "" => format!("unknown key {key:?}"),
            header => format!("unknown key {key:?} in {header}"),
        }
    }

    fn instead_of(&self, key: &str) -> Refusal {
        let remedy = match self.section.nearest(key) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("there are {}", self.section.served()),
        };
        Refusal::new("it would have no effect", remedy)
    }

    fn assignment(&self, key: &str, value: &DeValue<'_>) -> String {
        format!("{} = {}", self.section.path_to(key), shown(value))
    }

    /// The offset of its header in bytes.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// How its header is written.
    pub(super) fn header(&self) -> &'static str {
        self.section.header
    }

    /// Whether `key` is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// The offset of the value of `key` in bytes, if it is there.
    pub(super) fn place(&self, key: &str) -> Option<usize> {
        self.entries.get(key).map(|value| value.span().start)
    }

    /// Reads the value of `key` by `parse`, and reports what that refuses.
    pub(super) fn read<T>(
        &self,
        key: &'static str,
        parse: impl FnOnce(&'a DeValue<'a>) -> Result<T, Refusal>,
        problems: &mut Problems<'_>,
    ) -> Field<T> {
        debug_assert!(matches!(self.section.support(key), Some(Support::Served)), "{key}");
        let Some(found) = self.entries.get(key) else {
            return Field::Absent;
        };
        let at = found.span().start;
        match parse(found.get_ref()) {
            Ok(value) => Field::Given(Placed { at, value }),
            Err(refusal) => {
                problems.report(at, self.assignment(key, found.get_ref()), &refusal);
                Field::Refused
            }
        }
    }

    /// Reads each value of the array at `key` by `parse`, and reports all that it refuses.
    pub(super) fn read_each<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&'a DeValue<'a>) -> Result<T, Refusal>,
        problems: &mut Problems<'_>,
    ) -> Field<Vec<T>> {
        let no_array = || Refusal::new("not an array", "write the values in [ ]");
        let array = self.read(key, |value| value.as_array().ok_or_else(no_array), problems);
        let Field::Given(Placed { at, value: elements }) = array else {
            return array.map(|_| Vec::new());
        };
        let mut read = |element: &'a toml::Spanned<DeValue<'a>>| {
            let value = element.get_ref();
            let report = |why| {
                problems.report(element.span().start, self.assignment(key, value), &why);
            };
            parse(value).map_err(report).ok()
        };
        // Not by collecting at once, which would stop at the first.
        let elements: Vec<Option<T>> = elements.iter().map(&mut read).collect();
        match elements.into_iter().collect() {
            Some(value) => Field::Given(Placed { at, value }),
            None => Field::Refused,
        }
    }

    /// Opens the table at `section`'s key.
    pub(super) fn table(
        &self,
        key: &'static str,
        section: &'static Section,
        problems: &mut Problems<'_>,
    ) -> Field<Table<'a>> {
        let table = |value: &'a DeValue<'a>| value.as_table().ok_or_else(|| no_table(section));
        let table = self.read(key, table, problems);
        table.map(|found| Table::open(section, found.at, found.value, problems))
    }

    /// As [`Table::table`], with `nothing` in place of a table that is absent or refused.
    pub(super) fn table_or(
        &self,
        key: &'static str,
        section: &'static Section,
        nothing: &'a DeTable<'a>,
        problems: &mut Problems<'_>,
    ) -> Table<'a> {
        let empty = Table { section, at: 0, entries: nothing };
        self.table(key, section, problems).given().map_or(empty, |table| table.value)
    }

    /// Opens each table of the array of tables at `section`'s key.
    pub(super) fn tables(
        &self,
        key: &'static str,
        section: &'static Section,
        problems: &mut Problems<'_>,
    ) -> Field<Vec<Table<'a>>> {
        let elements = self.read(key, |value| elements(value, section), problems);
        elements.map(|found| {
            let tables = found.value.into_iter();
            tables.map(|(at, entries)| Table::open(section, at, entries, problems)).collect()
        })
    }
}

fn elements<'a>(
    value: &'a DeValue<'a>,
    section: &'static Section,
) -> Result<Vec<(usize, &'a DeTable<'a>)>, Refusal> {
    let array = value.as_array().ok_or_else(|| no_table(section))?;
    let element = |element: &'a toml::Spanned<DeValue<'a>>| {
        let table = element.get_ref().as_table().ok_or_else(|| no_table(section))?;
        Ok((element.span().start, table))
    };
    array.iter().map(element).collect()
}

fn no_table(section: &Section) -> Refusal {
    let kind = if section.header.starts_with("[[") { "an array of tables" } else { "a table" };
    Refusal::new(format!("not {kind}"), format!("write {}", section.header))
}

/// A value in a few words.
fn shown(value: &DeValue<'_>) -> String {
    const LONGEST: usize = 100;
    let text = match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(integer) => integer.to_string(),
        DeValue::Float(float) => float.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(_) => "[…]".to_owned(),
        DeValue::Table(_) => "{…}".to_owned(),
    };
    if text.chars().count() <= LONGEST {
        return text;
    }
    text.chars().take(LONGEST).chain(['…']).collect()
}

//! toml's spanned tree, seen through the sections of the configuration: every key is checked
//! against its section, every value is read with its place.
//!
//! This file must not know what any one key means.

use toml::de::{DeTable, DeValue};

use super::keys::{Choice, Section, Support};
use super::problems::{Problems, Refusal};

/// What a key of a table holds. Whatever is refused has been reported.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Field<T> {
    /// The key is not there.
    Absent,
    /// The key is there, and its value is not accepted.
    Refused,
    /// The key is there.
    Given {
        /// The offset of its value in bytes.
        at: usize,
        /// Its value.
        value: T,
    },
}

impl<T> Field<T> {
    /// The value or its default; nothing where it is refused.
    pub(super) fn or(self, default: T) -> Option<T> {
        match self {
            Field::Absent => Some(default),
            Field::Refused => None,
            Field::Given { value, .. } => Some(value),
        }
    }

    /// The value of a key that has no default; nothing where it is refused.
    pub(super) fn optional(self) -> Option<Option<T>> {
        match self {
            Field::Absent => Some(None),
            Field::Refused => None,
            Field::Given { value, .. } => Some(Some(value)),
        }
    }

    /// The value, where it is given and accepted.
    pub(super) fn given(self) -> Option<T> {
        self.optional().flatten()
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
            Some(Support::Choice(choice)) => {
                if let Err(refusal) = choice.check(value.get_ref()) {
                    let what = self.assignment(key, value.get_ref());
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
            Ok(value) => Field::Given { at, value },
            Err(refusal) => {
                problems.report(at, self.assignment(key, found.get_ref()), &refusal);
                Field::Refused
            }
        }
    }

    /// Opens the table at `section`'s key.
    pub(super) fn table(
        &self,
        key: &'static str,
        section: &'static Section,
        problems: &mut Problems<'_>,
    ) -> Field<Table<'a>> {
        let table =
            self.read(key, |value| value.as_table().ok_or_else(|| no_table(section)), problems);
        match table {
            Field::Given { at, value } => {
                Field::Given { at, value: Table::open(section, at, value, problems) }
            }
            Field::Refused => Field::Refused,
            Field::Absent => Field::Absent,
        }
    }

    /// Opens each table of the array of tables at `section`'s key.
    pub(super) fn tables(
        &self,
        key: &'static str,
        section: &'static Section,
        problems: &mut Problems<'_>,
    ) -> Field<Vec<Table<'a>>> {
        match self.read(key, |value| elements(value, section), problems) {
            Field::Given { at, value } => {
                let opened = value
                    .into_iter()
                    .map(|(at, entries)| Table::open(section, at, entries, problems));
                Field::Given { at, value: opened.collect() }
            }
            Field::Refused => Field::Refused,
            Field::Absent => Field::Absent,
        }
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

impl Choice {
    fn check(&self, value: &DeValue<'_>) -> Result<(), Refusal> {
        let known = match value {
            DeValue::String(text) if text == self.served => return Ok(()),
            DeValue::String(text) => self.later.contains(&text.as_ref()),
            DeValue::Table(table) => {
                table.len() == 1 && self.later_tables.iter().any(|key| table.contains_key(*key))
            }
            _ => false,
        };
        let why = if known { "not supported yet" } else { "no such choice" };
        Err(Refusal::new(why, format!("use {:?}", self.served)))
    }
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

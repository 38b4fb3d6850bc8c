//! What must be unique within one guest, and where it has been used.
//!
//! This file must not know how any of it is read.

use std::collections::HashMap;
use std::hash::Hash;

use storage::lun::spec::Naa;

use super::files::FileId;
use super::problems::{Problems, Refusal};

/// What has been used by the controllers read so far.
#[derive(Debug, Default)]
pub(super) struct Claims {
    pub(super) controllers: Claim<String>,
    pub(super) images: Claim<FileId>,
    pub(super) wwns: Claim<Naa>,
}

/// Values of one kind that may be used once, each with the offset where it is used.
#[derive(Debug)]
pub(super) struct Claim<T>(HashMap<T, usize>);

impl<T> Default for Claim<T> {
    fn default() -> Claim<T> {
        Claim(HashMap::new())
    }
}

impl<T: Eq + Hash> Claim<T> {
    /// Takes `value` for the place `at`, or reports that `what` is taken already.
    pub(super) fn take(
        &mut self,
        value: T,
        at: usize,
        what: impl FnOnce() -> String,
        remedy: &str,
        problems: &mut Problems<'_>,
    ) -> bool {
        let Some(first) = self.0.get(&value) else {
            self.0.insert(value, at);
            return true;
        };
        let why = format!("used already at line {}", problems.line(*first));
        problems.report(at, what(), &Refusal::new(why, remedy));
        false
    }
}

//! What must be unique within one guest, and where it has been used.
//!
//! This file must not know how any of it is read.

use std::collections::HashMap;
use std::hash::Hash;
use std::path::Path;

use storage::lun::spec::Naa;
use storage::scsi::designator::Designator;

use super::media::MediumId;
use super::problems::{Problems, Refusal};
use super::tree::Placed;

/// What has been used by what was read so far.
#[derive(Debug, Default)]
pub(super) struct Claims {
    pub(super) controllers: Claim<String>,
    /// Each with its first use, and the place of that.
    media: HashMap<MediumId, (Use, usize)>,
    /// What is only read, by its name.
    sources: HashMap<MediumId, String>,
    names: HashMap<Naa, (Use, usize)>,
}

/// How a LUN uses a medium and a name.
#[derive(Clone, Debug, Default)]
pub(super) struct Use {
    /// Which medium it is, and where it is named; `None` where it is refused.
    pub(super) medium: Option<Placed<MediumId>>,
    /// Whether it may be written to.
    pub(super) writes: bool,
    /// Whether other LUNs may use it.
    pub(super) shared: bool,
    /// The LUN's designator, and where it is given or derived.
    pub(super) wwn: Option<Placed<Naa>>,
    /// The LUN's serial number.
    pub(super) serial: Option<String>,
    /// Bytes of a logical block, where it is given.
    pub(super) block_size: Option<u32>,
    /// Whether it is a SCSI device that is passed through.
    pub(super) passthrough: bool,
    /// The logical unit that the device must be.
    pub(super) logical_unit: Option<Designator>,
}

impl Claims {
    /// Takes the file at `path`, which is only read, and which nobody must write to.
    pub(super) fn source(&mut self, path: &Path, name: String) {
        self.sources.extend(MediumId::at(path).map(|id| (id, name)));
    }

    /// Takes the file that the console's output goes to, or reports that it is taken.
    pub(super) fn output(
        &mut self,
        medium: Placed<MediumId>,
        name: impl FnOnce() -> String,
        problems: &mut Problems<'_>,
    ) -> bool {
        let used = Use { medium: Some(medium), writes: true, ..Use::default() };
        let remedy = "name another file";
        if !self.spares_sources(&used, name, remedy, problems) {
            return false;
        }
        self.media.insert(medium.value, (used, medium.at));
        true
    }

    /// Whether nothing is written over that is read elsewhere; reports it otherwise.
    fn spares_sources(
        &self,
        used: &Use,
        name: impl FnOnce() -> String,
        remedy: &str,
        problems: &mut Problems<'_>,
    ) -> bool {
        let Some(medium) = used.medium.filter(|_| used.writes) else { return true };
        let Some(source) = self.sources.get(&medium.value) else { return true };
        let why = format!("it is {source} too, which would be overwritten");
        problems.report(medium.at, name(), &Refusal::new(why, remedy));
        false
    }

    /// Takes what a LUN uses, or reports what of it is taken; `name` is that of its medium. A
    /// medium and its names go together: either only one LUN has them, or all that have them
    /// share them.
    pub(super) fn lun(
        &mut self,
        used: &Use,
        name: impl Fn() -> String,
        problems: &mut Problems<'_>,
    ) -> bool {
        let Some(medium) = used.medium else { return self.name(used, problems) };
        let remedy = "name another medium, or set read_only = true";
        if !self.spares_sources(used, &name, remedy, problems) {
            return false;
        }
        let Some((first, at)) = self.media.get(&medium.value) else {
            self.media.insert(medium.value, (used.clone(), medium.at));
            return self.name(used, problems);
        };
        let Some(remedy) = disagreement(first, used) else { return true };
        let why = format!("used already at line {}", problems.line(*at));
        problems.report(medium.at, name(), &Refusal::new(why, remedy));
        false
    }

    fn name(&mut self, used: &Use, problems: &mut Problems<'_>) -> bool {
        let Some(wwn) = used.wwn else { return true };
        let Some((first, at)) = self.names.get(&wwn.value) else {
            self.names.insert(wwn.value, (used.clone(), wwn.at));
            return true;
        };
        // A medium that is refused may be the same one.
        let unknown = used.medium.is_none() || first.medium.is_none();
        if used.shared && first.shared && unknown {
            return true;
        }
        // Two ways to one logical unit, for a multipath in the guest.
        if used.logical_unit.is_some() && used.logical_unit == first.logical_unit {
            return true;
        }
        let why = format!("used already at line {}", problems.line(*at));
        let refusal = Refusal::new(why, "give each medium a wwn of its own");
        problems.report(wwn.at, format!("controller.lun.wwn {}", wwn.value), &refusal);
        false
    }
}

/// What to do about two LUNs on one medium, unless they may be.
fn disagreement(first: &Use, second: &Use) -> Option<&'static str> {
    let names = |used: &Use| Some((used.wwn?.value, used.serial.clone()?));
    let differ = |(first, second)| first != second;
    if first.passthrough || second.passthrough {
        Some("give each LUN a device of its own")
    } else if !(first.shared && second.shared) {
        Some("give each LUN an image of its own, or set shared and one wwn on both")
    } else if names(first).zip(names(second)).is_some_and(differ) {
        Some("it has one identity: give both the same wwn and serial")
    } else if first.block_size != second.block_size {
        Some("it has one size of blocks: give both the same block_size")
    } else {
        None
    }
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

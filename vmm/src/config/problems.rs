//! Where a problem of the configuration is, and the list of all of them.
//!
//! This file owns places and the form of a line. It must not know TOML or what a key means.

use std::fmt;
use std::path::Path;

use crate::printable::printable;

/// How many problems are told at most.
const MOST: usize = 50;

/// Every problem of one configuration, in the order of their places.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", told(.0))]
pub(crate) struct Diagnostics(Vec<String>);

impl Diagnostics {
    /// A problem that concerns the file as a whole.
    pub(super) fn of_file(file: &Path, refusal: &Refusal) -> Diagnostics {
        Diagnostics(vec![printable(&format!("{}: {refusal}", file.display()))])
    }

    /// The problems, one line each, without line ends: `guest.toml:12:9: what: why; what to do`,
    /// or without a place where the host is to blame.
    #[cfg(test)]
    pub(crate) fn lines(&self) -> &[String] {
        &self.0
    }
}

/// The first of `lines`, and how many there are besides.
fn told(lines: &[String]) -> String {
    match lines.split_at_checked(MOST) {
        Some((first, more)) if !more.is_empty() => {
            format!("{}\nand {} more problems", first.join("\n"), more.len())
        }
        _ => lines.join("\n"),
    }
}

/// Why a value is not accepted, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    why: String,
    remedy: String,
}

impl Refusal {
    pub(super) fn new(why: impl Into<String>, remedy: impl Into<String>) -> Refusal {
        Refusal { why: why.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.why, self.remedy)
    }
}

/// The problems found so far in a file. Places are offsets in bytes.
#[derive(Debug)]
pub(super) struct Problems<'a> {
    file: &'a Path,
    text: &'a str,
    line_starts: Vec<usize>,
    found: Vec<(usize, String)>,
    of_host: Vec<String>,
}

impl<'a> Problems<'a> {
    pub(super) fn new(file: &'a Path, text: &'a str) -> Problems<'a> {
        let line_ends = text.match_indices('\n').map(|(newline, _)| newline + 1);
        let line_starts = std::iter::once(0).chain(line_ends).collect();
        Problems { file, text, line_starts, found: Vec::new(), of_host: Vec::new() }
    }

    /// Adds a problem of `what`, which stands at the offset `at`.
    pub(super) fn report(&mut self, at: usize, what: impl fmt::Display, refusal: &Refusal) {
        self.found.push((at, format!("{what}: {refusal}")));
    }

    /// Adds a problem of the host that has no place in the file.
    pub(super) fn report_host(&mut self, what: impl fmt::Display, refusal: &Refusal) {
        self.of_host.push(format!("{what}: {refusal}"));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// How many there are so far.
    pub(super) fn count(&self) -> usize {
        self.found.len() + self.of_host.len()
    }

    /// The line that the offset `at` is on, counted from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= at)
    }

    /// The line and the column in characters of the byte at `at`, each counted from 1.
    fn position(&self, at: usize) -> (usize, usize) {
        let line = self.line(at);
        let start = self.line_starts.get(line - 1).copied().unwrap_or(0);
        let before = self.text.get(start..at).or(self.text.get(start..)).unwrap_or_default();
        (line, before.trim_start_matches('\u{feff}').chars().count() + 1)
    }

    /// The problems as lines, sorted by their places; those of the host come last.
    pub(super) fn into_diagnostics(mut self) -> Diagnostics {
        self.found.sort_by_key(|(at, _)| *at);
        let lines = self.found.iter().map(|(at, problem)| {
            let (line, column) = self.position(*at);
            printable(&format!("{}:{line}:{column}: {problem}", self.file.display()))
        });
        let of_host = self.of_host.iter().map(|problem| printable(problem));
        let mut lines: Vec<String> = lines.chain(of_host).collect();
        lines.dedup();
        Diagnostics(lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters_from_one() {
        for (text, at, place) in [
            ("", 0, (1, 1)),
            ("ab", 1, (1, 2)),
            ("a\nb", 2, (2, 1)),
            ("a\r\nb", 3, (2, 1)),
            ("é = 1", 3, (1, 3)),
            ("\u{feff}ab", 4, (1, 2)),
            ("a\n", 99, (2, 1)),
        ] {
            let problems = Problems::new(Path::new(""), text);
            assert_eq!(problems.position(at), place, "{text:?} {at}");
        }
    }

    #[test]
    fn what_is_told_is_told_once_and_bounded() {
        let mut problems = Problems::new(Path::new("f"), "");
        let refusal = Refusal::new("bad", "no");
        (0..99).for_each(|number| problems.report(0, number / 2, &refusal));
        assert_eq!(problems.into_diagnostics().lines().len(), 50);
        let mut problems = Problems::new(Path::new("f"), "");
        (0..60).for_each(|number| problems.report(number, number, &refusal));
        let told = problems.into_diagnostics().to_string();
        assert_eq!((told.lines().count(), told.lines().last()), (51, Some("and 10 more problems")));
    }

    #[test]
    fn a_problem_is_printable() {
        let mut problems = Problems::new(Path::new("a\nb"), "");
        problems.report(0, "x\u{1b}[2J", &Refusal::new("bad\r", "é"));
        assert_eq!(problems.into_diagnostics().lines(), ["a\\nb:1:1: x\\u{1b}[2J: bad\\r; é"]);
    }
}

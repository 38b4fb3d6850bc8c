//! The form that programs read: one JSON object, whose keys docs/passthrough.md tells.

use super::model::Report;

/// The report with a line end.
pub(super) fn json(report: &Report) -> String {
    let text = serde_json::to_string_pretty(report);
    // Only maps with keys that are no strings fail, and there are none.
    text.unwrap_or_default() + "\n"
}

//! Text that others chose, such as paths, made fit for a line on a terminal.

/// `text` with what is not to be seen escaped: control characters, so that it reaches neither the
/// terminal nor another line, and format characters, which can turn what is read around.
pub(crate) fn printable(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if is_printable(c) { line.push(c) } else { line.extend(c.escape_default()) }
    }
    line
}

/// Whether strings are shown with `c` as it is, or with a backslash before it. An accent is shown
/// so behind another character only.
fn is_printable(c: char) -> bool {
    !c.is_control() && (c.is_ascii() || !format!("x{c}").escape_debug().any(|c| c == '\\'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_to_be_seen_is_escaped() {
        for text in ["größe \"a\\b\" 'c'", "gro\u{308}ße", "日本語 🦀"] {
            assert_eq!(printable(text), text);
        }
        let bad = "a\n\r\u{1b}[2J\u{85}\u{202e}\u{2066}\u{200b}\u{ad}\u{2028}\u{e0041}";
        let shown = "a\\n\\r\\u{1b}[2J\\u{85}\\u{202e}\\u{2066}\\u{200b}\\u{ad}\\u{2028}\\u{e0041}";
        assert_eq!(printable(bad), shown);
    }
}

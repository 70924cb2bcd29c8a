//! How answers are printed: columns of text, and which characters may be used.

use std::io::Write as _;
use std::process::ExitCode;

use clap::ValueEnum;
use serde::Serialize;
use vnpu_driver::quantity::Bytes;

/// How a table is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// More columns.
    Wide,
    /// JSON.
    Json,
}

/// Rows of cells as lines, each column as wide as its widest cell, two spaces between. Ends of lines are trimmed.
pub(crate) fn columns(rows: &[Vec<String>]) -> Vec<String> {
    let count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// Whether the terminal shows more than ASCII, as far as the locale says so.
pub(crate) fn is_utf8() -> bool {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).unwrap_or_default();
    let locale = locale.to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// Prints a text. A closed pipe is the reader's choice, and no reason to fail.
pub(crate) fn print(text: &str) {
    _ = std::io::stdout().write_all(text.as_bytes());
}

/// Prints a value as JSON.
pub(crate) fn print_json(value: &impl Serialize) {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    print(&format!("{text}\n"));
}

/// Says why there is no answer.
pub(crate) fn complain(verb: &str, error: &dyn std::fmt::Display, code: u8) -> ExitCode {
    eprintln!("kubectl vnpu {verb}: {error}");
    ExitCode::from(code)
}

/// What an API object's text may bring onto a terminal: no control characters.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A name that may not be known.
pub(crate) fn or_none(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { clean(text) }
}

/// `3/8`; `-` where there is none at all.
pub(crate) fn ratio(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{part}/{whole}") }
}

/// `24/64Gi`: both in the larger one's unit where it divides both.
pub(crate) fn memory(part: u64, whole: u64) -> String {
    const GIB: u64 = Bytes::GIB.0;
    if part.is_multiple_of(GIB) && whole.is_multiple_of(GIB) {
        return format!("{}/{}Gi", part / GIB, whole / GIB);
    }
    format!("{}/{}", Bytes(part), Bytes(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let row = |cells: &[&str]| cells.iter().map(|&c| c.to_owned()).collect::<Vec<_>>();
        let rows = [row(&["NODE", "FREE", "X"]), row(&["n", "12/16", ""]), row(&["a-long-one", "·"])];
        assert_eq!(columns(&rows), ["NODE        FREE   X", "n           12/16", "a-long-one  ·"]);
        assert!(columns(&[]).is_empty());
    }

    #[test]
    fn terminals_are_told_nothing_but_text() {
        assert_eq!(clean("a\u{1b}[31mb\nc"), "a [31mb c");
    }
}

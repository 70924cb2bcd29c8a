//! Rows as lines of text, no wider than the terminal. Pure, but for the question how wide that is.

use vnpu_driver::quantity::Bytes;

use super::row::Row;
use crate::wish::Word;

/// Columns and lines of the terminal at standard output; `None` when it does not say.
pub(crate) fn size() -> Option<(usize, usize)> {
    // SAFETY: all zeros is a valid winsize, which the call fills.
    let found = unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        (libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) == 0).then_some(size)
    };
    let (columns, lines) = found.map(|s| (usize::from(s.ws_col), usize::from(s.ws_row)))?;
    (columns > 0 && lines > 0).then_some((columns, lines))
}

/// One column: its title, whether its words stand at the left, and its words.
type Column = (&'static str, bool, fn(&Row) -> String);

/// In their order on the screen; the first is the one that gives way when the terminal is narrow.
const COLUMNS: [Column; 10] = [
    ("NAME", true, |r| r.name.chars().map(|c| if c.is_control() { '?' } else { c }).collect()),
    ("CHIP", false, |r| r.phys_id.to_string()),
    ("MEMORY", false, |r| format!("{}/{}", gib(r.used), gib(r.memory))),
    ("CORES", false, |r| if r.cores == 0 { "-".to_owned() } else { format!("{}%", r.cores) }),
    ("MODE", true, |r| Word(r.mode).to_string()),
    ("SHARE", false, |r| rate(r.share, "%")),
    ("THROTTLED", false, |r| rate(r.throttled, "%")),
    ("LAUNCH/S", false, |r| rate(r.launches, "")),
    ("DENIED", false, |r| r.denied.to_string()),
    ("FORCED", false, |r| r.forced.to_string()),
];
/// The columns that go first, in this order, when there is no room.
const EXPENDABLE: [&str; 6] = ["MODE", "FORCED", "LAUNCH/S", "DENIED", "THROTTLED", "CORES"];
/// The name is not cut below this before other columns go.
const SHORTEST_NAME: usize = 8;

/// The screen: rows, then what could not be seen. `places` is where they come from.
pub(crate) fn lines(rows: &[Row], problems: &[String], places: &str, width: Option<usize>) -> Vec<String> {
    let mut out =
        if rows.is_empty() { vec![format!("no runs or claims in {places}")] } else { table(rows, width) };
    out.extend(problems.iter().map(|problem| format!("! {problem}")));
    if let Some(width) = width {
        out.iter_mut().for_each(|line| *line = cut(line, width));
    }
    out
}

fn table(rows: &[Row], width: Option<usize>) -> Vec<String> {
    let mut columns: Vec<(bool, usize, Vec<String>, &str)> = Vec::new();
    for (title, left, words) in COLUMNS {
        let mut cells = vec![title.to_owned()];
        cells.extend(rows.iter().map(words));
        let widest = cells.iter().map(|c| c.chars().count()).max().unwrap_or(0);
        columns.push((left, widest, cells, title));
    }
    if let Some(width) = width {
        let total = |columns: &[(bool, usize, Vec<String>, &str)]| {
            columns.iter().map(|c| c.1 + 2).sum::<usize>().saturating_sub(2)
        };
        let spare = |columns: &[(bool, usize, Vec<String>, &str)]| {
            columns.first().map_or(0, |name| name.1.saturating_sub(SHORTEST_NAME))
        };
        for title in EXPENDABLE {
            if total(&columns) <= width + spare(&columns) {
                break;
            }
            columns.retain(|c| c.3 != title);
        }
        let over = total(&columns).saturating_sub(width).min(spare(&columns));
        if let Some(name) = columns.first_mut() {
            name.1 -= over;
        }
    }
    let line = |i: usize| {
        let cells = columns.iter().filter_map(|(left, width, cells, _)| {
            let cell = cut(cells.get(i)?, *width);
            Some(if *left { format!("{cell:<width$}") } else { format!("{cell:>width$}") })
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    (0..=rows.len()).map(line).collect()
}

/// At most `width` characters, the last of them a sign that there were more.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).take(width).collect()
}

fn gib(bytes: u64) -> String {
    let whole = Bytes(bytes).to_string();
    if whole.ends_with("Gi") || bytes == 0 {
        return whole;
    }
    format!("{:.1}Gi", bytes as f64 / f64::from(1 << 30))
}

/// Counters that a tenant wrote can say anything.
fn rate(rate: Option<f64>, unit: &str) -> String {
    match rate {
        None => "-".to_owned(),
        Some(rate) if rate < 99_999.95 => format!("{rate:.1}{unit}"),
        Some(_) => format!(">99999{unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::row::tests::example;

    fn rows() -> Vec<Row> {
        let train = example().remove(0);
        let mut claim = train.clone();
        claim.name = "a-namespace/a-claim-with-a-long-name".to_owned();
        claim.cores = 0;
        claim.mode = vnpu_driver::share::ComputeMode::BestEffort;
        (claim.share, claim.throttled, claim.launches) = (None, Some(1e30), Some(0.0));
        vec![train, claim]
    }

    #[test]
    fn a_table_shows_quota_and_use() {
        let lines = lines(&rows(), &["/x cannot be seen: no".to_owned()], "/run", None);
        let words: Vec<Vec<&str>> = lines.iter().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(words[0], COLUMNS.map(|c| c.0));
        let first = ["train", "3", "1.0Gi/4Gi", "30%", "hard", "30.0%", "60.0%", "25.0", "3", "4"];
        assert_eq!(words[1], first);
        let second = ["3", "1.0Gi/4Gi", "-", "best-effort", "-", ">99999%", "0.0", "3", "4"];
        assert_eq!(words[2][1..], second);
        assert_eq!(lines[3], "! /x cannot be seen: no");
        assert_eq!(super::lines(&[], &[], "/a and /b", None), ["no runs or claims in /a and /b"]);
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_and_the_share_goes_last() {
        let widest = lines(&rows(), &[], "", None).iter().map(|l| l.chars().count()).max().unwrap();
        for width in 0..=widest {
            let lines = lines(&rows(), &["a problem".to_owned()], "", Some(width));
            assert!(lines.iter().all(|l| l.chars().count() <= width), "{width}: {lines:?}");
            if width >= 45 {
                assert!(lines[1].contains("30.0%") && lines[1].contains("1.0Gi/4Gi"), "{width}: {lines:?}");
            }
        }
        assert!(lines(&rows(), &[], "", Some(widest))[2].contains("a-claim-with-a-long-name"));
        let narrow = lines(&rows(), &[], "", Some(widest - 5)).remove(2);
        assert!(narrow.contains("…") && narrow.ends_with("  4"), "the name gives way: {narrow}");
    }
}

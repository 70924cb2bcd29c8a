//! The table: every figure of every run, medians side by side, and the goal beside ours.

use std::fmt::Write as _;

use crate::figures::{Figures, Key};
use crate::{Which, machine};

/// What is to be reached.
#[derive(Debug, Clone, Copy)]
enum Goal {
    AtMost(f64),
    AtLeast(f64),
    None,
}

impl Goal {
    fn text(self, ours: f64) -> String {
        let (sign, bound, met) = match self {
            Self::AtMost(bound) => ("<=", bound, ours <= bound),
            Self::AtLeast(bound) => (">=", bound, ours >= bound),
            Self::None => return String::new(),
        };
        format!("{sign} {bound} {}", if met { "met" } else { "MISSED" })
    }
}

/// Lines of the table: title, figure, goal. Memory after so many cycles follows the figures that there are.
fn lines(runs: &[Figures]) -> Vec<(String, Key, Goal)> {
    let mut lines = vec![
        ("start -> sockets, ms".to_owned(), Key::new("start_to_sockets", 0), Goal::AtMost(50.0)),
        ("start -> first slice, ms".to_owned(), Key::new("start_to_slice", 0), Goal::AtMost(250.0)),
    ];
    for callers in [1, 2, 4, 8] {
        let of = |what: &str| format!("{what}, {callers} caller{}", if callers == 1 { "" } else { "s" });
        if matches!(callers, 1 | 8) {
            let read = |q: &str| of(&format!("API server's answer alone, {q} ms"));
            lines.push((read("p50"), Key::new("read_p50_ms", callers), Goal::None));
            lines.push((read("p99"), Key::new("read_p99_ms", callers), Goal::None));
        }
        let (p50, p99) = match callers {
            1 => (Goal::AtMost(2.0), Goal::AtMost(8.0)),
            8 => (Goal::None, Goal::AtMost(20.0)),
            _ => (Goal::None, Goal::None),
        };
        lines.push((of("Prepare p50 ms"), Key::new("prepare_p50_ms", callers), p50));
        lines.push((of("Prepare p99 ms"), Key::new("prepare_p99_ms", callers), p99));
        lines.push((of("Unprepare p50 ms"), Key::new("unprepare_p50_ms", callers), Goal::None));
        lines.push((of("Unprepare p99 ms"), Key::new("unprepare_p99_ms", callers), Goal::None));
        let rate = if callers == 8 { Goal::AtLeast(300.0) } else { Goal::None };
        lines.push((of("cycles/s"), Key::new("per_s", callers), rate));
    }
    let mut cycles: Vec<u64> =
        runs.iter().flat_map(|r| r.values.keys()).filter(|k| k.name == "rss").map(|k| k.at).collect();
    cycles.sort_unstable();
    cycles.dedup();
    for at in cycles {
        let (title, goal) = match at {
            0 => ("RSS idle, MB".to_owned(), Goal::AtMost(15.0)),
            600 => ("RSS after 600 cycles, MB".to_owned(), Goal::AtMost(18.0)),
            _ => (format!("RSS after {at} cycles, MB"), Goal::None),
        };
        lines.push((title, Key::new("rss", at), goal));
    }
    lines
}

/// The whole report as Markdown, fit for docs/performance.md.
pub(crate) fn report(runs: &[Figures], modules: u32, volatile: bool) -> String {
    let mut out = String::new();
    let place = if volatile { "CDI files and regions on a tmpfs" } else { "everything on one disk" };
    let _ = writeln!(out, "\nMachine: {}.", machine::describe());
    let _ = writeln!(
        out,
        "Hardware: stand-in, {modules} dual-die modules; API server, etcd and kubelet's DRA code are real and share \
         the machine's cores; checkpoint on disk, {place}.\n"
    );
    for run in runs {
        let (p50, p99) = run.flush;
        let _ = writeln!(
            out,
            "- {} {}: load {}; one flush of the disk p50 {p50:.2} ms, p99 {p99:.2} ms",
            run.which.label(),
            run.round,
            run.load
        );
    }
    let both = runs.iter().any(|r| r.which == Which::Reference);
    let mut header: Vec<String> = vec!["".to_owned()];
    header.extend(runs.iter().map(|r| format!("{} {}", r.which.label(), r.round)));
    if both {
        header.push("ours / reference".to_owned());
    }
    header.push("goal".to_owned());
    let mut rows = vec![header];
    for (title, key, goal) in lines(runs) {
        let median =
            |which| median(runs.iter().filter(|r| r.which == which).filter_map(|r| r.values.get(&key)));
        let ours = median(Which::Ours);
        let mut row = vec![title];
        row.extend(runs.iter().map(|r| r.values.get(&key).map_or_else(String::new, |v| number(*v))));
        if both {
            row.push(format!("{:.2}", ours / median(Which::Reference)));
        }
        row.push(goal.text(ours));
        rows.push(row);
    }
    out.push('\n');
    table(&mut out, &rows);
    out
}

fn table(out: &mut String, rows: &[Vec<String>]) {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|c| width(c).unwrap_or(0).max(3)).collect();
    for (index, row) in rows.iter().enumerate() {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let width = *width;
            let _ =
                if column == 0 { write!(out, "| {cell:<width$} ") } else { write!(out, "| {cell:>width$} ") };
        }
        out.push_str("|\n");
        if index == 0 {
            for (column, width) in widths.iter().enumerate() {
                let line = "-".repeat(width + 1);
                let _ = write!(out, "|{line}{}", if column == 0 { "-" } else { ":" });
            }
            out.push_str("|\n");
        }
    }
}

fn number(value: f64) -> String {
    if value < 10.0 { format!("{value:.2}") } else { format!("{value:.1}") }
}

/// Over the rounds; the mean of the middle two where their number is even.
fn median<'a>(values: impl Iterator<Item = &'a f64>) -> f64 {
    let mut values: Vec<f64> = values.copied().collect();
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { at(middle) } else { (at(middle.saturating_sub(1)) + at(middle)) / 2.0 }
}

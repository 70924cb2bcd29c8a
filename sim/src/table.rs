//! Rows as a table for people, and as CSV.

use std::fmt::Write as _;
use std::io::Write;

use crate::compare::Row;
use crate::metrics::{FIGURES, Figure};
use crate::stats::Estimate;

fn cell(figure: &Figure, estimate: Estimate) -> String {
    let digits = figure.digits;
    if estimate.mean.is_nan() {
        return "-".to_owned();
    }
    // Zero comes out of the gap as -0 now and then.
    let mean = if estimate.mean == 0.0 { 0.0 } else { estimate.mean };
    let mut cell = format!("{mean:.digits$}");
    if !estimate.half_width.is_nan() {
        // Writing to a String cannot fail.
        let _ = write!(cell, " ±{:.digits$}", estimate.half_width);
    }
    cell
}

/// A table with one line per row, its columns aligned.
pub fn table(rows: &[Row]) -> String {
    let head = ["load", "policy"].into_iter().chain(FIGURES.iter().map(|figure| figure.name));
    let mut lines: Vec<Vec<String>> = vec![head.map(str::to_owned).collect()];
    for row in rows {
        let figures = FIGURES.iter().map(|figure| cell(figure, row.estimate(figure)));
        lines.push([row.load.clone(), row.policy.to_string()].into_iter().chain(figures).collect());
    }
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..FIGURES.len() + 2).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let _ = match column {
                0 => write!(text, "{cell:<width$}"),
                1 => write!(text, "  {cell:<width$}"),
                _ => write!(text, "  {cell:>width$}"),
            };
        }
        text.push('\n');
    }
    text
}

/// One record per row: load, policy, seeds, then each figure's mean and the half width of its interval.
///
/// # Errors
/// When `out` cannot be written.
pub fn csv(rows: &[Row], out: impl Write) -> Result<(), csv::Error> {
    let mut writer = csv::Writer::from_writer(out);
    let mut head = vec!["load".to_owned(), "policy".to_owned(), "seeds".to_owned()];
    head.extend(FIGURES.iter().flat_map(|figure| [figure.name.to_owned(), format!("{}_ci95", figure.name)]));
    writer.write_record(head)?;
    for row in rows {
        let mut record = vec![row.load.clone(), row.policy.to_string(), row.runs.len().to_string()];
        for figure in &FIGURES {
            let estimate = row.estimate(figure);
            record.extend([estimate.mean, estimate.half_width].map(|value| value.to_string()));
        }
        writer.write_record(record)?;
    }
    Ok(writer.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choice::Choice;
    use crate::metrics::Metrics;

    #[test]
    fn columns_are_aligned() {
        let row = |load: &str, policy| Row {
            policy,
            load: load.to_owned(),
            runs: vec![Metrics::default(), Metrics::default()],
        };
        let text = table(&[row("0.60", Choice::Hami), row("0.8", Choice::LeastAllocated)]);
        let widths: Vec<usize> = text.lines().map(|line| line.chars().count()).collect();
        assert!(widths.windows(2).all(|pair| pair[0] == pair[1]), "{text}");
        let mut out = Vec::new();
        csv(&[row("0.60", Choice::Hami)], &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert!(out.starts_with("load,policy,seeds,xnode,xnode_ci95,"), "{out}");
        assert!(out.contains("0.60,hami,2,0,0,"), "{out}");
    }
}

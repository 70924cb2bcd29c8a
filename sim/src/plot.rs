//! Figures against the load as SVG, one line per policy, with the intervals as bars.

use std::fmt::Write as _;

use crate::choice::Choice;
use crate::compare::Row;
use crate::metrics::{FIGURES, Figure};
use crate::stats::Estimate;

/// The figures that are drawn.
pub const DRAWN: [&str; 6] = ["xnode", "xleaf", "avoidable", "pool", "wait", "wait99"];

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 460.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 230.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 50.0;
/// Okabe and Ito's colours, which the colour-blind tell apart.
const COLOURS: [&str; 8] =
    ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8A7300"];

struct Frame {
    loads: (f64, f64),
    top: f64,
}

impl Frame {
    fn x(&self, load: f64) -> f64 {
        let (least, most) = self.loads;
        let part = if most > least { (load - least) / (most - least) } else { 0.5 };
        LEFT + 10.0 + part * (WIDTH - LEFT - RIGHT - 20.0)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - value / self.top * (HEIGHT - TOP - BOTTOM)
    }
}

/// The plot of a figure; `None` when no row has a load and a value.
pub fn plot(rows: &[Row], name: &str) -> Option<String> {
    let figure = FIGURES.iter().find(|figure| figure.name == name)?;
    let mut lines: Vec<(Choice, Vec<(f64, Estimate)>)> = Vec::new();
    for row in rows {
        let (Ok(load), estimate) = (row.load.parse::<f64>(), row.estimate(figure)) else { continue };
        if estimate.mean.is_nan() {
            continue;
        }
        match lines.iter_mut().find(|(policy, _)| *policy == row.policy) {
            Some((_, points)) => points.push((load, estimate)),
            None => lines.push((row.policy, vec![(load, estimate)])),
        }
    }
    let points = || lines.iter().flat_map(|(_, points)| points.iter());
    let loads = (
        points().map(|(load, _)| *load).reduce(f64::min)?,
        points().map(|(load, _)| *load).reduce(f64::max)?,
    );
    let highest = points().map(|(_, estimate)| estimate.mean + bar(estimate)).reduce(f64::max)?;
    let frame = Frame { loads, top: rounded(highest) };
    let mut svg = String::new();
    axes(&mut svg, figure, &frame, points().map(|(load, _)| *load));
    for ((policy, points), colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        line(&mut svg, &frame, points, colour);
        let last = lines.iter().position(|(other, _)| other == policy).unwrap_or_default();
        #[expect(clippy::cast_precision_loss, reason = "a few policies")]
        legend(&mut svg, &policy.to_string(), last as f64, colour);
    }
    svg.push_str("</svg>\n");
    Some(svg)
}

fn bar(estimate: &Estimate) -> f64 {
    if estimate.half_width.is_nan() { 0.0 } else { estimate.half_width }
}

/// The next of 1, 2, 2.5 or 5 times a power of ten, so that four lines have round values.
fn rounded(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 1.2, 1.6, 2.0, 2.4, 3.2, 4.0, 5.0, 6.0, 8.0, 10.0];
    steps.iter().map(|step| step * power).find(|top| *top >= value).unwrap_or(value)
}

// Writing to a String cannot fail, so what `write!` answers is not looked at below.

fn axes(svg: &mut String, figure: &Figure, frame: &Frame, loads: impl Iterator<Item = f64>) {
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"16\">{}</text>\n\
         <text x=\"{LEFT}\" y=\"40\" fill=\"#555\">{}</text>",
        figure.name, figure.meaning
    );
    for step in 0..=4 {
        let value = frame.top * f64::from(step) / 4.0;
        let (y, right) = (frame.y(value), WIDTH - RIGHT);
        let digits = if frame.top >= 40.0 { 0 } else { 3 };
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value:.digits$}</text>",
            LEFT - 8.0,
            y + 4.0
        );
    }
    let mut told: Vec<f64> = loads.collect();
    told.sort_unstable_by(f64::total_cmp);
    told.dedup();
    for load in told {
        let (x, y) = (frame.x(load), HEIGHT - BOTTOM);
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"{y:.1}\" x2=\"{x:.1}\" y2=\"{:.1}\" stroke=\"#555\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{load:.2}</text>",
            y + 5.0,
            y + 20.0
        );
    }
    let middle = f64::midpoint(LEFT, WIDTH - RIGHT);
    let _ =
        writeln!(svg, "<text x=\"{middle}\" y=\"{:.1}\" text-anchor=\"middle\">load</text>", HEIGHT - 10.0);
}

fn line(svg: &mut String, frame: &Frame, points: &[(f64, Estimate)], colour: &str) {
    let path: Vec<String> = points
        .iter()
        .map(|(load, estimate)| format!("{:.1},{:.1}", frame.x(*load), frame.y(estimate.mean)))
        .collect();
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
        path.join(" ")
    );
    for (load, estimate) in points {
        let (x, y) = (frame.x(*load), frame.y(estimate.mean));
        let low = frame.y((estimate.mean - bar(estimate)).max(0.0));
        let high = frame.y(estimate.mean + bar(estimate));
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"{low:.1}\" x2=\"{x:.1}\" y2=\"{high:.1}\" stroke=\"{colour}\"/>\
             <circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>"
        );
    }
}

fn legend(svg: &mut String, name: &str, place: f64, colour: &str) {
    let (x, y) = (WIDTH - RIGHT + 20.0, TOP + 10.0 + 22.0 * place);
    let _ = writeln!(
        svg,
        "<line x1=\"{x:.1}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\" stroke=\"{colour}\" stroke-width=\"3\"/>\
         <text x=\"{:.1}\" y=\"{:.1}\">{name}</text>",
        x + 24.0,
        x + 32.0,
        y + 4.0
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn a_plot_has_a_line_per_policy() {
        let row = |load: &str, policy| Row { policy, load: load.to_owned(), runs: vec![Metrics::default()] };
        let rows = [
            row("0.60", Choice::Hami),
            row("0.80", Choice::Hami),
            row("0.60", Choice::Random),
            row("trace", Choice::Random),
        ];
        let svg = plot(&rows, "xnode").unwrap();
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert_eq!(svg.matches("<circle").count(), 3);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        assert!(plot(&rows, "nothing").is_none());
        assert_eq!([0.43, 0.9, 1300.0, 0.0].map(rounded), [0.5, 1.0, 1600.0, 1.0]);
    }
}

//! Workloads from traces that users have: a CSV by path. Nothing of them is in the repository.

use std::collections::HashMap;
use std::io::Read;
use std::time::Duration;

use vnpu_placement::moment::Moment;

use crate::job::{Ask, Job, Shape, Thousandths, Workload};
use crate::random::{Random, splitmix};

/// Which columns a trace has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Alibaba's `openb_pod_list`: `num_gpu`, `gpu_milli`, `creation_time`, `deletion_time` (seconds), one pod a line.
    Openb,
    /// Philly-like: a submission time (`submit_time` or `submitted_time`), `duration` or `run_time`, both in seconds,
    /// and `num_gpus` or `gpus`, one job a line.
    Philly,
}

/// Why a trace cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// It is no CSV.
    #[error("the trace is no CSV: {0}")]
    Csv(#[from] csv::Error),
    /// A column is missing.
    #[error("the trace has no column {}; its columns are {have}", names.join(" or "))]
    Column {
        /// What it may be called.
        names: &'static [&'static str],
        /// What there is.
        have: String,
    },
    /// A value is no number.
    #[error("line {line} of the trace: {column} is {value:?}, which is no number")]
    Number {
        /// The line, from 1.
        line: u64,
        /// The column.
        column: &'static str,
        /// The value.
        value: String,
    },
    /// Nothing in it can be run.
    #[error("the trace has no job with devices and a duration")]
    Empty,
}

impl TraceError {
    /// Whether the same trace may be readable later.
    pub const fn retryable(&self) -> bool {
        false
    }

    /// For reports.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Csv(_) => "NotCsv",
            Self::Column { .. } => "MissingColumn",
            Self::Number { .. } => "NotANumber",
            Self::Empty => "EmptyTrace",
        }
    }
}

struct Columns {
    at: HashMap<String, usize>,
    have: String,
}

impl Columns {
    fn find(&self, names: &'static [&'static str]) -> Result<Column, TraceError> {
        let found = names.iter().find_map(|name| self.at.get(*name).map(|at| Column { at: *at, name }));
        found.ok_or_else(|| TraceError::Column { names, have: self.have.clone() })
    }
}

#[derive(Clone, Copy)]
struct Column {
    at: usize,
    name: &'static str,
}

impl Column {
    /// The value; `None` for an empty one.
    fn number(self, record: &csv::StringRecord) -> Result<Option<f64>, TraceError> {
        let text = record.get(self.at).unwrap_or_default().trim();
        if text.is_empty() {
            return Ok(None);
        }
        let line = record.position().map_or(0, csv::Position::line);
        let number = text.parse().ok().filter(|number: &f64| number.is_finite());
        number.map(Some).ok_or_else(|| TraceError::Number { line, column: self.name, value: text.to_owned() })
    }
}

/// One line of a trace, in seconds.
struct Line {
    arrival: f64,
    duration: f64,
    pods: u32,
    ask: Ask,
}

/// Reads a trace as jobs on a cluster. With a load, the times between arrivals are stretched so that the jobs offer it.
///
/// # Errors
/// [`TraceError`] for what is no such trace.
pub fn load(
    input: impl Read,
    format: Format,
    shape: Shape,
    load: Option<f64>,
    seed: u64,
) -> Result<Workload, TraceError> {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(input);
    let head = reader.headers()?.clone();
    let columns = Columns {
        at: head.iter().enumerate().map(|(at, name)| (name.trim().to_lowercase(), at)).collect(),
        have: head.iter().collect::<Vec<_>>().join(", "),
    };
    let mut lines = match format {
        Format::Openb => openb(&mut reader, &columns)?,
        Format::Philly => philly(&mut reader, &columns, &shape)?,
    };
    lines.sort_by(|a, b| a.arrival.total_cmp(&b.arrival));
    let first = lines.first().map(|line| line.arrival).ok_or(TraceError::Empty)?;
    lines.iter_mut().for_each(|line| line.arrival -= first);
    if let Some(load) = load {
        stretch(&mut lines, &shape, load);
    }
    let mut seed = splitmix_of(seed);
    let jobs = lines.iter().map(|line| Job {
        arrival: Moment(span(line.arrival)),
        duration: span(line.duration),
        pods: line.pods,
        ask: line.ask,
        owner: seed.bits(),
    });
    Ok(Workload::new(shape, jobs.collect()))
}

fn splitmix_of(seed: u64) -> Random {
    let mut seed = seed;
    Random::new(splitmix(&mut seed))
}

fn span(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.001)).unwrap_or(Duration::MAX)
}

fn stretch(lines: &mut [Line], shape: &Shape, load: f64) {
    let work: f64 = lines.iter().map(|l| l.duration * l.ask.chips() * f64::from(l.pods)).sum();
    let now = lines.last().map_or(0.0, |line| line.arrival);
    let wanted = work / (load * shape.capacity());
    if now > 0.0 {
        lines.iter_mut().for_each(|line| line.arrival *= wanted / now);
    }
}

/// What a whole number of chips means: an odd number above one is raised to the next even one, as modules are whole.
fn chips(count: f64, shape: &Shape) -> Ask {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
    let count = count.clamp(1.0, f64::from(shape.chips)) as u32;
    Ask::Chips(if shape.dual && count > 1 { count.next_multiple_of(2) } else { count })
}

fn openb<R: Read>(reader: &mut csv::Reader<R>, columns: &Columns) -> Result<Vec<Line>, TraceError> {
    let gpus = columns.find(&["num_gpu"])?;
    let milli = columns.find(&["gpu_milli"])?;
    let (from, to) = (columns.find(&["creation_time"])?, columns.find(&["deletion_time"])?);
    let mut lines = Vec::new();
    for record in reader.records() {
        let record = record?;
        let (Some(arrival), Some(end)) = (from.number(&record)?, to.number(&record)?) else { continue };
        let (count, part) = (gpus.number(&record)?.unwrap_or_default(), milli.number(&record)?);
        if count < 1.0 || end <= arrival {
            continue;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
        let ask = match part {
            Some(part) if count <= 1.0 && part < 1000.0 => {
                Ask::Share(Thousandths(part.clamp(1.0, 999.0) as u32))
            }
            _ => Ask::Chips(count.clamp(1.0, 64.0) as u32),
        };
        lines.push(Line { arrival, duration: end - arrival, pods: 1, ask });
    }
    Ok(lines)
}

/// Jobs of more devices than a node has are pods of a full node each.
fn philly<R: Read>(
    reader: &mut csv::Reader<R>,
    columns: &Columns,
    shape: &Shape,
) -> Result<Vec<Line>, TraceError> {
    let from = columns.find(&["submit_time", "submitted_time"])?;
    let time = columns.find(&["duration", "run_time"])?;
    let gpus = columns.find(&["num_gpus", "gpus"])?;
    let mut lines = Vec::new();
    for record in reader.records() {
        let record = record?;
        let numbers = (from.number(&record)?, time.number(&record)?, gpus.number(&record)?);
        let (Some(arrival), Some(duration), Some(count)) = numbers else { continue };
        if count < 1.0 || duration <= 0.0 {
            continue;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
        let pods = (count / f64::from(shape.chips)).ceil().clamp(1.0, 4096.0) as u32;
        lines.push(Line { arrival, duration, pods, ask: chips(count / f64::from(pods), shape) });
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPENB: &str = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,deletion_time,scheduled_time\n\
        p0,12000,16384,1,460,,LS,Running,100,400,100\n\
        p1,6000,12288,2,1000,,LS,Running,50,250,60\n\
        p2,6000,12288,0,0,,BE,Running,60,250,60\n\
        p3,6000,12288,1,1000,,LS,Pending,70,,\n";

    #[test]
    fn openb_has_shares_and_single_pods() {
        let shape = Shape { nodes: 2, chips: 8, dual: false, per_leaf: 1 };
        let jobs = load(OPENB.as_bytes(), Format::Openb, shape, None, 1).unwrap().jobs;
        let told: Vec<_> =
            jobs.iter().map(|j| (j.arrival.0.as_secs(), j.duration.as_secs(), j.pods, j.ask)).collect();
        assert_eq!(told, [(0, 200, 1, Ask::Chips(2)), (50, 300, 1, Ask::Share(Thousandths(460)))]);
    }

    #[test]
    fn philly_jobs_are_split_into_full_nodes() {
        let text = "jobid,submit_time,num_gpus,duration\na,0,1,10\nb,5,3,10\nc,20,40,30\n";
        let jobs = load(text.as_bytes(), Format::Philly, Shape::BANK, None, 1).unwrap().jobs;
        let told: Vec<_> = jobs.iter().map(|j| (j.pods, j.ask)).collect();
        assert_eq!(told, [(1, Ask::Chips(1)), (1, Ask::Chips(4)), (3, Ask::Chips(14))]);
        let workload = load(text.as_bytes(), Format::Philly, Shape::BANK, Some(0.5), 1).unwrap();
        let work: f64 = workload.jobs.iter().map(|j| j.chips() * j.duration.as_secs_f64()).sum();
        let span = workload.jobs.last().unwrap().arrival.0.as_secs_f64();
        assert!((work / span / 1024.0 - 0.5).abs() < 1e-2);
    }

    #[test]
    fn what_is_wrong_is_told() {
        let read =
            |text: &str| load(text.as_bytes(), Format::Philly, Shape::BANK, None, 1).unwrap_err().to_string();
        assert_eq!(
            read("a,b\n1,2\n"),
            "the trace has no column submit_time or submitted_time; its columns are a, b"
        );
        assert_eq!(
            read("submit_time,gpus,duration\n1,x,2\n"),
            "line 2 of the trace: num_gpus is \"x\", which is no number".replace("num_gpus", "gpus")
        );
        assert_eq!(read("submit_time,gpus,duration\n"), "the trace has no job with devices and a duration");
    }
}

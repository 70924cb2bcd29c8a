//! The command line: what is asked for, and the commands that do it.

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write, stderr, stdout};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use vnpu_placement::{Config, Sink};

use crate::choice::Choice;
use crate::compare::{Load, Row, compare, run};
use crate::engine::simulate;
use crate::job::{Shape, Workload};
use crate::metrics::FIGURES;
use crate::ours::Ours;
use crate::replay::{replayed, told};
use crate::traces::Format;
use crate::{mix, plot, table, traces};

/// Places jobs on a simulated cluster under several policies and compares what comes of it.
#[derive(Debug, Parser)]
#[command(name = "vnpu-sim", version, after_long_help = figures())]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs one policy on one workload and prints its figures.
    #[command(after_long_help = figures())]
    Run(RunArgs),
    /// Runs policies over loads and seeds and prints one table, with 95 % confidence intervals.
    #[command(after_long_help = figures())]
    Compare(CompareArgs),
    /// Replays a recording of the planner, prints its decisions, and fails when they are not those recorded.
    Replay {
        /// The recording: one JSON object a line.
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Source {
    /// Jobs of the bank mix in one run.
    #[arg(long, default_value_t = mix::JOBS)]
    jobs: usize,
    /// A trace to run instead of the bank mix.
    #[arg(long, requires = "format")]
    trace: Option<PathBuf>,
    /// The trace's columns.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Nodes, for a trace.
    #[arg(long, default_value_t = Shape::BANK.nodes, requires = "trace")]
    nodes: usize,
    /// Chips on a node, for a trace; at most 64.
    #[arg(long, default_value_t = Shape::BANK.chips, requires = "trace", value_parser = clap::value_parser!(u32).range(1..=64))]
    chips: u32,
    /// Nodes on a leaf, for a trace.
    #[arg(long, default_value_t = Shape::BANK.per_leaf, requires = "trace")]
    per_leaf: usize,
    /// For a trace: chips stand alone, two are no module.
    #[arg(long, requires = "trace")]
    single_die: bool,
}

impl Source {
    /// The workload; a trace without a load keeps its times.
    fn workload(&self, seed: u64, load: Option<f64>) -> Result<Workload> {
        let (Some(path), Some(format)) = (&self.trace, self.format) else {
            return Ok(mix::bank(seed, load.unwrap_or(0.8), self.jobs));
        };
        let shape = Shape {
            nodes: self.nodes,
            chips: self.chips,
            dual: !self.single_die,
            per_leaf: self.per_leaf.max(1),
        };
        let file = File::open(path).with_context(|| format!("cannot open the trace {}", path.display()))?;
        traces::load(file, format, shape, load, seed).with_context(|| format!("in {}", path.display()))
    }
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The policy: random, least-allocated, most-allocated, hami, tiers-hash, kueue-best-fit, dra-first-fit,
    /// ours[@SECONDS of patience] or one-per-node[@SECONDS].
    #[arg(long, default_value = "ours")]
    policy: Choice,
    /// Offered chip-seconds / chip-seconds of the cluster; 0.80 for the bank mix, as recorded for a trace.
    #[arg(long)]
    load: Option<f64>,
    /// The seed of jobs and lots.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Writes a recording of the planner, for `replay`; only with `ours` or `one-per-node`.
    #[arg(long)]
    record: Option<PathBuf>,
    #[command(flatten)]
    source: Source,
}

#[derive(Debug, Args)]
struct CompareArgs {
    /// The policies, in the order of rows.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "random,least-allocated,most-allocated,dra-first-fit,\
        kueue-best-fit,hami,tiers-hash,ours,ours@600,ours@1800,one-per-node"
    )]
    policies: Vec<Choice>,
    /// The loads; of a trace, to which its times are stretched.
    #[arg(long, value_delimiter = ',', default_value = "0.60,0.80,0.92")]
    loads: Vec<f64>,
    /// How many seeds: 1, 2, ...
    #[arg(long, default_value_t = 10)]
    seeds: u64,
    /// Threads; by default as many as there are cores.
    #[arg(long)]
    threads: Option<usize>,
    /// Also writes the rows as CSV.
    #[arg(long)]
    csv: Option<PathBuf>,
    /// Also writes plots against the load into this directory.
    #[arg(long)]
    svg: Option<PathBuf>,
    #[command(flatten)]
    source: Source,
}

/// The definitions that `--help` ends with.
fn figures() -> String {
    let mut text = String::from(
        "Figures. Counted are the jobs that arrive after the first and before the last tenth; means over time are over \
         that window.\n",
    );
    for figure in &FIGURES {
        text.push_str(&format!("  {:<10} {}\n", figure.name, figure.meaning));
    }
    text.push_str("Intervals are the half widths of 95 % confidence intervals over seeds (Student's t).");
    text
}

impl Cli {
    /// Does what was asked.
    ///
    /// # Errors
    /// What went wrong, for people.
    pub fn run(self) -> Result<()> {
        match self.command {
            Command::Run(args) => args.run(),
            Command::Compare(args) => args.run(),
            Command::Replay { file } => replay(&file),
        }
    }
}

struct Lines(BufWriter<File>);

impl Sink for Lines {
    fn line(&mut self, line: &str) {
        // A full disk shows when the recording is replayed: its last line is cut.
        let _ = writeln!(self.0, "{line}");
    }
}

impl RunArgs {
    fn run(&self) -> Result<()> {
        let workload = self.source.workload(self.seed, self.load)?;
        let metrics = match (&self.record, self.policy) {
            (Some(path), Choice::Ours(settings)) => {
                let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
                let mut ours = Ours::new(&workload.shape, settings, Config::default())?;
                ours.record_to(Box::new(Lines(BufWriter::new(file))));
                simulate(&workload, &mut ours)?
            }
            (Some(_), policy) => anyhow::bail!("{policy} has nothing to record; use --policy ours"),
            (None, policy) => run(policy, self.seed, &workload)?,
        };
        let mut out = stdout().lock();
        for figure in &FIGURES {
            writeln!(out, "{:<10} {:.*}", figure.name, figure.digits, figure.value(&metrics))?;
        }
        Ok(())
    }
}

impl CompareArgs {
    fn run(&self) -> Result<()> {
        let mut loads = Vec::new();
        for load in &self.loads {
            let workloads = (1..=self.seeds).map(|seed| Ok((seed, self.source.workload(seed, Some(*load))?)));
            loads.push(Load { name: format!("{load:.2}"), workloads: workloads.collect::<Result<_>>()? });
        }
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let progress = |done: usize, all: usize| {
            if stderr().is_terminal() {
                let _ = write!(stderr(), "\r{done}/{all} runs{}", if done == all { "\n" } else { "" });
            }
        };
        let rows = compare(&self.policies, &loads, self.threads.unwrap_or_else(cores), &progress)?;
        write!(stdout().lock(), "{}", table::table(&rows))?;
        if let Some(path) = &self.csv {
            let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
            table::csv(&rows, file).with_context(|| format!("cannot write {}", path.display()))?;
        }
        self.svg.as_deref().map_or(Ok(()), |directory| draw(&rows, directory))
    }
}

fn draw(rows: &[Row], directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    for name in plot::DRAWN {
        if let Some(svg) = plot::plot(rows, name) {
            let path = directory.join(format!("{name}.svg"));
            std::fs::write(&path, svg).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    Ok(())
}

fn replay(file: &Path) -> Result<()> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    // A copy of a recording that goes on may end within a character.
    let replayed = replayed(&String::from_utf8_lossy(&bytes))?;
    if replayed.cut {
        eprintln!("the last line of {} is cut, and left out", file.display());
    }
    let mut out = BufWriter::new(stdout().lock());
    for decision in &replayed.decisions {
        write!(out, "{}", told(decision))?;
    }
    out.flush()?;
    match replayed.differs {
        None => Ok(()),
        Some(number) => anyhow::bail!(
            "decision {number} is not the one that was recorded; the recording is of another version of the planner, \
             or lines are missing"
        ),
    }
}

//! What is simulated: jobs, and the cluster's shape. Where jobs come from is for `mix.rs` and `traces.rs`.

use std::time::Duration;

use vnpu_placement::moment::Moment;

/// Parts of a chip, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Thousandths(pub u32);

/// What one pod asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ask {
    /// So many chips: 1, or an even number, which means whole modules.
    Chips(u32),
    /// A part of one chip, below 1000.
    Share(Thousandths),
}

impl Ask {
    /// How much that is, in chips.
    pub fn chips(self) -> f64 {
        match self {
            Self::Chips(chips) => f64::from(chips),
            Self::Share(Thousandths(part)) => f64::from(part) / 1000.0,
        }
    }

    /// Whether it means whole modules.
    pub const fn is_even(self) -> bool {
        matches!(self, Self::Chips(chips) if chips > 1)
    }
}

/// A job: equal pods that run at the same time and end together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// When it arrives.
    pub arrival: Moment,
    /// How long it runs; no policy is told.
    pub duration: Duration,
    /// How many pods.
    pub pods: u32,
    /// What each of them asks for.
    pub ask: Ask,
    /// The hash of its controller's UID.
    pub owner: u64,
}

impl Job {
    /// The chips that it asks for.
    pub fn chips(&self) -> f64 {
        self.ask.chips() * f64::from(self.pods)
    }
}

/// The shape of a cluster of equal nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// How many nodes.
    pub nodes: usize,
    /// Chips on a node, 64 at most.
    pub chips: u32,
    /// Whether two chips are a module.
    pub dual: bool,
    /// Nodes of one leaf.
    pub per_leaf: usize,
}

impl Shape {
    /// That of the bank mix: 64 nodes of 8 dual-die modules, 8 nodes to a leaf.
    pub const BANK: Self = Self { nodes: 64, chips: 16, dual: true, per_leaf: 8 };

    /// All chips.
    pub fn capacity(&self) -> f64 {
        f64::from(self.chips) * u32::try_from(self.nodes).map_or(0.0, f64::from)
    }

    /// How many pods of a demand an empty node takes.
    pub fn pods_of(&self, ask: Ask) -> u32 {
        match ask {
            Ask::Chips(chips) => self.chips.checked_div(chips).unwrap_or_default(),
            Ask::Share(Thousandths(part)) => 1000_u32.checked_div(part).unwrap_or_default() * self.chips,
        }
    }

    /// The fewest nodes on which a job fits.
    pub fn fewest_nodes(&self, job: &Job) -> u32 {
        job.pods.div_ceil(self.pods_of(job.ask).max(1))
    }
}

/// Jobs in the order of their arrival, and which of them are counted.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Where they run.
    pub shape: Shape,
    /// The jobs.
    pub jobs: Vec<Job>,
    /// Those that are counted: without the first and the last tenth, which see a cluster that fills and empties.
    pub counted: std::ops::Range<usize>,
}

impl Workload {
    /// Of jobs in the order of their arrival.
    pub fn new(shape: Shape, jobs: Vec<Job>) -> Self {
        let tenth = jobs.len() / 10;
        let counted = tenth..jobs.len() - tenth;
        Self { shape, jobs, counted }
    }

    /// From the arrival of the first counted job to that of the last.
    pub fn window(&self) -> (Moment, Moment) {
        let arrival = |index: usize| self.jobs.get(index).map_or(Moment::default(), |job| job.arrival);
        (arrival(self.counted.start), arrival(self.counted.end.saturating_sub(1)))
    }

    /// How often each demand occurs, as shares of all pods.
    pub fn popularity(&self) -> Vec<(Ask, f64)> {
        let mut pods = std::collections::BTreeMap::<Ask, f64>::new();
        for job in &self.jobs {
            *pods.entry(job.ask).or_default() += f64::from(job.pods);
        }
        let all: f64 = pods.values().sum();
        pods.into_iter().map(|(ask, count)| (ask, count / all)).collect()
    }
}

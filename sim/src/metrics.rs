//! The figures of one run. Their definitions are in [`FIGURES`], which `--help` prints.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::engine::Ran;
use crate::gauge::Gauge;
use crate::job::Workload;
use crate::optimum::{apart, counts};
use crate::stats::quantile;

/// One figure: its column and what it is.
#[derive(Debug, Clone, Copy)]
pub struct Figure {
    /// Its name, as in tables and CSV.
    pub name: &'static str,
    /// What it is.
    pub meaning: &'static str,
    /// Digits after the point in tables.
    pub digits: usize,
    of: fn(&Metrics) -> f64,
}

impl Figure {
    /// Its value in a run; not a number where the run has none.
    pub fn value(&self, metrics: &Metrics) -> f64 {
        (self.of)(metrics)
    }
}

/// All figures, in the order of columns.
pub const FIGURES: [Figure; 17] = [
    Figure {
        name: "xnode",
        meaning: "mean over jobs of several pods of the share of pod pairs on different nodes",
        digits: 3,
        of: |m| m.xnode,
    },
    Figure { name: "xleaf", meaning: "the same for leaves", digits: 3, of: |m| m.xleaf },
    Figure {
        name: "avoidable",
        meaning: "share of jobs of several pods that fit one empty node and yet used several",
        digits: 3,
        of: |m| m.avoidable,
    },
    Figure {
        name: "gap",
        meaning: "mean of xnode minus the least xnode that any placement had when the job started",
        digits: 3,
        of: |m| m.gap_node,
    },
    Figure { name: "leafgap", meaning: "the same for xleaf", digits: 3, of: |m| m.gap_leaf },
    Figure {
        name: "straddle",
        meaning: "share of pods with an even number of chips that hold one chip of several modules",
        digits: 3,
        of: |m| m.straddle,
    },
    Figure {
        name: "pool",
        meaning: "chips that an even request could take / free chips, mean over time",
        digits: 3,
        of: |m| m.pool,
    },
    Figure {
        name: "inflation",
        meaning: "chip-seconds occupied / chip-seconds asked for",
        digits: 3,
        of: |m| m.inflation,
    },
    Figure {
        name: "frag",
        meaning: "FGD fragmentation: the part of free chips that a pod of the workload could not use on their \
                  node, mean over pods and time",
        digits: 3,
        of: |m| m.fragmentation,
    },
    Figure {
        name: "goodput",
        meaning: "chip-seconds asked for that ran in the window / chip-seconds of the cluster",
        digits: 4,
        of: |m| m.goodput,
    },
    Figure { name: "wait", meaning: "mean wait of jobs, in seconds", digits: 0, of: |m| m.wait_mean },
    Figure { name: "wait99", meaning: "its 99th percentile", digits: 0, of: |m| m.wait_99 },
    Figure { name: "waitmax", meaning: "the longest wait", digits: 0, of: |m| m.wait_max },
    Figure {
        name: "waitbatch",
        meaning: "mean wait of jobs of several pods, in seconds",
        digits: 0,
        of: |m| m.wait_batch,
    },
    Figure {
        name: "floor",
        meaning: "what xnode would be if every job ran on an empty cluster",
        digits: 3,
        of: |m| m.floor,
    },
    Figure {
        name: "decide50",
        meaning: "median time of one decision over the queue, in microseconds of this machine",
        digits: 0,
        of: |m| m.latency_50.as_secs_f64() * 1e6,
    },
    Figure {
        name: "decide99",
        meaning: "its 99th percentile",
        digits: 0,
        of: |m| m.latency_99.as_secs_f64() * 1e6,
    },
];

/// The figures of one run.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    xnode: f64,
    xleaf: f64,
    avoidable: f64,
    gap_node: f64,
    gap_leaf: f64,
    straddle: f64,
    pool: f64,
    inflation: f64,
    fragmentation: f64,
    goodput: f64,
    wait_mean: f64,
    wait_99: f64,
    wait_max: f64,
    wait_batch: f64,
    floor: f64,
    latency_50: Duration,
    latency_99: Duration,
}

#[derive(Default)]
struct Mean {
    sum: f64,
    count: f64,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1.0;
    }

    fn value(&self) -> f64 {
        self.sum / self.count
    }
}

impl Metrics {
    /// Of jobs as they ran.
    pub fn of(workload: &Workload, ran: &[Ran], gauge: &Gauge, mut latencies: Vec<Duration>) -> Self {
        let mut means: BTreeMap<&str, Mean> = BTreeMap::new();
        let mut add = |name: &'static str, value: f64| means.entry(name).or_default().add(value);
        let mut waits = Vec::with_capacity(workload.counted.len());
        let pairs = workload.jobs.iter().zip(ran);
        for (job, ran) in pairs.skip(workload.counted.start).take(workload.counted.len()) {
            let wait = ran.start.since(job.arrival).as_secs_f64();
            waits.push(wait);
            add("wait", wait);
            if job.ask.is_even() {
                for spot in &ran.spots {
                    add("straddle", if workload.shape.dual && spot.taken.straddles() { 1.0 } else { 0.0 });
                }
            }
            if job.pods < 2 {
                continue;
            }
            let nodes = counts(ran.spots.iter().map(|spot| spot.node));
            let leaf = |node: usize| node / workload.shape.per_leaf.max(1);
            add("xnode", apart(nodes.iter().copied()));
            add("xleaf", apart(counts(ran.spots.iter().map(|spot| leaf(spot.node)))));
            add("wait batch", wait);
            add("gap", ran.gap.node);
            add("leaf gap", ran.gap.leaf);
            let room = workload.shape.pods_of(job.ask);
            let nodes_at_best = vec![room; workload.shape.nodes];
            add("floor", crate::optimum::least_apart(nodes_at_best, job.pods));
            if workload.shape.fewest_nodes(job) == 1 {
                add("avoidable", if nodes.len() > 1 { 1.0 } else { 0.0 });
            }
        }
        waits.sort_unstable_by(f64::total_cmp);
        latencies.sort_unstable();
        let mean = |name: &str| means.get(name).map_or(f64::NAN, Mean::value);
        Self {
            xnode: mean("xnode"),
            xleaf: mean("xleaf"),
            avoidable: mean("avoidable"),
            gap_node: mean("gap"),
            gap_leaf: mean("leaf gap"),
            straddle: mean("straddle"),
            pool: gauge.pool_rate(),
            inflation: gauge.inflation(),
            fragmentation: gauge.fragmentation(),
            goodput: gauge.goodput(workload.shape.capacity()),
            wait_mean: mean("wait"),
            wait_99: quantile(&waits, 0.99).unwrap_or(f64::NAN),
            wait_max: waits.last().copied().unwrap_or(f64::NAN),
            wait_batch: mean("wait batch"),
            floor: mean("floor"),
            latency_50: quantile(&latencies, 0.5).unwrap_or_default(),
            latency_99: quantile(&latencies, 0.99).unwrap_or_default(),
        }
    }
}

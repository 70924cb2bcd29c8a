//! Many runs over several seeds, on several threads. The figures do not depend on how many there are.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use vnpu_driver::id::InvalidId;

use crate::choice::Choice;
use crate::engine::{SimulationError, simulate};
use crate::job::Workload;
use crate::metrics::{FIGURES, Figure, Metrics};
use crate::stats::{Estimate, estimate};

/// One policy at one load, over all seeds.
#[derive(Debug, Clone)]
pub struct Row {
    /// The policy.
    pub policy: Choice,
    /// The load's name, such as `0.80` or a trace's.
    pub load: String,
    /// The figures of each seed.
    pub runs: Vec<Metrics>,
}

impl Row {
    /// A figure over the seeds.
    pub fn estimate(&self, figure: &Figure) -> Estimate {
        let values: Vec<f64> = self.runs.iter().map(|run| figure.value(run)).collect();
        estimate(&values)
    }

    /// The same by name; `None` for no figure.
    pub fn figure(&self, name: &str) -> Option<Estimate> {
        FIGURES.iter().find(|figure| figure.name == name).map(|figure| self.estimate(figure))
    }
}

/// Why a comparison failed.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// A policy cannot be set up.
    #[error("{policy} cannot be set up: {source}")]
    SetUp {
        /// Which.
        policy: Choice,
        /// Why.
        source: InvalidId,
    },
    /// A run failed.
    #[error("{policy} with seed {seed}: {source}")]
    Run {
        /// Which policy.
        policy: Choice,
        /// Which seed.
        seed: u64,
        /// Why.
        source: SimulationError,
    },
}

impl CompareError {
    /// Whether the same comparison may go through later.
    pub const fn retryable(&self) -> bool {
        false
    }

    /// For reports.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::SetUp { .. } => "SetUp",
            Self::Run { source, .. } => source.reason(),
        }
    }
}

/// One load: its name, and the workload of each seed.
pub struct Load {
    /// The name.
    pub name: String,
    /// Seeds with their workloads.
    pub workloads: Vec<(u64, Workload)>,
}

/// One run.
///
/// # Errors
/// [`CompareError`] when the policy is wrong.
pub fn run(policy: Choice, seed: u64, workload: &Workload) -> Result<Metrics, CompareError> {
    let set_up = policy.policy(&workload.shape, seed);
    let mut ready = set_up.map_err(|source| CompareError::SetUp { policy, source })?;
    simulate(workload, ready.as_mut()).map_err(|source| CompareError::Run { policy, seed, source })
}

/// Runs every policy on every workload; rows by load, then policy. `done` is told after each run.
///
/// # Errors
/// The first run that failed.
pub fn compare(
    policies: &[Choice],
    loads: &[Load],
    threads: usize,
    done: &(dyn Fn(usize, usize) + Sync),
) -> Result<Vec<Row>, CompareError> {
    let mut tasks = Vec::new();
    for (place, load) in loads.iter().enumerate() {
        for (row, policy) in policies.iter().enumerate() {
            tasks.extend(
                load.workloads.iter().map(|(seed, w)| (place * policies.len() + row, *policy, *seed, w)),
            );
        }
    }
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(tasks.len()));
    let work = || {
        while let Some((row, policy, seed, workload)) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
            let result = run(*policy, *seed, workload);
            let mut results = results.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            results.push((*row, *seed, result));
            done(results.len(), tasks.len());
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(work);
        }
    });
    let mut results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    results.sort_by_key(|(row, seed, _)| (*row, *seed));
    let rows = loads.iter().flat_map(|load| policies.iter().map(move |policy| (load.name.clone(), *policy)));
    let mut rows: Vec<Row> = rows.map(|(load, policy)| Row { policy, load, runs: Vec::new() }).collect();
    for (row, _, result) in results {
        let metrics = result?;
        rows.get_mut(row).into_iter().for_each(|row| row.runs.push(metrics.clone()));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mix::bank;

    #[test]
    fn rows_do_not_depend_on_threads() {
        let load = |name: &str, load| Load {
            name: name.to_owned(),
            workloads: (1..=3).map(|seed| (seed, bank(seed, load, 200))).collect(),
        };
        let loads = [load("low", 0.4), load("high", 0.9)];
        let policies = [Choice::Hami, Choice::LeastAllocated];
        let figures = |threads| {
            let rows = compare(&policies, &loads, threads, &|_, _| ()).unwrap();
            rows.iter()
                .map(|row| {
                    (row.load.clone(), row.policy, row.figure("xnode").unwrap(), row.figure("wait").unwrap())
                })
                .collect::<Vec<_>>()
        };
        let one = figures(1);
        assert_eq!(one, figures(3));
        assert_eq!(
            one.iter().map(|(load, ..)| load.as_str()).collect::<Vec<_>>(),
            ["low", "low", "high", "high"]
        );
        assert!(one[0].2.mean < one[1].2.mean);
    }
}

//! Quotas that change while a claim is in use: what its annotations ask for, and what of it can be given. The scheduler
//! counts what was allocated and nobody can change that, so a quota moves between the least and the allocated; only
//! compute may go beyond, on what the neighbours leave.

use std::collections::BTreeMap;

use crate::id::DeviceUuid;
use crate::plan::PreparePlan;
use crate::planner::published_memory;
use crate::quantity::{Bytes, Percent};
use crate::share::{ClaimShares, ComputeMode};

/// Annotation: the effective compute of each of the claim's chips, in percent of the chip.
pub const CORES: &str = "vnpu.dev/cores";
/// Annotation: the effective memory of each of the claim's chips, a quantity.
pub const MEMORY: &str = "vnpu.dev/memory";
/// Annotation: `"true"` has the node follow the other two at once; else they are read again from time to time.
pub const LIVE: &str = "vnpu.dev/live";

/// What a claim's annotations ask for, as it is written there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Whether changes are to be followed at once.
    pub live: bool,
    /// The value of [`CORES`].
    pub cores: Option<String>,
    /// The value of [`MEMORY`].
    pub memory: Option<String>,
}

impl Wishes {
    /// Reads a claim's annotations.
    pub fn of(annotations: &BTreeMap<String, String>) -> Self {
        let text = |name| annotations.get(name).cloned();
        Self {
            live: annotations.get(LIVE).is_some_and(|value| value == "true"),
            cores: text(CORES),
            memory: text(MEMORY),
        }
    }
}

/// Why an annotation is not followed. What was in force stays in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("annotation {annotation}: {value:?} {problem}; the quota stays as it was")]
pub struct WishProblem {
    /// The annotation.
    pub annotation: &'static str,
    /// Its value, shortened.
    pub value: String,
    /// What is wrong, and what can be asked for.
    pub problem: String,
    reason: &'static str,
}

impl WishProblem {
    fn new(annotation: &'static str, value: &str, reason: &'static str, problem: String) -> Self {
        Self { annotation, value: value.chars().take(80).collect(), problem, reason }
    }

    /// Whether the same text may be followed later: never.
    pub const fn retryable(&self) -> bool {
        false
    }

    /// Stable word: `quota_unreadable`, `quota_too_small` or `quota_too_large`.
    pub const fn reason(&self) -> &'static str {
        self.reason
    }
}

/// The quotas that are to be in force, and the annotations that are not followed. `now` is what is in force, where that
/// is known; without it what was prepared stands for it. Without an annotation the prepared quota returns.
///
/// Compute above what was allocated is given as [`ComputeMode::Elastic`]: the allocated share is the claim's own, what
/// is beyond goes as soon as a neighbour wants it. A best-effort claim has no other kind of compute and stays one.
pub fn effective(
    plan: &PreparePlan,
    wishes: &Wishes,
    now: Option<&ClaimShares>,
) -> (ClaimShares, Vec<WishProblem>) {
    let (mut shares, mut problems) = (plan.shares.clone(), Vec::new());
    let memory = wishes.memory.as_ref().map(|text| wanted_memory(plan, text));
    let cores = wishes.cores.as_ref().map(|text| wanted_cores(text));
    for share in &mut shares.chips {
        let in_force = now.and_then(|now| now.chips.iter().find(|chip| chip.uuid == share.uuid));
        match (&memory, in_force) {
            (Some(Ok(memory)), _) => share.memory = *memory,
            (Some(Err(_)), Some(in_force)) => share.memory = in_force.memory,
            _ => {}
        }
        match (&cores, in_force) {
            (Some(Ok(cores)), _) => {
                let most = allocated(plan, &share.uuid).1;
                share.cores = (*cores).min(most);
                if *cores > most && share.mode == ComputeMode::Hard {
                    share.mode = ComputeMode::Elastic;
                }
            }
            (Some(Err(_)), Some(in_force)) => (share.cores, share.mode) = (in_force.cores, in_force.mode),
            _ => {}
        }
    }
    problems.extend(memory.and_then(Result::err));
    problems.extend(cores.and_then(Result::err));
    (shares, problems)
}

/// The quotas of a claim whose regions are made anew or brought right: what is in force goes on, where that can be the
/// claim's. What its annotations ask for may not be known at that moment.
pub fn kept(plan: &PreparePlan, now: &ClaimShares) -> ClaimShares {
    let mut shares = plan.shares.clone();
    for share in &mut shares.chips {
        let Some(in_force) = now.chips.iter().find(|chip| chip.uuid == share.uuid) else { continue };
        let (memory, cores) = allocated(plan, &share.uuid);
        if (Bytes::GIB..=memory).contains(&in_force.memory) {
            share.memory = in_force.memory;
        }
        if (1..=cores.0).contains(&in_force.cores.0) {
            (share.cores, share.mode) = (in_force.cores, in_force.mode);
        }
    }
    shares
}

fn wanted_memory(plan: &PreparePlan, text: &str) -> Result<Bytes, WishProblem> {
    let problem = |reason, problem| WishProblem::new(MEMORY, text, reason, problem);
    let memory: Bytes =
        text.parse().map_err(|_| problem("quota_unreadable", "is no quantity such as 4Gi".to_owned()))?;
    if memory < Bytes::GIB {
        return Err(problem("quota_too_small", "is less than 1Gi".to_owned()));
    }
    // Of the chip that has least: a value is for every chip, and one that is followed on some would be no answer.
    let least = plan.shares.chips.iter().map(|share| (allocated(plan, &share.uuid).0, &share.uuid)).min();
    match least {
        Some((allocated, chip)) if memory > allocated => Err(problem(
            "quota_too_large",
            format!("is more than the {allocated} that the claim was allocated of chip {chip}"),
        )),
        _ => Ok(memory),
    }
}

fn wanted_cores(text: &str) -> Result<Percent, WishProblem> {
    let problem = |reason, problem: &str| WishProblem::new(CORES, text, reason, problem.to_owned());
    let cores: Percent =
        text.parse().map_err(|_| problem("quota_unreadable", "is no whole number of percent such as 30"))?;
    match cores.0 {
        0 => Err(problem("quota_too_small", "is less than 1 percent of a chip")),
        1..=100 => Ok(cores),
        _ => Err(problem("quota_too_large", "is more than 100 percent of a chip")),
    }
}

/// What the scheduler counted for the claim on one chip, in bytes and percent: the most that its quotas are ever set to,
/// and 0 of a chip that it does not have. Administrative access counts only where there is nothing else.
pub fn allocated(plan: &PreparePlan, uuid: &DeviceUuid) -> (Bytes, Percent) {
    let sum = |admin_access: bool| {
        let results = plan.results.iter().filter(move |result| result.admin_access == admin_access);
        let parts = results.flat_map(|result| &result.chips).filter(|chip| chip.uuid == *uuid);
        parts.fold(None, |sum: Option<(Bytes, Percent)>, part| {
            let (memory, cores) = sum.unwrap_or_default();
            let memory = memory.saturating_add(part.memory).min(published_memory(part.seen.memory));
            Some((memory, cores.saturating_add(part.cores).min(Percent::FULL)))
        })
    };
    sum(false).or_else(|| sum(true)).unwrap_or_default()
}

#[cfg(test)]
mod tests;

//! Why a batch went where it went, or waits: one record per decision, in the words of who asked. It is made of what
//! the plan was made of, and changes nothing.

mod demand;
mod domains;
mod text;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use vnpu_driver::id::NodeName;

use crate::batch::{BatchKey, Mode, Reach};
use crate::decision::{Outcome, Tier};
use crate::moment::Moment;
use crate::plan::{Plan, Problem};
use crate::view::{Free, View};

/// What became of a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// The batch goes there.
    Chosen,
    /// It would hold the batch, and lost: it leaves more over, makes more half modules, or lost the tie.
    Passed,
    /// It does not hold the batch.
    Refused,
    /// It is held for the batch.
    Held,
}

/// One domain that was considered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DomainNote {
    /// Its size.
    pub tier: Tier,
    /// Its name.
    pub name: String,
    /// How many pods of the batch (of the largest kind, where they differ) it can take.
    pub room: u64,
    /// What is free in it.
    pub free: Free,
    /// What became of it.
    pub fate: Fate,
    /// Why, in words: `3 whole modules and 2 half ones, room for 1 of 4 pods`.
    pub reason: String,
}

/// So many pods on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanLine {
    /// The node.
    pub node: NodeName,
    /// How many pods.
    pub pods: u32,
}

/// The record of a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The batch.
    pub batch: BatchKey,
    /// For people: `Job bank/train`.
    pub title: String,
    /// How its pods are to lie.
    pub mode: Mode,
    /// How far apart they may be.
    pub reach: Reach,
    /// How many pods were to be placed.
    pub pods: u32,
    /// What they need, each kind once: `4 pods, each 2 x npu-module.vnpu.dev`.
    pub demand: Vec<String>,
    /// What was not modelled: of the pods, and selectors that could not be judged.
    pub unmodelled: Vec<String>,
    /// Domains that were considered, a bounded number: the best of each size.
    pub domains: Vec<DomainNote>,
    /// How the domain won against equals, where it did.
    pub tie: Option<String>,
    /// The plan, node by node, a bounded number of lines.
    pub plan: Vec<PlanLine>,
    /// The answer in a sentence.
    pub answer: String,
    /// The version of the view.
    pub version: u64,
    /// When.
    pub now: Moment,
}

/// Lines of a plan that a record holds.
const PLAN_LINES: usize = 64;

/// What a record is made of.
pub(crate) struct Subject<'a> {
    pub(crate) problem: &'a Problem<'a>,
    pub(crate) best: Option<&'a Plan>,
    pub(crate) now: Moment,
}

/// Makes the record.
pub(crate) fn record(view: &mut View, subject: &Subject<'_>, outcome: &Outcome) -> Record {
    let batch = subject.problem.batch;
    let groups = subject.problem.groups;
    let mut unmodelled: BTreeSet<String> = batch.unmodelled.iter().cloned().collect();
    for shape in groups.iter().filter_map(|group| view.shapes.get(group.shape)) {
        unmodelled.extend(shape.unmodelled.iter().map(|selector| format!("the selector {selector}")));
        if shape.given_up {
            unmodelled.insert("some nodes whose devices could not be searched in bounded time".to_owned());
        }
    }
    let demand = demand::texts(view, groups);
    let considered = domains::notes(view, subject, groups, outcome);
    let answer = text::answer(subject, outcome, &considered);
    Record {
        batch: batch.key.clone(),
        title: batch.title.clone(),
        mode: batch.mode,
        reach: batch.reach,
        pods: u32::try_from(subject.problem.units.iter().map(|u| u.members.len()).sum::<usize>())
            .unwrap_or(u32::MAX),
        demand,
        unmodelled: unmodelled.into_iter().collect(),
        domains: considered.notes,
        tie: considered.tie,
        plan: lines(view, subject),
        answer,
        version: view.version(),
        now: subject.now,
    }
}

fn lines(view: &View, subject: &Subject<'_>) -> Vec<PlanLine> {
    let mut lines: Vec<PlanLine> = Vec::new();
    let Some(plan) = subject.best else { return lines };
    let mut counts: Vec<(usize, u32, u32)> = Vec::new();
    for (unit, node) in subject.problem.units.iter().zip(&plan.nodes) {
        let pods = u32::try_from(unit.members.len()).unwrap_or(u32::MAX);
        match counts.iter_mut().rev().find(|(_, n, _)| n == node) {
            Some((.., count)) => *count += pods,
            None => counts.push((view.topology.position(*node).unwrap_or(usize::MAX), *node, pods)),
        }
    }
    counts.sort_unstable();
    for (_, node, pods) in counts.into_iter().take(PLAN_LINES) {
        lines.extend(view.node(node).map(|n| PlanLine { node: n.name.clone(), pods }));
    }
    lines
}

#[cfg(test)]
mod tests;

//! The sentences of a record: short for an event, full for who asks why.

use std::fmt;
use std::time::Duration;

use vnpu_driver::controller_config::Span;

use super::domains::Considered;
use super::{Fate, Record, Subject};
use crate::batch::{Mode, Reach};
use crate::decision::{Outcome, Placement, Tier, WaitReason};

/// Bytes of a short text: what an event's message holds is 1 KiB.
const SHORT: usize = 1000;

pub(super) fn answer(subject: &Subject<'_>, outcome: &Outcome, considered: &Considered) -> String {
    let batch = subject.problem.batch;
    match outcome {
        Outcome::Placed(placement) => {
            let where_to = match placement.tier {
                Tier::Node => format!("on node {}", first_node(placement)),
                Tier::Leaf => format!("on leaf {}", placement.leaf.as_deref().unwrap_or_default()),
                Tier::Superpod => {
                    format!(
                        "in super-pod {}, over several leaves",
                        placement.superpod.as_deref().unwrap_or("of nodes without one")
                    )
                }
                Tier::Across => "over several super-pods".to_owned(),
            };
            let nodes = subject.best.map_or(0, |plan| plan.spread.nodes);
            format!(
                "{} pods placed {where_to} ({nodes} {})",
                placement.assignments.len(),
                plural(nodes, "node")
            )
        }
        Outcome::Waiting { reason, target, until } => {
            let needs = needs(subject, considered);
            let why = match reason {
                WaitReason::NoRoom => format!("{needs}; {}", closest(considered)),
                WaitReason::Patience => {
                    format!("{needs}; it would fit now, but further apart than it has to be")
                }
            };
            let held = target
                .as_ref()
                .map(|target| format!("; nodes of {target} with room for its pods are closed to others"))
                .unwrap_or_default();
            let wait = until.map(|until| Span(Duration::from_secs(until.since(subject.now).as_secs())));
            let wait = match (reason, wait) {
                (WaitReason::Patience, Some(wait)) => format!("; it waits {wait} at most"),
                (WaitReason::NoRoom, Some(wait)) => format!("; others pass it for {wait} at most"),
                (_, None) => String::new(),
            };
            format!("waits: {why}{held}{wait}")
        }
        Outcome::NeverFits if batch.members.is_empty() => "nothing to place".to_owned(),
        Outcome::NeverFits => {
            let torn = subject.problem.units.iter().any(|unit| unit.torn);
            if torn {
                return "never fits: its allocated claims are on different nodes, or on one that is not there".to_owned();
            }
            format!(
                "never fits: {}, and no such room is there even when nothing else runs",
                needs(subject, considered)
            )
        }
    }
}

fn first_node(placement: &Placement) -> &str {
    placement.assignments.first().map(|a| a.node.as_str()).unwrap_or_default()
}

fn plural(count: usize, word: &str) -> String {
    if count == 1 { word.to_owned() } else { format!("{word}s") }
}

fn needs(subject: &Subject<'_>, considered: &Considered) -> String {
    let batch = subject.problem.batch;
    let units = subject.problem.units.len();
    let apart = match (batch.mode, batch.reach) {
        (_, Reach::RequiredNode) => " on one node",
        (_, Reach::RequiredLeaf) => " on one leaf",
        (_, Reach::RequiredSuperpod) => " in one super-pod",
        (Mode::OnePerNode, Reach::Preferred) => ", each on a node of its own",
        (Mode::WholeNodes, Reach::Preferred) => " on nodes of their own",
        (Mode::Pack, Reach::Preferred) => "",
    };
    format!("needs room for {units} {}{apart}, each {}", plural(units, "pod"), considered.wish)
}

/// The domain that comes closest, of the largest size that was looked at.
fn closest(considered: &Considered) -> String {
    let refused = considered.notes.iter().filter(|note| note.fate == Fate::Refused);
    match refused.max_by_key(|note| (note.tier, note.room)) {
        Some(note) => format!("{} has {}", tier_name(note.tier, &note.name), note.reason),
        None => "no node has any".to_owned(),
    }
}

fn tier_name(tier: Tier, name: &str) -> String {
    match (tier, name) {
        (Tier::Node, name) => format!("node {name}"),
        (Tier::Leaf, name) => format!("leaf {name}"),
        (_, "") => "what has no super-pod".to_owned(),
        (_, name) => format!("super-pod {name}"),
    }
}

impl Record {
    /// One line for an event of a pod, less than 1 KiB.
    pub fn short(&self) -> String {
        let mut text = self.answer.clone();
        for note in self.unmodelled.iter() {
            text.push_str("; not modelled: ");
            text.push_str(note);
        }
        let mut end = text.len().min(SHORT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.replace('\n', " ")
    }
}

impl fmt::Display for Record {
    /// Everything, over several lines.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} (batch {}): {}", self.title, self.batch, self.answer)?;
        writeln!(f, "  mode {}, topology {}", word(&self.mode), word(&self.reach))?;
        for demand in &self.demand {
            writeln!(f, "  needs {demand}")?;
        }
        for note in &self.domains {
            let fate = word(&note.fate);
            writeln!(f, "  {fate}: {}: {}", tier_name(note.tier, &note.name), note.reason)?;
        }
        if let Some(tie) = &self.tie {
            writeln!(f, "  tie: {tie}")?;
        }
        for line in &self.plan {
            writeln!(f, "  plan: {} on {}", line.pods, line.node)?;
        }
        for note in &self.unmodelled {
            writeln!(f, "  not modelled: {note}")?;
        }
        write!(f, "  version {} of the view, at {} s", self.version, self.now.0.as_secs())
    }
}

/// The word under which a value is written in records.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

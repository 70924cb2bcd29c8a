//! The explanation as text: the answer in the first line, then what it is made of. Pure.

use k8s_openapi::jiff::Timestamp;
use vnpu_driver::id::NodeName;
use vnpu_placement::decision::{Decision, Outcome, Tier};
use vnpu_placement::explain::{DomainNote, Fate, Record};

use super::ask::{Answer, Told};
use super::pod::{Happened, PodFacts};
use crate::output::{clean, columns};

/// Events of the pod that are shown: the newest.
const EVENTS: usize = 8;

/// Explains the pod.
pub(super) fn explain(pod: &PodFacts, happened: &[Happened], answer: &Answer, now: Timestamp) -> String {
    let told = match answer {
        Answer::Known(told) => Some(told.as_ref()),
        Answer::Unknown | Answer::Unreachable { .. } => None,
    };
    let decision = told.and_then(|told| told.decision.as_ref());
    let mut lines = vec![clean(&headline(pod, decision, answer)), String::new()];
    match (told, decision) {
        (_, Some(decision)) => lines.extend(of_decision(pod, decision, now)),
        // A controller of another version: its own text is better than none.
        (Some(told), None) => lines.extend(told.text.lines().map(clean)),
        (None, None) => lines.extend(without_controller(pod, answer)),
    }
    if let Some(told) = told {
        lines.extend(section("Since then", &since(told)));
    }
    lines.extend(section("The scheduler says", &scheduler(pod)));
    lines.extend(section("Events of the pod", &events(happened, now)));
    lines.push(String::new());
    lines.join("\n")
}

/// The answer in a sentence.
fn headline(pod: &PodFacts, decision: Option<&Decision>, answer: &Answer) -> String {
    let name = &pod.name;
    let planned = decision.and_then(|decision| planned_node(pod, decision));
    let planned = planned.as_ref().map(NodeName::as_str);
    let compared = |node: &str| match planned {
        Some(planned) if planned == node => ", as planned".to_owned(),
        Some(planned) => format!(", and not on {planned}, where it was planned"),
        None => String::new(),
    };
    if let Some(node) = &pod.node {
        let verb = if pod.ended() { format!("has ended ({}) on", pod.phase) } else { "is on".to_owned() };
        return format!("{name} {verb} {node}{}.", compared(node));
    }
    if pod.ended() {
        return format!("{name} has ended ({}) without a node.", pod.phase);
    }
    if pod.deleting {
        return format!("{name} is being deleted, and has no node.");
    }
    if !pod.other_gates.is_empty() {
        let gates = pod.other_gates.join(", ");
        let then = if pod.gated { "; it is planned when only the gate of vnpu is left" } else { "" };
        return format!("{name} waits at a gate of somebody else: {gates}{then}.");
    }
    match (decision.map(|decision| &decision.outcome), planned) {
        (Some(Outcome::Waiting { .. } | Outcome::NeverFits), _) if pod.gated => {
            let answer = decision.map(|decision| decision.record.answer.as_str()).unwrap_or_default();
            format!("{name} {answer}.")
        }
        (Some(Outcome::Placed(_)), Some(node)) if pod.gated => {
            format!("{name} is to go to {node}, and its gate is being opened.")
        }
        (Some(Outcome::Placed(_)), Some(node)) => match &pod.nominated {
            Some(nominated) if nominated == node => {
                format!("{name} is to go to {node}, as planned; the scheduler has not bound it yet.")
            }
            Some(nominated) => format!(
                "{name} was planned on {node} and is nominated for {nominated}; the scheduler has not bound it yet."
            ),
            None => format!("{name} was planned on {node}, and the scheduler has not put it there."),
        },
        _ if pod.gated && matches!(answer, Answer::Unknown) => {
            format!("{name} waits at the gate of vnpu, and nothing has been decided yet.")
        }
        _ if pod.gated => format!("{name} waits at the gate of vnpu."),
        _ => match &pod.nominated {
            Some(nominated) => format!("{name} waits for the scheduler; it is nominated for {nominated}."),
            None => format!("{name} waits for the scheduler, with no place planned."),
        },
    }
}

fn planned_node(pod: &PodFacts, decision: &Decision) -> Option<NodeName> {
    let Outcome::Placed(placement) = &decision.outcome else { return None };
    let mine = placement.assignments.iter().find(|a| a.pod == pod.uid || a.name == pod.name)?;
    Some(mine.node.clone())
}

fn of_decision(pod: &PodFacts, decision: &Decision, now: Timestamp) -> Vec<String> {
    let record = &decision.record;
    let mut facts = vec![
        ("Batch", format!("{} ({} pods, {})", record.title, record.pods, record.batch)),
        ("Mode", mode(record)),
    ];
    facts.extend(record.demand.iter().map(|demand| ("Needs", demand.clone())));
    // Of a pod that waits the answer stands in the first line.
    if pod.node.is_some() || matches!(decision.outcome, Outcome::Placed(_)) {
        facts.push(("Decision", record.answer.clone()));
    }
    let seconds = i64::try_from(record.now.0.as_secs()).ok();
    let at = seconds.and_then(|seconds| Timestamp::from_second(seconds).ok());
    facts.extend(at.map(|at| ("Decided", format!("{at}, {} ago", age(at, now)))));
    facts.extend(record.tie.iter().map(|tie| ("Tie", tie.clone())));
    facts.extend(plan(pod, decision).map(|plan| ("Plan", plan)));
    facts.extend(record.unmodelled.iter().map(|what| ("Not seen", format!("{what}: planned without it"))));
    let mut said = "";
    let rows: Vec<Vec<String>> = facts
        .into_iter()
        .map(|(word, text)| {
            let shown = if word == said { "" } else { word };
            said = word;
            vec![shown.to_owned(), clean(&text)]
        })
        .collect();
    let mut lines = columns(&rows);
    lines.extend(section("Considered", &domains(&record.domains)));
    lines
}

fn mode(record: &Record) -> String {
    let lie = match word(&record.mode).as_str() {
        "pack" => "pack: one node before one leaf, one leaf before several".to_owned(),
        "one-per-node" => "one-per-node: one pod on a node at most, one leaf before several".to_owned(),
        "whole-nodes" => "whole-nodes: nodes that nobody else uses, next to each other".to_owned(),
        other => other.to_owned(),
    };
    match word(&record.reach).as_str() {
        "preferred" | "" => lie,
        reach => format!("{lie}; {reach}: further apart than that it does not go"),
    }
}

/// The plan, node by node.
fn plan(pod: &PodFacts, decision: &Decision) -> Option<String> {
    let record = &decision.record;
    let mine = planned_node(pod, decision);
    let line = |line: &vnpu_placement::explain::PlanLine| {
        let mark = if mine.as_ref() == Some(&line.node) { "*" } else { "" };
        match line.pods {
            1 => format!("{}{mark}", line.node),
            pods => format!("{}{mark} ({pods} pods)", line.node),
        }
    };
    let shown: Vec<String> = record.plan.iter().map(line).collect();
    let rest = record.pods.saturating_sub(record.plan.iter().map(|line| line.pods).sum());
    let rest = if rest > 0 && !shown.is_empty() { format!(", and {rest} more pods") } else { String::new() };
    let note = if mine.is_some() { "; * is where this pod goes" } else { "" };
    let outcome_is_plan = matches!(decision.outcome, Outcome::Placed(_));
    (outcome_is_plan && !shown.is_empty()).then(|| format!("{}{rest}{note}", shown.join(", ")))
}

fn domains(notes: &[DomainNote]) -> Vec<String> {
    let row = |note: &DomainNote| {
        let fate = match note.fate {
            Fate::Chosen => "chosen",
            Fate::Passed => "passed over",
            Fate::Refused => "no room",
            Fate::Held => "held for it",
        };
        vec![fate.to_owned(), domain(note), clean(&note.reason)]
    };
    columns(&notes.iter().map(row).collect::<Vec<_>>())
}

fn domain(note: &DomainNote) -> String {
    let tier = match note.tier {
        Tier::Node => "node",
        Tier::Leaf => "leaf",
        Tier::Superpod => "super-pod",
        Tier::Across => "super-pods",
    };
    if note.name.is_empty() { format!("no {tier}") } else { format!("{tier} {}", clean(&note.name)) }
}

/// What can be said without a record.
fn without_controller(pod: &PodFacts, answer: &Answer) -> Vec<String> {
    let mut lines = vec![match answer {
        Answer::Unreachable { problem } => format!("The controller does not say why: {problem}"),
        _ => "The controller has no record of this pod.".to_owned(),
    }];
    lines.extend(reasons(pod));
    lines.iter().map(|line| clean(line)).collect()
}

/// Why there may be no record, as the pod itself tells.
fn reasons(pod: &PodFacts) -> Vec<String> {
    const PLACEMENT: &str = "vnpu.dev/placement";
    let mut reasons = Vec::new();
    if !pod.asks_for_devices {
        reasons
            .push("It asks for no devices: it has no claims, and no limit on a resource of vnpu.".to_owned());
    }
    if pod.wishes.get(PLACEMENT).map(String::as_str) == Some("none") {
        reasons.push(format!("Its annotation {PLACEMENT} is none: vnpu does not place it."));
    }
    if let Some(owner) = pod.owner.as_ref().filter(|owner| owner.starts_with("DaemonSet ")) {
        reasons.push(format!("It belongs to {owner}: pods of DaemonSets are not placed."));
    }
    if !matches!(pod.scheduler.as_str(), "" | "default-scheduler") {
        reasons.push(format!(
            "It names the scheduler {}: only pods of those in placement.schedulerNames are placed.",
            pod.scheduler
        ));
    }
    if reasons.is_empty() && !pod.gated {
        reasons.push(
            "It has no gate of vnpu (any more). It may have been placed before this controller began to lead, or \
             created while none was there."
                .to_owned(),
        );
    }
    let wishes: Vec<String> = pod.wishes.iter().map(|(key, value)| format!("{key}: {value}")).collect();
    if !wishes.is_empty() {
        reasons.push(format!("It says {}.", wishes.join(", ")));
    }
    reasons
}

fn since(told: &Told) -> Vec<String> {
    told.events.iter().map(|event| clean(event)).collect()
}

fn scheduler(pod: &PodFacts) -> Vec<String> {
    // Of a gated pod it only says that there is a gate.
    let said =
        pod.not_scheduled.as_ref().filter(|(reason, _)| pod.node.is_none() && reason != "SchedulingGated");
    said.map(|(reason, message)| clean(&format!("{reason}: {message}"))).into_iter().collect()
}

fn events(happened: &[Happened], now: Timestamp) -> Vec<String> {
    let newest = happened.iter().skip(happened.len().saturating_sub(EVENTS));
    let row = |event: &Happened| {
        let age = event.at.map(|at| format!("{} ago", age(at, now))).unwrap_or_default();
        let kind = if event.warning { "Warning" } else { "Normal" };
        let text = format!("{}: {}", event.reason, event.message);
        vec![age, kind.to_owned(), clean(&event.from), clean(&text)]
    };
    columns(&newest.map(row).collect::<Vec<_>>())
}

/// A title and what is under it; nothing where that is nothing.
fn section(title: &str, lines: &[String]) -> Vec<String> {
    if lines.is_empty() {
        return Vec::new();
    }
    let mut section = vec![String::new(), title.to_owned()];
    section.extend(lines.iter().map(|line| format!("  {line}")));
    section
}

/// How long ago, as kubectl says it.
fn age(at: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(at.as_second()).max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

/// The word under which a value is written.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests;

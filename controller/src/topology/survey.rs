//! All nodes and all sources, and what is to be done next about them. Time is an argument, and nothing is written here:
//! [`super::run`] carries the tasks out and tells what came of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;
use vnpu_driver::controller_config::TopologySources;

use super::label::{NodeSeen, decide};
use super::{Place, Sources, Table, resolve};

/// After a write the node is left alone for so long: whoever takes labels away again and again must not keep us busy.
const QUIET: Duration = Duration::from_secs(10);
/// The pause after a failed write, which doubles with each further one, and its longest.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Write a node's labels, unless somebody else manages them.
    Write {
        /// Its name.
        node: String,
        /// Its UID: another node of that name is not meant.
        uid: String,
        /// The labels as a whole.
        place: Place,
    },
    /// Tell that sources disagree.
    Tell {
        /// The node's name.
        node: String,
        /// Its UID.
        uid: String,
        /// In words.
        message: String,
    },
}

/// What came of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Done; this is the node now, at this resource version.
    Written(Box<NodeSeen>, String),
    /// Somebody else manages a label, in the API server's words.
    Conflict(String),
    /// It failed, and may succeed later.
    Failed,
}

/// One node.
#[derive(Debug, Default)]
struct Entry {
    seen: NodeSeen,
    version: String,
    /// Disagreements that were told.
    told: Vec<String>,
    /// What the API server did not take, and why: not tried again before the node changes.
    refused: Option<(Place, String)>,
    /// A write is under way.
    busy: bool,
    failures: u32,
    not_before: Option<Instant>,
}

/// The survey.
#[derive(Debug, Default)]
pub struct Survey {
    sources: Sources,
    nodes: BTreeMap<String, Entry>,
    /// Nodes to look at.
    due: BTreeSet<String>,
    /// Nodes to look at later.
    later: BTreeSet<(Instant, String)>,
    tellings: VecDeque<Task>,
    disagreeing: BTreeSet<String>,
}

impl Survey {
    /// No node yet, and of the sources only which labels count.
    pub fn new(config: TopologySources) -> Self {
        Self { sources: Sources { config, ..Sources::default() }, ..Self::default() }
    }

    /// Takes the administrator's table; all nodes are looked at again if it says something else than before.
    pub fn know_table(&mut self, table: &Table) {
        if self.sources.table != *table {
            self.sources.table.clone_from(table);
            self.due.extend(self.nodes.keys().cloned());
        }
    }

    /// Takes the levels of Kueue's Topology, in the same way.
    pub fn know_levels(&mut self, levels: &[String]) {
        if self.sources.kueue_levels != levels {
            self.sources.kueue_levels = levels.to_vec();
            self.due.extend(self.nodes.keys().cloned());
        }
    }

    /// A node that is new or has changed, at a resource version.
    pub fn see(&mut self, name: &str, seen: NodeSeen, version: &str) {
        let entry = self.nodes.entry(name.to_owned()).or_default();
        if entry.seen.uid != seen.uid {
            *entry = Entry::default();
        } else if is_older(version, &entry.version) {
            // Older than what a write has answered.
            return;
        }
        version.clone_into(&mut entry.version);
        if entry.seen != seen {
            entry.seen = seen;
            entry.refused = None;
            self.due.insert(name.to_owned());
        }
    }

    /// A node is gone.
    pub fn forget(&mut self, name: &str) {
        self.nodes.remove(name);
        self.due.remove(name);
        self.disagreeing.remove(name);
    }

    /// How many nodes have sources that disagree.
    pub fn disagreeing(&self) -> usize {
        self.disagreeing.len()
    }

    /// When there is something to look at, if nothing happens before.
    pub fn alarm(&self) -> Option<Instant> {
        self.later.first().map(|(at, _)| *at)
    }

    /// The next thing to do at `now`. A node has one write at a time.
    pub fn next(&mut self, now: Instant) -> Option<Task> {
        while let Some((at, name)) = self.later.pop_first() {
            if at > now {
                self.later.insert((at, name));
                break;
            }
            self.due.insert(name);
        }
        loop {
            if let Some(told) = self.tellings.pop_front() {
                return Some(told);
            }
            let name = self.due.pop_first()?;
            if let Some(task) = self.look(name, now) {
                return Some(task);
            }
        }
    }

    fn look(&mut self, name: String, now: Instant) -> Option<Task> {
        let entry = self.nodes.get_mut(&name)?;
        let mut decision = decide(&name, &entry.seen, &resolve(&name, &entry.seen.labels, &self.sources));
        match (&entry.refused, &decision.write) {
            (Some((refused, why)), Some(place)) if refused == place => {
                decision.disagreements.push(why.clone());
                decision.write = None;
            }
            _ => entry.refused = None,
        }
        let uid = &entry.seen.uid;
        if entry.told != decision.disagreements {
            let news = decision.disagreements.iter().filter(|message| !entry.told.contains(message));
            self.tellings.extend(news.map(|message| Task::Tell {
                node: name.clone(),
                uid: uid.clone(),
                message: message.clone(),
            }));
            match decision.disagreements.is_empty() {
                true => self.disagreeing.remove(&name),
                false => self.disagreeing.insert(name.clone()),
            };
            entry.told = decision.disagreements;
        }
        let place = decision.write.filter(|_| !entry.busy)?;
        if let Some(at) = entry.not_before.filter(|at| *at > now) {
            self.later.insert((at, name));
            return None;
        }
        entry.busy = true;
        Some(Task::Write { uid: uid.clone(), node: name, place })
    }

    /// What came of a write of `place`.
    pub fn done(&mut self, name: &str, place: Place, outcome: Outcome, now: Instant) {
        let Some(entry) = self.nodes.get_mut(name).filter(|entry| entry.busy) else { return };
        entry.busy = false;
        self.due.insert(name.to_owned());
        match outcome {
            Outcome::Written(seen, version) => {
                entry.failures = 0;
                entry.not_before = now.checked_add(QUIET);
                if entry.seen.uid != seen.uid || is_older(&version, &entry.version) {
                    return;
                }
                (entry.seen, entry.version) = (*seen, version);
                if entry.seen.written() != place {
                    let why = format!(
                        "the API server answered that the labels of {name} are written, and they are not: an admission \
                         webhook or policy may take them away"
                    );
                    entry.refused = Some((place, why));
                }
            }
            // Somebody was faster. The watch will say who; if it does not, the API server's words have to do.
            Outcome::Conflict(why) if entry.failures > 0 => {
                entry.failures = 0;
                entry.refused = Some((place, format!("labels of {name} stay as they are: {why}")));
            }
            Outcome::Conflict(_) | Outcome::Failed => {
                let pause = PAUSE.saturating_mul(1_u32.checked_shl(entry.failures).unwrap_or(u32::MAX));
                entry.failures = entry.failures.saturating_add(1);
                entry.not_before = now.checked_add(pause.min(LONGEST_PAUSE));
            }
        }
    }
}

/// Resource versions of one kind are numbers that grow (KEP-5504).
fn is_older(one: &str, other: &str) -> bool {
    match (one.parse::<u128>(), other.parse::<u128>()) {
        (Ok(one), Ok(other)) => one < other,
        _ => false,
    }
}

#[cfg(test)]
mod tests;

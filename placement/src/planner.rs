//! The one type that shells use: the view, the queue and the decisions over both. It is told what happens and what
//! time it is, and it answers; it never acts.

mod decide;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::batch::{Batch, BatchKey};
use crate::decision::Decision;
use crate::moment::Moment;
use crate::queue::{Entry, Queue};
use crate::record::{Input, Sink, Snapshot, line};
use crate::view::{Change, View};

/// What can be set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Config {
    /// How many batches of the queue are looked at in one decision; at least 1.
    pub depth: usize,
    /// How long others may pass a batch. After it the batch comes first in its priority, takes the first plan there is,
    /// and while there is none, nodes that have room for it are closed to others. A short bound is dear: closed nodes
    /// idle until enough of them have room.
    pub aging_bound: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { depth: 64, aging_bound: Duration::from_secs(24 * 3600) }
    }
}

/// The planner.
#[derive(Default)]
pub struct Planner {
    view: View,
    queue: Queue,
    config: Config,
    /// The number of the next reservation.
    next_order: u64,
    deadline: Option<Moment>,
    sink: Option<Box<dyn Sink + Send>>,
}

impl std::fmt::Debug for Planner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Planner")
            .field("version", &self.view.version())
            .field("waiting", &self.queue.len())
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Planner {
    /// A planner that knows nothing yet.
    pub fn new(config: Config) -> Self {
        Self { config, ..Self::default() }
    }

    /// The view, to look at.
    pub const fn view(&self) -> &View {
        &self.view
    }

    /// The view, for questions that bring it up to date first, such as [`View::free`]. What is changed here directly
    /// is not in a recording: news go through [`Self::update`].
    pub const fn view_mut(&mut self) -> &mut View {
        &mut self.view
    }

    /// The configuration.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Takes another configuration from now on. It is no part of a recording: one begins anew with it.
    pub fn set_config(&mut self, config: Config) {
        self.config = config;
    }

    /// The batches that wait, in order.
    pub fn waiting(&self) -> impl Iterator<Item = &Entry> {
        self.queue.all()
    }

    /// How many batches wait.
    pub fn waiting_count(&self) -> usize {
        self.queue.len()
    }

    /// Takes in one piece of news of the cluster.
    pub fn update(&mut self, change: Change) {
        if self.sink.is_some() {
            self.note(&Input::Change(change.clone()));
        }
        self.view.apply(change);
    }

    /// Enters a batch, or what it is now: members may come and go. Members that are reserved or bound already are not
    /// placed again, so a batch may be entered again after it was decided.
    pub fn submit(&mut self, batch: Batch, now: Moment) {
        if self.sink.is_some() {
            self.note(&Input::Submit { batch: batch.clone(), now });
        }
        self.queue.enter(batch);
    }

    /// Takes a batch out of the queue. Reservations of its pods stay until they are released.
    pub fn withdraw(&mut self, key: &BatchKey) {
        if self.sink.is_some() {
            self.note(&Input::Withdraw { batch: key.clone() });
        }
        self.queue.remove(key);
    }

    /// Decides what can be decided: batches that are placed leave the queue with their pods reserved; of those that
    /// wait, what is new is said once.
    pub fn decide(&mut self, now: Moment) -> Vec<Decision> {
        if self.sink.is_some() {
            self.note(&Input::Decide { now });
        }
        let decisions = self.decide_all(now);
        if self.sink.is_some() {
            for decision in &decisions {
                self.note(&Input::Decided(Box::new(decision.clone())));
            }
        }
        decisions
    }

    /// When [`Self::decide`] has to be called again although nothing has changed; known after a decision.
    pub const fn next_deadline(&self) -> Option<Moment> {
        self.deadline
    }

    /// Records from now on, beginning with a snapshot of everything; `None` ends it.
    pub fn record_to(&mut self, sink: Option<Box<dyn Sink + Send>>) {
        self.sink = sink;
        if self.sink.is_some() {
            let snapshot = self.snapshot();
            self.note(&Input::Snapshot(Box::new(snapshot)));
        }
    }

    /// Everything that the planner knows.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            config: self.config.clone(),
            next_order: self.next_order,
            view: self.view.snapshot(),
            queue: self.queue.all().cloned().collect(),
        }
    }

    /// A planner that knows this.
    pub fn restore(snapshot: Snapshot) -> Self {
        let mut planner = Self::new(snapshot.config);
        planner.next_order = snapshot.next_order;
        for change in snapshot.view.changes {
            planner.view.apply(change);
        }
        planner.view.version = snapshot.view.version;
        planner.view.touch_all();
        for entry in snapshot.queue {
            planner.queue.put(entry);
        }
        planner
    }

    fn note(&mut self, input: &Input) {
        if let Some(sink) = &mut self.sink {
            sink.line(&line(input));
        }
    }
}

#[cfg(test)]
mod tests;

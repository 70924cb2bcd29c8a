//! Why things were decided, kept for those who ask: the newest decision of each batch, a bounded number of them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use vnpu_placement::Decision;
use vnpu_placement::batch::BatchKey;

/// So many batches are remembered.
const KEPT: usize = 1000;

/// What is told of one batch.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    /// Its pods, as `namespace/name`.
    pub pods: Vec<String>,
    /// The decision with its record.
    pub decision: Decision,
    /// The record as text.
    pub text: String,
    /// What was told of it, oldest first.
    pub events: Vec<String>,
}

/// The records; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Records(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    batches: BTreeMap<BatchKey, Told>,
    order: VecDeque<BatchKey>,
}

impl Records {
    /// Keeps a decision. What was told of the batch before stays with it, unless it is another batch of that name.
    pub fn keep(&self, decision: Decision, pods: Vec<String>) {
        let mut kept = self.lock();
        let key = decision.batch.clone();
        let earlier =
            kept.batches.get_mut(&key).filter(|told| told.pods.iter().any(|pod| pods.contains(pod)));
        let events = earlier.map(|told| std::mem::take(&mut told.events)).unwrap_or_default();
        let told = Told { text: decision.record.to_string(), pods, decision, events };
        if kept.batches.insert(key.clone(), told).is_none() {
            kept.order.push_back(key);
        }
        while kept.order.len() > KEPT {
            if let Some(oldest) = kept.order.pop_front() {
                kept.batches.remove(&oldest);
            }
        }
    }

    /// Notes what happened to a pod of a batch.
    pub fn note(&self, pod: &str, event: String) {
        /// A batch that is told of again and again is told of so often here.
        const EVENTS: usize = 20;
        let mut kept = self.lock();
        if let Some(told) = kept.batches.values_mut().find(|told| told.pods.iter().any(|p| p == pod)) {
            if told.events.len() >= EVENTS {
                told.events.remove(0);
            }
            told.events.push(event);
        }
    }

    /// The page: with `pod=namespace/name` in the query the batch of that pod, else all, as JSON.
    pub fn page(&self, query: &str) -> String {
        let kept = self.lock();
        let wanted = query.split('&').find_map(|part| part.strip_prefix("pod="));
        let wanted = wanted.map(|pod| pod.replace("%2F", "/").replace("%2f", "/"));
        let batches = kept.batches.values();
        let batches = batches.filter(|told| wanted.as_ref().is_none_or(|pod| told.pods.contains(pod)));
        serde_json::to_string_pretty(&batches.collect::<Vec<_>>()).unwrap_or_default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use vnpu_placement::Outcome;
    use vnpu_placement::batch::{Mode, Reach};
    use vnpu_placement::moment::Moment;

    use super::*;

    fn decision() -> Decision {
        let batch = BatchKey(Arc::from("batch/bank/train"));
        let record = vnpu_placement::explain::Record {
            batch: batch.clone(),
            title: "batch bank/train".to_owned(),
            mode: Mode::Pack,
            reach: Reach::Preferred,
            pods: 1,
            demand: Vec::new(),
            unmodelled: Vec::new(),
            domains: Vec::new(),
            tie: None,
            plan: Vec::new(),
            answer: "never fits".to_owned(),
            version: 1,
            now: Moment::default(),
        };
        Decision { batch, outcome: Outcome::NeverFits, record }
    }

    #[test]
    fn what_was_told_of_a_batch_stays_with_its_next_decision() {
        let records = Records::default();
        let pods = |names: &[&str]| names.iter().map(|name| format!("bank/{name}")).collect::<Vec<_>>();
        records.keep(decision(), pods(&["a", "b"]));
        records.note("bank/a", "PartialBatch: one is missing".to_owned());
        records.keep(decision(), pods(&["a", "b"]));
        assert!(records.page("pod=bank%2Fb").contains("PartialBatch"));
        // The next batch of that name has nothing to do with it.
        records.keep(decision(), pods(&["c"]));
        assert!(!records.page("").contains("PartialBatch"));
    }
}

//! The planner of this project, as a policy: the same code as in the controller. Devices inside a node are given as
//! kube-scheduler gives them, first fit in the order that the node plugin publishes.

mod node;
mod objects;

use std::collections::BTreeMap;
use std::time::Duration;

use vnpu_driver::id::{InvalidId, NodeName};
use vnpu_placement::batch::{BatchKey, Mode};
use vnpu_placement::moment::Moment;
use vnpu_placement::{Change, Config, Outcome, Placement, Planner, Sink};

use crate::cluster::{Cluster, Spot};
use crate::job::{Job, Shape};
use crate::policy::{Policy, Start};

use self::node::PublishedNode;

/// What is set for every batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How long a batch waits for a domain of the smallest size.
    pub patience: Duration,
    /// How its pods lie.
    pub mode: Mode,
}

/// The planner.
pub struct Ours {
    planner: Planner,
    nodes: Vec<PublishedNode>,
    numbers: BTreeMap<NodeName, usize>,
    jobs: BTreeMap<BatchKey, usize>,
    settings: Settings,
}

impl Ours {
    /// A planner that knows an empty cluster of this shape.
    ///
    /// # Errors
    /// When the cluster's names are not valid, which is a bug.
    pub fn new(shape: &Shape, settings: Settings, config: Config) -> Result<Self, InvalidId> {
        let mut planner = Planner::new(config);
        for class in objects::classes() {
            planner.update(Change::Class(class));
        }
        let (mut nodes, mut numbers) = (Vec::new(), BTreeMap::new());
        for number in 0..shape.nodes {
            let node = PublishedNode::new(shape, number)?;
            numbers.insert(node.name.clone(), number);
            planner.update(Change::Node(node.object(number / shape.per_leaf.max(1))));
            planner.update(Change::Pool(node.pool()));
            nodes.push(node);
        }
        Ok(Self { planner, nodes, numbers, jobs: BTreeMap::new(), settings })
    }

    /// Records everything from now on.
    pub fn record_to(&mut self, sink: Box<dyn Sink + Send>) {
        self.planner.record_to(Some(sink));
    }

    /// Tells what pods hold now, as the informers of the controller would.
    fn start(
        &mut self,
        number: usize,
        job: &Job,
        placement: &Placement,
        cluster: &mut Cluster,
    ) -> Option<Start> {
        let mut spots = Vec::with_capacity(placement.assignments.len());
        for (pod, assignment) in placement.assignments.iter().enumerate() {
            let node = *self.numbers.get(&assignment.node)?;
            let published = self.nodes.get(node)?;
            let taken = published.first_fit(cluster.nodes.get_mut(node)?, job.ask)?;
            let uid = objects::claim_uid(number, pod).ok()?;
            let claim = published.allocated(uid, taken);
            let bound = objects::bound_pod(&assignment.pod, &assignment.node);
            self.planner.update(Change::Claim(claim));
            self.planner.update(Change::Pod(bound));
            spots.push(Spot { node, taken });
        }
        self.reorder(&spots, Some(cluster));
        Some(Start { job: number, spots })
    }

    /// The node plugin's part: it publishes another order where first fit would break a module without need.
    fn reorder(&mut self, spots: &[Spot], cluster: Option<&Cluster>) {
        for spot in spots {
            let Some(node) = self.nodes.get_mut(spot.node) else { continue };
            if let Some(chips) = cluster.and_then(|cluster| cluster.nodes.get(spot.node)) {
                node.seen = chips.clone();
            } else {
                node.seen.give(spot.taken);
            }
            if node.reorder() {
                self.planner.update(Change::Pool(node.pool()));
            }
        }
    }
}

impl Policy for Ours {
    fn arrive(&mut self, number: usize, job: &Job, now: Moment) {
        let batch = objects::batch(number, job, self.settings.patience, self.settings.mode);
        self.jobs.insert(batch.key.clone(), number);
        self.planner.submit(batch, now);
    }

    fn end(&mut self, number: usize, _: &Job, spots: &[Spot]) {
        for pod in 0..spots.len() {
            self.planner.update(Change::PodGone(objects::pod_uid(number, pod)));
            if let Ok(uid) = objects::claim_uid(number, pod) {
                self.planner.update(Change::ClaimGone(uid));
            }
        }
        self.reorder(spots, None);
    }

    fn decide(&mut self, cluster: &Cluster, jobs: &[Job], now: Moment) -> Vec<Start> {
        if self.planner.waiting_count() == 0 {
            return Vec::new();
        }
        let decisions = self.planner.decide(now);
        let mut cluster = cluster.clone();
        let mut starts = Vec::new();
        for decision in decisions {
            let Outcome::Placed(placement) = decision.outcome else { continue };
            let Some(number) = self.jobs.remove(&decision.batch) else { continue };
            let Some(job) = jobs.get(number) else { continue };
            starts.extend(self.start(number, job, &placement, &mut cluster));
        }
        starts
    }

    fn wake(&self) -> Option<Moment> {
        self.planner.next_deadline().filter(|_| self.planner.waiting_count() > 0)
    }
}

#[cfg(test)]
mod tests;

//! Three tiers and a hash, the method that a bank published on top of HAMi: a pod prefers a node that runs pods of its
//! controller, then a leaf that does, and among equals the node of the highest hash of controller UID and node.

use super::hami::raised;
use super::per_pod::{Choice, Score, Scorer, place};
use crate::chips::Chips;
use crate::cluster::{Cluster, Spot};
use crate::job::{Ask, Job};
use crate::policy::Place;
use crate::random::weight;

/// Three tiers and a hash.
#[derive(Debug)]
pub struct TiersAndHash {
    dual: bool,
}

impl TiersAndHash {
    /// On such hardware.
    pub const fn new(dual: bool) -> Self {
        Self { dual }
    }
}

impl Scorer for TiersAndHash {
    fn ask(&self, job: &Job) -> Ask {
        raised(job.ask, self.dual)
    }

    fn score(&mut self, choice: &Choice<'_>, node: usize, _: &Chips) -> Score {
        let leaf = choice.cluster.leaf(node);
        let tier = if choice.earlier.iter().any(|spot| spot.node == node) {
            2
        } else {
            u64::from(choice.earlier.iter().any(|spot| choice.cluster.leaf(spot.node) == leaf))
        };
        (tier, weight(choice.job.owner, u64::try_from(node).unwrap_or(u64::MAX)), 0)
    }
}

impl Place for TiersAndHash {
    fn place(&mut self, cluster: &mut Cluster, job: &Job) -> Option<Vec<Spot>> {
        place(self, cluster, job)
    }
}

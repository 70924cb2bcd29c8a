//! Batches: pods of one controller that are placed together or not at all.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use vnpu_driver::id::NodeName;

use crate::demand::PodDemand;
use crate::moment::Moment;

/// Which batch: the controller's UID, or the value of the label `vnpu.dev/batch` with its namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BatchKey(pub Arc<str>);

impl fmt::Display for BatchKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How the pods of a batch lie (annotation `vnpu.dev/placement`; a pod under `none` is never in a batch).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Same node first, then same leaf, then across leaves.
    Pack,
    /// At most one on a node; same leaf first.
    OnePerNode,
    /// Nodes without any other use of our devices, contiguous in leaf and super-pod.
    WholeNodes,
}

/// How far apart the pods of a batch may be (annotation `vnpu.dev/topology`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// As close as there is room for.
    #[default]
    Preferred,
    /// One node, or not at all.
    RequiredNode,
    /// One leaf, or not at all.
    RequiredLeaf,
    /// One super-pod, or not at all.
    RequiredSuperpod,
}

/// One pod that waits to be placed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// `metadata.uid`.
    pub uid: String,
    /// `namespace/name`.
    pub name: String,
    /// Completion index, ordinal or pod index: the order along leaf and node. `None` sorts by name.
    pub rank: Option<u32>,
    /// What it needs; equal demands are one allocation.
    pub demand: Arc<PodDemand>,
}

/// Pods that are placed together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Which.
    pub key: BatchKey,
    /// What breaks ties between domains: the controller's UID, or the key.
    pub owner: String,
    /// For people: `Job bank/train`.
    pub title: String,
    /// How its pods lie.
    pub mode: Mode,
    /// How far apart they may be.
    pub reach: Reach,
    /// Its priority: that of its pods' class.
    pub priority: i32,
    /// When its first pod was made.
    pub arrived: Moment,
    /// How long it is put off for a domain of the smallest size, from when it could be placed first; zero: not at all.
    pub patience: Duration,
    /// The pods to place.
    pub members: Vec<Member>,
    /// Pods of the batch that are placed already, and where: the others go near them.
    pub placed: Vec<(String, NodeName)>,
    /// What the planner does not model of these pods (pod affinity, volumes, ...), for the explanation.
    pub unmodelled: Vec<String>,
}

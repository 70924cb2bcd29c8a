//! What the planner answers: where the pods of a batch go, or why they wait.

use serde::{Deserialize, Serialize};
use vnpu_driver::id::NodeName;

use crate::batch::BatchKey;
use crate::explain::Record;
use crate::moment::Moment;

/// How near to each other the pods of a batch are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// All on one node.
    Node,
    /// All on one leaf.
    Leaf,
    /// All in one super-pod.
    Superpod,
    /// Over several super-pods.
    Across,
}

/// The node of one pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Assignment {
    /// `metadata.uid`.
    pub pod: String,
    /// `namespace/name`.
    pub name: String,
    /// Its node.
    pub node: NodeName,
    /// That node's `vnpu.dev/leaf`, where it has one.
    pub leaf: Option<String>,
}

/// A plan that was taken: its resources and devices are reserved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// The pods in the order in which they are to be let go: by rank.
    pub assignments: Vec<Assignment>,
    /// How near they are, members placed before included.
    pub tier: Tier,
    /// The value of `vnpu.dev/leaf` that all of them share; `None` when they do not, or it is no label.
    pub leaf: Option<String>,
    /// The same for `vnpu.dev/superpod`.
    pub superpod: Option<String>,
}

/// Why a batch waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WaitReason {
    /// It fits nowhere now.
    NoRoom,
    /// It would fit, but further apart than it has to be, and its patience is not over.
    Patience,
}

/// A decision's outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// Its pods can be let go.
    Placed(Placement),
    /// It stays in the queue.
    Waiting {
        /// Why.
        reason: WaitReason,
        /// The domain that is held for it.
        target: Option<String>,
        /// When that changes even if nothing else does.
        until: Option<Moment>,
    },
    /// It would not fit if the whole cluster were free. It stays in the queue, for nodes may come.
    NeverFits,
}

/// What was decided of one batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// Which.
    pub batch: BatchKey,
    /// What.
    pub outcome: Outcome,
    /// Why, for people.
    pub record: Record,
}

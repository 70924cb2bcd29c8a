//! The part of the configuration that says how pods are placed, and the words that pods may say about it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ConfigError, Span, WorkloadKind, invalid, within};

/// How the pods of a batch lie: values of the annotation `vnpu.dev/placement`.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum PlacementMode {
    /// Same node first, then same leaf, then across leaves.
    #[default]
    Pack,
    /// At most one on a node; same leaf first.
    OnePerNode,
    /// Nodes without any other use of our devices, contiguous in leaf and super-pod.
    WholeNodes,
    /// Not placed by us: the pod is never held back.
    None,
}

/// How far apart the pods of a batch may be: values of the annotation `vnpu.dev/topology`.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum TopologyWish {
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

/// What happens to a batch that fits nowhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnNoFit {
    /// It waits. Cluster autoscalers do not see its pods.
    #[default]
    Wait,
    /// After `patience` its pods are released without a plan, so that an autoscaler sees them.
    Release,
}

/// What happens to a batch of which only some pods found their place in time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnPartial {
    /// An event and a metric.
    #[default]
    Report,
    /// The missing pods are deleted, for their owner to make again.
    Recreate,
}

/// The mode of pods that do not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Modes {
    /// Of pods of `gangKinds` whose claims only hardware with modules can serve.
    pub gang: PlacementMode,
    /// Of all others.
    pub other: PlacementMode,
}

impl Default for Modes {
    fn default() -> Self {
        Self { gang: PlacementMode::OnePerNode, other: PlacementMode::Pack }
    }
}

/// How pods are placed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Placement {
    /// Schedulers whose pods are placed; pods of others are left alone.
    pub scheduler_names: Vec<String>,
    /// How long a batch that could start waits for a domain of the smallest size that can hold it, where its pods do not
    /// say (annotation `vnpu.dev/patience`); `0`: not at all.
    pub patience: Span,
    /// How long a batch waits before it comes first and nodes are kept free for it, one batch at a time.
    pub aging_bound: Span,
    /// What happens to a batch that fits nowhere.
    pub on_no_fit: OnNoFit,
    /// What happens to a batch of which only some pods found their place.
    pub on_partial: OnPartial,
    /// How many waiting batches are looked at in one round, 1 to 10000.
    #[schemars(range(min = 1, max = 10000))]
    pub queue_depth: usize,
    /// Kinds whose pods work as one. Of `Job.batch` only indexed Jobs are meant.
    pub gang_kinds: Vec<WorkloadKind>,
    /// The mode of pods that do not say.
    pub modes: Modes,
}

impl Default for Placement {
    fn default() -> Self {
        let gang = |kind: &str, group: &str| WorkloadKind { kind: kind.to_owned(), group: group.to_owned() };
        Self {
            scheduler_names: vec!["default-scheduler".to_owned()],
            patience: Span::default(),
            aging_bound: Span::minutes(24 * 60),
            on_no_fit: OnNoFit::default(),
            on_partial: OnPartial::default(),
            queue_depth: 64,
            gang_kinds: vec![
                gang("Job", "batch"),
                gang("JobSet", "jobset.x-k8s.io"),
                gang("LeaderWorkerSet", "leaderworkerset.x-k8s.io"),
                gang("MPIJob", "kubeflow.org"),
                gang("PyTorchJob", "kubeflow.org"),
                gang("Job", "batch.volcano.sh"),
                gang("PodGroup", "scheduling.k8s.io"),
                gang("PodGroup", "scheduling.volcano.sh"),
            ],
            modes: Modes::default(),
        }
    }
}

impl Placement {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.scheduler_names.is_empty() || self.scheduler_names.iter().any(String::is_empty) {
            return Err(invalid(
                "placement.schedulerNames",
                "it must name at least one scheduler, none of them empty",
            ));
        }
        within("placement.queueDepth", self.queue_depth, 1, 10_000)
    }
}

//! What one pod needs: resources, devices by claims, and which nodes it may go to.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use vnpu_driver::id::{ClaimUid, NodeName};

use crate::resources::Resources;

/// A toleration of a pod or of a device request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Toleration {
    /// Key; empty tolerates all keys (with `Exists`).
    pub key: String,
    /// The value that must be equal; `None` for `Exists`.
    pub value: Option<String>,
    /// The effect; empty tolerates all.
    pub effect: String,
}

/// One requirement on a node's labels (`matchExpressions`; `metadata.name` under `matchFields` is told as the key
/// `metadata.name`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// What must hold.
    pub operator: Operator,
    /// Its operands.
    pub values: Vec<String>,
}

/// Operators of node affinity (`core/v1` `NodeSelectorOperator`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Operator {
    /// The value is one of these.
    In,
    /// The value is none of these, or absent.
    NotIn,
    /// The label is there.
    Exists,
    /// It is not there.
    DoesNotExist,
    /// It is a number above this.
    Gt,
    /// It is a number below this.
    Lt,
}

/// Which nodes a pod may go to.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeFit {
    /// `spec.nodeSelector`.
    pub labels: BTreeMap<String, String>,
    /// Required node affinity: terms of which one must hold, each of requirements that all must hold. Empty: any node.
    pub terms: Vec<Vec<Requirement>>,
    /// `spec.tolerations`.
    pub tolerations: Vec<Toleration>,
}

/// How many devices a request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Count {
    /// So many.
    Exactly(u32),
    /// All that match on the node.
    All,
}

/// One way to serve a request: `exactly`, or an alternative of `firstAvailable`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ask {
    /// The alternative's name; empty for `exactly`.
    pub name: String,
    /// The DeviceClass.
    pub class: String,
    /// The request's own CEL selectors.
    pub selectors: Vec<String>,
    /// How many.
    pub count: Count,
    /// What it asks of capacities, in whole units rounded up.
    pub capacity: BTreeMap<String, u64>,
    /// Tolerations of device taints.
    pub tolerations: Vec<Toleration>,
    /// Administrative access, which uses nothing up.
    pub admin_access: bool,
}

/// One request of a claim.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Request {
    /// Its name.
    pub name: String,
    /// The ways to serve it, in the order of preference; never empty.
    pub alternatives: Vec<Ask>,
}

/// A constraint over the devices of some requests.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Constraint {
    /// The requests, as `main` or `main/sub`; empty means all.
    pub requests: Vec<String>,
    /// The attribute's qualified name.
    pub attribute: String,
    /// Whether its values must all differ (`distinctAttribute`) instead of all being equal (`matchAttribute`).
    pub distinct: bool,
}

/// What a claim asks for, apart from which claim it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClaimSpec {
    /// Requests of classes of this driver, in order. Those of other drivers are not told.
    pub requests: Vec<Request>,
    /// Constraints.
    pub constraints: Vec<Constraint>,
}

/// One claim of a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClaimDemand {
    /// The claim object; `None` while it is not made yet (from a template, for extended resources).
    pub uid: Option<ClaimUid>,
    /// The claim is named by the pod and may be used by others: pods that share it go to one node.
    pub shared: bool,
    /// The node that its allocation fixes.
    pub node: Option<NodeName>,
    /// What it asks for.
    pub spec: ClaimSpec,
}

/// What one pod needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodDemand {
    /// Requests, overhead included, and one of `pods`.
    pub resources: Resources,
    /// Which nodes.
    pub fit: NodeFit,
    /// Its claims.
    pub claims: Vec<ClaimDemand>,
}

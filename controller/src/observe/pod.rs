//! Pods: what they need, whether they wait at our gate, and what their annotations wish.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1 as api;
use serde_json::json;
use vnpu_driver::admission::pod::{GATE, PodWishes};
use vnpu_driver::controller_config::WorkloadKind;
use vnpu_driver::id::NodeName;
use vnpu_placement::demand::{NodeFit, Operator, Requirement, Toleration};
use vnpu_placement::moment::Moment;
use vnpu_placement::resources::Resources;

use super::resources;

/// Label: pods with the same value (and namespace) are one batch, whoever controls them.
pub const BATCH: &str = "vnpu.dev/batch";
/// A pod's controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerRef {
    /// Its kind, in its group.
    pub kind: WorkloadKind,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// A claim as a pod names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimRef {
    /// A claim that stands by itself and may be shared.
    Named(String),
    /// A claim made from a template; its name once it is made.
    Template {
        /// The template.
        template: String,
        /// The claim's name, from `status.resourceClaimStatuses`.
        claim: Option<String>,
    },
}

/// Who still holds the pod back from the scheduler.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gates {
    /// Our gate is there.
    pub ours: bool,
    /// Another party's gate is there.
    pub others: bool,
}

/// Where a pod is in its life, as far as placement goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// It waits at a gate, or for the scheduler.
    Pending,
    /// It has a node.
    Bound(NodeName),
    /// It has ended, and uses nothing.
    Finished,
}

/// A pod.
#[derive(Debug, Clone)]
pub struct PodSeen {
    /// `metadata.uid`.
    pub uid: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `metadata.resourceVersion`: what a patch may build upon.
    pub resource_version: String,
    /// When it was made.
    pub created: Moment,
    /// Its controller.
    pub owner: Option<OwnerRef>,
    /// `vnpu.dev/batch`.
    pub batch: Option<String>,
    /// `spec.schedulingGroup`.
    pub pod_group: Option<String>,
    /// What its annotations ask of placement.
    pub wishes: PodWishes,
    /// Completion index, ordinal or pod index.
    pub rank: Option<u32>,
    /// `spec.priority`.
    pub priority: i32,
    /// Its gates.
    pub gates: Gates,
    /// Where it is.
    pub stage: Stage,
    /// `status.nominatedNodeName`.
    pub nominated: Option<String>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// What it takes of a node.
    pub resources: Resources,
    /// Which nodes it may go to.
    pub fit: NodeFit,
    /// Its node affinity as it stands: a patch must repeat what it adds to.
    pub node_affinity: Option<Box<api::NodeAffinity>>,
    /// Its claims.
    pub claims: Vec<ClaimRef>,
    /// What it asks of extended resources, over all containers, as the scheduler makes requests of them: name to units.
    pub extended: BTreeMap<String, u64>,
    /// What the planner does not model of it.
    pub unmodelled: Vec<&'static str>,
}

impl PodSeen {
    /// `namespace/name`.
    pub fn display_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Whether this is the pod at a later time than `other`: resource versions of one kind are numbers that grow
    /// (KEP-5504).
    pub fn is_newer_than(&self, other: &Self) -> bool {
        match (self.resource_version.parse::<u128>(), other.resource_version.parse::<u128>()) {
            (Ok(own), Ok(others)) => own > others,
            _ => false,
        }
    }

    /// Whether it may be planned now: pending, and ours is the last gate left.
    pub fn waits_for_us(&self) -> bool {
        self.stage == Stage::Pending && self.gates.ours && !self.gates.others && !self.deleting
    }
}

/// Reads a pod; `None` for one that the API server would not have made.
pub fn read(object: &api::Pod) -> Option<PodSeen> {
    let meta = &object.metadata;
    let spec = object.spec.as_ref()?;
    let status = object.status.as_ref();
    let annotations = meta.annotations.as_ref();
    let labels = meta.labels.as_ref();
    let label = |name: &str| labels.and_then(|l| l.get(name)).cloned();
    let gates = spec.scheduling_gates.as_deref().unwrap_or_default();
    let phase = status.and_then(|s| s.phase.as_deref());
    let node = spec.node_name.clone().filter(|n| !n.is_empty());
    let stage = match (phase, node) {
        (Some("Succeeded" | "Failed"), _) => Stage::Finished,
        (_, Some(node)) => Stage::Bound(NodeName::new(node).ok()?),
        (_, None) => Stage::Pending,
    };
    let node_affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.clone());
    Some(PodSeen {
        uid: meta.uid.clone()?,
        namespace: meta.namespace.clone()?,
        name: meta.name.clone()?,
        resource_version: meta.resource_version.clone().unwrap_or_default(),
        created: created(object),
        owner: owner(object),
        batch: label(BATCH),
        pod_group: spec.scheduling_group.as_ref().and_then(|g| g.pod_group_name.clone()),
        wishes: wishes(annotations),
        rank: rank(&label, annotations, object),
        priority: spec.priority.unwrap_or_default(),
        gates: Gates {
            ours: gates.iter().any(|g| g.name == GATE),
            others: gates.iter().any(|g| g.name != GATE),
        },
        stage,
        nominated: status.and_then(|s| s.nominated_node_name.clone()).filter(|n| !n.is_empty()),
        deleting: meta.deletion_timestamp.is_some(),
        resources: resources::of_pod(spec),
        fit: fit(spec, node_affinity.as_ref()),
        node_affinity: node_affinity.map(Box::new),
        claims: claims(spec, status),
        extended: extended(spec),
        unmodelled: unmodelled(spec),
    })
}

fn created(object: &api::Pod) -> Moment {
    let at = object.metadata.creation_timestamp.as_ref().map_or(0, |t| t.0.as_millisecond());
    Moment(Duration::from_millis(u64::try_from(at).unwrap_or_default()))
}

fn owner(object: &api::Pod) -> Option<OwnerRef> {
    let mut owners = object.metadata.owner_references.iter().flatten();
    owners.find(|o| o.controller == Some(true)).map(|o| OwnerRef {
        kind: WorkloadKind {
            kind: o.kind.clone(),
            group: o.api_version.split_once('/').map_or("", |(group, _)| group).to_owned(),
        },
        name: o.name.clone(),
        uid: o.uid.clone(),
    })
}

/// A value that admission would have refused (it was written around it) is as if nothing had been said.
fn wishes(annotations: Option<&BTreeMap<String, String>>) -> PodWishes {
    PodWishes::of(&json!({"metadata": {"annotations": annotations}})).0
}

/// The rank of a pod among its siblings: what indexed Jobs, StatefulSets and LeaderWorkerSets write, and what training
/// operators do.
fn rank(
    label: &dyn Fn(&str) -> Option<String>,
    annotations: Option<&BTreeMap<String, String>>,
    object: &api::Pod,
) -> Option<u32> {
    const LABELS: [&str; 4] = [
        "batch.kubernetes.io/job-completion-index",
        "apps.kubernetes.io/pod-index",
        "leaderworkerset.sigs.k8s.io/worker-index",
        "training.kubeflow.org/replica-index",
    ];
    let labelled = LABELS.iter().find_map(|name| label(name));
    let annotated = || annotations.and_then(|a| a.get("batch.kubernetes.io/job-completion-index")).cloned();
    let ordinal = || {
        let stateful = object.metadata.owner_references.iter().flatten().any(|o| o.kind == "StatefulSet");
        let name = object.metadata.name.as_deref().filter(|_| stateful)?;
        name.rsplit_once('-').map(|(_, ordinal)| ordinal.to_owned())
    };
    labelled.or_else(annotated).or_else(ordinal)?.parse().ok()
}

fn fit(spec: &api::PodSpec, affinity: Option<&api::NodeAffinity>) -> NodeFit {
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let terms = required.map(|r| r.node_selector_terms.as_slice()).unwrap_or_default();
    // A term without any requirement matches nothing (core/v1 NodeSelectorTerm).
    let terms = terms.iter().map(term).filter(|term| !term.is_empty()).collect::<Vec<_>>();
    let nothing = vec![vec![Requirement {
        key: "metadata.name".to_owned(),
        operator: Operator::In,
        values: Vec::new(),
    }]];
    NodeFit {
        labels: spec.node_selector.clone().unwrap_or_default(),
        terms: if required.is_some() && terms.is_empty() { nothing } else { terms },
        tolerations: spec.tolerations.iter().flatten().map(toleration).collect(),
    }
}

fn term(term: &api::NodeSelectorTerm) -> Vec<Requirement> {
    let all = term.match_expressions.iter().flatten().chain(term.match_fields.iter().flatten());
    all.map(|r| Requirement {
        key: r.key.clone(),
        operator: match r.operator.as_str() {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "DoesNotExist" => Operator::DoesNotExist,
            "Gt" => Operator::Gt,
            "Lt" => Operator::Lt,
            _ => Operator::Exists,
        },
        values: r.values.clone().unwrap_or_default(),
    })
    .collect()
}

fn toleration(toleration: &api::Toleration) -> Toleration {
    let exists = toleration.operator.as_deref() == Some("Exists");
    Toleration {
        key: toleration.key.clone().unwrap_or_default(),
        value: (!exists).then(|| toleration.value.clone().unwrap_or_default()),
        effect: toleration.effect.clone().unwrap_or_default(),
    }
}

fn claims(spec: &api::PodSpec, status: Option<&api::PodStatus>) -> Vec<ClaimRef> {
    let made = status.and_then(|s| s.resource_claim_statuses.as_deref()).unwrap_or_default();
    let read = |claim: &api::PodResourceClaim| {
        if let Some(name) = &claim.resource_claim_name {
            return Some(ClaimRef::Named(name.clone()));
        }
        let template = claim.resource_claim_template_name.clone()?;
        let made = made.iter().find(|m| m.name == claim.name);
        Some(ClaimRef::Template { template, claim: made.and_then(|m| m.resource_claim_name.clone()) })
    };
    spec.resource_claims.iter().flatten().filter_map(read).collect()
}

/// Extended resources are whole units, and every container's come on top of the others', init containers included: the
/// scheduler makes a request for each.
fn extended(spec: &api::PodSpec) -> BTreeMap<String, u64> {
    let mut units = BTreeMap::new();
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
        for (name, amount) in resources::read(requests).0.into_iter().filter(|(name, _)| name.contains('/')) {
            *units.entry(name).or_default() += amount;
        }
    }
    units
}

fn unmodelled(spec: &api::PodSpec) -> Vec<&'static str> {
    let affinity = spec.affinity.as_ref();
    let affine = affinity.and_then(|a| a.pod_affinity.as_ref());
    let averse = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
    let required_affine = affine.is_some_and(|a| {
        a.required_during_scheduling_ignored_during_execution.as_ref().is_some_and(|r| !r.is_empty())
    });
    let required_averse = averse.is_some_and(|a| {
        a.required_during_scheduling_ignored_during_execution.as_ref().is_some_and(|r| !r.is_empty())
    });
    let spread = spec.topology_spread_constraints.iter().flatten();
    let hard_spread = spread.into_iter().any(|s| s.when_unsatisfiable == "DoNotSchedule");
    let volumes = spec.volumes.iter().flatten();
    let bound = volumes.into_iter().any(|v| v.persistent_volume_claim.is_some() || v.ephemeral.is_some());
    let ports = spec.containers.iter().flat_map(|c| c.ports.iter().flatten());
    let host_ports = ports.into_iter().any(|p| p.host_port.is_some_and(|port| port > 0));
    let all = [
        (required_affine, "pod affinity"),
        (required_averse, "pod anti-affinity"),
        (hard_spread, "topology spread (DoNotSchedule)"),
        (bound, "volumes"),
        (host_ports, "host ports"),
    ];
    all.into_iter().filter_map(|(there, what)| there.then_some(what)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use vnpu_driver::controller_config::PlacementMode;

    use super::*;

    fn pod(spec: Value, metadata: Value) -> PodSeen {
        let mut object = json!({"metadata": {"name": "p-3", "namespace": "n", "uid": "u"}, "spec": spec});
        for (key, value) in metadata.as_object().unwrap() {
            object["metadata"][key] = value.clone();
        }
        read(&serde_json::from_value(object).unwrap()).unwrap()
    }

    fn containers() -> Value {
        json!([{"name": "a"}])
    }

    #[test]
    fn a_pod_waits_for_us_when_ours_is_the_last_gate() {
        let gated =
            |gates: Value| pod(json!({"containers": containers(), "schedulingGates": gates}), json!({}));
        assert!(gated(json!([{"name": GATE}])).waits_for_us());
        assert!(!gated(json!([{"name": GATE}, {"name": "other"}])).waits_for_us());
        assert!(!gated(json!([{"name": "other"}])).waits_for_us());
        assert!(!gated(json!([])).waits_for_us());
    }

    #[test]
    fn wishes_are_read_and_nonsense_is_nothing() {
        let wishes = |annotations: Value| {
            pod(json!({"containers": containers()}), json!({"annotations": annotations})).wishes
        };
        let read = wishes(json!({"vnpu.dev/placement": "one-per-node", "vnpu.dev/batch-size": "16"}));
        assert_eq!((read.placement, read.batch_size), (Some(PlacementMode::OnePerNode), Some(16)));
        let nonsense =
            json!({"vnpu.dev/placement": "x", "vnpu.dev/batch-size": "0", "vnpu.dev/patience": "soon"});
        assert_eq!(wishes(nonsense), PodWishes::default());
    }

    #[test]
    fn ranks_come_from_labels_and_ordinals() {
        let labelled = json!({"labels": {"batch.kubernetes.io/job-completion-index": "7"}});
        assert_eq!(pod(json!({"containers": containers()}), labelled).rank, Some(7));
        let owner = json!({"ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "p", "uid": "s", "controller": true}]});
        assert_eq!(pod(json!({"containers": containers()}), owner).rank, Some(3));
        assert_eq!(pod(json!({"containers": containers()}), json!({})).rank, None);
    }

    #[test]
    fn affinity_without_requirements_matches_nothing() {
        let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{}]}}});
        let seen = pod(json!({"containers": containers(), "affinity": affinity}), json!({}));
        assert_eq!(seen.fit.terms.len(), 1);
        assert!(seen.fit.terms[0][0].values.is_empty());
    }

    #[test]
    fn units_of_extended_resources_add_up_over_containers() {
        let with =
            |n: &str| json!({"name": n, "resources": {"requests": {"vnpu.dev/npu-module": "1", "cpu": "1"}}});
        let seen = pod(json!({"containers": [with("a")], "initContainers": [with("b")]}), json!({}));
        assert_eq!(seen.extended, BTreeMap::from([("vnpu.dev/npu-module".to_owned(), 2)]));
    }

    #[test]
    fn what_is_not_modelled_is_named() {
        let spec = json!({
            "containers": containers(),
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}],
            "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
        });
        assert_eq!(pod(spec, json!({})).unmodelled, ["topology spread (DoNotSchedule)", "volumes"]);
    }
}

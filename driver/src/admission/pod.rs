//! Pods: what their extended resources and annotations may be, and which of them are held back by the gate
//! `vnpu.dev/placement` until the planner has placed them.

use serde_json::{Map, Value, json};

use super::class::{Classes, NPU_MODULE_RESOURCE, OUR_RESOURCES};
use super::known::{ClaimFacts, Known};
use super::patch::{Operation, escaped};
use super::rule::{Finding, Level, Note};
use crate::controller_config::{ControllerConfig, PlacementMode, Span, TopologyWish, WorkloadKind};
use crate::quantity::Quantity;

/// The scheduling gate.
pub const GATE: &str = "vnpu.dev/placement";
/// Annotation: how the pods of a batch lie.
pub const PLACEMENT: &str = "vnpu.dev/placement";
/// Annotation: how far apart they may be.
pub const TOPOLOGY: &str = "vnpu.dev/topology";
/// Annotation: how many pods the batch has.
pub const BATCH_SIZE: &str = "vnpu.dev/batch-size";
/// Annotation: how long the batch waits for a better place.
pub const PATIENCE: &str = "vnpu.dev/patience";
/// Node label: the leaf switch.
pub const LEAF: &str = "vnpu.dev/leaf";
/// More pods than any batch has.
pub const MAX_BATCH: u32 = 100_000;
/// What the scheduler is called that pods name when they name none.
const DEFAULT_SCHEDULER: &str = "default-scheduler";

/// What a pod's annotations say about its placement; `None` where they say nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PodWishes {
    /// How the pods of the batch lie.
    pub placement: Option<PlacementMode>,
    /// How far apart they may be.
    pub topology: Option<TopologyWish>,
    /// How many pods the batch has, 1 to [`MAX_BATCH`].
    pub batch_size: Option<u32>,
    /// How long the batch waits for a better place.
    pub patience: Option<Span>,
}

/// An annotation whose value means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("annotation {annotation}: {value:?} is not {legal}")]
pub struct WishError {
    /// The annotation.
    pub annotation: &'static str,
    /// Its value, shortened to 80 characters.
    pub value: String,
    /// The legal values.
    pub legal: &'static str,
}

impl WishError {
    /// Whether the same value may be accepted later: never.
    pub const fn retryable(&self) -> bool {
        false
    }

    /// Stable word for metrics and events.
    pub const fn reason(&self) -> &'static str {
        "pod_annotation"
    }
}

impl PodWishes {
    /// Reads a pod's annotations. All that cannot be read is in the errors, and counts as not said.
    pub fn of(pod: &Value) -> (Self, Vec<WishError>) {
        let mut errors = Vec::new();
        let wishes = Self {
            placement: wish(pod, PLACEMENT, "pack, one-per-node, whole-nodes or none", word, &mut errors),
            topology: wish(
                pod,
                TOPOLOGY,
                "preferred, required-node, required-leaf or required-superpod",
                word,
                &mut errors,
            ),
            batch_size: wish(pod, BATCH_SIZE, "a whole number from 1 to 100000", batch_size, &mut errors),
            patience: wish(
                pod,
                PATIENCE,
                "a duration such as 90s, 10m, 1h30m or 0",
                |t| t.parse().ok(),
                &mut errors,
            ),
        };
        (wishes, errors)
    }
}

fn wish<T>(
    pod: &Value,
    annotation: &'static str,
    legal: &'static str,
    read: impl Fn(&str) -> Option<T>,
    errors: &mut Vec<WishError>,
) -> Option<T> {
    let text = pod.pointer("/metadata/annotations")?.get(annotation)?.as_str()?;
    let wish = read(text);
    if wish.is_none() {
        errors.push(WishError { annotation, value: text.chars().take(80).collect(), legal });
    }
    wish
}

fn word<T: serde::de::DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_value(text.into()).ok()
}

fn batch_size(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|size| plain && (1..=MAX_BATCH).contains(size))
}

/// What must not be in a pod: annotations that mean nothing, and more than one chip as extended resources, of which the
/// scheduler makes requests without constraints.
pub fn check(pod: &Value, classes: &Classes<'_>) -> Vec<Finding> {
    let finding = |reason, guard, pointer: String, message| Finding {
        reason,
        guard,
        note: Note { level: Level::Refused, request: None, pointer, message },
    };
    let (_, errors) = PodWishes::of(pod);
    let wrong = |e: WishError| {
        let pointer = format!("/metadata/annotations/{}", escaped(e.annotation));
        finding(e.reason(), false, pointer, e.to_string())
    };
    let mut findings: Vec<Finding> = errors.into_iter().map(wrong).collect();
    let mut names = Vec::new();
    let mut units: u64 = 0;
    for (name, amount) in resources(pod) {
        if classes.kind_of_resource(&name).reaches_halves() {
            units = units.saturating_add(amount);
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    if units > 1 {
        let message = format!(
            "the containers of this pod ask together for {units} chips as extended resources ({}), which may be one chip \
             each of several modules; ask for {NPU_MODULE_RESOURCE}, a module of two chips each, or use a ResourceClaim",
            names.join(", ")
        );
        findings.push(finding("extended_resources", true, "/spec/containers".to_owned(), message));
    }
    findings
}

/// The extended resources of all containers: init containers and sidecars hold theirs together with the others. Of
/// limits and requests the larger counts, as in the guard.
fn resources(pod: &Value) -> Vec<(String, u64)> {
    let list = |key: &str| pod.pointer(key).and_then(Value::as_array).into_iter().flatten();
    let mut found = Vec::new();
    for container in list("/spec/initContainers").chain(list("/spec/containers")) {
        let amounts = |key: &str| container.pointer(key).and_then(Value::as_object);
        let (limits, requests) = (amounts("/resources/limits"), amounts("/resources/requests"));
        let names = limits.into_iter().chain(requests).flat_map(Map::keys);
        let names: std::collections::BTreeSet<&String> = names.filter(|name| name.contains('/')).collect();
        for name in names {
            let amount = |list: Option<&Map<String, Value>>| whole(list.and_then(|l| l.get(name)));
            found.push((name.clone(), amount(limits).max(amount(requests))));
        }
    }
    found
}

fn whole(amount: Option<&Value>) -> u64 {
    let text = match amount {
        None | Some(Value::Null) => return 0,
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    text.parse::<Quantity>().ok().and_then(Quantity::whole).unwrap_or(0)
}

/// Why a pod is not held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoGate {
    /// Gates are set when a pod is created, and never again.
    NotCreated,
    /// It has a node already; the API refuses a gate beside `spec.nodeName`.
    HasNode,
    /// A mirror of a static pod.
    Mirror,
    /// A pod of a DaemonSet has its node from the beginning.
    DaemonSet,
    /// Another scheduler than those of the configuration places it.
    OtherScheduler,
    /// It asks for nothing of ours.
    NotOurs,
    /// A claim of it has its devices, and with them the node.
    Allocated,
    /// Its mode is `none`.
    ModeNone,
    /// It has the gate.
    AlreadyGated,
    /// Nobody would release it, and no leaf is known that it should prefer.
    NoPlanner,
}

impl NoGate {
    /// Stable word for metrics and logs.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NotCreated => "not_created",
            Self::HasNode => "has_node",
            Self::Mirror => "mirror",
            Self::DaemonSet => "daemon_set",
            Self::OtherScheduler => "other_scheduler",
            Self::NotOurs => "not_ours",
            Self::Allocated => "allocated",
            Self::ModeNone => "mode_none",
            Self::AlreadyGated => "already_gated",
            Self::NoPlanner => "no_planner",
        }
    }
}

/// Who places pods now.
#[derive(Clone, Copy)]
pub enum Planner<'a> {
    /// A planner holds the lease and will release what is gated.
    Alive,
    /// None does: the leaf that the pod should prefer, if the caller knows one (the rendezvous hash of the controller's
    /// UID over the leaves).
    Away(&'a dyn Fn(&Value) -> Option<String>),
}

/// What becomes of a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Gating {
    /// It is held back.
    Gate(Vec<Operation>),
    /// It is not held back and prefers a leaf.
    Preferred {
        /// The leaf.
        leaf: String,
        /// What makes it so.
        operations: Vec<Operation>,
    },
    /// It is left alone.
    No(NoGate),
}

/// Decides about a pod's gate. `operation` is the API's word, `namespace` the pod's.
pub fn gate(
    pod: &Value,
    operation: &str,
    namespace: &str,
    config: &ControllerConfig,
    known: &dyn Known,
    planner: Planner<'_>,
) -> Gating {
    let classes = Classes::new(config, known);
    if let Some(reason) = not_gated(pod, operation, namespace, config, known, &classes) {
        return Gating::No(reason);
    }
    match planner {
        Planner::Alive => {
            Gating::Gate(vec![append(pod, "/spec", &["schedulingGates"], json!({"name": GATE}))])
        }
        Planner::Away(leaf_of) => match leaf_of(pod) {
            Some(leaf) => Gating::Preferred { operations: vec![prefer(pod, &leaf)], leaf },
            None => Gating::No(NoGate::NoPlanner),
        },
    }
}

fn not_gated(
    pod: &Value,
    operation: &str,
    namespace: &str,
    config: &ControllerConfig,
    known: &dyn Known,
    classes: &Classes<'_>,
) -> Option<NoGate> {
    let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).filter(|t| !t.is_empty());
    let gates = pod.pointer("/spec/schedulingGates").and_then(Value::as_array).into_iter().flatten();
    let controller = WorkloadKind::controller_of(pod);
    let scheduler = text("/spec/schedulerName").unwrap_or(DEFAULT_SCHEDULER);
    if operation != "CREATE" {
        return Some(NoGate::NotCreated);
    }
    if text("/spec/nodeName").is_some() {
        return Some(NoGate::HasNode);
    }
    if text("/metadata/annotations/kubernetes.io~1config.mirror").is_some() {
        return Some(NoGate::Mirror);
    }
    if controller.as_ref().is_some_and(|c| c.kind == "DaemonSet" && c.group == "apps") {
        return Some(NoGate::DaemonSet);
    }
    if !config.placement.scheduler_names.iter().any(|name| name == scheduler) {
        return Some(NoGate::OtherScheduler);
    }
    match claims_of(pod, namespace, known, classes) {
        Claims { allocated: true, .. } => return Some(NoGate::Allocated),
        Claims { ours: false, .. } if !asks_by_resource(pod, classes) => return Some(NoGate::NotOurs),
        _ => {}
    }
    if mode(pod, controller.as_ref(), config) == PlacementMode::None {
        return Some(NoGate::ModeNone);
    }
    gates.into_iter().any(|gate| gate.get("name") == Some(&Value::from(GATE))).then_some(NoGate::AlreadyGated)
}

#[derive(Default)]
struct Claims {
    /// One is ours, or may be: nobody knows it yet.
    ours: bool,
    /// One has its devices.
    allocated: bool,
}

fn claims_of(pod: &Value, namespace: &str, known: &dyn Known, classes: &Classes<'_>) -> Claims {
    let mut claims = Claims::default();
    for claim in pod.pointer("/spec/resourceClaims").and_then(Value::as_array).into_iter().flatten() {
        let name = |key: &str| claim.get(key).and_then(Value::as_str).filter(|n| !n.is_empty());
        let facts: Option<ClaimFacts> = match (name("resourceClaimName"), name("resourceClaimTemplateName")) {
            (Some(name), _) => known.claim(namespace, name),
            (None, Some(name)) => known.template(namespace, name),
            (None, None) => None,
        };
        claims.ours |= facts.as_ref().is_none_or(|f| f.classes.iter().any(|c| classes.kind(c).is_ours()));
        claims.allocated |= facts.is_some_and(|f| f.allocated);
    }
    claims
}

fn asks_by_resource(pod: &Value, classes: &Classes<'_>) -> bool {
    let ours = |name: &str| classes.kind_of_resource(name).is_ours() || name.starts_with(OUR_RESOURCES);
    resources(pod).iter().any(|(name, amount)| *amount > 0 && ours(name))
}

/// How the pod's batch lies, as far as the gate asks: what its annotation says, else what the configuration has for its
/// kind. (Whether only modules can serve a gang is the planner's question; a mode of `none` is decided by kind alone.)
fn mode(pod: &Value, controller: Option<&WorkloadKind>, config: &ControllerConfig) -> PlacementMode {
    let indexed = |kind: &WorkloadKind| {
        let is_job = kind.kind == "Job" && kind.group == "batch";
        !is_job || pod.pointer("/metadata/annotations/batch.kubernetes.io~1job-completion-index").is_some()
    };
    let gang = controller.is_some_and(|kind| config.placement.gang_kinds.contains(kind) && indexed(kind));
    let modes = config.placement.modes;
    PodWishes::of(pod).0.placement.unwrap_or(if gang { modes.gang } else { modes.other })
}

/// The stateless form: the leaf that all pods of one controller prefer, with the scheduler's highest weight.
fn prefer(pod: &Value, leaf: &str) -> Operation {
    let term = json!({
        "weight": 100,
        "preference": {"matchExpressions": [{"key": LEAF, "operator": "In", "values": [leaf]}]},
    });
    let path = ["affinity", "nodeAffinity", "preferredDuringSchedulingIgnoredDuringExecution"];
    append(pod, "/spec", &path, term)
}

/// Appends `item` to the list at `path` under `root`, making what does not exist on the way.
fn append(object: &Value, root: &str, path: &[&str], item: Value) -> Operation {
    let mut pointer = root.to_owned();
    let mut rest = path.iter();
    for key in rest.by_ref() {
        pointer = format!("{pointer}/{}", escaped(key));
        if object.pointer(&pointer).is_none_or(Value::is_null) {
            let inner = |value, key: &&str| json!({ *key: value });
            let value = rest.as_slice().iter().rev().fold(json!([item]), inner);
            return Operation::Add { path: pointer, value };
        }
    }
    Operation::Add { path: format!("{pointer}/-"), value: item }
}

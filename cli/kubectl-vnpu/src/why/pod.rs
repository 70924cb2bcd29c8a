//! What a pod itself tells of its placement, without any controller.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use vnpu_driver::admission::pod::GATE;

/// The prefix of this product's labels and annotations.
const OURS: &str = "vnpu.dev/";

/// The part of a pod that matters here.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodFacts {
    /// `namespace/name`.
    pub(super) name: String,
    /// Its UID.
    pub(super) uid: String,
    /// Its controller, as `Kind name`.
    pub(super) owner: Option<String>,
    /// `status.phase`.
    pub(super) phase: String,
    /// Its node.
    pub(super) node: Option<String>,
    /// The node that it is nominated for.
    pub(super) nominated: Option<String>,
    /// Our gate is there.
    pub(super) gated: bool,
    /// Other gates, by name.
    pub(super) other_gates: Vec<String>,
    /// Who is to schedule it.
    pub(super) scheduler: String,
    /// It is being deleted.
    pub(super) deleting: bool,
    /// It has claims, of whatever driver, or asks for an extended resource of this product.
    pub(super) asks_for_devices: bool,
    /// What the scheduler says: reason and message of the condition `PodScheduled` where it is false.
    pub(super) not_scheduled: Option<(String, String)>,
    /// Its labels and annotations of this product.
    pub(super) wishes: BTreeMap<String, String>,
}

impl PodFacts {
    /// Reads a pod.
    pub(super) fn read(object: &api::Pod) -> Self {
        let metadata = &object.metadata;
        let spec = object.spec.as_ref();
        let status = object.status.as_ref();
        let owners = metadata.owner_references.iter().flatten();
        let owner = owners.clone().find(|owner| owner.controller == Some(true));
        let gates: Vec<String> = spec
            .and_then(|s| s.scheduling_gates.as_ref())
            .into_iter()
            .flatten()
            .map(|g| g.name.clone())
            .collect();
        let conditions = status.and_then(|s| s.conditions.as_ref()).into_iter().flatten();
        let mut scheduled = conditions.filter(|c| c.type_ == "PodScheduled" && c.status == "False");
        let wishes = metadata.labels.iter().chain(&metadata.annotations).flatten();
        Self {
            name: format!(
                "{}/{}",
                metadata.namespace.as_deref().unwrap_or_default(),
                metadata.name.as_deref().unwrap_or_default()
            ),
            uid: metadata.uid.clone().unwrap_or_default(),
            owner: owner.map(|owner| format!("{} {}", owner.kind, owner.name)),
            phase: status.and_then(|s| s.phase.clone()).unwrap_or_default(),
            node: spec.and_then(|s| s.node_name.clone()).filter(|node| !node.is_empty()),
            nominated: status.and_then(|s| s.nominated_node_name.clone()).filter(|node| !node.is_empty()),
            gated: gates.iter().any(|gate| gate == GATE),
            other_gates: gates.into_iter().filter(|gate| gate != GATE).collect(),
            scheduler: spec.and_then(|s| s.scheduler_name.clone()).unwrap_or_default(),
            deleting: metadata.deletion_timestamp.is_some(),
            asks_for_devices: spec.is_some_and(asks_for_devices),
            not_scheduled: scheduled
                .next()
                .map(|c| (c.reason.clone().unwrap_or_default(), c.message.clone().unwrap_or_default())),
            wishes: wishes
                .filter(|(key, _)| key.starts_with(OURS))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
        }
    }

    /// Whether it has run to its end.
    pub(super) fn ended(&self) -> bool {
        matches!(self.phase.as_str(), "Succeeded" | "Failed")
    }
}

fn asks_for_devices(spec: &api::PodSpec) -> bool {
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let mut limits = containers.filter_map(|c| c.resources.as_ref()?.limits.as_ref()).flat_map(|l| l.keys());
    spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty())
        || limits
            .any(|name| name.starts_with(OURS) || name.starts_with("deviceclass.resource.kubernetes.io/"))
}

/// An event of the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Happened {
    /// When it happened last.
    pub(super) at: Option<Timestamp>,
    /// Whether something is wrong.
    pub(super) warning: bool,
    /// A word.
    pub(super) reason: String,
    /// Its message.
    pub(super) message: String,
    /// Who tells.
    pub(super) from: String,
}

impl Happened {
    /// Reads an event.
    pub(super) fn read(event: &api::Event) -> Self {
        let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|t| t.0);
        let last = event.last_timestamp.as_ref().map(|t| t.0);
        let first = event.event_time.as_ref().map(|t| t.0);
        let made = event.metadata.creation_timestamp.as_ref().map(|t| t.0);
        let component = event.reporting_component.clone().filter(|from| !from.is_empty());
        let source = event.source.as_ref().and_then(|source| source.component.clone());
        Self {
            at: series.or(last).or(first).or(made),
            warning: event.type_.as_deref() == Some("Warning"),
            reason: event.reason.clone().unwrap_or_default(),
            message: event.message.clone().unwrap_or_default(),
            from: component.or(source).unwrap_or_default(),
        }
    }
}

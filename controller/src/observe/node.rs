//! Nodes.

use k8s_openapi::api::core::v1 as api;
use vnpu_driver::id::NodeName;
use vnpu_placement::node::{Node, NodeTaint};

use super::resources;

/// A Node as the planner is told; `None` where its name is none (the API server makes no such).
///
/// A node that is not Ready has a taint from the node controller within seconds, so readiness is not looked at.
pub fn read(object: &api::Node) -> Option<Node> {
    let name = NodeName::new(object.metadata.name.clone()?).ok()?;
    let spec = object.spec.as_ref();
    let status = object.status.as_ref();
    let taints = spec.and_then(|s| s.taints.as_ref()).into_iter().flatten();
    let taints = taints.filter(|t| t.effect != "PreferNoSchedule").map(|t| NodeTaint {
        key: t.key.clone(),
        value: t.value.clone().unwrap_or_default(),
        effect: t.effect.clone(),
    });
    Some(Node {
        name,
        labels: object.metadata.labels.clone().unwrap_or_default(),
        taints: taints.collect(),
        unschedulable: spec.and_then(|s| s.unschedulable).unwrap_or(false),
        allocatable: resources::read(status.and_then(|s| s.allocatable.as_ref())),
    })
}

//! Simulated nodes for cases that need no container: a plugin and kubelet's own DRA code, to which only the pods
//! of such a case go.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use vnpu_e2e_stack::{Machine, MachineNode};

use crate::context::Context;

/// How long pods, events and slices may take on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// The node `name`, added when the first case asks for it. A taint keeps the pods of other cases away.
pub(crate) fn node(context: &Context, name: &str, modules: u32) -> Result<Arc<MachineNode>> {
    if let Ok(node) = context.stack.node(name) {
        return Ok(node);
    }
    let node = context.stack.add_simulated_node(name, Machine::ascend_910c(modules, 65536))?;
    context.cluster.kubectl_ok(&["taint", "node", name, "vnpu.dev/simulated=:NoSchedule"])?;
    Ok(node)
}

/// A pod on `node` that uses these claims, by the names under which it knows them.
pub(crate) fn pod(name: &str, node: &str, claims: &[(&str, Value)]) -> Value {
    let named = |(known_as, source): &(&str, Value)| with(source.clone(), "", "name", json!(known_as));
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            // Without any, the API server deletes the pod at once, and kubelet learns of it late.
            "terminationGracePeriodSeconds": 1,
            "nodeSelector": {"kubernetes.io/hostname": node},
            "tolerations": [{"key": "vnpu.dev/simulated", "operator": "Exists"}],
            "resourceClaims": claims.iter().map(named).collect::<Vec<_>>(),
            "containers": [{
                "name": "main",
                "image": "vnpu.dev/demo:latest",
                "imagePullPolicy": "Never",
                "command": ["sleep", "3600"],
                "resources": {"claims": claims.iter().map(|(name, _)| json!({"name": name})).collect::<Vec<_>>()},
            }],
        },
    })
}

/// The claim of that name.
pub(crate) fn by_name(claim: &str) -> Value {
    json!({"resourceClaimName": claim})
}

/// The specification of a claim for one share of a chip.
pub(crate) fn share(memory: &str, cores: &str) -> Value {
    let capacity = json!({"requests": {"memory": memory, "cores": cores}});
    json!({"devices": {"requests": [
        {"name": "npu", "exactly": {"deviceClassName": "npu.vnpu.dev", "capacity": capacity}},
    ]}})
}

/// The specification of a claim for one share of a chip of this module.
pub(crate) fn share_of_module(module: u32) -> Value {
    let expression = format!(r#"device.attributes["vnpu.dev"].module == {module}"#);
    let selectors = json!([{"cel": {"expression": expression}}]);
    with(share("1Gi", "1"), "/devices/requests/0/exactly", "selectors", selectors)
}

/// An object with one more field in the map at `pointer`.
pub(crate) fn with(mut object: Value, pointer: &str, field: &str, value: Value) -> Value {
    if let Some(map) = object.pointer_mut(pointer).and_then(Value::as_object_mut) {
        map.insert(field.to_owned(), value);
    }
    object
}

/// A claim.
pub(crate) fn claim(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": name}, "spec": spec})
}

/// Applies objects together.
pub(crate) fn apply(context: &Context, objects: Vec<Value>) -> Result<()> {
    context.apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string())
}

/// An object of the case's namespace.
pub(crate) fn get(context: &Context, kind: &str, name: &str) -> Result<Value> {
    context.cluster.kubectl_json(&["get", kind, name, "-n", &context.namespace])
}

/// The objects of a kind in the case's namespace.
pub(crate) fn list(context: &Context, kind: &str) -> Result<Vec<Value>> {
    let found = context.cluster.kubectl_json(&["get", kind, "-n", &context.namespace])?;
    Ok(found.get("items").and_then(Value::as_array).cloned().unwrap_or_default())
}

/// A text in an object; empty when it is not there.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Waits for an event with all of these words on a pod whose name begins so, and returns its message.
pub(crate) fn wait_event(context: &Context, pod: &str, reason: &str, words: &[&str]) -> Result<String> {
    let mut found = String::new();
    let mut seen = Vec::new();
    let waited = context.cluster.wait_for(&format!("an event {reason} on pod {pod}"), PATIENCE, || {
        seen = list(context, "events")?;
        seen.retain(|e| text(e, "/involvedObject/name").starts_with(pod));
        for event in &seen {
            let message = text(event, "/message");
            if text(event, "/reason") == reason && words.iter().all(|word| message.contains(word)) {
                found = message.to_owned();
                return Ok(true);
            }
        }
        Ok(false)
    });
    waited.with_context(|| {
        let lines: Vec<String> =
            seen.iter().map(|e| format!("{}: {}", text(e, "/reason"), text(e, "/message"))).collect();
        format!("wanted {words:?}; its events:\n{}", lines.join("\n"))
    })?;
    Ok(found)
}

/// The names of what a directory has; empty when it does not exist.
pub(crate) fn names(directory: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// UIDs of the claims that the node's plugin holds prepared or half-way, as its checkpoint says.
pub(crate) fn held(node: &MachineNode) -> Result<BTreeSet<String>> {
    let page: Value = serde_json::from_str(&node.admin("/debug/claims")?).context("reading /debug/claims")?;
    let claims = page.as_array().into_iter().flatten();
    let held = claims.filter(|claim| text(claim, "/state") != "Unprepared");
    Ok(held.map(|claim| text(claim, "/uid").to_owned()).collect())
}

/// Waits until the node keeps nothing of any claim: no CDI file, no region, no record but tombstones.
pub(crate) fn wait_empty(context: &Context, node: &MachineNode) -> Result<()> {
    let left = || -> Result<Vec<String>> {
        let mut left: Vec<String> = held(node)?.into_iter().map(|uid| format!("record of {uid}")).collect();
        for directory in [node.handle.cdi.clone(), node.handle.runtime.join("claims")] {
            left.extend(names(&directory).iter().map(|n| directory.join(n).display().to_string()));
        }
        left.extend(
            names(&node.handle.runtime.join("devices")).into_iter().map(|n| format!("region of {n}")),
        );
        Ok(left)
    };
    let waited = context.cluster.wait_for("the node to keep nothing", PATIENCE, || Ok(left()?.is_empty()));
    waited.with_context(|| format!("{}: left: {:?}", node.handle.name, left()))
}

/// Deletes the case's pods and claims, and waits until the node has given all back.
pub(crate) fn clear(context: &Context, node: &MachineNode) -> Result<()> {
    context.kubectl(&["delete", "pods", "--all", "--timeout=60s"])?;
    context.kubectl(&["delete", "resourceclaims", "--all", "--timeout=60s"])?;
    wait_empty(context, node)
}

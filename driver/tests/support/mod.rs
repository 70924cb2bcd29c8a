//! What the tests of admission share: claims in shorthand, requests, patches, and answers as text.

#![allow(dead_code, clippy::indexing_slicing, clippy::expect_used, clippy::panic, clippy::unwrap_used)]

pub(crate) mod claims;

use std::fmt::Write;

use serde_json::{Value, json};
use vnpu_driver::admission::{Context, Gating, Judged, Objects, Planner, Response, review};
use vnpu_driver::controller_config::ControllerConfig;

pub(crate) fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// A claim of `resource.k8s.io/v1` whose `spec.devices` is this YAML.
pub(crate) fn claim(devices: &str) -> Value {
    json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
        "metadata": {"name": "case", "namespace": "default"}, "spec": {"devices": yaml(devices)},
    })
}

/// A template whose claims are `claim(devices)`.
pub(crate) fn template(devices: &str) -> Value {
    json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate",
        "metadata": {"name": "case", "namespace": "default"}, "spec": {"spec": {"devices": yaml(devices)}},
    })
}

/// The cluster's shipped classes.
pub(crate) fn shipped() -> Objects {
    let mut objects = Objects::default();
    for file in ["accelerator", "gpu", "npu", "npu-module"] {
        let path = format!("{}/../deviceclasses/{file}.yaml", env!("CARGO_MANIFEST_DIR"));
        objects.learn(&yaml(&std::fs::read_to_string(path).expect("a class")), "");
    }
    objects
}

pub(crate) fn request(operation: &str, object: &Value, old: &Value) -> Value {
    json!({
        "operation": operation, "namespace": "default", "userInfo": {"username": "somebody"},
        "object": object, "oldObject": old,
    })
}

pub(crate) fn create(object: &Value, config: &ControllerConfig, known: &Objects) -> Response {
    review(&request("CREATE", object, &Value::Null), &Context { config, known, planner: Planner::Alive })
}

pub(crate) fn update(object: &Value, old: &Value) -> Response {
    let config = ControllerConfig::default();
    let context = Context { config: &config, known: &Objects::default(), planner: Planner::Alive };
    review(&request("UPDATE", object, old), &context)
}

pub(crate) fn patched(object: &Value, response: &Response) -> Value {
    let mut object = object.clone();
    let patch = serde_json::to_value(&response.operations).expect("JSON");
    let patch: json_patch::Patch = serde_json::from_value(patch).expect("a patch");
    json_patch::patch(&mut object, &patch).expect("a patch that fits");
    object
}

/// An answer as a reviewer reads it.
pub(crate) fn told(response: &Response) -> String {
    let mut text = String::new();
    match (&response.refusal, &response.judged) {
        (Some(refusal), _) => {
            writeln!(text, "refused {}: {}", refusal.reasons.join(","), refusal.message).unwrap()
        }
        (None, Judged::Nothing(why)) => writeln!(text, "untouched: {}", why.reason()).unwrap(),
        (None, Judged::Pod { gating: Gating::No(why), .. }) => {
            writeln!(text, "no gate: {}", why.reason()).unwrap()
        }
        (None, _) if response.operations.is_empty() => writeln!(text, "as it is").unwrap(),
        (None, _) => writeln!(text, "changed").unwrap(),
    }
    for warning in &response.warnings {
        writeln!(text, "warning: {warning}").unwrap();
    }
    for operation in &response.operations {
        writeln!(text, "  {}", serde_json::to_string(operation).unwrap()).unwrap();
    }
    text
}

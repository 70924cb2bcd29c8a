//! What is judged in an object: the object itself, or the pods that it is a template of. Pod templates are found by their
//! form, so that kinds nobody here has heard of are judged too.

use serde_json::{Map, Value, json};

/// Something to judge.
#[derive(Debug)]
pub(crate) struct Subject {
    /// What it is called in the report.
    pub(crate) title: String,
    /// Where in the object it is; empty for the object itself.
    pub(crate) place: String,
    /// What the API server would be given.
    pub(crate) object: Value,
}

fn word<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The namespace of an object.
pub(crate) fn namespace(object: &Value, default: &str) -> String {
    let own = word(object, "/metadata/namespace");
    if own.is_empty() { default.to_owned() } else { own.to_owned() }
}

/// `Kind namespace/name`, without the namespace where none is written.
pub(crate) fn title(object: &Value) -> String {
    let (kind, namespace) = (word(object, "/kind"), word(object, "/metadata/namespace"));
    let name = match (word(object, "/metadata/name"), word(object, "/metadata/generateName")) {
        ("", "") => "(no name)".to_owned(),
        ("", prefix) => format!("{prefix}*"),
        (name, _) => name.to_owned(),
    };
    if namespace.is_empty() { format!("{kind} {name}") } else { format!("{kind} {namespace}/{name}") }
}

/// All that is to be judged in an object.
pub(crate) fn of(object: &Value) -> Vec<Subject> {
    let kind = word(object, "/kind");
    if matches!(kind, "Pod" | "ResourceClaim" | "ResourceClaimTemplate") {
        return vec![Subject { title: title(object), place: String::new(), object: object.clone() }];
    }
    let mut found = Vec::new();
    pods(object, object, "", &mut found);
    found
}

/// Pod templates at any depth: under a key `template` or `...Template`, with containers.
fn pods(owner: &Value, within: &Value, place: &str, found: &mut Vec<Subject>) {
    match within {
        Value::Object(fields) => {
            for (key, value) in fields {
                let place = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
                let named = key == "template" || key.ends_with("Template");
                if named && value.pointer("/spec/containers").is_some_and(Value::is_array) {
                    found.push(Subject { title: title(owner), place, object: pod(owner, value) });
                } else {
                    pods(owner, value, &place, found);
                }
            }
        }
        Value::Array(items) => {
            for (position, item) in items.iter().enumerate() {
                pods(owner, item, &format!("{place}[{position}]"), found);
            }
        }
        _ => {}
    }
}

/// The pod that the owner's controller would make.
fn pod(owner: &Value, template: &Value) -> Value {
    let mut metadata: Map<String, Value> =
        template.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
    metadata.insert("namespace".to_owned(), json!(word(owner, "/metadata/namespace")));
    metadata.insert(
        "ownerReferences".to_owned(),
        json!([{"apiVersion": owner.get("apiVersion"), "kind": owner.get("kind"), "controller": true}]),
    );
    if word(owner, "/spec/completionMode") == "Indexed" {
        let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert("batch.kubernetes.io/job-completion-index".to_owned(), json!("0"));
        }
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template.get("spec")})
}

/// The claim that a template would be as a claim, which admission would mend.
pub(crate) fn as_claim(template: &Value) -> Option<Value> {
    if word(template, "/kind") != "ResourceClaimTemplate" {
        return None;
    }
    Some(json!({
        "apiVersion": template.get("apiVersion"), "kind": "ResourceClaim",
        "metadata": {"namespace": word(template, "/metadata/namespace")}, "spec": template.pointer("/spec/spec"),
    }))
}

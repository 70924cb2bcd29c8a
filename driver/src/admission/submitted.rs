//! The annotation `vnpu.dev/submitted`: what a rewritten claim was submitted as, one hash per list, so that applying the
//! same file again is no change. kubectl patches the lists one by one, so each counts by itself.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::form::Lists;
use crate::quantity::Quantity;

/// The annotation.
pub const SUBMITTED: &str = "vnpu.dev/submitted";

/// The names of the lists, in the order in which the annotation has them.
pub(super) const LISTS: [&str; 3] = ["requests", "constraints", "config"];

/// The annotation's value for a claim submitted with these lists.
pub fn annotation(lists: &Lists) -> String {
    let hashes = LISTS.map(|name| format!("{name}={}", hash(name, list(lists, name))));
    hashes.join(",")
}

/// The hashes in an annotation, by list. What cannot be read is left out.
pub(super) fn hashes(annotation: &str) -> BTreeMap<&str, &str> {
    annotation.split(',').filter_map(|part| part.split_once('=')).collect()
}

pub(super) fn list<'l>(lists: &'l Lists, name: &str) -> &'l [Value] {
    match name {
        "requests" => &lists.requests,
        "constraints" => &lists.constraints,
        _ => &lists.config,
    }
}

/// The beginning of the SHA-256 of the list in one spelling: the same for every served version, with and without the
/// API's defaults.
pub(super) fn hash(name: &str, list: &[Value]) -> String {
    let mut text = String::new();
    let same: Vec<Value> =
        list.iter().map(|item| if name == "requests" { request(item) } else { item.clone() }).collect();
    write_sorted(&Value::Array(same), &mut text);
    Sha256::digest(text.as_bytes()).iter().take(8).fold(String::new(), |mut hex, byte| {
        // Writing to a String cannot fail.
        _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// A request as `resource.k8s.io/v1` has it, with the defaults that its API fills in.
fn request(item: &Value) -> Value {
    let Some(fields) = item.as_object() else { return item.clone() };
    if let Some(list) = fields.get("firstAvailable").and_then(Value::as_array).filter(|l| !l.is_empty()) {
        let list: Vec<Value> = list.iter().map(|sub| sub.as_object().map_or(sub.clone(), ask)).collect();
        return json!({"name": fields.get("name"), "firstAvailable": list});
    }
    let exactly = match fields.get("exactly") {
        Some(exactly) => exactly.as_object().cloned().unwrap_or_default(),
        None => {
            fields.iter().filter(|(key, _)| *key != "name").map(|(k, v)| (k.clone(), v.clone())).collect()
        }
    };
    json!({"name": fields.get("name"), "exactly": ask(&exactly)})
}

fn ask(fields: &Map<String, Value>) -> Value {
    let empty = |v: &Value| v.is_null() || v.as_array().is_some_and(Vec::is_empty) || *v == json!(false);
    let mut same: Map<String, Value> =
        fields.iter().filter(|(_, v)| !empty(v)).map(|(k, v)| (k.clone(), v.clone())).collect();
    let mode = same.entry("allocationMode").or_insert_with(|| "ExactCount".into()).clone();
    if mode == "ExactCount" {
        same.entry("count").or_insert_with(|| 1.into());
    }
    if let Some(amounts) =
        same.get_mut("capacity").and_then(|c| c.get_mut("requests")).and_then(Value::as_object_mut)
    {
        for amount in amounts.values_mut() {
            let text = amount.as_str().map_or_else(|| amount.to_string(), str::to_owned);
            if let Ok(quantity) = text.parse::<Quantity>() {
                *amount = quantity.to_string().into();
            }
        }
    }
    Value::Object(same)
}

/// JSON with sorted keys: the order of a map is nobody's promise.
fn write_sorted(value: &Value, text: &mut String) {
    match value {
        Value::Object(fields) => {
            let sorted: BTreeMap<&String, &Value> = fields.iter().collect();
            text.push('{');
            for (key, value) in sorted {
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
                write_sorted(value, text);
                text.push(',');
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for item in items {
                write_sorted(item, text);
                text.push(',');
            }
            text.push(']');
        }
        plain => text.push_str(&plain.to_string()),
    }
}

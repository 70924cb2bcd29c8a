//! Random claims: chips of modules in most of the ways in which they can be written, right and wrong.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

const SELECTORS: &[&str] = &[
    r#"device.attributes["vnpu.dev"].dies == 1"#,
    r#"device.attributes["vnpu.dev"].dies==1 || true"#,
    r#"device.attributes["vnpu.dev"].model == "910C""#,
    r#"device.attributes["vnpu.dev"].type == "chip""#,
    r#"device.attributes["vnpu.dev"].uuid == "A""#,
];

/// One request's fields. Chips of modules are likelier than the rest.
fn ask() -> impl Strategy<Value = Map<String, Value>> {
    let class = prop_oneof![
        6 => Just("npu.vnpu.dev"), 1 => Just("accelerator.vnpu.dev"), 1 => Just("npu-module.vnpu.dev"),
        1 => Just("gpu.vnpu.dev"), 1 => Just("nic.example.com"),
    ];
    let count = prop_oneof![4 => Just(1), 3 => Just(2), 1 => Just(3), 2 => Just(4), 1 => Just(6)];
    let capacity = prop_oneof![
        4 => Just(json!(null)),
        3 => Just(json!({"requests": {"memory": "4Gi", "cores": "10"}})),
        1 => Just(json!({"requests": {"memory": "4Gi"}})),
        1 => Just(json!({"requests": {"cores": "10"}})),
    ];
    let selector = prop_oneof![8 => Just(None), 3 => (0..SELECTORS.len()).prop_map(Some)];
    (class, count, capacity, selector).prop_map(|(class, count, capacity, selector)| {
        let mut fields = json!({"deviceClassName": class, "allocationMode": "ExactCount", "count": count});
        if !capacity.is_null() {
            fields["capacity"] = capacity;
        }
        if let Some(selector) = selector {
            fields["selectors"] = json!([{"cel": {"expression": SELECTORS[selector]}}]);
        }
        fields.as_object().unwrap().clone()
    })
}

fn special(mut fields: Map<String, Value>, which: u8) -> Map<String, Value> {
    match which {
        0 => _ = fields.insert("adminAccess".to_owned(), json!(true)),
        1 => {
            fields.insert("allocationMode".to_owned(), json!("All"));
            fields.remove("count");
        }
        2 => {
            _ = fields.insert(
                "derivedAttributes".to_owned(),
                json!([{"name": "vnpu.dev/uuid", "expression": "'a'"}]),
            )
        }
        _ => {}
    }
    fields
}

fn requests() -> impl Strategy<Value = Vec<Value>> {
    let exactly = (ask(), 0u8..30).prop_map(|(fields, which)| json!({"exactly": special(fields, which)}));
    let list = vec(ask(), 1..3).prop_map(|asks| {
        let named = |(i, mut fields): (usize, Map<String, Value>)| {
            fields.insert("name".to_owned(), json!(format!("s{i}")));
            Value::Object(fields)
        };
        json!({"firstAvailable": asks.into_iter().enumerate().map(named).collect::<Vec<_>>()})
    });
    vec(prop_oneof![5 => exactly, 1 => list], 1..6).prop_map(|mut requests| {
        for (i, request) in requests.iter_mut().enumerate() {
            request["name"] = json!(format!("r{i}"));
        }
        requests
    })
}

/// Names of requests, or of the first alternative of one.
fn names() -> impl Strategy<Value = Vec<String>> {
    vec((0usize..5, prop::bool::weighted(0.1)), 0..3).prop_map(|names| {
        names.into_iter().map(|(i, sub)| format!("r{i}{}", if sub { "/s0" } else { "" })).collect()
    })
}

fn constraints() -> impl Strategy<Value = Vec<Value>> {
    let kind = prop_oneof![
        5 => Just(("matchAttribute", "vnpu.dev/module")), 1 => Just(("distinctAttribute", "vnpu.dev/module")),
        2 => Just(("distinctAttribute", "vnpu.dev/uuid")), 1 => Just(("matchAttribute", "resource.kubernetes.io/numaNode")),
    ];
    let one =
        (names(), kind).prop_map(|(names, (word, attribute))| json!({"requests": names, word: attribute}));
    vec(one, 0..3)
}

fn config() -> impl Strategy<Value = Vec<Value>> {
    let field = prop_oneof![
        Just(json!({"pairing": "independent"})),
        Just(json!({"pairing": "module"})),
        Just(json!({"compute": {"mode": "hard"}})),
        Just(json!({"pairing": "Independent"})),
    ];
    let one = (names(), field).prop_map(|(names, mut parameters)| {
        parameters["apiVersion"] = json!("vnpu.dev/v1alpha1");
        parameters["kind"] = json!("SharePolicy");
        json!({"requests": names, "opaque": {"driver": "vnpu.dev", "parameters": parameters}})
    });
    vec(one, 0..2)
}

pub(crate) fn claims() -> impl Strategy<Value = Value> {
    (requests(), constraints(), config()).prop_map(|(requests, constraints, config)| {
        let mut devices = json!({"requests": requests});
        // Empty lists do not come out of the API server.
        for (name, list) in [("constraints", constraints), ("config", config)] {
            if !list.is_empty() {
                devices[name] = Value::Array(list);
            }
        }
        json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
            "metadata": {"name": "c", "namespace": "default"}, "spec": {"devices": devices},
        })
    })
}

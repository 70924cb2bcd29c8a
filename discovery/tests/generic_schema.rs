//! The checked-in JSON schema of descriptions is what the types say, and takes what reading takes.

// A test may panic; clippy knows that of test functions, not of what they call.
#![allow(clippy::indexing_slicing, clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use serde_json::{Value, json};
use vnpu_discovery::generic::GenericDevices;

#[test]
fn the_checked_in_schema_is_that_of_the_types() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/generic-devices.schema.json");
    let checked_in = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(
        serde_json::from_str::<Value>(&checked_in).ok(),
        Some(GenericDevices::schema()),
        "{path} is stale: cargo run -p vnpu-discovery --example generic-schema > docs/generic-devices.schema.json"
    );
}

/// The documentation's file can be read.
#[test]
fn the_documentation_shows_a_file_that_is_read() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/adding-a-vendor.md");
    let text = std::fs::read_to_string(path).expect("the documentation");
    let start = text.find("apiVersion: vnpu.dev/v1alpha1\nkind: GenericDevices").expect("the file");
    let block = text[start..].split("```").next().unwrap();
    let described = GenericDevices::read(block).expect("a description");
    assert_eq!((described.vendor.as_str(), described.devices.len()), ("acme", 2));
}

#[test]
fn the_schema_and_the_reader_agree() {
    let schema = GenericDevices::schema();
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let document = |more: Value| {
        let mut document = json!({
            "apiVersion": "vnpu.dev/v1alpha1", "kind": "GenericDevices", "vendor": "acme", "devices": [],
        });
        document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        document
    };
    let device = |more: Value| {
        let mut device = json!({"card": 0, "uuid": "a", "nodes": ["acme0"]});
        device.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        document(json!({"devices": [device]}))
    };
    for (good, document) in [
        (true, document(json!({}))),
        (true, device(json!({}))),
        (true, document(json!({"memory": 1024, "sharing": "counted", "driverVersion": {"file": "/v"}}))),
        (true, device(json!({"uuid": {"file": "/u"}, "health": {"file": "/h", "healthy": ["0"]}}))),
        (true, device(json!({"memory": "64Gi", "pci": "0000:81:00.0", "numaNode": 1, "sharing": "whole"}))),
        (false, json!({"apiVersion": "vnpu.dev/v1alpha1", "kind": "GenericDevices", "vendor": "acme"})),
        (false, document(json!({"kind": "Other"}))),
        (false, document(json!({"odd": 1}))),
        (false, document(json!({"sharing": "enforced"}))),
        (false, device(json!({"card": -1}))),
        (false, device(json!({"card": "first"}))),
        (false, device(json!({"uuid": 16}))),
        (false, device(json!({"memory": -1}))),
        (false, device(json!({"uuid": {"file": "/u", "odd": 1}}))),
        (false, device(json!({"uuid": {}}))),
        (false, device(json!({"uuid": [1]}))),
        (false, device(json!({"memory": 1.5}))),
        (false, device(json!({"health": {"healthy": ["0"]}}))),
    ] {
        assert_eq!(validator.is_valid(&document), good, "{document}");
        let read = GenericDevices::read(&document.to_string());
        assert_eq!(read.is_ok(), good, "{document}: {read:?}");
    }
}

//! The checked-in JSON schema of the configuration is what the types say, and takes what reading takes.

// A test may panic; clippy knows that of test functions, not of what they call.
#![allow(clippy::indexing_slicing, clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use serde_json::{Value, json};
use vnpu_driver::controller_config::ControllerConfig;

#[test]
fn the_checked_in_schema_is_that_of_the_types() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/controller-config.schema.json");
    let checked_in = std::fs::read_to_string(path).unwrap_or_default();
    // As values: how a map is ordered is up to the features of others' serde_json.
    assert_eq!(
        serde_json::from_str::<Value>(&checked_in).ok(),
        Some(ControllerConfig::schema()),
        "{path} is stale: cargo run -p vnpu-driver --example config-schema > docs/controller-config.schema.json"
    );
}

#[test]
fn the_schema_and_the_reader_agree() {
    let schema = ControllerConfig::schema();
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let document = |more: Value| {
        let mut document = json!({"apiVersion": "vnpu.dev/v1alpha1", "kind": "ControllerConfig"});
        document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        document
    };
    for (good, document) in [
        (true, document(json!({}))),
        (true, serde_json::to_value(ControllerConfig::default()).unwrap()),
        (true, document(json!({"placement": {"patience": "1h30m", "gangKinds": ["Job.batch"]}}))),
        (false, json!({})),
        (false, document(json!({"kind": "Other"}))),
        (false, document(json!({"odd": 1}))),
        (false, document(json!({"oddPolicy": "Reject"}))),
        (false, document(json!({"defaults": {"cores": 101}}))),
        (false, document(json!({"placement": {"patience": "10"}}))),
        (false, document(json!({"placement": {"gangKinds": ["job"]}}))),
        (false, document(json!({"classes": {"npu": "a"}}))),
    ] {
        assert_eq!(validator.is_valid(&document), good, "{document}");
        assert_eq!(ControllerConfig::read(&document).is_ok(), good, "{document}");
    }
}

/// The documentation shows all defaults, as a document that can be read.
#[test]
fn the_documentation_shows_the_defaults() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/admission.md");
    let text = std::fs::read_to_string(path).expect("the documentation");
    let start =
        text.find("apiVersion: vnpu.dev/v1alpha1\nkind: ControllerConfig").expect("the configuration");
    let block = text[start..].split("```").next().unwrap();
    let document: Value = serde_saphyr::from_str(block).expect("YAML");
    assert_eq!(ControllerConfig::read(&document).unwrap(), ControllerConfig::default());
    let defaults = serde_json::to_value(ControllerConfig::default()).unwrap();
    for (key, value) in defaults.as_object().unwrap() {
        assert_eq!(document[key], *value, "{key} is shown in full");
    }
}

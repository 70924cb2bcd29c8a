use serde_json::json;

use super::*;

fn document(more: Value) -> Value {
    let mut document = json!({"apiVersion": API_VERSION, "kind": KIND});
    document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    document
}

fn refusal(document: &Value) -> String {
    let error = ControllerConfig::read(document).unwrap_err();
    assert!(!error.retryable() && error.reason().starts_with("config_"));
    error.to_string()
}

#[test]
fn what_is_not_written_has_a_default() {
    let config = ControllerConfig::read(&document(json!({}))).unwrap();
    assert_eq!(config, ControllerConfig::default());
    insta::assert_snapshot!(serde_json::to_string_pretty(&config).unwrap());
}

#[test]
fn a_full_document_is_read() {
    let config = ControllerConfig::read(&document(json!({
        "classes": {
            "npu": ["big.example.com"], "accelerator": ["any.example.com"], "module": ["big-module.example.com"],
            "singleDie": ["a100.example.com"], "modulesOf": {"big.example.com": "big-module.example.com"},
            "extendedResources": ["example.com/npu"],
        },
        "oddPolicy": "round-up",
        "defaults": {"cores": 5},
        "limits": {"maxRequests": 6, "warnRequests": 3},
        "placement": {
            "schedulerNames": ["default-scheduler", "other"], "patience": "10m", "agingBound": "1h", "onNoFit": "release",
            "onPartial": "recreate", "queueDepth": 8, "gangKinds": ["Job.batch", "Pod"],
            "modes": {"gang": "whole-nodes", "other": "none"},
        },
        "topology": {"leafLabels": ["example.com/leaf"], "superpodLabels": [], "kueueTopology": "default", "csv": "/etc/topology.csv"},
    })))
    .unwrap();
    assert_eq!(config.odd_policy, OddPolicy::RoundUp);
    assert_eq!(config.placement.patience, Span::minutes(10));
    assert_eq!(config.placement.gang_kinds[1].to_string(), "Pod");
    assert_eq!(config.placement.modes.other, PlacementMode::None);
    let written = serde_json::to_value(&config).unwrap();
    assert_eq!(ControllerConfig::read(&written).unwrap(), config, "what is written is read again");
}

#[test]
fn what_is_wrong_is_named_with_its_path() {
    for (document, message) in [
        (
            json!([]),
            "the configuration must be an object with apiVersion vnpu.dev/v1alpha1 and kind ControllerConfig",
        ),
        (
            json!({"apiVersion": "vnpu.dev/v1", "kind": "ControllerConfig"}),
            "the configuration is vnpu.dev/v1 ControllerConfig, this program reads vnpu.dev/v1alpha1 ControllerConfig: correct it, or update the program",
        ),
        (
            document(json!({"oddPolice": "reject"})),
            "oddPolice: unknown field `oddPolice`, expected one of `apiVersion`, `kind`, `classes`, `oddPolicy`, `defaults`, `limits`, `placement`, `topology`",
        ),
        (
            document(json!({"placement": {"modes": {"gangs": "pack"}}})),
            "placement.modes.gangs: unknown field `gangs`, expected `gang` or `other`",
        ),
        (
            document(json!({"placement": {"onNoFit": "never"}})),
            "placement.onNoFit: unknown variant `never`, expected `wait` or `release`",
        ),
        (
            document(json!({"placement": {"patience": "10"}})),
            "placement.patience: \"10\" is not a duration such as 90s, 10m, 1h30m or 0",
        ),
        (
            document(json!({"placement": {"gangKinds": ["Job.batch", "job"]}})),
            "placement.gangKinds[1]: \"job\" is not a kind with its group, such as Job.batch or PyTorchJob.kubeflow.org",
        ),
        (
            document(json!({"classes": {"npu": ["a", 1]}})),
            "classes.npu[1]: invalid type: integer `1`, expected a string",
        ),
        (
            document(json!({"classes": {"npu": ["A b"]}})),
            "classes.npu[0]: \"A b\" is not the name of a DeviceClass",
        ),
        (
            document(json!({"classes": {"npu": ["a"], "module": ["a"]}})),
            "classes.module[0]: \"a\" is named twice; a class is of one kind",
        ),
        (
            document(json!({"classes": {"modulesOf": {"a": "npu-module.vnpu.dev"}}})),
            "classes.modulesOf.a: \"a\" is not named in classes.npu",
        ),
        (
            document(json!({"classes": {"npu": ["a"], "modulesOf": {"a": "m"}}})),
            "classes.modulesOf.a: \"m\" is not named in classes.module",
        ),
        (
            document(json!({"classes": {"extendedResources": ["npu"]}})),
            "classes.extendedResources[0]: \"npu\" is not the name of a resource such as example.com/npu",
        ),
        (document(json!({"defaults": {"cores": 0}})), "defaults.cores: 0 is not within 1 to 100"),
        (document(json!({"limits": {"maxRequests": 33}})), "limits.maxRequests: 33 is not within 1 to 32"),
        (document(json!({"limits": {"warnRequests": 0}})), "limits.warnRequests: 0 is not within 1 to 32"),
        (
            document(json!({"placement": {"queueDepth": 0}})),
            "placement.queueDepth: 0 is not within 1 to 10000",
        ),
        (
            document(json!({"placement": {"schedulerNames": []}})),
            "placement.schedulerNames: it must name at least one scheduler, none of them empty",
        ),
        (
            document(json!({"topology": {"leafLabels": ["example.com/leaf", "a b"]}})),
            "topology.leafLabels[1]: \"a b\" is not the name of a label",
        ),
        (
            document(json!({"topology": {"superpodLabels": ["vnpu.dev/superpod"]}})),
            "topology.superpodLabels[0]: \"vnpu.dev/superpod\" is written from the sources, so it can be none of them",
        ),
        (
            document(json!({"topology": {"kueueTopology": "A"}})),
            "topology.kueueTopology: \"A\" is not the name of a Topology",
        ),
        (
            document(json!({"topology": {"csv": "topology.csv"}})),
            "topology.csv: \"topology.csv\" is not an absolute path",
        ),
    ] {
        assert_eq!(refusal(&document), message);
    }
}

#[test]
fn kinds_are_read_with_their_groups() {
    for text in ["Pod", "Job.batch", "Job.batch.volcano.sh"] {
        assert_eq!(text.parse::<WorkloadKind>().unwrap().to_string(), text);
    }
    for text in ["", "job.batch", "Job.", ".batch", "Job.Batch", "Job batch"] {
        assert!(text.parse::<WorkloadKind>().is_err(), "{text}");
    }
    let pod = json!({"metadata": {"ownerReferences": [
        {"kind": "Other", "apiVersion": "v1"}, {"kind": "Job", "apiVersion": "batch/v1", "controller": true}]}});
    assert_eq!(WorkloadKind::controller_of(&pod).unwrap().to_string(), "Job.batch");
}

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn policy(fields: Value) -> Value {
    let mut object = json!({ "apiVersion": API_VERSION, "kind": KIND });
    for (key, value) in fields.as_object().unwrap() {
        object[key] = value.clone();
    }
    object
}

fn config(source: ConfigSource, requests: &[&str], fields: Value) -> OpaqueConfig {
    OpaqueConfig {
        source,
        requests: requests.iter().map(|r| r.parse().unwrap()).collect(),
        parameters: policy(fields),
    }
}

fn effective(configs: &[OpaqueConfig], request: &str) -> EffectivePolicy {
    EffectivePolicy::for_request(configs, &request.parse().unwrap()).unwrap()
}

#[test]
fn every_field_is_read() {
    let read = SharePolicy::parse(&policy(json!({
        "compute": { "mode": "best-effort", "priority": 10, "initial": 1 },
        "memory": { "onFailure": "open", "overhead": "headroom", "initial": "2Gi" },
        "breach": "kill", "pairing": "independent", "interpose": "never",
    })));
    assert_eq!(
        read,
        Ok(SharePolicy {
            compute: ComputePolicy {
                mode: Some(ComputeMode::BestEffort),
                priority: Some(10),
                initial: Some(Percent(1)),
            },
            memory: MemoryPolicy {
                on_failure: Some(OnFailure::Open),
                overhead: Some(Overhead::Headroom),
                initial: Some(Bytes::gib(2)),
            },
            breach: Some(Breach::Kill),
            pairing: Some(Pairing::Independent),
            interpose: Some(Interpose::Never),
        })
    );
}

#[test]
fn what_is_not_said_has_the_documented_default() {
    assert_eq!(SharePolicy::parse(&policy(json!({}))), Ok(SharePolicy::default()));
    let default = effective(&[], "npu");
    assert_eq!((default.mode, default.priority), (ComputeMode::Hard, 5));
    assert_eq!((default.on_failure, default.overhead), (OnFailure::Closed, Overhead::Charge));
    assert_eq!((default.breach, default.pairing), (Breach::Report, Pairing::Module));
    assert_eq!(
        (default.interpose, default.initial_cores, default.initial_memory),
        (Interpose::Auto, None, None)
    );
}

#[test]
fn every_deviation_is_an_error_that_names_it() {
    let message = |value: Value| SharePolicy::parse(&value).unwrap_err().to_string();
    insta::assert_snapshot!(message(json!(null)), @"the parameters must be an object with apiVersion vnpu.dev/v1alpha1 and kind SharePolicy");
    insta::assert_snapshot!(message(json!({ "kind": KIND })), @r#"apiVersion is "", this driver reads "vnpu.dev/v1alpha1": correct it, or update the driver"#);
    insta::assert_snapshot!(message(json!({ "apiVersion": "vnpu.dev/v2", "kind": KIND })), @r#"apiVersion is "vnpu.dev/v2", this driver reads "vnpu.dev/v1alpha1": correct it, or update the driver"#);
    insta::assert_snapshot!(message(json!({ "apiVersion": API_VERSION, "kind": "Policy" })), @r#"kind is "Policy", this driver reads "SharePolicy": correct it"#);
    insta::assert_snapshot!(message(policy(json!({ "cores": 10 }))), @"field cores: there is no such field; there are compute, memory, breach, pairing and interpose");
    insta::assert_snapshot!(message(policy(json!({ "compute": { "moed": "hard" } }))), @"field compute: unknown field `moed`, expected one of `mode`, `priority`, `initial`");
    insta::assert_snapshot!(message(policy(json!({ "compute": { "mode": "soft" } }))), @"field compute: unknown variant `soft`, expected one of `hard`, `elastic`, `best-effort`");
    insta::assert_snapshot!(message(policy(json!({ "compute": { "priority": 11 } }))), @"field compute.priority: it must be 0 to 10");
    insta::assert_snapshot!(message(policy(json!({ "compute": { "priority": -1 } }))), @"field compute: invalid value: integer `-1`, expected u8");
    insta::assert_snapshot!(message(policy(json!({ "compute": { "initial": 0 } }))), @"field compute.initial: it must be 1 to 100 (percent of one chip)");
    insta::assert_snapshot!(message(policy(json!({ "compute": { "initial": 101 } }))), @"field compute.initial: it must be 1 to 100 (percent of one chip)");
    insta::assert_snapshot!(message(policy(json!({ "memory": { "initial": "512Mi" } }))), @"field memory.initial: it must be at least 1Gi");
    insta::assert_snapshot!(message(policy(json!({ "memory": { "initial": "lots" } }))), @r#"field memory: quantity "lots": it is not a Kubernetes quantity such as 4Gi, 4294967296 or 10"#);
    insta::assert_snapshot!(message(policy(json!({ "memory": { "initial": [1] } }))), @"field memory: initial must be a quantity such as 4Gi");
    insta::assert_snapshot!(message(policy(json!({ "compute": ["hard", 5, 1] }))), @"field compute: it must be an object");
    insta::assert_snapshot!(message(policy(json!({ "breach": "ignore" }))), @"field breach: unknown variant `ignore`, expected one of `report`, `evict`, `kill`");
    insta::assert_snapshot!(message(policy(json!({ "breach": "x".repeat(11_000) }))), @"the parameters have 11067 bytes, more than the 10240 allowed: shorten them");
}

#[test]
fn a_class_is_overridden_by_the_claim_field_by_field() {
    let configs = [
        config(ConfigSource::Claim, &[], json!({ "compute": { "priority": 7 } })),
        config(
            ConfigSource::Class,
            &[],
            json!({ "compute": { "mode": "elastic", "priority": 1 }, "breach": "evict" }),
        ),
    ];
    let policy = effective(&configs, "npu");
    assert_eq!((policy.mode, policy.priority, policy.breach), (ComputeMode::Elastic, 7, Breach::Evict));
}

#[test]
fn a_configuration_applies_to_the_requests_that_it_names() {
    let configs = [
        config(ConfigSource::Claim, &["a"], json!({ "compute": { "priority": 1 } })),
        config(ConfigSource::Claim, &["b/x"], json!({ "compute": { "priority": 2 } })),
    ];
    let priority = |request| effective(&configs, request).priority;
    assert_eq!((priority("a"), priority("a/any"), priority("b/x")), (1, 1, 2));
    assert_eq!((priority("b/y"), priority("b"), priority("c")), (5, 5, 5));
}

#[test]
fn a_bad_configuration_is_an_error_even_where_it_does_not_apply() {
    let configs = [config(ConfigSource::Claim, &["a"], json!({ "typo": 1 }))];
    assert!(EffectivePolicy::for_request(&configs, &"b".parse().unwrap()).is_err());
}

proptest! {
    #[test]
    fn no_json_panics(key in "[a-zA-Z]{0,12}", inner in "[a-zA-Z]{0,12}", number: i64, text in "\\PC{0,20}") {
        for section in [key.as_str(), "compute", "memory", "breach"] {
            let _ = SharePolicy::parse(&policy(json!({ section: { inner.as_str(): number } })));
            let _ = SharePolicy::parse(&policy(json!({ section: text })));
            let _ = SharePolicy::parse(&policy(json!({ section: number })));
        }
    }
}

use serde_json::{Value, json};

use super::*;

const UID: &str = "0b0e8bd2-07d1-4b3e-9a51-3c2a2f5d9e10";

fn object() -> Value {
    json!({
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": { "name": "share", "namespace": "team-a", "uid": UID },
        "spec": {},
        "status": {
            "allocation": {
                "devices": {
                    "results": [
                        { "request": "nic", "driver": "nic.example.com", "pool": "p", "device": "d" },
                        {
                            "request": "npu/half", "driver": "vnpu.dev", "pool": "node-1/ascend",
                            "device": "chip-0-0", "shareID": "1b7c0c3e-0000-4000-8000-000000000000",
                            "consumedCapacity": { "memory": "4Gi", "cores": "10" }
                        }
                    ],
                    "config": [
                        {
                            "source": "FromClass",
                            "opaque": { "driver": "nic.example.com", "parameters": { "x": 1 } }
                        },
                        {
                            "source": "FromClaim", "requests": ["npu"],
                            "opaque": { "driver": "vnpu.dev", "parameters": { "kind": "SharePolicy" } }
                        }
                    ]
                }
            },
            "reservedFor": [{ "resource": "pods", "name": "pod", "uid": "pod-uid" }]
        }
    })
}

fn read(value: Value) -> Result<Claim, ClaimError> {
    read_claim(&serde_json::from_value(value).unwrap())
}

#[test]
fn only_what_is_ours_is_read_and_positions_stay() {
    let claim = read(object()).unwrap();
    assert_eq!((claim.display_name().as_str(), claim.uid.as_str()), ("team-a/share", UID));
    assert!(claim.allocated && !claim.deleting && claim.reserved_for_a_pod());
    let [result] = &claim.results[..] else { panic!("one result is ours") };
    assert_eq!((result.index, result.request.to_string().as_str()), (1, "npu/half"));
    assert_eq!((result.pool.as_str(), result.device.as_str()), ("node-1/ascend", "chip-0-0"));
    assert_eq!(result.consumed_capacity["memory"], "4Gi");
    assert_eq!(result.share_id.as_deref(), Some("1b7c0c3e-0000-4000-8000-000000000000"));
    assert!(!result.admin_access);
    let [config] = &claim.configs[..] else { panic!("one configuration is ours") };
    assert_eq!(config.source, ConfigSource::Claim);
    assert!(config.applies_to(&result.request), "the main request covers its alternatives");
    assert_eq!(config.parameters, json!({ "kind": "SharePolicy" }));
}

#[test]
fn a_claim_that_is_not_allocated_or_is_being_deleted_says_so() {
    let mut value = object();
    value["status"] = json!({});
    value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let claim = read(value).unwrap();
    assert!(!claim.allocated && claim.deleting && !claim.reserved_for_a_pod());
    assert!(claim.results.is_empty() && claim.configs.is_empty());
}

#[test]
fn hostile_identities_are_refused() {
    for uid in ["", "../../../etc/cron.d/x", "0B0E8BD2-07D1-4B3E-9A51-3C2A2F5D9E10"] {
        let mut value = object();
        value["metadata"]["uid"] = json!(uid);
        assert_eq!(read(value).unwrap_err().reason(), "claim_identity", "{uid:?}");
    }
    for request in ["", "../x", "a/b/c", "A", "npu/", "/half"] {
        let mut value = object();
        value["status"]["allocation"]["devices"]["results"][1]["request"] = json!(request);
        assert_eq!(read(value).unwrap_err().reason(), "claim_identity", "{request:?}");
    }
}

#[test]
fn a_configuration_from_nowhere_is_refused() {
    let mut value = object();
    value["status"]["allocation"]["devices"]["config"][1]["source"] = json!("FromMars");
    let error = read(value).unwrap_err();
    assert_eq!((error.reason(), error.retryable()), ("claim_config_source", false));
}

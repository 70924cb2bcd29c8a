use std::time::Duration;

use vnpu_driver::conditions::{Attachment, device_statuses};
use vnpu_driver::hardware::Health;
use vnpu_driver::id::{ClaimUid, PoolName};
use vnpu_driver::prepare::{NodePool, plan_prepare};

use super::*;
use crate::claim::read_claim;
use crate::fixtures::inventory;

const UID: &str = "0b0e8bd2-07d1-4b3e-9a51-3c2a2f5d9e10";

fn object() -> api::ResourceClaim {
    serde_json::from_value(json!({
        "metadata": { "name": "share", "namespace": "team-a", "uid": UID },
        "status": { "allocation": { "devices": { "results": [{
            "request": "npu", "driver": "vnpu.dev", "pool": "node-1/ascend", "device": "chip-0-0",
            "shareID": "1b7c0c3e-0000-4000-8000-000000000000",
            "consumedCapacity": { "memory": "4Gi", "cores": "10" }
        }] } } }
    }))
    .unwrap()
}

fn prepared() -> PreparePlan {
    let pool = PoolName::new("node-1/ascend").unwrap();
    let pools = [NodePool { pool: &pool, inventory: &inventory(1) }];
    plan_prepare(&read_claim(&object()).unwrap(), &ClaimUid::new(UID).unwrap(), &pools, []).unwrap()
}

fn statuses(attachment: Attachment) -> Vec<DeviceStatus> {
    device_statuses(&prepared(), |_| attachment, |_| Health::Healthy)
}

fn at(seconds: u64) -> WallTime {
    WallTime::new(Duration::from_secs(seconds))
}

/// The claim as the server has it after the patch.
fn applied(patch: &Value) -> api::ResourceClaim {
    let mut value = serde_json::to_value(object()).unwrap();
    value["status"]["devices"] = patch["status"]["devices"].clone();
    serde_json::from_value(value).unwrap()
}

#[test]
fn the_patch_names_the_claim_by_uid_and_says_quota_and_conditions() {
    let patch = status_patch(&prepared(), &statuses(Attachment::Unknown), None, at(1_700_000_000));
    insta::assert_snapshot!(serde_json::to_string_pretty(&patch).unwrap(), @r#"
    {
      "apiVersion": "resource.k8s.io/v1",
      "kind": "ResourceClaim",
      "metadata": {
        "name": "share",
        "namespace": "team-a",
        "uid": "0b0e8bd2-07d1-4b3e-9a51-3c2a2f5d9e10"
      },
      "status": {
        "devices": [
          {
            "conditions": [
              {
                "lastTransitionTime": "2023-11-14T22:13:20Z",
                "message": "prepared; the quota is in force for programs that use the vendor's runtime",
                "reason": "Prepared",
                "status": "True",
                "type": "Ready"
              },
              {
                "lastTransitionTime": "2023-11-14T22:13:20Z",
                "message": "no process of the claim has been seen on the chip yet",
                "reason": "NoProcessSeen",
                "status": "Unknown",
                "type": "Attached"
              }
            ],
            "data": {
              "chips": [
                {
                  "card": 0,
                  "die": 0,
                  "physId": 0,
                  "quota": {
                    "cores": 10,
                    "memory": "4Gi",
                    "mode": "hard",
                    "priority": 5
                  },
                  "uuid": "VDIE-0-0"
                }
              ],
              "interposed": true
            },
            "device": "chip-0-0",
            "driver": "vnpu.dev",
            "pool": "node-1/ascend",
            "shareID": "1b7c0c3e-0000-4000-8000-000000000000"
          }
        ]
      }
    }
    "#);
}

#[test]
fn a_condition_keeps_its_time_until_its_status_changes() {
    let first = status_patch(&prepared(), &statuses(Attachment::Unknown), None, at(1000));
    let observed = applied(&first);
    let second = status_patch(&prepared(), &statuses(Attachment::Attached), Some(&observed), at(2000));
    let times: Vec<&Value> = second["status"]["devices"][0]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["lastTransitionTime"])
        .collect();
    assert_eq!(times, ["1970-01-01T00:16:40Z", "1970-01-01T00:33:20Z"]);
}

#[test]
fn nothing_is_written_when_the_server_has_it() {
    let unknown = statuses(Attachment::Unknown);
    let observed = applied(&status_patch(&prepared(), &unknown, None, at(1000)));
    assert!(status_current(&unknown, &observed));
    assert!(!status_current(&statuses(Attachment::Attached), &observed));
    assert!(!status_current(&unknown, &object()), "deallocated, or never written");
    assert!(!status_current(&[], &observed));
}

//! Controllers of pods: how many pods they want at the same time.

use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::scheduling::v1beta1::PodGroup;

/// What a controller says about its pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnerSeen {
    /// How many it makes without waiting for others of them; `None` where they come one by one.
    pub size: Option<u32>,
    /// Whether its pods work together, each with a rank of its own (an indexed Job).
    pub indexed: bool,
}

/// A Job: as many pods as may run at once, but no more than are still to succeed.
pub fn job(object: &Job) -> OwnerSeen {
    let spec = object.spec.as_ref();
    let parallel = spec.and_then(|s| s.parallelism).unwrap_or(1);
    let succeeded = object.status.as_ref().and_then(|s| s.succeeded).unwrap_or_default();
    let left = spec.and_then(|s| s.completions).map_or(parallel, |c| c.saturating_sub(succeeded));
    OwnerSeen {
        size: Some(at_once(parallel.min(left))),
        indexed: spec.and_then(|s| s.completion_mode.as_deref()) == Some("Indexed"),
    }
}

/// A ReplicaSet: all replicas.
pub fn replica_set(object: &ReplicaSet) -> OwnerSeen {
    OwnerSeen { size: Some(at_once(object.spec.replicas.unwrap_or(1))), indexed: false }
}

/// A StatefulSet: all replicas where they start in parallel; in order, the next comes when the one before is ready.
pub fn stateful_set(object: &StatefulSet) -> OwnerSeen {
    let spec = &object.spec;
    let parallel = spec.pod_management_policy.as_deref() == Some("Parallel");
    let replicas = spec.replicas.unwrap_or(1);
    OwnerSeen { size: parallel.then(|| at_once(replicas)), indexed: false }
}

/// How many pods a PodGroup of Kubernetes wants at once.
pub fn pod_group(object: &PodGroup) -> Option<u32> {
    let gang = object.spec.scheduling_policy.gang.as_ref()?;
    Some(at_once(gang.min_count))
}

fn at_once(count: i32) -> u32 {
    u32::try_from(count).unwrap_or_default()
}

//! `status.devices` of a claim: the server-side-apply patch that writes our entries, and whether it is needed.

use k8s_openapi::api::resource::v1 as api;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use vnpu_driver::DRIVER_NAME;
use vnpu_driver::conditions::{Condition, DeviceStatus};
use vnpu_driver::prepare::PreparePlan;
use vnpu_driver::time::WallTime;

/// Field manager of the patch.
pub const FIELD_MANAGER: &str = "vnpu.dev";

/// The server-side-apply patch of `resourceclaims/status` that sets our entries. The UID is in it, so a claim
/// of the same name that was made again is refused (422, `metadata.uid` is immutable), not written to. Times of transition are kept from
/// `observed` where a condition's status did not change.
pub fn status_patch(
    plan: &PreparePlan,
    statuses: &[DeviceStatus],
    observed: Option<&api::ResourceClaim>,
    now: WallTime,
) -> Value {
    let devices: Vec<Value> =
        statuses.iter().map(|status| device(status, entry_of(observed, status), now)).collect();
    json!({
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {
            "namespace": plan.namespace,
            "name": plan.name,
            "uid": plan.claim.as_str(),
        },
        "status": { "devices": devices },
    })
}

/// Whether `observed` says already what `statuses` say (times of transition aside).
pub fn status_current(statuses: &[DeviceStatus], observed: &api::ResourceClaim) -> bool {
    let ours = entries(Some(observed)).filter(|e| e.driver == DRIVER_NAME).count();
    ours == statuses.len()
        && statuses.iter().all(|status| {
            entry_of(Some(observed), status).is_some_and(|entry| {
                let conditions = entry.conditions.as_deref().unwrap_or_default();
                entry.data.as_ref().is_some_and(|d| d.0 == status.data)
                    && conditions.len() == status.conditions.len()
                    && status.conditions.iter().all(|wanted| {
                        conditions.iter().any(|c| {
                            c.type_ == wanted.kind
                                && c.status == wanted.status.as_str()
                                && c.reason == wanted.reason
                                && c.message == wanted.message
                        })
                    })
            })
        })
}

/// What the claim says now of a device being `Ready`; `None` when it says nothing.
pub fn was_ready(status: &DeviceStatus, observed: &api::ResourceClaim) -> Option<bool> {
    let conditions = entry_of(Some(observed), status)?.conditions.as_deref()?;
    conditions.iter().find(|condition| condition.type_ == "Ready").map(|condition| condition.status == "True")
}

fn entries(claim: Option<&api::ResourceClaim>) -> impl Iterator<Item = &api::AllocatedDeviceStatus> {
    claim.and_then(|c| c.status.as_ref()).and_then(|s| s.devices.as_ref()).into_iter().flatten()
}

fn entry_of<'a>(
    claim: Option<&'a api::ResourceClaim>,
    status: &DeviceStatus,
) -> Option<&'a api::AllocatedDeviceStatus> {
    let device = status.device.to_string();
    entries(claim).find(|e| {
        e.driver == DRIVER_NAME
            && e.pool == status.pool.as_str()
            && e.device == device
            && e.share_id == status.share_id
    })
}

fn device(status: &DeviceStatus, before: Option<&api::AllocatedDeviceStatus>, now: WallTime) -> Value {
    let conditions: Vec<Value> = status.conditions.iter().map(|c| condition(c, before, now)).collect();
    let mut entry = json!({
        "driver": DRIVER_NAME,
        "pool": status.pool.as_str(),
        "device": status.device.to_string(),
        "conditions": conditions,
        "data": status.data,
    });
    if let (Some(share), Some(object)) = (&status.share_id, entry.as_object_mut()) {
        object.insert("shareID".to_owned(), json!(share));
    }
    entry
}

fn condition(condition: &Condition, before: Option<&api::AllocatedDeviceStatus>, now: WallTime) -> Value {
    let kept = before
        .and_then(|e| e.conditions.as_ref())
        .into_iter()
        .flatten()
        .find(|c| c.type_ == condition.kind && c.status == condition.status.as_str())
        .map(|c| c.last_transition_time.0);
    let time = kept.unwrap_or_else(|| timestamp(now));
    json!({
        "type": condition.kind,
        "status": condition.status.as_str(),
        "reason": condition.reason,
        "message": condition.message,
        "lastTransitionTime": time.to_string(),
    })
}

/// Times past the year 9999 cannot be written; nobody's clock is there.
fn timestamp(time: WallTime) -> Timestamp {
    i64::try_from(time.since_epoch().as_secs())
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests;

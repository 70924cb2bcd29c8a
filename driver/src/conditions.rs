//! What `status.devices` of a claim says of each device: the conditions `Ready` and `Attached`, and data for
//! people and tools. Only content; the API object is made elsewhere.

use serde_json::json;

use crate::hardware::Health;
use crate::id::{DeviceName, DeviceUuid, PoolName};
use crate::plan::{PlannedResult, PreparePlan};
use crate::share::OnFailure;

/// Three-valued truth of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Nobody can tell yet.
    Unknown,
}

impl Truth {
    /// The API's spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// One condition, without its time of transition (the shell keeps that from what was written before).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// `Ready` or `Attached`.
    pub kind: &'static str,
    /// Whether it holds.
    pub status: Truth,
    /// One CamelCase word.
    pub reason: &'static str,
    /// For people; at most 1024 characters.
    pub message: String,
}

/// Whether a process of the claim's containers is under the quota of a chip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attachment {
    /// The vendor's library reports no process of the claim on the chip (or cannot tell).
    Unknown,
    /// A process holds a slot of the usage region.
    Attached,
    /// A process holds a slot, and others have found every slot taken since the claim was prepared.
    Crowded,
    /// The vendor's library reports a process that holds no slot.
    Unattached,
}

/// The entry of one result in `status.devices`, keyed there by (driver, pool, device, share id).
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceStatus {
    /// The pool.
    pub pool: PoolName,
    /// The device.
    pub device: DeviceName,
    /// The share's identity, where the device is shared.
    pub share_id: Option<String>,
    /// `Ready`, and for interposed results `Attached`.
    pub conditions: Vec<Condition>,
    /// Quota and device data; far below the API's 10 KiB.
    pub data: serde_json::Value,
}

/// The entries of a prepared claim. `attachment` and `health` answer for one chip each.
pub fn device_statuses(
    plan: &PreparePlan,
    attachment: impl Fn(&DeviceUuid) -> Attachment,
    health: impl Fn(&DeviceUuid) -> Health,
) -> Vec<DeviceStatus> {
    plan.results
        .iter()
        .map(|result| {
            let mut conditions = vec![ready(result, &health)];
            if result.interpose {
                conditions.push(attached(plan, result, &attachment));
            }
            DeviceStatus {
                pool: result.pool.clone(),
                device: result.device,
                share_id: result.share_id.clone(),
                conditions,
                data: data(plan, result),
            }
        })
        .collect()
}

fn ready(result: &PlannedResult, health: &impl Fn(&DeviceUuid) -> Health) -> Condition {
    for chip in &result.chips {
        let health = health(&chip.uuid);
        if matches!(health, Health::Unhealthy(_)) {
            let message = clipped(format!("chip {} is unhealthy: {health}", chip.uuid));
            return Condition { kind: "Ready", status: Truth::False, reason: "Unhealthy", message };
        }
    }
    let message = if result.interpose {
        "prepared; the quota is in force for programs that use the vendor's runtime"
    } else if result.chips.iter().all(|chip| chip.whole) {
        "prepared without quota: the devices are used whole"
    } else {
        "prepared without quota: the share is counted, and programs are not held to it"
    };
    Condition { kind: "Ready", status: Truth::True, reason: "Prepared", message: message.to_owned() }
}

fn attached(
    plan: &PreparePlan,
    result: &PlannedResult,
    attachment: &impl Fn(&DeviceUuid) -> Attachment,
) -> Condition {
    let of_chips: Vec<Attachment> = result.chips.iter().map(|c| attachment(&c.uuid)).collect();
    let (status, reason, message) = if of_chips.contains(&Attachment::Unattached) {
        (
            Truth::False,
            "OutsideQuota",
            "a process of the claim uses the chip without the interposer, so its quota is not enforced",
        )
    } else if of_chips.contains(&Attachment::Crowded) {
        // Still True: it says that processes are held to the quota, and only those beyond the table are not. No
        // number, which would be another write of the status whenever it grows: the metrics have it.
        (Truth::True, "NoFreeSlot", crowded(plan))
    } else if of_chips.contains(&Attachment::Attached) {
        (Truth::True, "UnderQuota", "a process of the claim runs under the quota")
    } else {
        (Truth::Unknown, "NoProcessSeen", "no process of the claim has been seen on the chip yet")
    };
    Condition { kind: "Attached", status, reason, message: message.to_owned() }
}

/// What became of the processes without a slot. The interposer refuses them memory if one chip of the claim asks
/// for it.
fn crowded(plan: &PreparePlan) -> &'static str {
    if plan.shares.chips.iter().any(|chip| chip.on_failure == OnFailure::Closed) {
        "processes of the claim run under the quota; others found no free slot beside them and were refused \
         device memory (onFailure: closed)"
    } else {
        "processes of the claim run under the quota; others found no free slot beside them and were not limited \
         (onFailure: open)"
    }
}

fn data(plan: &PreparePlan, result: &PlannedResult) -> serde_json::Value {
    let chips: Vec<serde_json::Value> = result
        .chips
        .iter()
        .map(|chip| {
            let mut entry = json!({
                "uuid": chip.uuid,
                "card": chip.card,
                "die": chip.die,
                "physId": chip.phys_id,
            });
            let quota = plan.shares.chips.iter().find(|s| s.uuid == chip.uuid);
            if let (Some(quota), Some(object)) = (quota, entry.as_object_mut()) {
                object.insert(
                    "quota".to_owned(),
                    json!({
                        "memory": quota.memory.to_string(),
                        "cores": quota.cores.0,
                        "mode": quota.mode,
                        "priority": quota.priority,
                    }),
                );
            }
            entry
        })
        .collect();
    json!({ "interposed": result.interpose, "chips": chips })
}

fn clipped(message: String) -> String {
    message.chars().take(1024).collect()
}

#[cfg(test)]
mod tests;

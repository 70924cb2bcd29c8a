//! `status.devices` of prepared claims: what the regions and discovery say now, applied to the claim when it
//! differs from what stands there.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::Api;
use kube::api::{Patch, PatchParams};
use tokio::sync::Semaphore;
use vnpu_driver::conditions::{Attachment, DeviceStatus, Truth, device_statuses};
use vnpu_driver::hardware::Health;
use vnpu_driver::health::ABSENT;
use vnpu_driver::id::{ClaimUid, DeviceUuid};
use vnpu_driver::prepare::PreparePlan;
use vnpu_driver::record::ClaimState;
use vnpu_driver::share::ClaimShares;
use vnpu_kube_types::status::{FIELD_MANAGER, status_current, status_patch, was_ready};
use vnpu_quota_agent::{AgentError, Attached};

use crate::hardware::Standing;
use crate::live;
use crate::node::{Node, blocking};

/// A status waits so long: pods that start together are prepared first, and a claim that is given back within
/// this time costs the API server nothing.
const PAUSE: Duration = Duration::from_secs(1);
/// So many are written at once: the calls of Prepare need the API server more.
static TURNS: Semaphore = Semaphore::const_new(4);

/// Writes the status of a claim that was just prepared, beside the answer. Reconciliation repeats what fails.
pub fn write_soon(node: &Arc<Node>, uid: ClaimUid) {
    let worker = Arc::clone(node);
    node.tasks.spawn(async move {
        tokio::time::sleep(PAUSE).await;
        let _turn = TURNS.acquire().await;
        // On the heap only now: hundreds may wait at a time, most of them for nothing.
        Box::pin(write_if_prepared(&worker, &uid)).await;
    });
}

async fn write_if_prepared(node: &Arc<Node>, uid: &ClaimUid) {
    let Some(ClaimState::PrepareCompleted(plan)) = node.store.state(uid) else { return };
    if let Err(error) = read_and_write(node, &plan).await {
        tracing::warn!(claim = %uid, %error, "status.devices is not written yet");
    }
}

/// Reads the claim, and writes its entries if they are not there already.
///
/// # Errors
/// The client's words; level-triggered callers come again.
pub async fn read_and_write(node: &Arc<Node>, plan: &PreparePlan) -> Result<(), kube::Error> {
    let client = node.client.wait().await.clone();
    let api: Api<ResourceClaim> = Api::namespaced(client, &plan.namespace);
    match api.get_opt(&plan.name).await? {
        Some(claim) if claim.metadata.uid.as_deref() == Some(plan.claim.as_str()) => {
            live::follow(node, plan, &claim).await;
            write(node, plan, Some(&claim)).await
        }
        // Another claim of that name, or none: nobody reads a status there.
        _ => Ok(()),
    }
}

/// Writes the claim's entries if they are not there already.
///
/// # Errors
/// The client's words; level-triggered callers come again.
pub async fn write(
    node: &Arc<Node>,
    plan: &PreparePlan,
    observed: Option<&ResourceClaim>,
) -> Result<(), kube::Error> {
    let statuses = statuses(node, plan).await;
    if observed.is_some_and(|claim| status_current(&statuses, claim)) {
        return Ok(());
    }
    let told = |claim: &ResourceClaim| statuses.iter().all(|status| was_ready(status, claim).is_some());
    let known = node.seen.borrow().know(plan.results.iter().map(|result| result.pool.as_str()));
    if !known && observed.is_some_and(told) {
        // What it says of its devices' health is better than nothing.
        return Ok(());
    }
    let client = node.client.wait().await.clone();
    let api: Api<ResourceClaim> = Api::namespaced(client, &plan.namespace);
    let patch = status_patch(plan, &statuses, observed, Node::now());
    let params = PatchParams::apply(FIELD_MANAGER).force();
    api.patch_status(&plan.name, &params, &Patch::Apply(&patch)).await?;
    if let Some(claim) = observed {
        tell_pods(node, claim, &statuses);
    }
    Ok(())
}

/// Tells the claim's pods of devices that are not ready any more, or are again. What stood in the claim before is the
/// memory of it, so that a plugin that starts anew says nothing twice.
fn tell_pods(node: &Node, claim: &ResourceClaim, statuses: &[DeviceStatus]) {
    for status in statuses {
        let Some(ready) = status.conditions.iter().find(|condition| condition.kind == "Ready") else {
            continue;
        };
        match (was_ready(status, claim), ready.status) {
            (None | Some(true), Truth::False) => {
                node.events
                    .unhealthy(claim, &format!("{} of {}: {}", status.device, status.pool, ready.message));
            }
            (Some(false), Truth::True) => {
                node.events.healthy(claim, &format!("{} of {} is well again", status.device, status.pool));
            }
            _ => {}
        }
    }
}

/// What is to be said of a claim now.
pub async fn statuses(node: &Arc<Node>, plan: &PreparePlan) -> Vec<DeviceStatus> {
    let seen = Arc::clone(&node.seen.borrow());
    let mut plan = seen.renumbered(plan);
    let mut attached = Attachment::Unknown;
    if plan.interposed()
        && let Some((told, in_force)) = read_regions(node, &plan).await
    {
        attached = told;
        // A quota may have changed since the claim was prepared.
        plan.shares = in_force;
    }
    let of = |uuid: &DeviceUuid| plan.results.iter().find(|r| r.chips.iter().any(|c| c.uuid == *uuid));
    let health = |uuid: &DeviceUuid| match seen.chip(uuid) {
        Some(chip) => chip.health.clone(),
        None if of(uuid).is_some_and(|r| seen.standing(r.pool.as_str()) == Standing::Pending) => {
            Health::Unknown("the hardware was not looked at yet".to_owned())
        }
        None => Health::fault(ABSENT, "the hardware no longer reports it"),
    };
    let outside = node.audits.outside(&plan.claim);
    let attachment =
        |uuid: &DeviceUuid| if outside.contains(uuid) { Attachment::Unattached } else { attached };
    device_statuses(&plan, attachment, health)
}

async fn read_regions(node: &Arc<Node>, plan: &PreparePlan) -> Option<(Attachment, ClaimShares)> {
    let session = node.session().await.ok()?;
    let (materials, claim) = (Arc::clone(&node.materials), plan.claim.clone());
    let looked = blocking(move || {
        // Opening the regions cleans up, which another instance must not see.
        let _session = session;
        let agent = materials.agent()?;
        Ok::<_, AgentError>((agent.attached(&claim)?, agent.shares(&claim)?))
    });
    let (attached, shares) = looked.await.ok()?;
    let attachment = match attached {
        Attached::True => Attachment::Attached,
        Attached::Crowded => Attachment::Crowded,
        Attached::Unknown => Attachment::Unknown,
    };
    Some((attachment, shares?))
}

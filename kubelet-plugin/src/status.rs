//! `status.devices` of prepared claims: what the regions and discovery say now, applied to the claim when it
//! differs from what stands there.

use std::sync::Arc;

use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::Api;
use kube::api::{Patch, PatchParams};
use vnpu_driver::conditions::{Attachment, DeviceStatus, device_statuses};
use vnpu_driver::hardware::Health;
use vnpu_driver::id::DeviceUuid;
use vnpu_driver::prepare::PreparePlan;
use vnpu_kube_types::status::{FIELD_MANAGER, status_current, status_patch};
use vnpu_quota_agent::Attached;

use crate::node::{Node, blocking};

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
    let client = node.client.wait().await.clone();
    let api: Api<ResourceClaim> = Api::namespaced(client, &plan.namespace);
    let patch = status_patch(plan, &statuses, observed, Node::now());
    let params = PatchParams::apply(FIELD_MANAGER).force();
    api.patch_status(&plan.name, &params, &Patch::Apply(&patch)).await?;
    Ok(())
}

/// What is to be said of a claim now.
pub async fn statuses(node: &Arc<Node>, plan: &PreparePlan) -> Vec<DeviceStatus> {
    let attached = if plan.interposed() { attached(node, plan).await } else { Attachment::Unknown };
    let seen = node.seen.borrow().clone();
    let health = |uuid: &DeviceUuid| match seen.as_ref().and_then(|s| s.chip(uuid)) {
        Some(chip) => chip.health.clone(),
        None => Health::Unhealthy("the hardware no longer reports it".to_owned()),
    };
    let numbered = seen.as_ref().map(|seen| seen.renumbered(plan));
    device_statuses(numbered.as_ref().unwrap_or(plan), |_| attached, health)
}

async fn attached(node: &Arc<Node>, plan: &PreparePlan) -> Attachment {
    let (materials, claim) = (Arc::clone(&node.materials), plan.claim.clone());
    match blocking(move || materials.agent()?.attached(&claim)).await {
        Ok(Attached::True) => Attachment::Attached,
        Ok(Attached::Unknown) | Err(_) => Attachment::Unknown,
    }
}

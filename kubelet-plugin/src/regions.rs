//! The node agent's round: gives back what dead processes held, shows usage, and keeps the `Attached` condition
//! of claims up to date. What regions look like is `quota-agent`'s.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::Api;
use tokio_util::sync::CancellationToken;
use vnpu_driver::id::ClaimUid;
use vnpu_driver::prepare::PreparePlan;
use vnpu_driver::record::ClaimState;
use vnpu_quota_agent::{AgentError, Attached, ClaimUsage, ReapReport};

use crate::error::OperationError;
use crate::node::{Node, blocking};
use crate::status;

/// Makes a round at every period until `stop`.
pub async fn run(node: Arc<Node>, period: Duration, stop: CancellationToken) {
    let work = async {
        let mut reported = BTreeMap::new();
        loop {
            tokio::time::sleep(period).await;
            if let Err(error) = round(&node, &mut reported).await {
                tracing::warn!(%error, "a pass over the regions failed; it is repeated");
            }
        }
    };
    stop.run_until_cancelled(work).await;
}

type Looked = (ReapReport, Vec<(ClaimUsage, Attached)>);

async fn round(node: &Arc<Node>, reported: &mut BTreeMap<ClaimUid, Attached>) -> Result<(), OperationError> {
    let plans: Vec<PreparePlan> = node.store.look(|state| {
        let done = state.states().filter_map(|(_, state)| match state {
            ClaimState::PrepareCompleted(plan) => Some(plan),
            _ => None,
        });
        done.filter(|plan| plan.interposed()).cloned().collect()
    });
    reported.retain(|uid, _| plans.iter().any(|plan| plan.claim == *uid));
    if plans.is_empty() {
        return Ok(());
    }
    let looked = {
        // Two instances must not reap at once.
        let _session = node.session().await?;
        let materials = Arc::clone(&node.materials);
        let claims: Vec<ClaimUid> = plans.iter().map(|plan| plan.claim.clone()).collect();
        blocking(move || look(&materials, &claims)).await
    };
    let (reaped, usages) =
        looked.map_err(|e| e.map_or(OperationError::Internal, |e| OperationError::Material(e.into())))?;
    node.metrics.reaped.inc_by(u64::from(reaped.reaped));
    if reaped.reaped > 0 {
        tracing::info!(slots = reaped.reaped, bytes = reaped.bytes.0, "dead processes' memory given back");
    }
    for (usage, attached) in usages {
        let Some(plan) = plans.iter().find(|plan| plan.claim == usage.claim) else { continue };
        node.metrics.show_usage(&plan.namespace, &plan.name, &usage);
        if reported.get(&plan.claim) != Some(&attached) && report(node, plan).await {
            reported.insert(plan.claim.clone(), attached);
        }
    }
    Ok(())
}

fn look(materials: &crate::materials::Materials, claims: &[ClaimUid]) -> Result<Looked, AgentError> {
    let agent = materials.agent()?;
    let reaped = agent.reap()?;
    let mut usages = Vec::with_capacity(claims.len());
    for claim in claims {
        match (agent.usage(claim), agent.attached(claim)) {
            (Ok(usage), Ok(attached)) => usages.push((usage, attached)),
            (Err(error), _) | (_, Err(error)) => {
                // It may have been unprepared meanwhile.
                tracing::debug!(%claim, %error, "the usage cannot be read");
            }
        }
    }
    Ok((reaped, usages))
}

/// Writes the claim's status; `true` when it stands there.
async fn report(node: &Arc<Node>, plan: &PreparePlan) -> bool {
    let client = node.client.wait().await.clone();
    let api: Api<k8s_openapi::api::resource::v1::ResourceClaim> = Api::namespaced(client, &plan.namespace);
    let result = async {
        match api.get_opt(&plan.name).await? {
            Some(claim) if claim.metadata.uid.as_deref() == Some(plan.claim.as_str()) => {
                status::write(node, plan, Some(&claim)).await
            }
            _ => Ok(()),
        }
    };
    match result.await {
        Ok(()) => true,
        Err(error) => {
            tracing::debug!(claim = %plan.claim, %error, "the claim's status is not written yet");
            false
        }
    }
}

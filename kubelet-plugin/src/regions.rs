//! The node agent's round: gives back what dead processes held, shows usage, and keeps the `Attached` condition
//! of claims up to date. What regions look like is `quota-agent`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio_util::sync::CancellationToken;
use vnpu_driver::id::{ClaimUid, DeviceUuid};
use vnpu_driver::prepare::PreparePlan;
use vnpu_driver::record::ClaimState;
use vnpu_quota_agent::{AgentError, Attached, ClaimUsage, ReapReport};

use crate::error::OperationError;
use crate::node::{Node, blocking};
use crate::status;

/// Statuses of one round are written for so long; the rest is left to the next.
const WRITING: Duration = Duration::from_secs(10);
/// So many statuses are written at once.
const AT_ONCE: usize = 4;

/// Makes a round at every period until `stop`.
pub async fn run(node: Arc<Node>, period: Duration, stop: CancellationToken) {
    let mut reported = BTreeMap::new();
    // Between rounds: the regions are not left while another thread still works on them.
    while stop.run_until_cancelled(tokio::time::sleep(period)).await.is_some() {
        match round(&node).await {
            Ok(news) => {
                // In bounds: giving memory back must not wait for an API server.
                let writing = tokio::time::timeout(WRITING, report(&node, news, &mut reported));
                let _ = stop.run_until_cancelled(writing).await;
            }
            Err(error) => tracing::warn!(%error, "a pass over the regions failed; it is repeated"),
        }
    }
}

/// What the `Attached` conditions of a claim say: of its ledger, and of the chips that are used outside it.
pub type Standing = (Attached, BTreeSet<DeviceUuid>);

type Looked = (ReapReport, Vec<(ClaimUsage, Attached)>);

/// Gives back and shows; returns what may have to be reported.
///
/// # Errors
/// The checkpoint or the runtime directory cannot be used.
pub async fn round(node: &Arc<Node>) -> Result<Vec<(PreparePlan, Standing)>, OperationError> {
    let plans: Vec<PreparePlan> = node.store.look(|state| {
        let done = state.states().filter_map(|(_, state)| match state {
            ClaimState::PrepareCompleted(plan) => Some(plan),
            _ => None,
        });
        done.filter(|plan| plan.interposed()).cloned().collect()
    });
    let mut news = Vec::with_capacity(plans.len());
    if !plans.is_empty() {
        let session = node.session().await?;
        let materials = Arc::clone(&node.materials);
        let claims: Vec<ClaimUid> = plans.iter().map(|plan| plan.claim.clone()).collect();
        let looked = blocking(move || {
            // Two instances must not reap at once.
            let _session = session;
            look(&materials, &claims)
        });
        let looked = looked.await;
        let (reaped, usages) =
            looked.map_err(|e| e.map_or(OperationError::Internal, |e| OperationError::Material(e.into())))?;
        node.metrics.reaped.inc_by(u64::from(reaped.reaped));
        if reaped.reaped > 0 {
            tracing::info!(
                slots = reaped.reaped,
                bytes = reaped.bytes.0,
                "dead processes' memory given back"
            );
        }
        for (usage, attached) in usages {
            let Some(plan) = plans.iter().find(|plan| plan.claim == usage.claim) else { continue };
            node.metrics.show_usage(&plan.namespace, &plan.name, &usage);
            news.push((plan.clone(), (attached, node.audits.outside(&plan.claim))));
        }
    }
    // Some were given back meanwhile, here or by another instance.
    node.metrics.keep_claims(|claim| node.store.state(claim).is_some_and(|state| state.plan().is_some()));
    Ok(news)
}

/// Writes what is not reported yet; `reported` remembers it.
async fn report(
    node: &Arc<Node>,
    news: Vec<(PreparePlan, Standing)>,
    reported: &mut BTreeMap<ClaimUid, Standing>,
) {
    reported.retain(|uid, _| news.iter().any(|(plan, _)| plan.claim == *uid));
    let due: Vec<_> =
        news.into_iter().filter(|(plan, standing)| reported.get(&plan.claim) != Some(standing)).collect();
    // A few at once, so that one that hangs does not keep the others from their turn.
    let mut written = futures::stream::iter(due)
        .map(|(plan, standing)| async move { write(node, &plan).await.then_some((plan.claim, standing)) })
        .buffer_unordered(AT_ONCE);
    while let Some(written) = written.next().await {
        reported.extend(written);
    }
}

fn look(materials: &crate::materials::Materials, claims: &[ClaimUid]) -> Result<Looked, AgentError> {
    let agent = materials.agent()?;
    let reaped = agent.reap()?;
    let mut usages = Vec::with_capacity(claims.len());
    for claim in claims {
        match agent.usage(claim) {
            Ok(usage) => {
                let attached = usage.attached();
                usages.push((usage, attached));
            }
            Err(error) => {
                // It may have been unprepared meanwhile.
                tracing::debug!(%claim, %error, "the usage cannot be read");
            }
        }
    }
    Ok((reaped, usages))
}

/// Writes the claim's status; `true` when it stands there.
async fn write(node: &Arc<Node>, plan: &PreparePlan) -> bool {
    match status::read_and_write(node, plan).await {
        Ok(()) => true,
        Err(error) => {
            tracing::debug!(claim = %plan.claim, %error, "the claim's status is not written yet");
            false
        }
    }
}

//! Follows what the annotations of prepared claims ask for: at once where a claim is annotated so, by a watch of its
//! own, else whenever the claim is read anyway. What can be given is `driver`'s to say.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::Api;
use kube::runtime::{WatchStreamExt as _, watcher};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use vnpu_driver::id::ClaimUid;
use vnpu_driver::live::{WishProblem, Wishes, effective};
use vnpu_driver::plan::PreparePlan;
use vnpu_driver::record::ClaimState;
use vnpu_driver::share::ClaimShares;
use vnpu_quota_agent::AgentError;

use crate::error::OperationError;
use crate::node::{Node, blocking};
use crate::status;

/// So many claims are watched at a time: all watches share one connection, on which a server allows some hundreds. The
/// others are read when the node reconciles.
const MOST: usize = 100;
/// A watch that hears nothing asks so often whether its claim is still prepared here.
const LOOK: Duration = Duration::from_secs(60);

/// The claims that are followed at once.
#[derive(Debug, Default)]
pub struct Live {
    /// By UID, whether a watch runs.
    wanted: Mutex<BTreeMap<ClaimUid, bool>>,
    more: Notify,
}

impl Live {
    fn want(&self, claim: &ClaimUid) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        if wanted.len() < MOST && !wanted.contains_key(claim) {
            wanted.insert(claim.clone(), false);
            self.more.notify_one();
        }
    }

    /// Those that wait for a watch, which from now on they have.
    fn take(&self) -> Vec<ClaimUid> {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = wanted.iter_mut().filter(|(_, running)| !**running);
        waiting
            .map(|(claim, running)| {
                *running = true;
                claim.clone()
            })
            .collect()
    }

    fn forget(&self, claim: &ClaimUid) {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).remove(claim);
    }
}

/// Watches claims until `stop`.
pub async fn run(node: Arc<Node>, stop: CancellationToken) {
    let mut watches = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = node.live.more.notified() => {}
            Some(_) = watches.join_next() => {}
        }
        for claim in node.live.take() {
            let (node, stop) = (Arc::clone(&node), stop.clone());
            watches.spawn(async move {
                watch(&node, &claim, &stop).await;
                node.live.forget(&claim);
            });
        }
    }
    // Between changes, not in the middle of one.
    while watches.join_next().await.is_some() {}
}

/// Follows one claim for as long as it is prepared here and asks for it.
async fn watch(node: &Arc<Node>, claim: &ClaimUid, stop: &CancellationToken) {
    let Some(plan) = prepared(node, claim) else { return };
    let Some(client) = stop.run_until_cancelled(node.client.wait()).await else { return };
    let api: Api<ResourceClaim> = Api::namespaced(client.clone(), &plan.namespace);
    let by_name = watcher::Config::default().fields(&format!("metadata.name={}", plan.name));
    let mut events = pin!(watcher(api, by_name).default_backoff());
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => None,
            event = events.next() => event,
        };
        let Some(plan) = prepared(node, claim) else { return };
        match event {
            Some(Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object))) => {
                // Another claim of that name is not ours to follow.
                if object.metadata.uid.as_deref() != Some(claim.as_str())
                    || !follow(node, &plan, &object).await
                {
                    return;
                }
                if let Err(error) = status::write(node, &plan, Some(&object)).await {
                    tracing::debug!(%claim, %error, "the claim's status is not written yet");
                }
            }
            Some(Ok(watcher::Event::Delete(_))) => return,
            Some(Ok(watcher::Event::Init | watcher::Event::InitDone)) | None => {}
            Some(Err(error)) => tracing::debug!(%claim, %error, "the watch on a claim was interrupted"),
        }
    }
}

fn prepared(node: &Node, claim: &ClaimUid) -> Option<PreparePlan> {
    match node.store.state(claim) {
        Some(ClaimState::PrepareCompleted(plan)) => Some(plan),
        _ => None,
    }
}

/// Brings the claim's quotas to what its annotations ask for, `object` being the claim as it was just read; whether it
/// asks to be followed at once. What does not succeed is logged, and done when the claim is read again.
pub async fn follow(node: &Arc<Node>, plan: &PreparePlan, object: &ResourceClaim) -> bool {
    // Whose processes may be the claim's is read by the same way.
    let reserved = object.status.as_ref().and_then(|s| s.reserved_for.as_ref()).into_iter().flatten();
    let pods = reserved.filter(|consumer| consumer.resource == "pods").map(|pod| pod.uid.clone());
    node.audits.note_pods(&plan.claim, pods.collect());
    let none = BTreeMap::new();
    let wishes = Wishes::of(object.metadata.annotations.as_ref().unwrap_or(&none));
    if !plan.interposed() {
        return false;
    }
    if wishes.live {
        node.live.want(&plan.claim);
    }
    let live = wishes.live;
    match apply(node, &plan.claim, wishes).await {
        Ok(Some(change)) => tell(node, object, &change),
        Ok(None) => {}
        Err(error) => {
            tracing::warn!(claim = %plan.claim, %error, "the claim's quota does not follow its annotations yet")
        }
    }
    live
}

/// What came of one look at the annotations.
struct Change {
    /// What is in force now, where it is not what was before.
    to: Option<ClaimShares>,
    problems: Vec<WishProblem>,
}

/// `None` when the claim is not prepared here any more.
async fn apply(node: &Arc<Node>, claim: &ClaimUid, wishes: Wishes) -> Result<Option<Change>, OperationError> {
    // Not while the claim is being given back.
    let _one = node.locks.lock(claim).await;
    let session = node.session().await?;
    let Some(plan) = prepared(node, claim) else { return Ok(None) };
    let materials = Arc::clone(&node.materials);
    let changed = blocking(move || {
        // Two instances must not change regions at once.
        let _session = session;
        let agent = materials.agent()?;
        // Regions that are missing are made again by others, with the quotas of the plan.
        let Some(now) = agent.shares(&plan.claim)? else { return Ok(None) };
        let (mut shares, problems) = effective(&plan, &wishes, Some(&now));
        for share in &mut shares.chips {
            let in_force = now.chips.iter().find(|chip| chip.uuid == share.uuid);
            share.phys_id = in_force.map_or(share.phys_id, |chip| chip.phys_id);
        }
        let to = agent.change(&shares)?.then_some(shares);
        Ok::<_, AgentError>(Some(Change { to, problems }))
    });
    changed.await.map_err(|e| e.map_or(OperationError::Internal, |e| OperationError::Material(e.into())))
}

/// Says what came of it, where the claim's users look.
fn tell(node: &Node, object: &ResourceClaim, change: &Change) {
    if let Some(shares) = &change.to {
        let chips = shares.chips.iter().map(|chip| {
            let mode = serde_json::to_value(chip.mode).unwrap_or_default();
            let mode = mode.as_str().unwrap_or_default().to_owned();
            format!(
                "{} of memory and {} % of compute ({mode}) of chip {}",
                chip.memory, chip.cores, chip.uuid
            )
        });
        let text = format!("the quota is now {}", chips.collect::<Vec<_>>().join(", "));
        tracing::info!(claim = %shares.claim, text, "a quota was changed");
        node.events.quota_changed(object, &text);
    }
    for problem in &change.problems {
        tracing::warn!(claim = %object.metadata.uid.as_deref().unwrap_or_default(), %problem, "an annotation is not followed");
        node.events.quota_not_changed(object, problem);
    }
}

//! Brings the node back in line with its records and with the API server: at the start, and every few minutes.
//! A claim is taken as gone only when the API server answered and said so.

use std::sync::Arc;

use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::Api;
use kube::api::ListParams;
use tokio_util::sync::CancellationToken;
use vnpu_driver::claim::Claim;
use vnpu_driver::id::ClaimUid;
use vnpu_driver::prepare::{PreparePlan, plan_prepare};
use vnpu_driver::record::{ClaimState, Event, Recovery, recover};
use vnpu_kube_types::claim::read_claim;

use crate::error::OperationError;
use crate::kubeapi::ApiError;
use crate::node::{Node, blocking};
use crate::prepare::{make, mend, undo};
use crate::status;
use crate::unprepare::unprepare_uid;

/// Late retries of a Prepare come within the kubelet's 45 s and its next sync some 90 s later.
const TOMBSTONE_AGE: std::time::Duration = std::time::Duration::from_secs(3600);
/// Claims per page of a list.
const PAGE: u32 = 500;

/// Recovers, then reconciles at every period until `stop`.
pub async fn run(node: Arc<Node>, period: std::time::Duration, stop: CancellationToken) {
    let work = async {
        if let Err(error) = recover_all(&node).await {
            tracing::error!(%error, "recovery is not complete; reconciliation repeats it");
        }
        let mut seen = node.seen.clone();
        // At once: after a reboot or an outage the API server knows what this node does not.
        loop {
            if let Err(error) = reconcile(&node).await {
                tracing::warn!(%error, "reconciliation is not complete; it is repeated");
            }
            let next = tokio::time::Instant::now() + period;
            while tokio::time::Instant::now() < next {
                tokio::select! {
                    () = tokio::time::sleep_until(next) => {}
                    Ok(()) = seen.changed() => follow_hardware(&node).await,
                }
            }
        }
    };
    stop.run_until_cancelled(work).await;
}

/// What this boot of the node is called; empty where the system does not say.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Finishes what was cut off, and makes again what is missing of prepared claims. Needs no API server, except
/// for claims of an earlier boot, of which only those are made again that are still allocated.
///
/// # Errors
/// The checkpoint or a directory cannot be used; single claims are logged.
pub async fn recover_all(node: &Arc<Node>) -> Result<(), OperationError> {
    let boot = boot_id();
    let tasks = {
        let session = node.session().await?;
        let materials = Arc::clone(&node.materials);
        let removed = blocking(move || materials.cdi()?.remove_temporaries()).await;
        if let Ok(count) = removed
            && count > 0
        {
            tracing::info!(count, "temporary CDI files of a crash removed");
        }
        let tasks = node.store.look(|state| recover(state, &boot));
        if node.store.look(|state| state.boot_id() != Some(&boot)) {
            session.write(Event::Boot { boot_id: boot }).await?;
        }
        tasks
    };
    for task in tasks {
        let (uid, result) = match task {
            Recovery::Undo(plan) => {
                let uid = plan.claim.clone();
                (uid.clone(), finish(node, &uid).await)
            }
            // Reconciliation asks the API server about it first.
            Recovery::Ensure { rebooted: true, .. } => continue,
            Recovery::Ensure { plan, rebooted: false } => {
                (plan.claim.clone(), ensure(node, &plan.claim).await)
            }
        };
        if let Err(error) = result {
            tracing::warn!(claim = %uid, %error, "a claim could not be recovered yet");
        }
    }
    node.note_change();
    Ok(())
}

/// Undoes an operation that did not end.
async fn finish(node: &Arc<Node>, uid: &ClaimUid) -> Result<(), OperationError> {
    let _one = node.locks.lock(uid).await;
    let session = node.session().await?;
    let event = match node.store.state(uid) {
        // Whoever asked for it was not answered and asks again.
        Some(ClaimState::PrepareStarted(_)) => Event::Forgotten { claim: uid.clone() },
        Some(ClaimState::UnprepareStarted(_)) => Event::Unprepared { claim: uid.clone() },
        _ => return Ok(()),
    };
    undo(node, uid).await?;
    session.write(event).await?;
    Ok(())
}

/// Makes again what is missing of a prepared claim, or outdated.
async fn ensure(node: &Arc<Node>, uid: &ClaimUid) -> Result<(), OperationError> {
    let _one = node.locks.lock(uid).await;
    let _session = node.session().await?;
    let Some(ClaimState::PrepareCompleted(plan)) = node.store.state(uid) else { return Ok(()) };
    mend(node, &plan).await
}

/// After a change of the hardware: what is prepared names the chips' numbers of now again.
async fn follow_hardware(node: &Arc<Node>) {
    let claims: Vec<ClaimUid> = node.store.look(|state| state.plans().map(|p| p.claim.clone()).collect());
    for claim in claims {
        if let Err(error) = ensure(node, &claim).await {
            tracing::warn!(%claim, %error, "a prepared claim does not follow the hardware yet");
        }
    }
}

/// One pass: every claim that is known here against the API server, then what nobody knows, then old tombstones.
///
/// # Errors
/// The API server did not answer, or the checkpoint cannot be used.
pub async fn reconcile(node: &Arc<Node>) -> Result<(), OperationError> {
    let plans: Vec<PreparePlan> = node.store.look(|state| state.plans().cloned().collect());
    for plan in &plans {
        if let Err(error) = reconcile_one(node, plan).await {
            tracing::warn!(claim = %plan.claim, %error, "a claim could not be reconciled yet");
        }
    }
    adopt_or_remove(node).await?;
    let expired = node.store.look(|state| state.expired_tombstones(Node::now(), TOMBSTONE_AGE));
    for claim in expired {
        let _one = node.locks.lock(&claim).await;
        let session = node.session().await?;
        if matches!(node.store.state(&claim), Some(ClaimState::Unprepared(_))) {
            session.write(Event::Forgotten { claim }).await?;
        }
    }
    Ok(())
}

async fn reconcile_one(node: &Arc<Node>, plan: &PreparePlan) -> Result<(), OperationError> {
    let client = node.client.wait().await.clone();
    let api: Api<ResourceClaim> = Api::namespaced(client, &plan.namespace);
    let object = || format!("claim {}/{}", plan.namespace, plan.name);
    let found = api
        .get_opt(&plan.name)
        .await
        .map_err(|source| ApiError::Call { object: object(), source: Box::new(source) })?;
    let ours = found.filter(|claim| claim.metadata.uid.as_deref() == Some(plan.claim.as_str()));
    let allocated = ours.as_ref().map(read_claim).transpose()?.is_some_and(|claim| claim.allocated);
    if !allocated {
        tracing::info!(claim = %plan.claim, namespace = %plan.namespace, name = %plan.name, "the claim is gone from the API server: it is given back");
        return unprepare_uid(node, &plan.claim).await;
    }
    match node.store.state(&plan.claim) {
        Some(ClaimState::PrepareCompleted(plan)) => {
            ensure(node, &plan.claim).await?;
            status::write(node, &plan, ours.as_ref())
                .await
                .map_err(|source| ApiError::Call { object: object(), source: Box::new(source) })?;
        }
        Some(ClaimState::UnprepareStarted(_)) => finish(node, &plan.claim).await?,
        // A Prepare that failed half-way; while the claim is allocated, the kubelet asks again.
        _ => {}
    }
    Ok(())
}

/// CDI files and regions without a record: after a damaged checkpoint they are the memory of what was prepared.
/// Those of claims that the API server still shows as ours are taken over, the others removed.
async fn adopt_or_remove(node: &Arc<Node>) -> Result<(), OperationError> {
    let unknown = unknown_claims(node).await?;
    if unknown.is_empty() {
        return Ok(());
    }
    let claims = list_claims(node).await?;
    for uid in unknown {
        let _one = node.locks.lock(&uid).await;
        let session = node.session().await?;
        if node.store.state(&uid).is_some_and(|state| state.plan().is_some()) {
            continue;
        }
        let claim = claims.iter().find(|c| c.uid == uid && c.allocated && c.reserved_for_a_pod());
        let seen = node.inventories().await.ok_or(OperationError::NotReady("discovery"))?;
        let plan = claim.and_then(|claim| {
            // What runs already is not refused for what else is there.
            plan_prepare(claim, &uid, &seen.node_pools(), []).ok().filter(|plan| !plan.results.is_empty())
        });
        match plan {
            Some(plan) => {
                tracing::warn!(claim = %uid, "a prepared claim without a record is taken over");
                make(node, &plan, &seen).await?;
                session.write(Event::PrepareCompleted { plan }).await?;
            }
            None => {
                tracing::warn!(claim = %uid, "CDI file or regions of an unknown claim are removed");
                undo(node, &uid).await?;
            }
        }
    }
    node.note_change();
    Ok(())
}

async fn unknown_claims(node: &Arc<Node>) -> Result<Vec<ClaimUid>, OperationError> {
    let materials = Arc::clone(&node.materials);
    let observed = blocking(move || materials.observed()).await;
    let mut observed = observed.map_err(|e| e.map_or(OperationError::Internal, OperationError::from))?;
    node.store.look(|state| observed.retain(|uid| state.state(uid).and_then(ClaimState::plan).is_none()));
    Ok(observed)
}

async fn list_claims(node: &Arc<Node>) -> Result<Vec<Claim>, OperationError> {
    let client = node.client.wait().await.clone();
    let api: Api<ResourceClaim> = Api::all(client);
    let mut parameters = ListParams::default().limit(PAGE);
    let mut claims = Vec::new();
    loop {
        let page = api.list(&parameters).await.map_err(|source| ApiError::Call {
            object: "the list of claims".to_owned(),
            source: Box::new(source),
        })?;
        claims.extend(page.items.iter().filter_map(|object| read_claim(object).ok()));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters.continue_token = Some(token),
            None => return Ok(claims),
        }
    }
}

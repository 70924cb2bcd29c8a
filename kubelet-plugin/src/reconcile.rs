//! Brings the node back in line with its records and with the API server: at the start, and every few minutes.
//! A claim is taken as gone only when a list that the API server answered lacks it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;

use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::Api;
use kube::api::ListParams;
use tokio_util::sync::CancellationToken;
use vnpu_driver::claim::Claim;
use vnpu_driver::id::{ClaimUid, DeviceName};
use vnpu_driver::prepare::{PreparePlan, plan_prepare};
use vnpu_driver::record::{ClaimState, Event, Recovery, recover};
use vnpu_kube_types::claim::read_claim;

use crate::error::OperationError;
use crate::kubeapi::ApiError;
use crate::live;
use crate::node::{Node, blocking};
use crate::prepare::{READING, make, mend, undo};
use crate::status;

/// Late retries of a Prepare come within the kubelet's 45 s and its next sync some 90 s later.
const TOMBSTONE_AGE: std::time::Duration = std::time::Duration::from_secs(3600);
/// Claims per page of a list.
const PAGE: u32 = 500;

/// Recovers, then reconciles at every period until `stop`. Work on one claim is never cut off in the middle.
pub async fn run(node: Arc<Node>, period: std::time::Duration, stop: CancellationToken) {
    if let Err(error) = recover_claims(&node, &stop).await {
        tracing::error!(%error, "recovery is not complete; reconciliation repeats it");
    }
    let mut seen = node.seen.clone();
    // At once: after a reboot or an outage the API server knows what this node does not.
    while !stop.is_cancelled() {
        let waits = pass(&node, &stop).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "reconciliation is not complete; it is repeated");
            false
        });
        let next = tokio::time::Instant::now() + period;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(next) => break,
                Ok(()) = seen.changed() => {
                    follow_hardware(&node, &stop).await;
                    if waits {
                        break;
                    }
                }
            }
        }
    }
}

/// What this boot of the node is called; empty where the system does not say.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Removes the temporary CDI files that a crash left behind. To be called before anything of this process
/// writes such files: its own look the same.
///
/// # Errors
/// The checkpoint cannot be used.
pub async fn remove_temporaries(node: &Arc<Node>) -> Result<(), OperationError> {
    let session = node.session().await?;
    let materials = Arc::clone(&node.materials);
    let removed = blocking(move || {
        let _session = session;
        materials.cdi()?.remove_temporaries()
    });
    match removed.await {
        Ok(0) => {}
        Ok(count) => tracing::info!(count, "temporary CDI files of a crash removed"),
        Err(Some(error)) => tracing::warn!(%error, "temporary CDI files of a crash may be left"),
        Err(None) => return Err(OperationError::Internal),
    }
    Ok(())
}

/// All of recovery: [`remove_temporaries`], then what the records say. Needs no API server, except for claims of
/// an earlier boot, of which only those are made again that are still allocated.
///
/// # Errors
/// The checkpoint or a directory cannot be used; single claims are logged.
pub async fn recover_all(node: &Arc<Node>) -> Result<(), OperationError> {
    remove_temporaries(node).await?;
    recover_claims(node, &CancellationToken::new()).await
}

/// Finishes what was cut off, and makes again what is missing of prepared claims.
async fn recover_claims(node: &Arc<Node>, stop: &CancellationToken) -> Result<(), OperationError> {
    let boot = boot_id();
    let tasks = {
        let session = node.session().await?;
        let tasks = node.store.look(|state| recover(state, &boot));
        if node.store.look(|state| state.boot_id() != Some(&boot)) {
            session.write(Event::Boot { boot_id: boot }).await?;
        }
        tasks
    };
    for task in tasks {
        if stop.is_cancelled() {
            return Ok(());
        }
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
    undo(node, &session, uid).await?;
    session.write(event).await?;
    Ok(())
}

/// Makes again what is missing of a prepared claim, or outdated.
async fn ensure(node: &Arc<Node>, uid: &ClaimUid) -> Result<(), OperationError> {
    let _one = node.locks.lock(uid).await;
    let session = node.session().await?;
    let Some(ClaimState::PrepareCompleted(plan)) = node.store.state(uid) else { return Ok(()) };
    mend(node, &session, &plan).await
}

/// After a change of the hardware: what is prepared names the chips' numbers of now again.
async fn follow_hardware(node: &Arc<Node>, stop: &CancellationToken) {
    let claims: Vec<ClaimUid> = node.store.look(|state| state.plans().map(|p| p.claim.clone()).collect());
    for claim in claims {
        if stop.is_cancelled() {
            return;
        }
        if let Err(error) = ensure(node, &claim).await {
            tracing::warn!(%claim, %error, "a prepared claim does not follow the hardware yet");
        }
    }
}

/// One pass: every claim that is known here against the API server, then what nobody knows, then old tombstones.
///
/// # Errors
/// The API server did not answer about what nobody knows, or the checkpoint cannot be used; single claims are
/// logged.
pub async fn reconcile(node: &Arc<Node>) -> Result<(), OperationError> {
    pass(node, &CancellationToken::new()).await.map(|_| ())
}

/// Whether something waits for more to be known of the hardware.
async fn pass(node: &Arc<Node>, stop: &CancellationToken) -> Result<bool, OperationError> {
    let plans: Vec<PreparePlan> = node.store.look(|state| state.plans().cloned().collect());
    for plan in &plans {
        if stop.is_cancelled() {
            return Ok(false);
        }
        if let Err(error) = reconcile_one(node, plan, stop).await {
            tracing::warn!(claim = %plan.claim, %error, "a claim could not be reconciled yet");
        }
    }
    let adopted = adopt_or_remove(node, stop).await;
    let expired = node.store.look(|state| state.expired_tombstones(Node::now(), TOMBSTONE_AGE));
    for claim in expired {
        if stop.is_cancelled() {
            break;
        }
        let _one = node.locks.lock(&claim).await;
        let session = node.session().await?;
        if matches!(node.store.state(&claim), Some(ClaimState::Unprepared(_))) {
            session.write(Event::Forgotten { claim }).await?;
        }
    }
    adopted
}

/// Waits for `answer`, which must hold nothing that is half done, until `stop`; `None` then.
async fn unless_stopped<T, E>(
    stop: &CancellationToken,
    answer: impl Future<Output = Result<T, E>>,
) -> Result<Option<T>, E> {
    stop.run_until_cancelled(answer).await.transpose()
}

/// What the API server says of a claim that is known here.
enum Standing {
    /// It is there, and gives us just what the plan says.
    Ours(Box<ResourceClaim>),
    /// It is not, for this reason.
    Over(&'static str),
}

async fn standing(node: &Arc<Node>, plan: &PreparePlan) -> Result<Standing, OperationError> {
    let Some(object) = find_claim(node, plan).await? else {
        return Ok(Standing::Over("it is gone from the API server"));
    };
    let claim = read_claim(&object)?;
    Ok(if !claim.allocated {
        Standing::Over("it is not allocated any more")
    } else if same_allocation(plan, &claim) {
        Standing::Ours(Box::new(object))
    } else {
        Standing::Over("it is allocated to other devices now")
    })
}

/// The claim of that name and UID, by a list: "404" says as well that a proxy, or an API server that is starting,
/// does not know the resource at all, and an empty list says only what is meant.
async fn find_claim(node: &Arc<Node>, plan: &PreparePlan) -> Result<Option<ResourceClaim>, ApiError> {
    let api: Api<ResourceClaim> = Api::namespaced(node.client.wait().await.clone(), &plan.namespace);
    let by_name = ListParams::default().fields(&format!("metadata.name={}", plan.name));
    let object = || format!("claim {}/{}", plan.namespace, plan.name);
    let found = whole(api.list(&by_name), object).await?;
    Ok(found.items.into_iter().find(|claim| claim.metadata.uid.as_deref() == Some(plan.claim.as_str())))
}

/// Waits for an answer to its last byte, with a claim's lock held perhaps: the client watches over its beginning
/// only, because watches never end.
async fn whole<T>(
    answer: impl Future<Output = Result<T, kube::Error>>,
    object: impl Fn() -> String,
) -> Result<T, ApiError> {
    match tokio::time::timeout(READING, answer).await {
        Ok(answer) => answer.map_err(|source| ApiError::Call { object: object(), source: Box::new(source) }),
        Err(_) => Err(ApiError::Slow { object: object(), after: READING }),
    }
}

/// Whether the claim still has the devices of the plan: pools, devices and shares, in their order.
fn same_allocation(plan: &PreparePlan, claim: &Claim) -> bool {
    plan.results.len() == claim.results.len()
        && plan.results.iter().zip(&claim.results).all(|(planned, now)| {
            planned.pool.as_str() == now.pool
                && now.device.parse::<DeviceName>().is_ok_and(|device| device == planned.device)
                && planned.share_id == now.share_id
        })
}

async fn reconcile_one(
    node: &Arc<Node>,
    plan: &PreparePlan,
    stop: &CancellationToken,
) -> Result<(), OperationError> {
    let Some(standing) = unless_stopped(stop, standing(node, plan)).await? else { return Ok(()) };
    let object = match standing {
        Standing::Over(_) => return give_back(node, plan, stop).await,
        Standing::Ours(object) => object,
    };
    match node.store.state(&plan.claim) {
        Some(ClaimState::PrepareCompleted(plan)) => {
            ensure(node, &plan.claim).await?;
            live::follow(node, &plan, &object).await;
            unless_stopped(stop, status::write(node, &plan, Some(&object))).await.map_err(|source| {
                let object = format!("claim {}/{}", plan.namespace, plan.name);
                ApiError::Call { object, source: Box::new(source) }
            })?;
        }
        Some(ClaimState::UnprepareStarted(_)) => finish(node, &plan.claim).await?,
        // A Prepare that failed half-way; while the claim is allocated, the kubelet asks again.
        _ => {}
    }
    Ok(())
}

/// Gives back a claim that the API server no longer shows as ours. It is asked once more under the claim's lock:
/// the claim may have been allocated and prepared anew since.
async fn give_back(
    node: &Arc<Node>,
    plan: &PreparePlan,
    stop: &CancellationToken,
) -> Result<(), OperationError> {
    let _one = node.locks.lock(&plan.claim).await;
    let Some(Standing::Over(why)) = unless_stopped(stop, standing(node, plan)).await? else { return Ok(()) };
    let session = node.session().await?;
    if node.store.state(&plan.claim).as_ref().and_then(ClaimState::plan) != Some(plan) {
        return Ok(());
    }
    tracing::info!(claim = %plan.claim, namespace = %plan.namespace, name = %plan.name, why, "the claim is given back");
    session.write(Event::UnprepareStarted { plan: plan.clone() }).await?;
    undo(node, &session, &plan.claim).await?;
    session.write(Event::Unprepared { claim: plan.claim.clone() }).await?;
    node.metrics.forget_claim(&plan.claim);
    node.note_change();
    Ok(())
}

/// CDI files and regions without a record: after a damaged checkpoint they are the memory of what was prepared.
/// Those of claims that the API server still shows as ours are taken over, the others removed. Returns whether one
/// waits for its hardware to be known: what runs there needs no record until then.
async fn adopt_or_remove(node: &Arc<Node>, stop: &CancellationToken) -> Result<bool, OperationError> {
    let unknown = unknown_claims(node).await?;
    if unknown.is_empty() {
        return Ok(false);
    }
    let Some(claims) = unless_stopped(stop, list_claims(node, &unknown)).await? else { return Ok(false) };
    let mut waits = false;
    for uid in &unknown {
        if stop.is_cancelled() {
            break;
        }
        match adopt_or_remove_one(node, uid, claims.get(uid.as_str())).await {
            Ok(()) => {}
            Err(OperationError::NotReady(_)) => waits = true,
            Err(error) => {
                tracing::warn!(claim = %uid, %error, "what lies here of an unknown claim stays as it is for now");
            }
        }
    }
    node.note_change();
    Ok(waits)
}

async fn adopt_or_remove_one(
    node: &Arc<Node>,
    uid: &ClaimUid,
    listed: Option<&ResourceClaim>,
) -> Result<(), OperationError> {
    let claim = listed.map(read_claim).transpose()?;
    let _one = node.locks.lock(uid).await;
    let session = node.session().await?;
    let state = node.store.state(uid);
    if state.as_ref().is_some_and(|state| state.plan().is_some()) {
        return Ok(());
    }
    // Over a tombstone nothing is taken up: the kubelet has given the claim back, and its next pod is prepared.
    let ours = claim.filter(|claim| state.is_none() && allocated_here(node, claim));
    let Some(claim) = ours else {
        tracing::warn!(claim = %uid, "CDI file or regions of an unknown claim are removed");
        return undo(node, &session, uid).await;
    };
    let seen = Arc::clone(&node.seen.borrow());
    if !seen.know(claim.results.iter().map(|result| result.pool.as_str())) {
        return Err(OperationError::NotReady("discovery"));
    }
    // What runs already is not refused for what else is there; and what cannot be planned now, because a chip is
    // away for a moment, runs on with what it has.
    let plan = plan_prepare(&claim, uid, &seen.node_pools(), [])?;
    tracing::warn!(claim = %uid, "a prepared claim without a record is taken over");
    make(node, &session, &plan, &seen).await?;
    session.write(Event::PrepareCompleted { plan }).await?;
    Ok(())
}

/// Whether the claim has a device of this node. Also of a pool that discovery does not see now.
fn allocated_here(node: &Node, claim: &Claim) -> bool {
    let of_this_node =
        |pool: &str| pool.strip_prefix(node.name.as_str()).is_some_and(|rest| rest.starts_with('/'));
    claim.allocated && claim.results.iter().any(|result| of_this_node(&result.pool))
}

async fn unknown_claims(node: &Arc<Node>) -> Result<Vec<ClaimUid>, OperationError> {
    let session = node.session().await?;
    let materials = Arc::clone(&node.materials);
    let observed = blocking(move || {
        // Opening the regions cleans up, which another instance must not see.
        let _session = session;
        materials.observed()
    });
    let mut observed =
        observed.await.map_err(|e| e.map_or(OperationError::Internal, OperationError::from))?;
    node.store.look(|state| observed.retain(|uid| state.state(uid).and_then(ClaimState::plan).is_none()));
    Ok(observed)
}

/// Those of `wanted` that the API server has, by UID. Of the others no page is kept.
async fn list_claims(
    node: &Arc<Node>,
    wanted: &[ClaimUid],
) -> Result<BTreeMap<String, ResourceClaim>, OperationError> {
    let wanted: BTreeSet<&str> = wanted.iter().map(ClaimUid::as_str).collect();
    let api: Api<ResourceClaim> = Api::all(node.client.wait().await.clone());
    let mut parameters = ListParams::default().limit(PAGE);
    let mut claims = BTreeMap::new();
    loop {
        let page = whole(api.list(&parameters), || "the list of claims".to_owned()).await?;
        for claim in page.items {
            if let Some(uid) = claim.metadata.uid.clone().filter(|uid| wanted.contains(uid.as_str())) {
                claims.insert(uid, claim);
            }
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters.continue_token = Some(token),
            None => return Ok(claims),
        }
    }
}

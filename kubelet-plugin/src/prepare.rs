//! Preparing one claim: decide, write down, make, write down, answer. Every step may be cut off and repeated.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use vnpu_driver::claim::Claim;
use vnpu_driver::id::{ClaimUid, PoolName};
use vnpu_driver::live::Wishes;
use vnpu_driver::prepare::{PreparePlan, check_after_tombstone, plan_prepare};
use vnpu_driver::record::{ClaimState, Event, PrepareStep, next_prepare};
use vnpu_kube_types::claim::read_claim;

use crate::checkpoint::{Session, StoreError};
use crate::crash_at;
use crate::error::OperationError;
use crate::hardware::Inventories;
use crate::kubeapi;
use crate::materials::{Condition, MaterialError, Materials};
use crate::node::{Node, blocking};
use crate::status;

/// A claim as the kubelet names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimName {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID, unchecked text.
    pub uid: String,
}

/// How long hardware and API server may take to say what they know of a claim. It ends before the answer's
/// deadline, so that no attempt goes on waiting when nobody waits for it any more.
pub const READING: Duration = Duration::from_secs(20);

/// Prepares one claim; done twice it answers the same.
///
/// # Errors
/// Why not; then nothing of the claim is left on the node, or a record says that it is to be undone.
pub async fn prepare(node: &Arc<Node>, name: &ClaimName) -> Result<PreparePlan, OperationError> {
    let uid = ClaimUid::new(name.uid.as_str())?;
    let _one = node.locks.lock(&uid).await;
    {
        let session = node.session().await?;
        if let PrepareStep::Answer(plan) = next_prepare(node.store.state(&uid).as_ref()) {
            match mend(node, &session, &plan).await {
                // What is missing can be made as soon as the hardware is known.
                Err(OperationError::NotReady(_)) => {}
                mended => return mended.map(|()| plan),
            }
        }
    }
    // Read with no session open: another instance must wait neither for our hardware nor for our API server.
    let (seen, claim) = tokio::time::timeout(READING, read(node, name)).await.map_err(|_| {
        OperationError::NotReady("what is known of the claim: hardware or API server do not answer")
    })??;
    let session = node.session().await?;
    // Asked again: another instance may have been at it meanwhile.
    let tombstone = match next_prepare(node.store.state(&uid).as_ref()) {
        PrepareStep::Answer(plan) => return mend(node, &session, &plan).await.map(|()| plan),
        PrepareStep::Redo(_) => clear(node, &session, &uid).await?,
        PrepareStep::Fresh => false,
        PrepareStep::AfterTombstone => true,
    };
    // All that touches the disk in one piece, on one thread: a Prepare is short, and each change of threads is not.
    let claim = Arc::new(claim);
    let (worker, decided, wanted) = (Arc::clone(node), uid.clone(), Arc::clone(&claim));
    let made = blocking(move || decide_and_make(&worker, &session, &decided, &wanted, &seen, tombstone));
    match made.await {
        Ok(plan) => {
            node.note_change();
            status::write_soon(node, uid);
            Ok(plan)
        }
        Err(Some(error)) => {
            node.events.refused(&claim, &error);
            Err(error)
        }
        Err(None) => Err(OperationError::Internal),
    }
}

async fn read(node: &Arc<Node>, name: &ClaimName) -> Result<(Arc<Inventories>, Claim), OperationError> {
    let client = node.client.wait().await;
    loop {
        let claim = read_claim(&kubeapi::claim(client, &name.namespace, &name.name).await?)?;
        let pools: BTreeSet<&str> = claim.results.iter().map(|result| result.pool.as_str()).collect();
        let seen = Arc::clone(&node.seen.borrow());
        if seen.know(pools.iter().copied()) {
            return Ok((seen, claim));
        }
        node.inventories(&pools).await.ok_or(OperationError::NotReady("discovery"))?;
        // It may have taken long: the claim is read again.
    }
}

/// Makes again what is missing of a prepared claim, and what no longer fits the hardware's numbers: containers
/// that start from now on must find the claim's chips, not those that have their numbers now. A claim that is
/// prepared is never refused for anything else.
///
/// # Errors
/// Something is missing and cannot be made; [`OperationError::NotReady`] when only the first look at the hardware
/// is missing, which is not waited for here: the session and the claim's lock keep others waiting.
pub async fn mend(node: &Arc<Node>, session: &Session, plan: &PreparePlan) -> Result<(), OperationError> {
    let seen = Arc::clone(&node.seen.borrow());
    let (materials, wanted, known) = (Arc::clone(&node.materials), plan.clone(), Arc::clone(&seen));
    match work(session, move || materials.condition(&wanted, &known)).await? {
        Condition::Current => Ok(()),
        Condition::Missing => {
            if !seen.know(plan.pools().map(PoolName::as_str)) {
                return Err(OperationError::NotReady("discovery"));
            }
            tracing::warn!(claim = %plan.claim, "CDI file or regions of a prepared claim are missing: they are made again");
            make(node, session, plan, &seen).await
        }
        Condition::Outdated => {
            tracing::info!(claim = %plan.claim, "the hardware's numbers or files have changed: the CDI file of a prepared claim is made again");
            if let Err(error) = make(node, session, plan, &seen).await {
                tracing::warn!(claim = %plan.claim, %error, "a prepared claim's CDI file stays as it was");
            }
            Ok(())
        }
    }
}

/// Removes what an operation left behind that did not end, and its record: whether the claim may be prepared is
/// asked afresh, and a refusal must leave nothing that counts as use. Returns whether the claim was being given
/// back, so that only a pod that holds it brings it back.
async fn clear(node: &Arc<Node>, session: &Session, uid: &ClaimUid) -> Result<bool, OperationError> {
    let giving_back = matches!(node.store.state(uid), Some(ClaimState::UnprepareStarted(_)));
    undo(node, session, uid).await?;
    let claim = uid.clone();
    let event = if giving_back { Event::Unprepared { claim } } else { Event::Forgotten { claim } };
    session.write(event).await?;
    Ok(giving_back)
}

fn decide_and_make(
    node: &Node,
    session: &Session,
    uid: &ClaimUid,
    claim: &Claim,
    seen: &Inventories,
    tombstone: bool,
) -> Result<PreparePlan, OperationError> {
    if tombstone {
        check_after_tombstone(claim, uid)?;
    }
    crash_at!("prepare.started.before");
    // Decided and noted in one step, so that two claims cannot both find the last gigabyte free. It is flushed with
    // the record of completion: what a crash of the machine takes of it, it takes of the regions too, and what is
    // left of the rest is found without it.
    let plan = session.blocking_decide(|state| {
        let plan = plan_prepare(claim, uid, &seen.node_pools(), state.plans())?;
        Ok::<_, OperationError>((Event::PrepareStarted { plan: plan.clone() }, plan))
    })?;
    crash_at!("prepare.started.after");
    if let Err(error) = make_and_complete(node, session, &plan, seen, &claim.wishes) {
        // Somebody else's failed flush came between ours and this answer. What was set back is as on the disk.
        let set_back = matches!(error, OperationError::Store(StoreError::SetBack { .. }));
        if set_back && matches!(node.store.state(uid), Some(ClaimState::PrepareCompleted(_))) {
            return Ok(plan);
        }
        give_up(node, session, &plan);
        return Err(error);
    }
    Ok(plan)
}

fn make_and_complete(
    node: &Node,
    session: &Session,
    plan: &PreparePlan,
    seen: &Inventories,
    wishes: &Wishes,
) -> Result<(), OperationError> {
    node.materials.make(plan, seen, Some(wishes))?;
    crash_at!("prepare.completed.before");
    session.blocking_write(Event::PrepareCompleted { plan: plan.clone() })?;
    crash_at!("prepare.completed.after");
    Ok(())
}

/// Undoes an attempt that failed. If even that fails, the record `PrepareStarted` stays, if there is one, and the
/// next Prepare, Unprepare or reconciliation undoes it; what lies there without a record, reconciliation removes.
fn give_up(node: &Node, session: &Session, plan: &PreparePlan) {
    let undone = remove(&node.materials, &plan.claim)
        .map_err(OperationError::from)
        .and_then(|()| Ok(session.blocking_write(Event::Forgotten { claim: plan.claim.clone() })?));
    if let Err(error) = undone {
        tracing::warn!(claim = %plan.claim, %error, "an attempt to prepare could not be undone yet");
    }
}

/// Removes what may lie under a claim's UID: the CDI file first, so that nothing can be started with regions
/// that are going.
///
/// # Errors
/// What cannot be removed.
pub fn remove(materials: &Materials, claim: &ClaimUid) -> Result<(), MaterialError> {
    materials.remove_cdi(claim)?;
    crash_at!("unprepare.cdi.after");
    materials.remove_regions(claim)
}

/// As [`remove`], on a blocking thread.
///
/// # Errors
/// As [`remove`].
pub async fn undo(node: &Arc<Node>, session: &Session, claim: &ClaimUid) -> Result<(), OperationError> {
    let (materials, claim) = (Arc::clone(&node.materials), claim.clone());
    work(session, move || remove(&materials, &claim)).await
}

/// Makes regions and CDI file of a plan, with the quotas that are in force already.
///
/// # Errors
/// What cannot be made.
pub async fn make(
    node: &Arc<Node>,
    session: &Session,
    plan: &PreparePlan,
    seen: &Arc<Inventories>,
) -> Result<(), OperationError> {
    let (materials, plan, seen) = (Arc::clone(&node.materials), plan.clone(), Arc::clone(seen));
    work(session, move || materials.make(&plan, &seen, None)).await
}

/// Runs `work` on a blocking thread, which keeps the session open to its end, whatever becomes of the caller:
/// another instance must not find a thread of this one at work.
async fn work<T: Send + 'static>(
    session: &Session,
    work: impl FnOnce() -> Result<T, MaterialError> + Send + 'static,
) -> Result<T, OperationError> {
    let session = session.clone();
    let held = move || {
        let _session = session;
        work()
    };
    blocking(held).await.map_err(|e| e.map_or(OperationError::Internal, OperationError::from))
}

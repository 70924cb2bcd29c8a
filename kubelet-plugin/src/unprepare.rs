//! Giving one claim back. No API server is needed, and a claim that nobody knows is a success.

use std::sync::Arc;

use vnpu_driver::id::ClaimUid;
use vnpu_driver::record::{Event, UnprepareStep, next_unprepare};

use crate::checkpoint::Session;
use crate::crash_at;
use crate::error::OperationError;
use crate::node::{Node, blocking};
use crate::prepare::{ClaimName, remove};

/// Unprepares one claim; done twice it succeeds twice.
///
/// # Errors
/// What could not be removed or written down; a repetition goes on from there.
pub async fn unprepare(node: &Arc<Node>, name: &ClaimName) -> Result<(), OperationError> {
    let Ok(uid) = ClaimUid::new(name.uid.as_str()) else {
        // Nothing can have been prepared under it, and an error would hold up the pod for ever.
        tracing::warn!(claim = %format_args!("{}/{}", name.namespace, name.name), "unprepare of an impossible UID");
        return Ok(());
    };
    unprepare_uid(node, &uid).await
}

/// As [`unprepare`], for a UID that is known to be one.
///
/// # Errors
/// As [`unprepare`].
pub async fn unprepare_uid(node: &Arc<Node>, uid: &ClaimUid) -> Result<(), OperationError> {
    let _one = node.locks.lock(uid).await;
    let session = node.session().await?;
    let (worker, claim) = (Arc::clone(node), uid.clone());
    let given_back = blocking(move || give_back(&worker, &session, &claim)).await;
    if given_back.map_err(|error| error.unwrap_or(OperationError::Internal))? {
        node.metrics.forget_claim(uid);
        node.note_change();
    }
    Ok(())
}

/// All that touches the disk; returns whether the claim was prepared, or in the middle of it.
fn give_back(node: &Node, session: &Session, uid: &ClaimUid) -> Result<bool, OperationError> {
    let state = node.store.state(uid);
    match next_unprepare(state.as_ref()) {
        UnprepareStep::Done => {
            // Files are observed, not remembered: something may lie there all the same.
            remove(&node.materials, uid)?;
            if state.is_none() {
                // The tombstone of a claim that nobody knows is a precaution; a full disk must not hold up its pod.
                if let Err(error) = session.blocking_write(Event::Unprepared { claim: uid.clone() }) {
                    tracing::warn!(claim = %uid, %error, "no tombstone for an unknown claim");
                }
            }
            return Ok(false);
        }
        UnprepareStep::Start(plan) => {
            crash_at!("unprepare.started.before");
            session.blocking_write(Event::UnprepareStarted { plan })?;
            crash_at!("unprepare.started.after");
            remove(&node.materials, uid)?;
        }
        UnprepareStep::Continue(_) => remove(&node.materials, uid)?,
    }
    crash_at!("unprepare.regions.after");
    crash_at!("unprepare.done.before");
    // The tombstone: a Prepare that was on its way must not bring the claim back.
    session.blocking_write(Event::Unprepared { claim: uid.clone() })?;
    crash_at!("unprepare.done.after");
    Ok(true)
}

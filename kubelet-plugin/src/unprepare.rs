//! Giving one claim back. No API server is needed, and a claim that nobody knows is a success.

use std::sync::Arc;

use vnpu_driver::id::ClaimUid;
use vnpu_driver::record::{Event, UnprepareStep, next_unprepare};

use crate::crash_at;
use crate::error::OperationError;
use crate::node::Node;
use crate::prepare::{ClaimName, undo};

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
    let state = node.store.state(uid);
    match next_unprepare(state.as_ref()) {
        UnprepareStep::Done => {
            // Files are observed, not remembered: something may lie there all the same.
            undo(node, uid).await?;
            if state.is_none() {
                // The tombstone of a claim that nobody knows is a precaution; a full disk must not hold up its pod.
                if let Err(error) = session.write(Event::Unprepared { claim: uid.clone() }).await {
                    tracing::warn!(claim = %uid, %error, "no tombstone for an unknown claim");
                }
            }
            return Ok(());
        }
        UnprepareStep::Start(plan) => {
            crash_at!("unprepare.started.before");
            session.write(Event::UnprepareStarted { plan }).await?;
            crash_at!("unprepare.started.after");
            undo(node, uid).await?;
        }
        UnprepareStep::Continue(_) => undo(node, uid).await?,
    }
    crash_at!("unprepare.regions.after");
    crash_at!("unprepare.done.before");
    // The tombstone: a Prepare that was on its way must not bring the claim back.
    session.write(Event::Unprepared { claim: uid.clone() }).await?;
    crash_at!("unprepare.done.after");
    node.metrics.forget_claim(uid);
    node.note_change();
    Ok(())
}

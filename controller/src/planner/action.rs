//! What the desk wants done. Each action can be done again without harm; what comes of it is seen in the pods.

use std::sync::Arc;

use vnpu_placement::Decision;
use vnpu_placement::batch::BatchKey;

use super::patch::Tether;
use crate::observe::pod::PodSeen;

/// One pod of a plan.
#[derive(Debug, Clone)]
pub struct Placement {
    /// The pod as it was planned.
    pub pod: Arc<PodSeen>,
    /// Its node.
    pub node: String,
    /// What ties it to the domain.
    pub tether: Tether,
}

/// Something to do.
#[derive(Debug, Clone)]
pub enum Action {
    /// Nominate all pods of a plan, then take our gate from those that have it, in this order.
    Place {
        /// Whose plan.
        batch: BatchKey,
        /// Its pods, in the order of their ranks.
        pods: Vec<Placement>,
    },
    /// Let a pod go to the scheduler without a plan.
    LetGo {
        /// Which.
        pod: Arc<PodSeen>,
        /// Why, a stable word.
        reason: &'static str,
    },
    /// Take a nomination away that nothing came of.
    ClearNomination {
        /// Whose.
        pod: Arc<PodSeen>,
    },
    /// Delete a pod that could not be bound with the others of its batch.
    Delete {
        /// Which.
        pod: Arc<PodSeen>,
    },
    /// Keep why something was decided, for those who ask.
    Record {
        /// The decision.
        decision: Box<Decision>,
        /// The pods that it is about, as `namespace/name`.
        pods: Vec<String>,
    },
    /// Tell the user, as an event on the pod.
    Tell {
        /// On which pod.
        pod: Arc<PodSeen>,
        /// Whether something is wrong.
        warning: bool,
        /// Stable word in CamelCase.
        reason: &'static str,
        /// For people, below 1 KiB.
        message: String,
    },
}

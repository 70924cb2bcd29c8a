//! Reservations: what planned pods will take before the cluster shows it. Which of them count at a moment follows from
//! what is bound and allocated then, so the order in which news arrive does not matter.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vnpu_driver::id::{ClaimUid, NodeName};

use crate::demand::ClaimSpec;
use crate::resources::Resources;
use crate::view::Amounts;

/// Which claim a reservation stands for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ClaimKey {
    /// A claim object.
    Uid(ClaimUid),
    /// The claim at this position of the pod's claims, not made yet.
    Of {
        /// The pod's UID.
        pod: Arc<str>,
        /// Its position in [`crate::demand::PodDemand::claims`].
        index: u32,
    },
}

/// A claim that will be allocated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReservedClaim {
    /// Which.
    pub key: ClaimKey,
    /// What it asks for.
    pub spec: Arc<ClaimSpec>,
}

/// What one planned pod will take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// `metadata.uid`.
    pub pod: Arc<str>,
    /// Where.
    pub node: NodeName,
    /// Its place in the order in which pods are let go, over all batches: devices are given in this order.
    pub order: u64,
    /// Requests, overhead included, and one of `pods`.
    pub resources: Arc<Resources>,
    /// Its claims that are not allocated yet.
    pub claims: Vec<ReservedClaim>,
    /// It wants the node's devices for its batch alone (mode `whole-nodes`): the key of that batch.
    pub alone: Option<Arc<str>>,
}

/// A reservation with its numbers.
#[derive(Debug, Clone)]
pub(crate) struct Promise {
    /// What was reserved.
    pub(crate) reservation: Reservation,
    /// The number of each claim's demand.
    pub(crate) specs: Box<[u32]>,
    /// Its resources, by number of the name.
    pub(crate) amounts: Amounts,
}

/// All reservations.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pods: BTreeMap<Arc<str>, Promise>,
    by_claim: BTreeMap<ClaimUid, BTreeSet<Arc<str>>>,
}

impl Ledger {
    /// The reservation of a pod.
    pub(crate) fn get(&self, pod: &str) -> Option<&Reservation> {
        self.pods.get(pod).map(|promise| &promise.reservation)
    }

    /// The same with its numbers.
    pub(crate) fn promise(&self, pod: &str) -> Option<&Promise> {
        self.pods.get(pod)
    }

    /// All, by pod.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Reservation> {
        self.pods.values().map(|promise| &promise.reservation)
    }

    /// Enters one, instead of an earlier one of the pod.
    pub(crate) fn enter(&mut self, promise: Promise) {
        let reservation = &promise.reservation;
        self.strike(&reservation.pod);
        for claim in &reservation.claims {
            if let ClaimKey::Uid(uid) = &claim.key {
                self.by_claim.entry(uid.clone()).or_default().insert(Arc::clone(&reservation.pod));
            }
        }
        self.pods.insert(Arc::clone(&reservation.pod), promise);
    }

    /// Takes out the reservation of a pod.
    pub(crate) fn strike(&mut self, pod: &str) -> Option<Reservation> {
        let reservation = self.pods.remove(pod)?.reservation;
        for claim in &reservation.claims {
            let ClaimKey::Uid(uid) = &claim.key else { continue };
            if let Some(pods) = self.by_claim.get_mut(uid) {
                pods.remove(pod);
                if pods.is_empty() {
                    self.by_claim.remove(uid);
                }
            }
        }
        Some(reservation)
    }

    /// Says which object a claim of a planned pod became.
    pub(crate) fn name(&mut self, pod: &str, index: u32, uid: &ClaimUid) -> bool {
        let Some(mut promise) = self.pods.get(pod).cloned() else { return false };
        let mut named = false;
        for claim in &mut promise.reservation.claims {
            if matches!(&claim.key, ClaimKey::Of { index: i, .. } if *i == index) {
                claim.key = ClaimKey::Uid(uid.clone());
                named = true;
            }
        }
        if named {
            self.enter(promise);
        }
        named
    }

    /// The planned pods that wait for a claim.
    pub(crate) fn waiting_for(&self, claim: &ClaimUid) -> Vec<Arc<str>> {
        self.by_claim.get(claim).into_iter().flatten().cloned().collect()
    }

    /// The node for which a claim is reserved.
    pub(crate) fn node_of(&self, claim: &ClaimUid) -> Option<&NodeName> {
        let pod = self.by_claim.get(claim)?.first()?;
        self.get(pod).map(|r| &r.node)
    }

    /// Whether another pod than this waits for one of its claims too.
    pub(crate) fn shares(&self, reservation: &Reservation) -> bool {
        reservation.claims.iter().any(|claim| match &claim.key {
            ClaimKey::Uid(uid) => self.by_claim.get(uid).is_some_and(|pods| pods.len() > 1),
            ClaimKey::Of { .. } => false,
        })
    }
}

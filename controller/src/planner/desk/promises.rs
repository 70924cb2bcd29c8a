//! What planned pods will take before the cluster shows it: reservations of the planner, and which claims they become.

use std::sync::Arc;

use vnpu_driver::id::NodeName;
use vnpu_placement::demand::PodDemand;
use vnpu_placement::{Change as News, ClaimKey, Reservation, ReservedClaim};

use super::{Desk, Kept};
use crate::observe::pod::{ClaimRef, PodSeen};
use crate::planner::store::Need;

impl Desk {
    /// Which claims were made for a pod, so that it is read again when they are seen.
    pub(super) fn note_claims(&mut self, pod: &PodSeen) {
        for claim in &pod.claims {
            if let ClaimRef::Template { claim: Some(claim), .. } = claim {
                self.made_for.insert((pod.namespace.clone(), claim.clone()), pod.uid.clone());
            }
        }
    }

    pub(super) fn forget_claims(&mut self, uid: &str) {
        if let Some(Kept::Pending { pod, .. }) = self.pods.get(uid) {
            for claim in &pod.claims {
                if let ClaimRef::Template { claim: Some(claim), .. } = claim {
                    self.made_for.remove(&(pod.namespace.clone(), claim.clone()));
                }
            }
        }
    }

    /// A bound pod's claims are allocated, and count by themselves from now on; what is still promised for one that the
    /// pod does not name (that of extended resources) ends.
    pub(super) fn settle(&mut self, pod: &PodSeen) {
        if self.planner.view().reservation(&pod.uid).is_none() {
            return;
        }
        let need = self.need(pod);
        if let Need::Ours { demand, .. } = &need {
            self.name_claims(pod, demand);
        }
        if !matches!(&need, Need::Ours { demand, .. } if demand.claims.iter().all(|c| c.uid.is_some())) {
            self.planner.update(News::Release(pod.uid.clone()));
        }
    }

    /// A pod that was nominated and let go (by this process or by one before) takes what it needs of that node until
    /// it is bound.
    pub(super) fn charge(&mut self, pod: &PodSeen, need: &Need) {
        let Need::Ours { demand, .. } = need else { return };
        self.name_claims(pod, demand);
        let nominated = pod.nominated.as_ref().filter(|_| !pod.gates.ours);
        let Some(node) = nominated.and_then(|node| NodeName::new(node.clone()).ok()) else { return };
        if self.planner.view().reserved(&pod.uid) == Some(&node) {
            return;
        }
        let uid: Arc<str> = Arc::from(pod.uid.as_str());
        let claims = (0..).zip(&demand.claims).map(|(index, claim)| ReservedClaim {
            key: claim.uid.clone().map_or(ClaimKey::Of { pod: uid.clone(), index }, ClaimKey::Uid),
            spec: Arc::new(claim.spec.clone()),
        });
        let reservation = Reservation {
            claims: claims.collect(),
            pod: uid,
            node,
            // What is found was there before anything that is planned from now on.
            order: 0,
            resources: Arc::new(demand.resources.clone()),
            alone: None,
        };
        self.planner.update(News::Reserve(reservation));
    }

    /// Tells the planner which objects the claims of a planned pod became.
    pub(super) fn name_claims(&mut self, pod: &PodSeen, demand: &PodDemand) {
        let Some(reservation) = self.planner.view().reservation(&pod.uid) else { return };
        let unnamed = |key: &ClaimKey| matches!(key, ClaimKey::Of { .. });
        if !reservation.claims.iter().any(|claim| unnamed(&claim.key)) {
            return;
        }
        for (index, claim) in (0..).zip(&demand.claims) {
            if let Some(claim) = claim.uid.clone() {
                self.planner.update(News::ClaimNamed { pod: pod.uid.clone(), index, claim });
            }
        }
    }
}

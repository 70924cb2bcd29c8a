//! What becomes of a plan once it is released: pods that are bound as planned, or elsewhere, or not in time.

use std::sync::Arc;
use std::time::Duration;

use vnpu_driver::controller_config::OnPartial;
use vnpu_driver::id::NodeName;
use vnpu_placement::batch::BatchKey;
use vnpu_placement::moment::Moment;

use super::{Asked, Desk, Kept};
use crate::observe::pod::PodSeen;
use crate::planner::action::Action;
use crate::planner::group;

/// A pod that could not be deleted is not tried sooner again.
const ASK_AGAIN: Duration = Duration::from_secs(20);

impl Desk {
    /// A plan has been carried out as far as it could be. What could not be patched is still gated, and is seen so: the
    /// batch is looked at again after a pause, which grows.
    pub(super) fn placed(&mut self, batch: &BatchKey, now: Moment) {
        let Some(group) = self.groups.get_mut(batch) else { return };
        group.in_flight = false;
        let gated = |uid: &String| matches!(self.pods.get(uid), Some(Kept::Pending { pod, .. }) if pod.waits_for_us());
        let failed = group.plan.iter().flat_map(|plan| plan.nodes.keys()).any(gated);
        group.failures = if failed { group.failures.saturating_add(1) } else { 0 };
        if failed {
            group.rest_until = now.after(pause(group.failures));
        }
        let rest_until = group.rest_until;
        let mut partial = 0;
        if let Some(plan) = &mut group.plan {
            plan.at = now;
            partial = plan.partial;
        }
        self.dirty.insert(batch.clone());
        self.alarm(rest_until, batch);
        self.alarm(now.after(self.patience_to_bind(partial)), batch);
    }

    /// How long the scheduler has for a plan that was found partial so often before.
    pub(super) fn patience_to_bind(&self, partial: u32) -> Duration {
        /// A pod that nothing can be done for is not planned again more often than this.
        const LONGEST: Duration = Duration::from_secs(300);
        self.settings.bind.saturating_mul(1 + partial).min(LONGEST.max(self.settings.bind))
    }

    /// A pod was pending and has a node now.
    pub(super) fn followed(&mut self, pod: &PodSeen, node: &NodeName, now: Moment) {
        let key = group::identity(pod).key;
        let planned =
            self.groups.get(&key).and_then(|g| g.plan.as_ref()).and_then(|p| p.nodes.get(&pod.uid)).cloned();
        let Some(planned) = planned else { return };
        if planned == node.as_str() {
            self.counts.as_planned += 1;
        } else {
            self.counts.deviations += 1;
            let message = format!(
                "planned for node {planned}, bound to {node}: what it needs there was taken, or the node did not admit it"
            );
            self.tell(&key, pod, true, "PlanDeviation", message, now);
        }
        self.dirty.insert(key);
    }

    /// Pods of a plan that were not bound in time. It is found once; what is missing is looked at until it has another
    /// place.
    pub(super) fn partial(&mut self, key: &BatchKey, missing: &[Arc<PodSeen>], now: Moment) {
        let bound = self.bound_count(key);
        let recreate = self.settings.on_partial == OnPartial::Recreate;
        let Some(group) = self.groups.get_mut(key) else { return };
        let Some(plan) = group.plan.as_mut().filter(|plan| !plan.again) else { return };
        plan.again = true;
        plan.partial = plan.partial.saturating_add(1);
        if plan.partial == 1 {
            self.counts.partial += 1;
        }
        if let Some(first) = missing.first() {
            let message = format!(
                "{} of the batch's pods are bound, {} are not {} s after the plan: they are {}",
                bound,
                missing.len(),
                self.settings.bind.as_secs(),
                if recreate && first.owner.is_some() {
                    "deleted, for their owner to make again"
                } else {
                    "planned again"
                },
            );
            self.tell(key, first, true, "PartialBatch", message, now);
        }
    }

    /// Of the missing pods of a batch those that are to be planned again. Where the administrator wants it, those that
    /// somebody will make again are deleted instead.
    pub(super) fn plan_or_delete(
        &mut self,
        key: &BatchKey,
        missing: Vec<Arc<PodSeen>>,
        now: Moment,
    ) -> Vec<Arc<PodSeen>> {
        if self.settings.on_partial == OnPartial::Report {
            return missing;
        }
        let (owned, mut planned): (Vec<_>, Vec<_>) = missing.into_iter().partition(|pod| pod.owner.is_some());
        for pod in owned {
            let asked = self.asked.get(&pod.uid).copied();
            if asked.is_some_and(|asked| asked.refused) {
                planned.push(pod.clone());
            }
            if asked.is_none_or(|asked| now >= asked.next) {
                let next = now.after(ASK_AGAIN);
                let refused = asked.is_some_and(|asked| asked.refused);
                self.asked.insert(pod.uid.clone(), Asked { next, refused });
                self.alarm(next, key);
                self.actions.push(Action::Delete { pod });
            }
        }
        planned
    }

    /// A pod could not be deleted: it is planned again, as if nobody had wanted it deleted, and its user is told.
    pub(super) fn not_deleted(&mut self, uid: &str, why: &str, now: Moment) {
        let Some(asked) = self.asked.get_mut(uid) else { return };
        asked.refused = true;
        self.counts.not_recreated += 1;
        let Some(Kept::Pending { pod, batch, .. }) = self.pods.get(uid) else { return };
        let (pod, key) = (pod.clone(), batch.clone());
        let message = format!(
            "onPartial is recreate, but the pod could not be deleted, so it is planned again: {why}. \
             The right to delete pods is in deploy/optional/controller-recreate.yaml"
        );
        self.tell(&key, &pod, true, "PodNotRecreated", message, now);
        self.dirty.insert(key);
    }

    /// The pods of a batch that are bound.
    fn bound_count(&self, key: &BatchKey) -> usize {
        let pods = self.groups.get(key).into_iter().flat_map(|g| &g.pods);
        pods.filter(|uid| matches!(self.pods.get(*uid), Some(Kept::Bound { .. }))).count()
    }
}

/// Before a batch is planned again whose plan could not be carried out `failures` times in a row.
fn pause(failures: u32) -> Duration {
    Duration::from_secs(1 << failures.min(6)).min(Duration::from_secs(60))
}

//! Looking at batches: what is complete goes to the planner, what the planner placed becomes actions, what is not ours
//! goes its way.

use std::sync::Arc;

use vnpu_driver::admission::pod::LEAF;
use vnpu_driver::controller_config::{OnNoFit, PlacementMode, TopologyWish};
use vnpu_driver::id::NodeName;
use vnpu_placement::batch::{Batch, BatchKey, Member, Reach};
use vnpu_placement::moment::Moment;
use vnpu_placement::{Assignment, Change as News, Outcome, Placement as Plan};

use super::{Desk, Kept, Released};
use crate::observe::pod::PodSeen;
use crate::planner::action::{Action, Placement};
use crate::planner::group::{self, Completeness, Gathered};
use crate::planner::patch::{Bound, SUPERPOD, Tether};
use crate::planner::settings;
use crate::planner::store::Need;

/// The same news of a batch is not told sooner again.
const QUIET: std::time::Duration = std::time::Duration::from_secs(60);

/// After so many plans in a row that could not be carried out, pods are released without affinity.
const UNTETHERED: u32 = 3;

/// The pods of a batch, by what can be done with them.
#[derive(Default)]
struct Sorted {
    /// They wait for a place.
    waiting: Vec<Arc<PodSeen>>,
    /// They were released and not bound in time: they want another place.
    missing: Vec<Arc<PodSeen>>,
    /// They have a place.
    placed: Vec<(String, NodeName)>,
    /// They wait for us and are not ours, or do not want to be planned.
    stray: Vec<(Arc<PodSeen>, &'static str)>,
    /// They wait for us, and what they name is not known.
    unknown: Vec<(Arc<PodSeen>, String)>,
}

impl Desk {
    pub(super) fn evaluate(&mut self, now: Moment) {
        for key in std::mem::take(&mut self.dirty) {
            if self.groups.get(&key).is_some_and(|group| !group.in_flight && now >= group.rest_until) {
                self.look_at(&key, now);
            }
        }
    }

    fn look_at(&mut self, key: &BatchKey, now: Moment) {
        let sorted = self.sort(key, now);
        for (pod, reason) in sorted.stray {
            self.let_go(pod, reason);
        }
        for (pod, missing) in sorted.unknown {
            self.await_objects(key, pod, &missing, now);
        }
        let mut members = sorted.waiting;
        let waiting = u32::try_from(members.len()).unwrap_or(u32::MAX);
        let again = !sorted.missing.is_empty();
        if again {
            self.partial(key, &sorted.missing, now);
            members.extend(self.plan_or_delete(key, sorted.missing, now));
        }
        if members.is_empty() {
            return self.withdraw(key);
        }
        let placed = u32::try_from(sorted.placed.len()).unwrap_or(u32::MAX);
        if self.gives_up(key, &members, now) {
            return;
        }
        match self.completeness(key, &members, waiting, placed, now) {
            // What was released goes on whatever else is to come.
            Completeness::Complete => self.submit(key, members, sorted.placed, now),
            _ if again => self.submit(key, members, sorted.placed, now),
            Completeness::Until(at, why) => {
                self.alarm(at, key);
                self.hold(key, members, &why, now);
            }
            Completeness::Awaited(why) => self.hold(key, members, &why, now),
        }
    }

    fn sort(&self, key: &BatchKey, now: Moment) -> Sorted {
        let mut sorted = Sorted::default();
        let Some(group) = self.groups.get(key) else { return sorted };
        let bind = |partial| self.patience_to_bind(partial);
        let late = |plan: &Released| plan.again || now >= plan.at.after(bind(plan.partial));
        let late = group.plan.as_ref().is_some_and(late);
        for kept in group.pods.iter().filter_map(|uid| self.pods.get(uid)) {
            match kept {
                Kept::Bound { node, name, .. } => sorted.placed.push((name.clone(), node.clone())),
                Kept::Pending { pod, need, .. } if pod.waits_for_us() => match need {
                    Need::Ours { .. } if pod.wishes.placement == Some(PlacementMode::None) => {
                        sorted.stray.push((pod.clone(), "not_wanted"));
                    }
                    Need::Ours { .. } => sorted.waiting.push(pod.clone()),
                    Need::NotOurs => sorted.stray.push((pod.clone(), "not_ours")),
                    Need::Unknown(missing) => sorted.unknown.push((pod.clone(), missing.clone())),
                },
                Kept::Pending { pod, need: Need::Ours { .. }, .. } if !pod.gates.ours && !pod.deleting => {
                    let planned = group.plan.as_ref().is_some_and(|plan| plan.nodes.contains_key(&pod.uid));
                    let nominated = pod.nominated.clone().and_then(|node| NodeName::new(node).ok());
                    match nominated {
                        _ if planned && late => sorted.missing.push(pod.clone()),
                        Some(node) => sorted.placed.push((pod.display_name(), node)),
                        None => {}
                    }
                }
                Kept::Pending { .. } => {}
            }
        }
        sorted
    }

    fn await_objects(&mut self, key: &BatchKey, pod: Arc<PodSeen>, missing: &str, now: Moment) {
        let limit = pod.created.after(self.settings.unknown);
        if now >= limit {
            return self.let_go(pod, "unknown_claims");
        }
        self.alarm(limit, key);
        self.tell(key, &pod, false, "WaitingForClaims", format!("waits for {missing}"), now);
    }

    fn let_go(&mut self, pod: Arc<PodSeen>, reason: &'static str) {
        self.counts.let_go += 1;
        self.actions.push(Action::LetGo { pod, reason });
    }

    fn completeness(
        &mut self,
        key: &BatchKey,
        members: &[Arc<PodSeen>],
        waiting: u32,
        placed: u32,
        now: Moment,
    ) -> Completeness {
        let Some(group) = self.groups.get(key) else { return Completeness::Complete };
        let Some(first) = members.first() else { return Completeness::Complete };
        let owner =
            first.owner.as_ref().filter(|_| first.batch.is_none()).and_then(|o| self.store.owner(&o.uid));
        let said = members.iter().filter_map(|pod| pod.wishes.batch_size).max();
        let alone = first.owner.is_none() && first.batch.is_none() && first.pod_group.is_none();
        let minimum = self.store.pod_group_size(first);
        let gathered = Gathered {
            waiting,
            placed,
            newest: group.newest,
            at_least: said.is_none() && minimum.is_some(),
            size: said.or(minimum).or(owner.and_then(|o| o.size)).or(alone.then_some(1)),
            gang: group::is_gang(group.identity.kind.as_ref(), owner, &self.settings),
            unseen: first.batch.is_none()
                && owner.is_none()
                && first.owner.as_ref().is_some_and(|owner| group::is_watched(&owner.kind)),
        };
        group::completeness(&gathered, now, &self.settings)
    }

    fn withdraw(&mut self, key: &BatchKey) {
        if let Some(group) = self.groups.get_mut(key)
            && std::mem::take(&mut group.submitted)
        {
            self.planner.withdraw(key);
        }
    }

    /// A batch that is not complete waits outside the planner, and its nominations, if it has any, are taken away
    /// before they block others.
    fn hold(&mut self, key: &BatchKey, members: Vec<Arc<PodSeen>>, why: &str, now: Moment) {
        self.withdraw(key);
        if let Some(first) = members.first().cloned() {
            let waits = first.created.after(self.settings.nominated);
            if now >= waits {
                self.tell(key, &first, false, "WaitingForPods", why.to_owned(), now);
            } else {
                self.alarm(waits, key);
            }
        }
        self.clear_nominations(members);
    }

    pub(super) fn clear_nominations(&mut self, members: Vec<Arc<PodSeen>>) {
        for pod in members {
            if pod.nominated.is_some() && pod.gates.ours {
                self.counts.cleared += 1;
                self.actions.push(Action::ClearNomination { pod });
            }
        }
    }

    fn submit(
        &mut self,
        key: &BatchKey,
        pods: Vec<Arc<PodSeen>>,
        placed: Vec<(String, NodeName)>,
        now: Moment,
    ) {
        for pod in &pods {
            // What it held by an earlier plan is free for this one.
            self.planner.update(News::Release(pod.uid.clone()));
        }
        let Some(batch) = self.batch(key, &pods, placed) else { return };
        self.planner.submit(batch, now);
        if let Some(group) = self.groups.get_mut(key) {
            group.submitted = true;
        }
    }

    fn batch(&self, key: &BatchKey, pods: &[Arc<PodSeen>], placed: Vec<(String, NodeName)>) -> Option<Batch> {
        let group = self.groups.get(key)?;
        let first = pods.first()?;
        let mut members = Vec::new();
        let mut unmodelled: Vec<String> = Vec::new();
        let mut known: Vec<Arc<vnpu_placement::demand::PodDemand>> = Vec::new();
        for pod in pods {
            let Some(Kept::Pending { need: Need::Ours { demand, foreign }, .. }) = self.pods.get(&pod.uid)
            else {
                continue;
            };
            let other = foreign.then_some("claims of other drivers");
            for what in pod.unmodelled.iter().copied().chain(other) {
                if !unmodelled.iter().any(|known| known == what) {
                    unmodelled.push(what.to_owned());
                }
            }
            let shared = known.iter().find(|k| ***k == *demand).cloned();
            let demand = shared.unwrap_or_else(|| Arc::new(demand.clone()));
            if !known.iter().any(|k| Arc::ptr_eq(k, &demand)) {
                known.push(demand.clone());
            }
            members.push(Member { uid: pod.uid.clone(), name: pod.display_name(), rank: pod.rank, demand });
        }
        let owner =
            first.owner.as_ref().filter(|_| first.batch.is_none()).and_then(|o| self.store.owner(&o.uid));
        let gang = group::is_gang(group.identity.kind.as_ref(), owner, &self.settings);
        let said = pods.iter().find_map(|pod| pod.wishes.placement.and_then(settings::mode));
        let specs = known.iter().flat_map(|d| &d.claims).map(|claim| &claim.spec);
        Some(Batch {
            key: key.clone(),
            owner: group.identity.owner.clone(),
            title: group.identity.title.clone(),
            mode: said.unwrap_or_else(|| group::default_mode(gang, specs, &self.settings)),
            reach: pods.iter().find_map(|pod| pod.wishes.topology).map(reach).unwrap_or_default(),
            priority: pods.iter().map(|pod| pod.priority).max().unwrap_or_default(),
            arrived: pods.iter().map(|pod| pod.created).min().unwrap_or_default(),
            patience: pods.iter().find_map(|pod| self.patience_of(pod)).unwrap_or(self.settings.patience),
            members,
            placed,
            unmodelled,
        })
    }

    pub(super) fn decide(&mut self, now: Moment) {
        for decision in self.planner.decide(now) {
            let text = decision.record.short();
            let pods = self.names(&decision.batch);
            match &decision.outcome {
                Outcome::Placed(plan) => self.carry_out(&decision.batch, plan, text, now),
                Outcome::Waiting { .. } => self.waits(&decision.batch, false, text, now),
                Outcome::NeverFits => self.waits(&decision.batch, true, text, now),
            }
            self.actions.push(Action::Record { decision: Box::new(decision), pods });
        }
    }

    /// All pods of a batch, as `namespace/name`: whoever asks for one of them is told of the batch.
    fn names(&self, key: &BatchKey) -> Vec<String> {
        let pods =
            self.groups.get(key).into_iter().flat_map(|g| &g.pods).filter_map(|uid| self.pods.get(uid));
        let name = |kept: &Kept| match kept {
            Kept::Pending { pod, .. } => pod.display_name(),
            Kept::Bound { name, .. } => name.clone(),
        };
        pods.map(name).collect()
    }

    /// The members that the planner has of a batch, as they are now: those that wait, and those that are missing.
    fn members(&self, key: &BatchKey) -> Vec<Arc<PodSeen>> {
        let Some(group) = self.groups.get(key) else { return Vec::new() };
        let plan = group.plan.as_ref().filter(|plan| plan.again);
        let missing = |pod: &PodSeen| {
            !pod.gates.ours && !pod.deleting && plan.is_some_and(|plan| plan.nodes.contains_key(&pod.uid))
        };
        let pending = group.pods.iter().filter_map(|uid| match self.pods.get(uid) {
            Some(Kept::Pending { pod, .. }) if pod.waits_for_us() || missing(pod) => Some(pod.clone()),
            _ => None,
        });
        pending.collect()
    }

    fn waits(&mut self, key: &BatchKey, never: bool, text: String, now: Moment) {
        let members = self.members(key);
        if self.holds_others_back(key) && members.iter().any(|pod| pod.gates.ours) {
            for pod in members.into_iter().filter(|pod| pod.gates.ours) {
                self.let_go(pod, "pod_group");
            }
            return;
        }
        let Some(first) = members.first().cloned() else { return };
        let reason = if never { "NeverFits" } else { "WaitingForCapacity" };
        self.tell(key, &first, never, reason, text, now);
        if let Some(group) = self.groups.get_mut(key) {
            group.no_fit = true;
        }
        if self.settings.on_no_fit == OnNoFit::Release {
            let limit = self.limit(&first);
            self.alarm(limit, key);
        }
        // A nomination that nothing comes of holds CPU and memory that others could have.
        self.clear_nominations(members);
    }

    /// Kubernetes' scheduler looks at a PodGroup only when none of its pods is gated. So newcomers that have no room
    /// must not keep those back that were let go before them and are not bound.
    fn holds_others_back(&self, key: &BatchKey) -> bool {
        let pods =
            self.groups.get(key).into_iter().flat_map(|g| &g.pods).filter_map(|uid| self.pods.get(uid));
        pods.into_iter().any(|kept| {
            matches!(kept, Kept::Pending { pod, .. }
                if pod.pod_group.is_some() && !pod.gates.ours && !pod.gates.others && !pod.deleting)
        })
    }

    /// When a batch that fits nowhere is let go, where it is.
    fn limit(&self, pod: &PodSeen) -> Moment {
        pod.created.after(self.patience_of(pod).unwrap_or(self.settings.patience))
    }

    /// Lets a batch go that fits nowhere and has waited long enough, where the administrator wants that.
    fn gives_up(&mut self, key: &BatchKey, members: &[Arc<PodSeen>], now: Moment) -> bool {
        let no_fit = self.groups.get(key).is_some_and(|group| group.no_fit && group.submitted);
        let Some(first) = members.first() else { return false };
        if self.settings.on_no_fit != OnNoFit::Release || !no_fit || now < self.limit(first) {
            return false;
        }
        self.withdraw(key);
        for pod in members.iter().filter(|pod| pod.gates.ours) {
            self.let_go(pod.clone(), "no_fit");
        }
        true
    }

    fn carry_out(&mut self, key: &BatchKey, plan: &Plan, text: String, now: Moment) {
        let gang = self.gang(key);
        let Some(group) = self.groups.get_mut(key) else { return };
        let failures = group.failures;
        let mut pods = Vec::new();
        let mut nodes = std::collections::BTreeMap::new();
        for assignment in &plan.assignments {
            let Some(Kept::Pending { pod, need, .. }) = self.pods.get(&assignment.pod) else { continue };
            let foreign = matches!(need, Need::Ours { foreign: true, .. });
            let modelled = pod.unmodelled.is_empty() && !foreign;
            // Affinity that was refused again and again must not keep a pod back.
            let tethered = failures < UNTETHERED;
            let tether =
                if tethered { tether(pod, gang, modelled, plan, assignment) } else { Tether::default() };
            nodes.insert(pod.uid.clone(), assignment.node.to_string());
            pods.push(Placement { pod: pod.clone(), node: assignment.node.to_string(), tether });
        }
        let partial = group.plan.as_ref().map_or(0, |plan| plan.partial);
        self.counts.planned += 1;
        self.counts.planned_pods += u64::try_from(pods.len()).unwrap_or_default();
        let earlier = group.plan.take().map(|plan| plan.nodes).unwrap_or_default();
        nodes.extend(earlier.into_iter().filter(|(uid, _)| !nodes.contains_key(uid)).collect::<Vec<_>>());
        group.plan = Some(Released { at: now, nodes, partial, again: false });
        group.submitted = false;
        group.no_fit = false;
        group.in_flight = true;
        if let Some(first) = pods.first().map(|placement| placement.pod.clone()) {
            group.told = None;
            self.actions.push(Action::Tell { pod: first, warning: false, reason: "Planned", message: text });
        }
        self.actions.push(Action::Place { batch: key.clone(), pods });
    }

    fn patience_of(&self, pod: &PodSeen) -> Option<std::time::Duration> {
        pod.wishes.patience.map(|span| span.0)
    }

    fn gang(&self, key: &BatchKey) -> bool {
        let Some(group) = self.groups.get(key) else { return false };
        let owner = self.store.owner(&group.identity.owner);
        group::is_gang(group.identity.kind.as_ref(), owner, &self.settings)
    }

    /// Tells the user something of a batch, on one of its pods, not the same again and again.
    pub(super) fn tell(
        &mut self,
        key: &BatchKey,
        pod: &PodSeen,
        warning: bool,
        reason: &'static str,
        message: String,
        now: Moment,
    ) {
        let Some(group) = self.groups.get_mut(key) else { return };
        let known = group.told.as_ref();
        if known.is_some_and(|(told, at)| {
            told.starts_with(reason) && (*told == message || now.since(*at) < QUIET)
        }) {
            return;
        }
        group.told = Some((format!("{reason}: {message}"), now));
        self.actions.push(Action::Tell { pod: Arc::new(pod.clone()), warning, reason, message });
    }
}

/// What ties a pod to its domain. What the planner does not model may keep the pod from its node, so such a pod is
/// never held anywhere.
fn tether(pod: &PodSeen, gang: bool, modelled: bool, plan: &Plan, at: &Assignment) -> Tether {
    let leaf = plan.leaf.clone().map(|leaf| Bound::Label(LEAF, leaf));
    let superpod = plan.superpod.clone().map(|superpod| Bound::Label(SUPERPOD, superpod));
    let required = match pod.wishes.topology.map(reach).unwrap_or_default() {
        _ if !modelled => None,
        Reach::RequiredNode => Some(Bound::Node(at.node.to_string())),
        Reach::RequiredLeaf => leaf,
        Reach::RequiredSuperpod => superpod,
        Reach::Preferred if gang => leaf.or(superpod),
        Reach::Preferred => None,
    };
    Tether { preferred_leaf: at.leaf.clone(), required }
}

/// The planner's word for how far apart pods may be.
const fn reach(wish: TopologyWish) -> Reach {
    match wish {
        TopologyWish::Preferred => Reach::Preferred,
        TopologyWish::RequiredNode => Reach::RequiredNode,
        TopologyWish::RequiredLeaf => Reach::RequiredLeaf,
        TopologyWish::RequiredSuperpod => Reach::RequiredSuperpod,
    }
}

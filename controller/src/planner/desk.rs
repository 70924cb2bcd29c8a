//! Where everything comes together: what was observed, which batches that makes, what the planner decides of them and
//! what is to be done. Pure: changes and the time go in, actions come out, and the same changes give the same actions.

mod evaluate;
mod follow;
mod promises;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use vnpu_driver::id::NodeName;
use vnpu_placement::batch::BatchKey;
use vnpu_placement::demand::ClaimSpec;
use vnpu_placement::moment::Moment;
use vnpu_placement::node::{BoundPod, Node};
use vnpu_placement::{Change as News, Config, Planner};

use super::action::Action;
use super::group::{self, Identity};
use super::settings::Settings;
use super::store::{Named, Need, Store};
use crate::observe::claim::{ClaimSeen, ClassSeen};
use crate::observe::owner::OwnerSeen;
use crate::observe::pod::{PodSeen, Stage};
use crate::observe::slice::PoolChange;

/// Something that was observed.
#[derive(Debug)]
pub enum Change {
    /// A node is there, as told.
    Node(Node),
    /// A node is gone.
    NodeGone(NodeName),
    /// A pool of devices changed.
    Pool(PoolChange),
    /// A class is there.
    Class(ClassSeen),
    /// A class of this name is gone.
    ClassGone(String),
    /// A claim is there.
    Claim(Named, ClaimSeen),
    /// A claim of this name is gone.
    ClaimGone(Named),
    /// A template is there.
    Template(Named, Arc<ClaimSpec>),
    /// A template of this name is gone.
    TemplateGone(Named),
    /// A controller of this UID says this.
    Owner(String, OwnerSeen),
    /// A controller of this UID is gone.
    OwnerGone(String),
    /// A PodGroup of this name wants so many pods at once.
    PodGroup(Named, Option<u32>),
    /// A PodGroup of this name is gone.
    PodGroupGone(Named),
    /// A pod is there.
    Pod(Arc<PodSeen>),
    /// A pod as the API server answered to a patch: it may be older than what was observed meanwhile.
    Echo(Arc<PodSeen>),
    /// A pod of this UID is gone.
    PodGone(String),
    /// An [`Action::Place`] has been carried out, as far as it could be; the pods tell how far.
    Placed(BatchKey),
    /// The pod of this UID could not be deleted, and why.
    NotDeleted(String, String),
}

/// A pod as it is kept: in full only while it is pending.
#[derive(Debug)]
enum Kept {
    Pending { pod: Arc<PodSeen>, need: Need, batch: BatchKey },
    Bound { node: NodeName, batch: BatchKey, name: String },
}

impl Kept {
    fn batch(&self) -> &BatchKey {
        match self {
            Self::Pending { batch, .. } | Self::Bound { batch, .. } => batch,
        }
    }
}

/// A batch.
#[derive(Debug)]
struct Group {
    identity: Identity,
    pods: BTreeSet<String>,
    newest: Moment,
    /// A plan is being carried out.
    in_flight: bool,
    /// The planner has it.
    submitted: bool,
    /// What was planned, and when it was released.
    plan: Option<Released>,
    /// It does not fit anywhere now, by the planner's word.
    no_fit: bool,
    /// How often in a row a plan could not be carried out whole.
    failures: u32,
    /// It is not looked at before.
    rest_until: Moment,
    /// The reason told last, and when.
    told: Option<(String, Moment)>,
}

/// A plan that was carried out.
#[derive(Debug)]
struct Released {
    at: Moment,
    nodes: BTreeMap<String, String>,
    /// How often in a row it was found partial.
    partial: u32,
    /// It was found partial, and what is missing has no new place yet.
    again: bool,
}

/// A pod that was to be deleted, for its owner to make again.
#[derive(Debug, Clone, Copy)]
struct Asked {
    /// When to ask again, should it still be there.
    next: Moment,
    /// The API server did not let us: it is planned again instead.
    refused: bool,
}

/// Counts of what happened, for the metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Batches planned.
    pub planned: u64,
    /// Pods of them.
    pub planned_pods: u64,
    /// Pods that were bound where they were planned.
    pub as_planned: u64,
    /// Pods that were bound elsewhere.
    pub deviations: u64,
    /// Plans that were not bound in time.
    pub partial: u64,
    /// Pods let go without a plan.
    pub let_go: u64,
    /// Nominations taken away.
    pub cleared: u64,
    /// Pods that could not be deleted for their owners to make again.
    pub not_recreated: u64,
}

/// The desk.
#[derive(Debug)]
pub struct Desk {
    settings: Settings,
    store: Store,
    planner: Planner,
    pods: BTreeMap<String, Kept>,
    groups: BTreeMap<BatchKey, Group>,
    /// Batches to look at.
    dirty: BTreeSet<BatchKey>,
    /// Batches to look at later.
    alarms: BTreeSet<(Moment, BatchKey)>,
    /// Pods whose needs are not known yet.
    unknown: BTreeSet<String>,
    /// Pending pods by the claims that were made for them.
    made_for: BTreeMap<Named, String>,
    /// Pods that were to be deleted.
    asked: BTreeMap<String, Asked>,
    leading: bool,
    counts: Counts,
    actions: Vec<Action>,
}

impl Desk {
    /// An empty desk, which leads nothing.
    pub fn new(settings: Settings, planner: Config) -> Self {
        Self {
            settings,
            store: Store::default(),
            planner: Planner::new(planner),
            pods: BTreeMap::new(),
            groups: BTreeMap::new(),
            dirty: BTreeSet::new(),
            alarms: BTreeSet::new(),
            unknown: BTreeSet::new(),
            made_for: BTreeMap::new(),
            asked: BTreeMap::new(),
            leading: false,
            counts: Counts::default(),
            actions: Vec::new(),
        }
    }

    /// What has happened so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The planner, for pages and records.
    pub fn planner(&self) -> &Planner {
        &self.planner
    }

    /// Records what the planner is told and decides from now on; `None` ends it.
    pub fn record_to(&mut self, sink: Option<Box<dyn vnpu_placement::Sink + Send>>) {
        self.planner.record_to(sink);
    }

    /// Forgets what is kept of objects that are gone. To be called now and then.
    pub fn tidy(&mut self) {
        self.store.tidy();
    }

    /// Takes other settings from now on.
    pub fn set_settings(&mut self, settings: Settings, planner: Config) {
        self.settings = settings;
        self.planner.set_config(planner);
        self.dirty.extend(self.groups.keys().cloned());
    }

    /// Begins or ends to act. Whoever begins looks at every batch anew; whoever ends forgets what it had planned and
    /// not carried out.
    pub fn lead(&mut self, leading: bool) {
        self.leading = leading;
        let keys: Vec<BatchKey> = self.groups.keys().cloned().collect();
        if !leading {
            for key in &keys {
                self.planner.withdraw(key);
            }
            for group in self.groups.values_mut() {
                group.submitted = false;
                group.in_flight = false;
            }
        }
        self.dirty.extend(keys);
    }

    /// Takes what was observed.
    pub fn change(&mut self, change: Change, now: Moment) {
        match change {
            Change::Node(node) => self.planner.update(News::Node(node)),
            Change::NodeGone(name) => self.planner.update(News::NodeGone(name)),
            Change::Pool(change) => self.pool(change),
            Change::Class(class) => {
                self.planner.update(News::Class(class.class.clone()));
                self.store.put_class(class);
                self.read_needs_again(now);
            }
            Change::ClassGone(name) => {
                self.store.remove_class(&name);
                self.planner.update(News::ClassGone(name));
                self.read_needs_again(now);
            }
            Change::Claim(name, claim) => self.claim(name, &claim, now),
            Change::ClaimGone(name) => {
                if let Some(uid) = self.store.remove_claim(&name) {
                    self.planner.update(News::ClaimGone(uid));
                }
            }
            Change::Template(name, spec) => {
                self.store.put_template(name, &spec);
                self.read_unknown_again(now);
            }
            Change::TemplateGone(name) => self.store.remove_template(&name),
            Change::Owner(uid, owner) => self.owner(uid, owner),
            Change::OwnerGone(uid) => self.store.remove_owner(&uid),
            Change::PodGroup(name, size) => {
                self.look_at_group(&name);
                self.store.put_pod_group(name, size);
            }
            Change::PodGroupGone(name) => {
                self.look_at_group(&name);
                self.store.remove_pod_group(&name);
            }
            Change::Pod(pod) => self.pod(pod, now),
            Change::Echo(pod) if self.pods.contains_key(&pod.uid) => self.pod(pod, now),
            Change::Echo(_) => {}
            Change::PodGone(uid) => self.pod_gone(&uid),
            Change::Placed(batch) => self.placed(&batch, now),
            Change::NotDeleted(uid, why) => self.not_deleted(&uid, &why, now),
        }
    }

    /// What a PodGroup says decides whether its batch is complete.
    fn look_at_group(&mut self, name: &Named) {
        let key = group::pod_group_key(name);
        if self.groups.contains_key(&key) {
            self.dirty.insert(key);
        }
    }

    fn pool(&mut self, change: PoolChange) {
        match change {
            PoolChange::Known(pool) => self.planner.update(News::Pool(pool)),
            PoolChange::Gone(name) => self.planner.update(News::PoolGone(name)),
            PoolChange::Incomplete => {}
        }
    }

    fn claim(&mut self, name: Named, claim: &ClaimSeen, now: Moment) {
        match &claim.allocated {
            Some(allocated) => self.planner.update(News::Claim(allocated.clone())),
            None => self.planner.update(News::ClaimGone(claim.uid.clone())),
        }
        let maker = self.made_for.get(&name).cloned();
        if let Some(before) = self.store.put_claim(name, claim) {
            self.planner.update(News::ClaimGone(before));
        }
        self.read_again(maker.into_iter().collect(), now);
        self.read_unknown_again(now);
    }

    fn owner(&mut self, uid: String, owner: OwnerSeen) {
        if self.store.owner(&uid) == Some(owner) {
            return;
        }
        let key = BatchKey(Arc::from(uid.as_str()));
        if self.groups.contains_key(&key) {
            self.dirty.insert(key);
        }
        self.store.put_owner(uid, owner);
    }

    fn need(&self, pod: &PodSeen) -> Need {
        self.store.need(pod, self.settings.default_cores)
    }

    /// A class may make known claims ours, or foreign ones.
    fn read_needs_again(&mut self, now: Moment) {
        let pending = self.pods.iter().filter(|(_, kept)| matches!(kept, Kept::Pending { .. }));
        let uids: Vec<String> = pending.map(|(uid, _)| uid.clone()).collect();
        self.read_again(uids, now);
    }

    fn read_unknown_again(&mut self, now: Moment) {
        let uids: Vec<String> = self.unknown.iter().cloned().collect();
        self.read_again(uids, now);
    }

    fn read_again(&mut self, uids: Vec<String>, now: Moment) {
        for uid in uids {
            if let Some(Kept::Pending { pod, .. }) = self.pods.get(&uid) {
                let pod = pod.clone();
                self.pod(pod, now);
            }
        }
    }

    fn pod(&mut self, pod: Arc<PodSeen>, now: Moment) {
        match &pod.stage {
            Stage::Finished => self.pod_gone(&pod.uid),
            Stage::Bound(node) => {
                let node = node.clone();
                self.bound(&pod, node, now);
            }
            Stage::Pending => self.pending(pod, now),
        }
    }

    fn pod_gone(&mut self, uid: &str) {
        self.planner.update(News::PodGone(uid.to_owned()));
        self.unknown.remove(uid);
        self.asked.remove(uid);
        self.forget_claims(uid);
        if let Some(kept) = self.pods.remove(uid) {
            self.leave(uid, kept.batch());
        }
    }

    /// A pod leaves its batch; the last one takes it along.
    fn leave(&mut self, uid: &str, batch: &BatchKey) {
        let Some(group) = self.groups.get_mut(batch) else { return };
        group.pods.remove(uid);
        if let Some(plan) = &mut group.plan {
            plan.nodes.remove(uid);
        }
        if group.pods.is_empty() {
            self.groups.remove(batch);
            self.planner.withdraw(batch);
            self.dirty.remove(batch);
        } else {
            self.dirty.insert(batch.clone());
        }
    }

    fn bound(&mut self, pod: &PodSeen, node: NodeName, now: Moment) {
        let bound = BoundPod { uid: pod.uid.clone(), node: node.clone(), resources: pod.resources.clone() };
        self.planner.update(News::Pod(bound));
        self.unknown.remove(&pod.uid);
        self.settle(pod);
        let asks = !pod.claims.is_empty() || !pod.extended.is_empty();
        match self.pods.get(&pod.uid) {
            Some(Kept::Bound { .. }) => {}
            Some(Kept::Pending { .. }) => self.followed(pod, &node, now),
            // Found bound: it belongs to its batch, and nobody planned it here.
            None if asks && self.need(pod) != Need::NotOurs => self.join(pod, now),
            None => return,
        }
        self.forget_claims(&pod.uid);
        let batch = group::identity(pod).key;
        let kept = Kept::Bound { node, batch, name: pod.display_name() };
        self.pods.insert(pod.uid.clone(), kept);
    }

    fn pending(&mut self, pod: Arc<PodSeen>, now: Moment) {
        match self.pods.get(&pod.uid) {
            // A pod never loses its node: this is older.
            Some(Kept::Bound { .. }) => return,
            Some(Kept::Pending { pod: known, .. }) if known.is_newer_than(&pod) => return,
            _ => {}
        }
        let need = self.need(&pod);
        let identity = group::identity(&pod);
        if matches!(need, Need::Unknown(_)) && pod.gates.ours {
            self.unknown.insert(pod.uid.clone());
        } else {
            self.unknown.remove(&pod.uid);
        }
        if need == Need::NotOurs && !pod.gates.ours {
            return self.pod_gone(&pod.uid);
        }
        self.join(&pod, now);
        self.note_claims(&pod);
        self.charge(&pod, &need);
        let kept = Kept::Pending { need, batch: identity.key.clone(), pod };
        if let Kept::Pending { pod, .. } = &kept {
            let uid = pod.uid.clone();
            self.pods.insert(uid, kept);
        }
        self.dirty.insert(identity.key);
    }

    fn join(&mut self, pod: &PodSeen, now: Moment) {
        let identity = group::identity(pod);
        let group = self.groups.entry(identity.key.clone()).or_insert_with(|| Group {
            identity,
            pods: BTreeSet::new(),
            newest: now,
            in_flight: false,
            submitted: false,
            plan: None,
            no_fit: false,
            failures: 0,
            rest_until: Moment::default(),
            told: None,
        });
        if group.pods.insert(pod.uid.clone()) {
            group.newest = now;
        }
    }

    /// What is to be done now.
    pub fn step(&mut self, now: Moment) -> Vec<Action> {
        self.ring(now);
        if self.leading {
            self.evaluate(now);
            self.decide(now);
        }
        self.dirty.clear();
        std::mem::take(&mut self.actions)
    }

    /// When to step again although nothing was observed.
    pub fn next_alarm(&self) -> Option<Moment> {
        let own = self.alarms.first().map(|(at, _)| *at);
        let planners = if self.leading { self.planner.next_deadline() } else { None };
        own.into_iter().chain(planners).min()
    }

    fn ring(&mut self, now: Moment) {
        while let Some((at, _)) = self.alarms.first()
            && *at <= now
        {
            if let Some((_, key)) = self.alarms.pop_first() {
                self.dirty.insert(key);
            }
        }
    }

    fn alarm(&mut self, at: Moment, key: &BatchKey) {
        self.alarms.insert((at, key.clone()));
    }
}

#[cfg(test)]
mod tests;

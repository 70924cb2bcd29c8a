//! News of the cluster: what each of them changes in the view. All of them are upserts and removals that may be
//! repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vnpu_driver::id::{ClaimUid, NodeName, PoolName};

use super::{ClaimState, PodState, PoolState, View};
use crate::ledger::{Promise, Reservation};
use crate::node::{AllocatedClaim, BoundPod, Class, Node, Pool};
use crate::prepare::Bay;
use crate::usage::Held;
use crate::view::NodeState;

/// One piece of news.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Change {
    /// A node is there, or is another now.
    Node(Node),
    /// It is gone. What is bound and allocated there stays until it is gone itself.
    NodeGone(NodeName),
    /// A pool is published.
    Pool(Pool),
    /// It is not any more.
    PoolGone(PoolName),
    /// A claim is allocated: whoever planned it, or nobody.
    Claim(AllocatedClaim),
    /// It is not allocated any more, or gone.
    ClaimGone(ClaimUid),
    /// A pod is bound.
    Pod(BoundPod),
    /// A pod has ended or is gone: what it took and what was reserved for it is free.
    PodGone(String),
    /// A class is there, or is another now.
    Class(Class),
    /// It is gone.
    ClassGone(String),
    /// A claim that a planned pod had no object for has one now.
    ClaimNamed {
        /// The pod's UID.
        pod: String,
        /// The claim's position in [`crate::demand::PodDemand::claims`].
        index: u32,
        /// The object.
        claim: ClaimUid,
    },
    /// A planned pod will take this.
    Reserve(Reservation),
    /// A planned pod will not go where it was planned: its reservation ends.
    Release(String),
}

impl View {
    /// Takes in one piece of news.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Node(node) => self.upsert_node(node),
            Change::NodeGone(name) => self.remove_node(&name),
            Change::Pool(pool) => self.upsert_pool(&pool),
            Change::PoolGone(name) => self.remove_pool(&name),
            Change::Claim(claim) => self.upsert_claim(&claim),
            Change::ClaimGone(uid) => self.remove_claim(&uid),
            Change::Pod(pod) => self.upsert_pod(&pod),
            Change::PodGone(uid) => self.remove_pod(&uid),
            Change::Class(class) => self.upsert_class(class),
            Change::ClassGone(name) => self.remove_class(&name),
            Change::ClaimNamed { pod, index, claim } => self.name_claim(&pod, index, &claim),
            Change::Reserve(reservation) => self.reserve(reservation),
            Change::Release(pod) => self.release(&pod),
        }
    }

    fn node_id(&mut self, name: &NodeName) -> u32 {
        if let Some(id) = self.node_ids.get(name) {
            return *id;
        }
        let id = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        self.node_ids.insert(name.clone(), id);
        self.nodes.push(NodeState::new(name.clone()));
        self.node_versions.push(0);
        id
    }

    fn pool_id(&mut self, name: &PoolName) -> u32 {
        if let Some(id) = self.pool_ids.get(name) {
            return *id;
        }
        let id = u32::try_from(self.pools.len()).unwrap_or(u32::MAX);
        self.pool_ids.insert(name.clone(), id);
        self.pools.push(PoolState {
            name: name.clone(),
            node: None,
            layout: None,
            own: Box::default(),
            holders: BTreeMap::new(),
        });
        id
    }

    fn pool_mut(&mut self, id: u32) -> Option<&mut PoolState> {
        self.pools.get_mut(usize::try_from(id).ok()?)
    }

    /// Something that is used on the node changed.
    fn touch(&mut self, node: u32) {
        self.version = self.version.saturating_add(1);
        let Some(state) = self.node_mut(node).filter(|state| !state.stale) else { return };
        state.stale = true;
        self.dirty.push(node);
    }

    /// Something that the node is changed.
    fn touch_hardware(&mut self, node: u32) {
        self.touch(node);
        self.hardware = self.version;
        let version = self.version;
        if let Some(state) = self.node_mut(node) {
            state.hardware = version;
        }
    }

    /// A node is there, or is another now.
    pub fn upsert_node(&mut self, node: Node) {
        let id = self.node_id(&node.name);
        if self.node(id).is_some_and(|state| state.object.as_ref() == Some(&node)) {
            return;
        }
        let amounts = self.amounts(&node.allocatable);
        let count = amounts.iter().map(|(id, _)| *id).max().map_or(0, |most| most as usize + 1);
        let mut allocatable = vec![0; count];
        for (resource, amount) in &amounts {
            if let Some(place) = allocatable.get_mut(*resource as usize) {
                *place = *amount;
            }
        }
        let Some(state) = self.node_mut(id) else { return };
        let moved = state.object.as_ref().is_none_or(|known| known.labels != node.labels);
        state.allocatable = allocatable;
        state.object = Some(node);
        self.topology_stale |= moved;
        self.touch_hardware(id);
    }

    /// A node is gone.
    pub fn remove_node(&mut self, name: &NodeName) {
        let Some(id) = self.find_node(name) else { return };
        let Some(state) = self.node_mut(id) else { return };
        if state.object.take().is_some() {
            state.allocatable.clear();
            self.topology_stale = true;
            self.touch_hardware(id);
        }
    }

    /// A pool is published.
    pub fn upsert_pool(&mut self, pool: &Pool) {
        let (id, node) = (self.pool_id(&pool.name), self.node_id(&pool.node));
        let (layout, own) = self.catalog.layout(pool);
        let Some(state) = self.pool_mut(id) else { return };
        let same = state.layout.as_ref().is_some_and(|known| known.id == layout.id);
        if same && state.node == Some(node) && state.own == own {
            return;
        }
        let before = state.node.replace(node);
        state.layout = Some(layout);
        state.own = own;
        if let Some(before) = before.filter(|before| *before != node) {
            self.assemble(before, id);
        }
        self.assemble(node, id);
    }

    /// A pool is not published any more.
    pub fn remove_pool(&mut self, name: &PoolName) {
        let Some(id) = self.pool_ids.get(name).copied() else { return };
        let Some(state) = self.pool_mut(id) else { return };
        state.layout = None;
        state.own = Box::default();
        if let Some(node) = state.node.take() {
            self.assemble(node, id);
        }
    }

    /// Puts the pools of a node together again, `changed` among them or no more.
    fn assemble(&mut self, node: u32, changed: u32) {
        let of_id = |id: &u32| usize::try_from(*id).ok().and_then(|id| self.pools.get(id));
        let known = self.node(node).into_iter().flat_map(|state| state.pools.iter().copied());
        let mut pools: Vec<(&PoolName, u32)> = known
            .filter(|id| *id != changed)
            .chain([changed])
            .filter_map(|id| of_id(&id).map(|pool| (pool, id)))
            .filter(|(pool, _)| pool.node == Some(node) && pool.layout.is_some())
            .map(|(pool, id)| (&pool.name, id))
            .collect();
        pools.sort();
        let ids: Vec<u32> = pools.into_iter().map(|(_, id)| id).collect();
        let bay =
            |pool: &PoolState| Some(Bay { layout: Arc::clone(pool.layout.as_ref()?), own: pool.own.clone() });
        let bays: Vec<Bay> = ids.iter().filter_map(of_id).filter_map(bay).collect();
        let kit: Vec<u32> = bays.iter().map(|bay| bay.layout.id).collect();
        let kit = self.catalog.kits.id(kit.as_slice());
        if let Some(state) = self.node_mut(node) {
            state.layouts = bays.iter().map(|bay| Arc::clone(&bay.layout)).collect();
            state.bays = bays;
            state.kit = kit;
            state.pools = ids;
        }
        self.touch_hardware(node);
    }

    /// A claim is allocated.
    pub fn upsert_claim(&mut self, claim: &AllocatedClaim) {
        let mut held: BTreeMap<u32, Vec<Held>> = BTreeMap::new();
        for holding in claim.holdings.iter().filter(|h| !h.admin_access) {
            let consumed = holding.consumed.iter();
            let consumed = consumed.map(|(name, n)| (self.catalog.texts.id(name.as_str()), *n)).collect();
            let device = self.catalog.texts.id(holding.device.as_str());
            held.entry(self.pool_id(&holding.pool)).or_default().push(Held { device, consumed });
        }
        let held = held.into_iter().map(|(pool, held)| (pool, held.into())).collect();
        let state = ClaimState { node: claim.node.as_ref().map(|n| self.node_id(n)), held };
        if self.claims.get(&claim.uid) == Some(&state) {
            return;
        }
        self.remove_claim(&claim.uid);
        for (pool, held) in &state.held {
            self.hold(*pool, &claim.uid, Some(held.clone()));
        }
        self.claims.insert(claim.uid.clone(), state);
        self.claim_moved(&claim.uid);
    }

    /// A claim is not allocated any more.
    pub fn remove_claim(&mut self, uid: &ClaimUid) {
        let Some(state) = self.claims.remove(uid) else { return };
        for (pool, _) in &state.held {
            self.hold(*pool, uid, None);
        }
        self.claim_moved(uid);
    }

    fn hold(&mut self, pool: u32, claim: &ClaimUid, held: Option<Box<[Held]>>) {
        let Some(state) = self.pool_mut(pool) else { return };
        match held {
            Some(held) => state.holders.insert(claim.clone(), held),
            None => state.holders.remove(claim),
        };
        if let Some(node) = state.node {
            self.touch(node);
        }
    }

    /// Reservations that stand for a claim count no more, or again; those that the cluster shows fully end.
    fn claim_moved(&mut self, claim: &ClaimUid) {
        self.version = self.version.saturating_add(1);
        for pod in self.ledger.waiting_for(claim) {
            self.touch_promise(&pod);
            self.end_if_shown(&pod);
        }
    }

    fn touch_promise(&mut self, pod: &str) {
        let node = self.ledger.get(pod).map(|r| r.node.clone());
        if let Some(node) = node.and_then(|n| self.find_node(&n)) {
            self.touch(node);
        }
    }

    /// A reservation of a bound pod whose claims are all allocated has nothing left to stand for.
    fn end_if_shown(&mut self, pod: &str) {
        let allocated = |key: &crate::ledger::ClaimKey| matches!(key, crate::ledger::ClaimKey::Uid(uid) if self.claims.contains_key(uid));
        let shown = self.pods.contains_key(pod)
            && self
                .ledger
                .get(pod)
                .is_some_and(|r| r.alone.is_none() && r.claims.iter().all(|c| allocated(&c.key)));
        if shown {
            self.release(pod);
        }
    }

    /// A pod is bound.
    pub fn upsert_pod(&mut self, pod: &BoundPod) {
        let state = PodState { node: self.node_id(&pod.node), resources: self.amounts(&pod.resources) };
        if self.pods.get(pod.uid.as_str()) == Some(&state) {
            return;
        }
        self.unbind(&pod.uid);
        if let Some(node) = self.node_mut(state.node) {
            for (resource, amount) in &state.resources {
                let resource = *resource as usize;
                if node.bound.len() <= resource {
                    node.bound.resize(resource + 1, 0);
                }
                if let Some(bound) = node.bound.get_mut(resource) {
                    *bound = bound.saturating_add(*amount);
                }
            }
        }
        self.touch(state.node);
        self.pods.insert(Arc::from(pod.uid.as_str()), state);
        self.touch_promise(&pod.uid);
        self.end_if_shown(&pod.uid);
    }

    /// A pod has ended or is gone.
    pub fn remove_pod(&mut self, uid: &str) {
        self.unbind(uid);
        self.release(uid);
    }

    fn unbind(&mut self, uid: &str) {
        let Some(state) = self.pods.remove(uid) else { return };
        if let Some(node) = self.node_mut(state.node) {
            for (resource, amount) in &state.resources {
                if let Some(bound) = node.bound.get_mut(*resource as usize) {
                    *bound = bound.saturating_sub(*amount);
                }
            }
        }
        self.touch(state.node);
        self.touch_promise(uid);
    }

    /// A class is there, or is another now.
    pub fn upsert_class(&mut self, class: Class) {
        if self.classes.get(&class.name) != Some(&class) {
            self.classes.insert(class.name.clone(), class);
            self.classes_changed();
        }
    }

    /// A class is gone.
    pub fn remove_class(&mut self, name: &str) {
        if self.classes.remove(name).is_some() {
            self.classes_changed();
        }
    }

    fn classes_changed(&mut self) {
        self.version = self.version.saturating_add(1);
        self.hardware = self.version;
        self.classes_at = self.version;
        let promised = |(_, node): &(u32, &NodeState)| !node.promised.is_empty();
        let nodes: Vec<u32> = (0u32..).zip(&self.nodes).filter(promised).map(|(id, _)| id).collect();
        nodes.into_iter().for_each(|node| self.touch(node));
    }

    /// A planned pod will take this.
    pub fn reserve(&mut self, reservation: Reservation) {
        if self.ledger.get(&reservation.pod) == Some(&reservation) {
            return;
        }
        self.release(&reservation.pod);
        let (node, pod, order) =
            (self.node_id(&reservation.node), Arc::clone(&reservation.pod), reservation.order);
        let specs = reservation.claims.iter().map(|claim| self.shapes.spec(&claim.spec)).collect();
        let amounts = self.amounts(&reservation.resources);
        self.ledger.enter(Promise { reservation, specs, amounts });
        let shares = self.ledger.get(&pod).is_some_and(|r| self.ledger.shares(r));
        let Some(state) = self.node_mut(node) else { return };
        let last = state.promised.last().is_none_or(|(last, _)| *last < order);
        state.promised.insert((order, Arc::clone(&pod)));
        // What comes last changes nothing of what was promised before it.
        if last && !state.stale && !shares {
            let (mut standing, layouts) = (std::mem::take(&mut state.standing), Arc::clone(&state.layouts));
            self.promise(node, &layouts, &mut standing, &pod, &mut BTreeSet::new());
            self.version = self.version.saturating_add(1);
            self.stand(node, standing);
        } else {
            self.touch(node);
        }
        self.end_if_shown(&pod);
    }

    /// Ends the reservation of a planned pod, if it has one.
    pub fn release(&mut self, pod: &str) {
        let Some(reservation) = self.ledger.strike(pod) else { return };
        let Some(node) = self.find_node(&reservation.node) else { return };
        if let Some(state) = self.node_mut(node) {
            state.promised.remove(&(reservation.order, reservation.pod));
        }
        self.touch(node);
    }

    /// Says which object a claim of a planned pod became.
    pub fn name_claim(&mut self, pod: &str, index: u32, claim: &ClaimUid) {
        if self.ledger.name(pod, index, claim) {
            self.touch_promise(pod);
            self.end_if_shown(pod);
        }
    }
}

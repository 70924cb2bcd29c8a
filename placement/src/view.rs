//! The cluster as the planner knows it: nodes, devices, what uses them, and what is promised. News may arrive in any
//! order and more than once; the same set of objects is the same view.

mod apply;
mod node_state;
mod snapshot;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use vnpu_driver::id::{ClaimUid, NodeName, PoolName};

use crate::cells::{CellStates, Sheet};
use crate::interner::Interner;
use crate::layout::{Catalog, Layout};
use crate::ledger::{ClaimKey, Ledger, Reservation};
use crate::node::Class;
use crate::prepare::Preparation;
use crate::resources::Resources;
use crate::search::{Found, place};
use crate::selector::Selectors;
use crate::shape::Shapes;
use crate::topology::Topology;
use crate::usage::{Held, Usage};

pub use self::apply::Change;
pub use self::node_state::Free;
pub(crate) use self::node_state::{NodeState, Standing};
pub use self::snapshot::ViewSnapshot;

/// The picture of the cluster.
#[derive(Debug, Default)]
pub struct View {
    pub(crate) version: u64,
    /// When nodes, pools or classes changed last: what could fit on an empty cluster follows from these.
    pub(crate) hardware: u64,
    pub(crate) catalog: Catalog,
    pub(crate) selectors: Selectors,
    pub(crate) classes: BTreeMap<String, Class>,
    /// When the classes changed last.
    pub(crate) classes_at: u64,
    node_ids: HashMap<NodeName, u32>,
    pub(crate) nodes: Vec<NodeState>,
    /// When anything of each node changed.
    pub(crate) node_versions: Vec<u64>,
    pub(crate) cell_states: CellStates,
    /// Of each node what counting looks at.
    pub(crate) sheets: Vec<Sheet>,
    /// A batch has wanted some node's devices alone.
    pub(crate) has_alone: bool,
    pool_ids: HashMap<PoolName, u32>,
    pools: Vec<PoolState>,
    claims: BTreeMap<ClaimUid, ClaimState>,
    pods: BTreeMap<Arc<str>, PodState>,
    pub(crate) ledger: Ledger,
    pub(crate) resources: Interner<str>,
    pub(crate) topology: Topology,
    pub(crate) topology_stale: bool,
    dirty: Vec<u32>,
    pub(crate) shapes: Shapes,
}

/// Amounts by number of the resource's name.
pub(crate) type Amounts = Box<[(u32, u64)]>;

#[derive(Debug)]
struct PoolState {
    name: PoolName,
    node: Option<u32>,
    layout: Option<Arc<Layout>>,
    own: Box<[u32]>,
    holders: BTreeMap<ClaimUid, Box<[Held]>>,
}

#[derive(Debug, PartialEq, Eq)]
struct ClaimState {
    node: Option<u32>,
    /// Per pool, what it holds there.
    held: Box<[(u32, Box<[Held]>)]>,
}

#[derive(Debug, PartialEq, Eq)]
struct PodState {
    node: u32,
    resources: Amounts,
}

impl View {
    /// How often the view has changed.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Where a planned pod has its reservation.
    pub fn reserved(&self, pod: &str) -> Option<&NodeName> {
        self.ledger.get(pod).map(|r| &r.node)
    }

    /// The reservation of a planned pod.
    pub fn reservation(&self, pod: &str) -> Option<&Reservation> {
        self.ledger.get(pod)
    }

    /// All reservations, by pod.
    pub fn reservations(&self) -> impl Iterator<Item = &Reservation> {
        self.ledger.all()
    }

    /// The node to which a pod is bound.
    pub fn bound(&self, pod: &str) -> Option<&NodeName> {
        let node = self.pods.get(pod)?.node;
        self.node(node).map(|n| &n.name)
    }

    /// The node for which a claim is allocated, or reserved.
    pub fn node_of_claim(&self, claim: &ClaimUid) -> Option<&NodeName> {
        match self.claims.get(claim) {
            Some(allocated) => self.node(allocated.node?).map(|n| &n.name),
            None => self.ledger.node_of(claim),
        }
    }

    /// Whether a claim is allocated.
    pub fn is_allocated(&self, claim: &ClaimUid) -> bool {
        self.claims.contains_key(claim)
    }

    /// The names of all nodes, in order.
    pub fn node_names(&self) -> Vec<NodeName> {
        let mut names: Vec<NodeName> =
            self.nodes.iter().filter(|n| n.object.is_some()).map(|n| n.name.clone()).collect();
        names.sort();
        names
    }

    /// What is free on a node, reservations counted as used; `None` for one that is not known.
    pub fn free(&mut self, node: &NodeName) -> Option<Free> {
        self.settle();
        let id = *self.node_ids.get(node)?;
        let state = self.node(id)?;
        state.object.as_ref()?;
        Some(state.free)
    }

    pub(crate) fn node(&self, id: u32) -> Option<&NodeState> {
        self.nodes.get(usize::try_from(id).ok()?)
    }

    pub(crate) fn node_mut(&mut self, id: u32) -> Option<&mut NodeState> {
        self.nodes.get_mut(usize::try_from(id).ok()?)
    }

    pub(crate) fn find_node(&self, name: &NodeName) -> Option<u32> {
        self.node_ids.get(name).copied()
    }

    pub(crate) fn preparation(&mut self) -> Preparation<'_> {
        Preparation { catalog: &mut self.catalog, selectors: &mut self.selectors, classes: &self.classes }
    }

    /// Amounts as numbers of names.
    pub(crate) fn amounts(&mut self, resources: &Resources) -> Amounts {
        resources
            .0
            .iter()
            .filter(|(_, n)| **n > 0)
            .map(|(name, n)| (self.resources.id(name.as_str()), *n))
            .collect()
    }

    /// Brings everything that follows from the news up to date.
    pub(crate) fn settle(&mut self) {
        self.forget_states();
        for id in std::mem::take(&mut self.dirty) {
            self.settle_node(id);
        }
        if self.topology_stale {
            self.topology = Topology::of(&self.nodes);
            self.topology_stale = false;
        }
    }

    fn settle_node(&mut self, id: u32) {
        let Some(node) = self.node(id) else { return };
        let mut standing = Standing {
            free: node.allocatable.clone(),
            usages: node.pools.iter().map(|pool| self.usage_of(*pool)).collect(),
            ..Standing::default()
        };
        standing.take(node.bound.iter().copied().enumerate());
        let layouts = Arc::clone(&node.layouts);
        let mut seen = BTreeSet::new();
        for (_, pod) in node.promised.clone() {
            self.promise(id, &layouts, &mut standing, &pod, &mut seen);
        }
        self.stand(id, standing);
    }

    /// Sets what is used and free on a node, as of now.
    fn stand(&mut self, id: u32, standing: Standing) {
        if let Some(version) = self.node_versions.get_mut(id as usize) {
            *version = self.version;
        }
        self.has_alone |= !standing.alone.is_empty();
        if let Some(node) = self.node_mut(id) {
            node.standing = standing;
            node.free = node.count_free();
            node.stale = false;
        }
    }

    fn usage_of(&self, pool: u32) -> Usage {
        let pool = usize::try_from(pool).ok().and_then(|p| self.pools.get(p));
        let Some((pool, layout)) = pool.and_then(|p| Some((p, p.layout.as_ref()?))) else {
            return Usage::default();
        };
        Usage::of(layout, pool.holders.values().flat_map(|held| held.iter()))
    }

    /// Charges a node with one reservation on it, as far as the cluster does not show it yet.
    fn promise(
        &mut self,
        node: u32,
        layouts: &[Arc<Layout>],
        standing: &mut Standing,
        pod: &Arc<str>,
        seen: &mut BTreeSet<ClaimKey>,
    ) {
        let Some(promise) = self.ledger.promise(pod) else { return };
        standing.alone.extend(promise.reservation.alone.clone());
        let mut specs = Vec::with_capacity(promise.specs.len());
        for (claim, spec) in promise.reservation.claims.iter().zip(&promise.specs) {
            let shown = matches!(&claim.key, ClaimKey::Uid(uid) if self.claims.contains_key(uid));
            if !shown && seen.insert(claim.key.clone()) {
                specs.push(*spec);
            }
        }
        if !self.pods.contains_key(pod) {
            standing.take(promise.amounts.iter().map(|(id, amount)| (*id as usize, *amount)));
        }
        if specs.is_empty() {
            return;
        }
        let asked = self.shapes.asked(&specs);
        let prepared = self.prepared(asked, node);
        let (found, _) = place(&prepared, layouts, &mut standing.usages);
        // Whoever took its devices: nobody else is sent there until that is settled.
        standing.crowded |= found != Found::Yes;
    }
}

#[cfg(test)]
mod tests;

//! One demand over the whole tree: how many pods of it each node, leaf and super-pod can take, and the choice among
//! them. What makes the numbers (modes, holds, what is used) is decided by who builds it.

use std::cmp::Reverse;

use crate::rendezvous::Owner;
use crate::shape::Halving;
use crate::topology::Topology;

/// So many pods on the node at a position.
pub(crate) type Share = (usize, u32);

/// Rooms by position, with their sums.
#[derive(Debug, Clone)]
pub(crate) struct Field<'a> {
    /// The tree.
    pub(crate) tree: &'a Topology,
    /// Pods that each node can take, by position.
    pub(crate) rooms: Vec<u32>,
    leaf_sums: Vec<u64>,
    superpod_sums: Vec<u64>,
    /// Where half modules are counted from; `None` counts none.
    halving: Option<Halving<'a>>,
    owner: Owner,
    /// Nodes of one leaf are to be neighbours.
    contiguous: bool,
}

/// How far apart a plan is: super-pods, leaves, nodes. Fewer is better, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Spread {
    /// Super-pods.
    pub(crate) superpods: usize,
    /// Leaves.
    pub(crate) leaves: usize,
    /// Nodes.
    pub(crate) nodes: usize,
}

impl Spread {
    /// Of the nodes at these positions.
    pub(crate) fn of(tree: &Topology, positions: impl Iterator<Item = usize>) -> Self {
        let mut nodes: Vec<usize> = positions.collect();
        nodes.sort_unstable();
        nodes.dedup();
        let mut leaves: Vec<(usize, usize)> = nodes.iter().filter_map(|p| tree.domains_at(*p)).collect();
        leaves.dedup();
        let mut superpods: Vec<usize> = leaves.iter().map(|(_, superpod)| *superpod).collect();
        superpods.dedup();
        Self { superpods: superpods.len(), leaves: leaves.len(), nodes: nodes.len() }
    }
}

impl<'a> Field<'a> {
    /// A field of these rooms.
    pub(crate) fn new(
        tree: &'a Topology,
        rooms: Vec<u32>,
        halving: Option<Halving<'a>>,
        owner: Owner,
        contiguous: bool,
    ) -> Self {
        let mut field = Self {
            tree,
            rooms,
            leaf_sums: Vec::new(),
            superpod_sums: Vec::new(),
            halving,
            owner,
            contiguous,
        };
        field.sum();
        field
    }

    fn sum(&mut self) {
        let sum = |rooms: &[u32]| rooms.iter().map(|room| u64::from(*room)).sum();
        let leaves = self.tree.leaves.iter();
        self.leaf_sums = leaves.map(|l| self.rooms.get(l.members.clone()).map_or(0, sum)).collect();
        let superpods = self.tree.superpods.iter();
        let sums = superpods.map(|s| self.leaf_sums.get(s.members.clone()).map_or(0, |l| l.iter().sum()));
        self.superpod_sums = sums.collect();
    }

    /// The same without what `keep` refuses.
    pub(crate) fn only(&self, keep: impl Fn(usize) -> bool) -> Self {
        let mut field = self.clone();
        for (position, room) in field.rooms.iter_mut().enumerate() {
            if !keep(position) {
                *room = 0;
            }
        }
        field.sum();
        field
    }

    /// How many pods fit.
    pub(crate) fn total(&self) -> u64 {
        self.superpod_sums.iter().sum()
    }

    /// The room at a position.
    pub(crate) fn room(&self, position: usize) -> u32 {
        self.rooms.get(position).copied().unwrap_or_default()
    }

    /// The room of a leaf.
    pub(crate) fn leaf_room(&self, leaf: usize) -> u64 {
        self.leaf_sums.get(leaf).copied().unwrap_or_default()
    }

    /// The room of a super-pod.
    pub(crate) fn superpod_room(&self, superpod: usize) -> u64 {
        self.superpod_sums.get(superpod).copied().unwrap_or_default()
    }

    /// Half modules that so many pods make at a position.
    pub(crate) fn halves(&self, position: usize, pods: u32) -> i32 {
        let halving = self.halving.zip(self.tree.order.get(position));
        halving.map_or(0, |(halving, node)| halving.halves(*node, pods))
    }

    fn halves_of(&self, shares: &[Share]) -> i32 {
        shares.iter().map(|(position, pods)| self.halves(*position, *pods)).sum()
    }

    /// The tie-break: smaller is better.
    pub(crate) fn node_tie(&self, position: usize) -> Reverse<u64> {
        Reverse(self.owner.weight(self.tree.digests.get(position).copied().unwrap_or_default()))
    }

    /// The same between leaves.
    pub(crate) fn leaf_tie(&self, leaf: usize) -> Reverse<u64> {
        Reverse(self.owner.weight(self.tree.leaves.get(leaf).map_or(0, |l| l.digest)))
    }

    /// The same between super-pods.
    pub(crate) fn superpod_tie(&self, superpod: usize) -> Reverse<u64> {
        Reverse(self.owner.weight(self.tree.superpods.get(superpod).map_or(0, |s| s.digest)))
    }

    /// The best node for all of `pods`.
    pub(crate) fn best_node(&self, pods: u32) -> Option<usize> {
        let fitting = self.rooms.iter().enumerate().filter(|(_, room)| **room >= pods);
        let best = fitting.min_by_key(|(position, room)| {
            // Of equals the one in the fuller leaf, so that leaves stay whole for those who need one.
            let leaf = self.tree.domains_at(*position).map(|(leaf, _)| self.leaf_room(leaf));
            (self.halves(*position, pods), *room - pods, leaf, self.node_tie(*position), *position)
        });
        best.map(|(position, _)| position)
    }

    /// The best leaf for all of `pods`, among some.
    pub(crate) fn best_leaf(&self, leaves: impl Iterator<Item = usize>, pods: u32) -> Option<usize> {
        let wanted = u64::from(pods);
        let fitting = leaves.filter(|leaf| self.leaf_room(*leaf) >= wanted);
        let needed: Vec<(usize, usize)> = fitting.map(|leaf| (self.nodes_needed(leaf, pods), leaf)).collect();
        let fewest = needed.iter().map(|(nodes, _)| *nodes).min()?;
        // Where pods would lie in a leaf is dear to find out, and only half modules depend on it.
        let halves = |leaf: usize| match self.halving {
            Some(_) => self.halves_of(&self.fill_leaf(leaf, pods)),
            None => 0,
        };
        let best = needed.iter().filter(|(nodes, _)| *nodes == fewest).map(|(_, leaf)| *leaf);
        best.min_by_key(|leaf| (halves(*leaf), self.leaf_room(*leaf) - wanted, self.leaf_tie(*leaf), *leaf))
    }

    fn nodes_needed(&self, leaf: usize, pods: u32) -> usize {
        let Some(domain) = self.tree.leaves.get(leaf) else { return 0 };
        let mut rooms: Vec<u32> = self.rooms.get(domain.members.clone()).unwrap_or_default().to_vec();
        rooms.sort_unstable_by_key(|room| Reverse(*room));
        let mut left = pods;
        rooms.iter().take_while(|room| (left > 0, left = left.saturating_sub(**room)).0).count()
    }

    /// Places `pods` in a leaf: the largest rooms first, the last one where least is left over.
    pub(crate) fn fill_leaf(&self, leaf: usize, pods: u32) -> Vec<Share> {
        let Some(domain) = self.tree.leaves.get(leaf) else { return Vec::new() };
        let mut nodes: Vec<usize> = domain.members.clone().filter(|p| self.room(*p) > 0).collect();
        if let Some(window) = self.contiguous.then(|| self.window(leaf, pods)).flatten() {
            nodes = window;
        }
        nodes.sort_unstable_by_key(|p| (Reverse(self.room(*p)), self.node_tie(*p), *p));
        self.fill(&nodes, pods)
    }

    /// Places `pods` on nodes that are sorted by room.
    pub(crate) fn fill(&self, nodes: &[usize], pods: u32) -> Vec<Share> {
        let (mut shares, mut left) = (Vec::new(), pods);
        for (index, position) in nodes.iter().enumerate() {
            let room = self.room(*position);
            if room >= left {
                let rest = nodes.iter().skip(index).filter(|p| self.room(**p) >= left);
                let last = rest
                    .min_by_key(|p| (self.halves(**p, left), self.room(**p) - left, self.node_tie(**p), **p));
                shares.extend(last.filter(|_| left > 0).map(|p| (*p, left)));
                return shares;
            }
            shares.push((*position, room));
            left -= room;
        }
        shares
    }

    /// The first neighbours in a leaf that take `pods` with no node more than needed.
    fn window(&self, leaf: usize, pods: u32) -> Option<Vec<usize>> {
        let members = self.tree.leaves.get(leaf)?.members.clone();
        let needed = self.nodes_needed(leaf, pods);
        let holds = |start: &usize| {
            let rooms = self.rooms.get(*start..start.saturating_add(needed)).unwrap_or_default();
            let sum: u64 = rooms.iter().map(|room| u64::from(*room)).sum();
            start.saturating_add(needed) <= members.end && sum >= u64::from(pods) && !rooms.contains(&0)
        };
        members.clone().find(holds).map(|start| (start..start + needed).collect())
    }

    /// Places `pods` on some leaves, on as few as possible.
    pub(crate) fn fill_leaves(&self, leaves: std::ops::Range<usize>, pods: u32) -> Vec<Share> {
        let mut by_room: Vec<usize> = leaves.filter(|leaf| self.leaf_room(*leaf) > 0).collect();
        by_room.sort_by_cached_key(|leaf| (Reverse(self.leaf_room(*leaf)), self.leaf_tie(*leaf), *leaf));
        let (mut shares, mut left) = (Vec::new(), pods);
        for (index, leaf) in by_room.iter().enumerate() {
            let room = self.leaf_room(*leaf);
            if room >= u64::from(left) {
                let last = self.best_leaf(by_room.iter().skip(index).copied(), left);
                shares.extend(last.map(|leaf| self.fill_leaf(leaf, left)).unwrap_or_default());
                return shares;
            }
            let room = u32::try_from(room).unwrap_or(u32::MAX);
            shares.extend(self.fill_leaf(*leaf, room));
            left -= room;
        }
        shares
    }

    /// The best super-pod for all of `pods`, with the plan in it.
    fn best_superpod(&self, superpods: impl Iterator<Item = usize>, pods: u32) -> Option<Vec<Share>> {
        let wanted = u64::from(pods);
        let fitting: Vec<usize> = superpods.filter(|s| self.superpod_room(*s) >= wanted).collect();
        let fewest = fitting.iter().map(|s| self.leaves_needed(*s, wanted)).min()?;
        let plans = fitting.iter().filter(|s| self.leaves_needed(**s, wanted) == fewest).map(|s| {
            let members = self.tree.superpods.get(*s).map_or(0..0, |d| d.members.clone());
            let shares = self.fill_leaves(members, pods);
            let left = self.superpod_room(*s) - wanted;
            ((shares.len(), self.halves_of(&shares), left, self.superpod_tie(*s), *s), shares)
        });
        plans.min_by_key(|(key, _)| *key).map(|(_, shares)| shares)
    }

    fn leaves_needed(&self, superpod: usize, pods: u64) -> usize {
        let Some(domain) = self.tree.superpods.get(superpod) else { return 0 };
        let mut rooms = self.leaf_sums.get(domain.members.clone()).unwrap_or_default().to_vec();
        rooms.sort_unstable_by_key(|room| Reverse(*room));
        let mut left = pods;
        rooms.iter().take_while(|room| (left > 0, left = left.saturating_sub(**room)).0).count()
    }

    /// Places `pods` on as few super-pods as possible.
    fn fill_superpods(&self, pods: u32) -> Vec<Share> {
        let mut by_room: Vec<usize> =
            (0..self.tree.superpods.len()).filter(|s| self.superpod_room(*s) > 0).collect();
        by_room.sort_by_cached_key(|s| (Reverse(self.superpod_room(*s)), self.superpod_tie(*s), *s));
        let (mut shares, mut left) = (Vec::new(), pods);
        for (index, superpod) in by_room.iter().enumerate() {
            let room = self.superpod_room(*superpod);
            if room >= u64::from(left) {
                shares.extend(
                    self.best_superpod(by_room.iter().skip(index).copied(), left).unwrap_or_default(),
                );
                return shares;
            }
            let room = u32::try_from(room).unwrap_or(u32::MAX);
            let members = self.tree.superpods.get(*superpod).map_or(0..0, |d| d.members.clone());
            shares.extend(self.fill_leaves(members, room));
            left -= room;
        }
        shares
    }

    /// The smallest domain that holds all of `pods`, and the plan in it: a node, else a leaf, else a super-pod, else
    /// several. `None` when they do not fit.
    pub(crate) fn choose(&self, pods: u32) -> Option<Vec<Share>> {
        if pods == 0 {
            return Some(Vec::new());
        }
        if self.total() < u64::from(pods) {
            return None;
        }
        if let Some(node) = self.best_node(pods) {
            return Some(vec![(node, pods)]);
        }
        if let Some(leaf) = self.best_leaf(0..self.tree.leaves.len(), pods) {
            return Some(self.fill_leaf(leaf, pods));
        }
        let one = self.best_superpod(0..self.tree.superpods.len(), pods);
        Some(one.unwrap_or_else(|| self.fill_superpods(pods)))
    }
}

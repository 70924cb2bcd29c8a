//! Batches that wait, in which order they are looked at, and what is held for one that has waited too long. What the
//! waiting means is in `rule.rs`; who is placed where, in `plan.rs`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::batch::{Batch, BatchKey, Mode, Reach};
use crate::decision::Tier;
use crate::field::{Field, Spread};
use crate::moment::Moment;
use crate::topology::Topology;

/// A domain by name, so that it is found again when the tree has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// Its size; [`Tier::Across`] is the whole cluster.
    pub tier: Tier,
    /// Its name.
    pub name: String,
    /// The super-pod in which it lies.
    pub superpod: String,
    /// Since when it has been held.
    pub since: Moment,
}

/// A batch in the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// The batch.
    pub batch: Batch,
    /// Since when it could have been placed: its patience counts from here. Never set back.
    pub could_since: Option<Moment>,
    /// What is held for it.
    pub target: Option<Target>,
    /// What was last said of it, so that nothing is said twice.
    pub said: Option<String>,
    /// How it would lie on an empty cluster, as of a version of the hardware.
    #[serde(skip)]
    pub(crate) minimum: Option<(u64, Option<Spread>)>,
}

impl Entry {
    /// A batch that nothing is known of yet.
    pub(crate) const fn new(batch: Batch) -> Self {
        Self { batch, could_since: None, target: None, said: None, minimum: None }
    }

    /// Several pods that fit one empty node.
    pub(crate) fn is_compact(&self) -> bool {
        let minimum = self.minimum.and_then(|(_, minimum)| minimum);
        self.batch.members.len() > 1 && minimum.is_some_and(|minimum| minimum.nodes == 1)
    }
}

/// The queue: priority, then arrival, then name.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    entries: BTreeMap<BatchKey, Entry>,
    order: BTreeSet<(Reverse<i32>, Moment, BatchKey)>,
}

fn place(batch: &Batch) -> (Reverse<i32>, Moment, BatchKey) {
    (Reverse(batch.priority), batch.arrived, batch.key.clone())
}

impl Queue {
    /// Enters a batch, or what it is now.
    pub(crate) fn enter(&mut self, batch: Batch) {
        let earlier = self.remove(&batch.key);
        let entry = Entry::new(batch);
        self.put(match earlier {
            Some(Entry { could_since, target, said, .. }) => Entry { could_since, target, said, ..entry },
            None => entry,
        });
    }

    /// Puts an entry back as it was.
    pub(crate) fn put(&mut self, entry: Entry) {
        self.order.insert(place(&entry.batch));
        self.entries.insert(entry.batch.key.clone(), entry);
    }

    /// Takes a batch out.
    pub(crate) fn remove(&mut self, key: &BatchKey) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        self.order.remove(&place(&entry.batch));
        Some(entry)
    }

    /// The first `depth` batches, in order.
    pub(crate) fn front(&self, depth: usize) -> Vec<BatchKey> {
        self.order.iter().take(depth).map(|(.., key)| key.clone()).collect()
    }

    /// An entry.
    pub(crate) fn get(&self, key: &BatchKey) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Notes how a batch would lie on an empty cluster.
    pub(crate) fn set_minimum(&mut self, key: &BatchKey, minimum: (u64, Option<Spread>)) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.minimum = Some(minimum);
        }
    }

    /// All entries, in order.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Entry> {
        self.order.iter().filter_map(|(.., key)| self.entries.get(key))
    }

    /// How many batches wait.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

/// The domain that is held for a batch, as a stretch of the tree.
#[derive(Debug, Clone, Copy)]
enum Stretch {
    Node(usize),
    Leaf(usize),
    Superpod(usize),
    All,
}

impl Stretch {
    fn name(self, tree: &Topology, node_name: impl Fn(usize) -> String, since: Moment) -> Option<Target> {
        let (tier, name, superpod) = match self {
            Self::All => {
                return Some(Target {
                    tier: Tier::Across,
                    name: String::new(),
                    superpod: String::new(),
                    since,
                });
            }
            Self::Node(position) => (Tier::Node, node_name(position), tree.domains_at(position)?.1),
            Self::Leaf(leaf) => {
                (Tier::Leaf, tree.leaves.get(leaf)?.name.to_string(), *tree.superpod_of.get(leaf)?)
            }
            Self::Superpod(superpod) => {
                (Tier::Superpod, tree.superpods.get(superpod)?.name.to_string(), superpod)
            }
        };
        let superpod = tree.superpods.get(superpod)?.name.to_string();
        Some(Target { tier, name, superpod, since })
    }

    fn find(target: &Target, tree: &Topology, node_name: impl Fn(usize) -> String) -> Option<Self> {
        if target.tier == Tier::Across {
            return Some(Self::All);
        }
        let superpod = tree.superpods.iter().position(|s| *s.name == *target.superpod)?;
        let leaves = tree.superpods.get(superpod)?.members.clone();
        match target.tier {
            Tier::Superpod => Some(Self::Superpod(superpod)),
            Tier::Leaf => leaves
                .clone()
                .find(|leaf| tree.leaves.get(*leaf).is_some_and(|l| *l.name == *target.name))
                .map(Self::Leaf),
            Tier::Node => leaves
                .flat_map(|leaf| tree.leaves.get(leaf).map_or(0..0, |l| l.members.clone()))
                .find(|position| node_name(*position) == target.name)
                .map(Self::Node),
            Tier::Across => None,
        }
    }

    fn positions(self, tree: &Topology) -> std::ops::Range<usize> {
        let of_leaves = |leaves: std::ops::Range<usize>| {
            let first = tree.leaves.get(leaves.start).map_or(0, |l| l.members.start);
            let end =
                leaves.end.checked_sub(1).and_then(|last| tree.leaves.get(last)).map_or(0, |l| l.members.end);
            first..end
        };
        match self {
            Self::Node(position) => position..position + 1,
            Self::Leaf(leaf) => of_leaves(leaf..leaf + 1),
            Self::Superpod(superpod) => {
                of_leaves(tree.superpods.get(superpod).map_or(0..0, |s| s.members.clone()))
            }
            Self::All => 0..tree.order.len(),
        }
    }
}

/// Everything needed to choose what is held for a batch that has waited too long.
pub(crate) struct Holding<'a> {
    /// How many units are to be placed.
    pub(crate) units: u32,
    /// Its rooms if nothing were used.
    pub(crate) empty: Field<'a>,
    /// Its rooms now.
    pub(crate) now: Field<'a>,
    /// How far apart it may be.
    pub(crate) reach: Reach,
    /// Its mode.
    pub(crate) mode: Mode,
}

impl Holding<'_> {
    /// What is held: the earlier domain as long as it can hold the batch, else the one that has most of the room
    /// already; and its nodes where nobody else may be placed now.
    pub(crate) fn choose(
        &self,
        earlier: Option<&Target>,
        node_name: impl Fn(usize) -> String,
        now: Moment,
    ) -> Option<(Target, BTreeSet<u32>)> {
        let tree = self.empty.tree;
        let kept = earlier.and_then(|target| {
            let stretch = Stretch::find(target, tree, &node_name)?;
            self.holds(stretch).then_some((target.clone(), stretch))
        });
        let (target, stretch) = match kept {
            Some(kept) => kept,
            None => {
                let stretch = self.best()?;
                (stretch.name(tree, &node_name, now)?, stretch)
            }
        };
        let closed = self.closed(stretch.positions(tree));
        Some((target, closed.into_iter().filter_map(|p| tree.order.get(p).copied()).collect()))
    }

    fn holds(&self, stretch: Stretch) -> bool {
        let room = match stretch {
            Stretch::Node(position) => u64::from(self.empty.room(position)),
            Stretch::Leaf(leaf) => self.empty.leaf_room(leaf),
            Stretch::Superpod(superpod) => self.empty.superpod_room(superpod),
            Stretch::All => self.empty.total(),
        };
        room >= u64::from(self.units)
    }

    /// The largest domain that it may be in, up to a super-pod: the larger, the sooner enough of it is free. Only a
    /// batch that needs several super-pods holds them all.
    fn best(&self) -> Option<Stretch> {
        let tree = self.empty.tree;
        let superpod = || {
            let fitting = (0..tree.superpods.len()).filter(|s| self.holds(Stretch::Superpod(*s)));
            let key = |s: &usize| (Reverse(self.now.superpod_room(*s)), self.empty.superpod_tie(*s), *s);
            fitting.min_by_key(key).map(Stretch::Superpod)
        };
        match self.reach {
            Reach::RequiredNode => {
                let fitting = (0..self.empty.rooms.len()).filter(|p| self.holds(Stretch::Node(*p)));
                let key = |p: &usize| (Reverse(self.now.room(*p)), self.empty.node_tie(*p), *p);
                fitting.min_by_key(key).map(Stretch::Node)
            }
            Reach::RequiredLeaf => {
                let fitting = (0..tree.leaves.len()).filter(|leaf| self.holds(Stretch::Leaf(*leaf)));
                let key =
                    |leaf: &usize| (Reverse(self.now.leaf_room(*leaf)), self.empty.leaf_tie(*leaf), *leaf);
                fitting.min_by_key(key).map(Stretch::Leaf)
            }
            Reach::RequiredSuperpod => superpod(),
            Reach::Preferred => superpod().or_else(|| self.holds(Stretch::All).then_some(Stretch::All)),
        }
    }

    /// Nodes that have room for it now, so that the room adds up; and for a batch of whole nodes as many more as it
    /// needs, since a node where others may come is never wholly free.
    fn closed(&self, positions: std::ops::Range<usize>) -> Vec<usize> {
        let mut closed: Vec<usize> = positions.clone().filter(|p| self.now.room(*p) > 0).collect();
        if self.mode == Mode::WholeNodes {
            let missing = (self.units as usize).saturating_sub(closed.len());
            let mut used: Vec<usize> =
                positions.filter(|p| self.now.room(*p) == 0 && self.empty.room(*p) > 0).collect();
            used.sort_by_cached_key(|p| (self.empty.node_tie(*p), *p));
            closed.extend(used.into_iter().take(missing));
        }
        closed
    }
}

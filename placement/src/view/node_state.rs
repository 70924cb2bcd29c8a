//! One node of the view: the objects that are known of it, and what follows from them.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vnpu_driver::id::NodeName;

use crate::layout::Layout;
use crate::node::Node;
use crate::prepare::Bay;
use crate::usage::Usage;

/// A node. It exists as soon as anything names it.
#[derive(Debug)]
pub(crate) struct NodeState {
    /// Its name.
    pub(crate) name: NodeName,
    /// The Node object, once known.
    pub(crate) object: Option<Node>,
    /// Its pools, by name.
    pub(crate) pools: Vec<u32>,
    /// The pools' devices, in the same order.
    pub(crate) bays: Vec<Bay>,
    /// Their layouts.
    pub(crate) layouts: Arc<[Arc<Layout>]>,
    /// The number of that list of layouts.
    pub(crate) kit: u32,
    /// `status.allocatable`, by number of the name.
    pub(crate) allocatable: Vec<u64>,
    /// What bound pods take, by number of the name.
    pub(crate) bound: Vec<u64>,
    /// Planned pods, in their order.
    pub(crate) promised: BTreeSet<(u64, Arc<str>)>,
    /// What is left after all that.
    pub(crate) standing: Standing,
    /// The devices of it, counted.
    pub(crate) free: Free,
    /// News came of it since the standing was made.
    pub(crate) stale: bool,
    /// When the object or the devices changed.
    pub(crate) hardware: u64,
}

/// What is used and free on a node, reservations included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// What is left of `allocatable`, by number of the name.
    pub(crate) free: Vec<u64>,
    /// What is used of each pool.
    pub(crate) usages: Vec<Usage>,
    /// A reservation could not be given devices: nothing else is sent here.
    pub(crate) crowded: bool,
    /// Batches that want the node's devices for themselves.
    pub(crate) alone: BTreeSet<Arc<str>>,
}

impl NodeState {
    /// A node of which nothing is known yet.
    pub(crate) fn new(name: NodeName) -> Self {
        Self {
            name,
            object: None,
            pools: Vec::new(),
            bays: Vec::new(),
            layouts: Arc::from([]),
            // Not the number of any list of layouts that was met.
            kit: u32::MAX,
            allocatable: Vec::new(),
            bound: Vec::new(),
            promised: BTreeSet::new(),
            standing: Standing::default(),
            free: Free::default(),
            stale: false,
            hardware: 0,
        }
    }

    /// Counts what is free of the devices.
    pub(crate) fn count_free(&self) -> Free {
        let mut free = Free::default();
        for (layout, usage) in self.layouts.iter().zip(&self.standing.usages) {
            free.modules = free.modules.saturating_add(usage.whole(layout));
            free.halves = free.halves.saturating_add(usage.halves(layout));
            free.chips = free.chips.saturating_add(usage.free_singles(layout));
        }
        free
    }
}

impl Standing {
    /// Takes amounts off what is free.
    pub(crate) fn take(&mut self, amounts: impl Iterator<Item = (usize, u64)>) {
        for (id, amount) in amounts {
            if let Some(free) = self.free.get_mut(id) {
                *free = free.saturating_sub(amount);
            }
        }
    }

    /// Whether no device is used or promised.
    pub(crate) fn is_idle(&self) -> bool {
        self.usages.iter().all(Usage::is_idle)
    }
}

/// What is free in a domain, as people count it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Free {
    /// Modules of which nothing is used.
    pub modules: u32,
    /// Modules of which something is used, and something is not.
    pub halves: u32,
    /// Chips of single-die hardware of which nothing is used.
    pub chips: u32,
}

impl Free {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            modules: self.modules.saturating_add(other.modules),
            halves: self.halves.saturating_add(other.halves),
            chips: self.chips.saturating_add(other.chips),
        }
    }
}

impl fmt::Display for Free {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let modules = counted(self.modules, "whole module");
        let halves =
            if self.halves == 1 { "1 half one".to_owned() } else { format!("{} half ones", self.halves) };
        match (self.modules, self.halves, self.chips) {
            (0, 0, 0) => f.write_str("nothing free"),
            (0, 0, chips) => write!(f, "{}", counted(chips, "single chip")),
            (_, 0, 0) => f.write_str(&modules),
            (_, _, 0) => write!(f, "{modules} and {halves}"),
            (_, _, chips) => write!(f, "{modules}, {halves} and {}", counted(chips, "single chip")),
        }
    }
}

fn counted(count: u32, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

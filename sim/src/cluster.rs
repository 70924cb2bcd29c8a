//! The cluster as policies see it: nodes in leaves. Nothing here decides.

use crate::chips::{Chips, Taken};
use crate::job::{Ask, Shape};

/// Where one pod runs, and on what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spot {
    /// The node's number.
    pub node: usize,
    /// What it holds there.
    pub taken: Taken,
}

/// Nodes in leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// The nodes; leaf after leaf.
    pub nodes: Vec<Chips>,
    /// Its shape.
    pub shape: Shape,
}

impl Cluster {
    /// An empty one.
    pub fn new(shape: Shape) -> Self {
        Self { nodes: vec![Chips::new(&shape); shape.nodes], shape }
    }

    /// The leaf of a node.
    pub fn leaf(&self, node: usize) -> usize {
        node / self.shape.per_leaf.max(1)
    }

    /// How many leaves there are.
    pub const fn leaves(&self) -> usize {
        self.shape.nodes.div_ceil(self.shape.per_leaf)
    }

    /// The nodes of a leaf, by number.
    pub fn members(&self, leaf: usize) -> impl Iterator<Item = (usize, &Chips)> {
        let first = leaf * self.shape.per_leaf;
        self.nodes.iter().enumerate().skip(first).take(self.shape.per_leaf)
    }

    /// How many pods fit on a node.
    pub fn room(&self, node: usize, ask: Ask) -> u32 {
        self.nodes.get(node).map_or(0, |chips| chips.room(ask))
    }

    /// Takes exactly this; `false` when it is not free.
    pub fn occupy(&mut self, spot: &Spot) -> bool {
        self.nodes.get_mut(spot.node).is_some_and(|chips| chips.occupy(spot.taken))
    }

    /// Gives back what pods held.
    pub fn give(&mut self, spots: &[Spot]) {
        for spot in spots {
            if let Some(chips) = self.nodes.get_mut(spot.node) {
                chips.give(spot.taken);
            }
        }
    }
}

//! Super-pods, leaves and nodes as an ordered list: a domain is a stretch of it. What is free in them is elsewhere.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use crate::rendezvous::digest;
use crate::view::NodeState;

/// The label that names a node's leaf switch.
pub const LEAF_LABEL: &str = "vnpu.dev/leaf";
/// The label that names a node's super-pod.
pub const SUPERPOD_LABEL: &str = "vnpu.dev/superpod";

/// A leaf or a super-pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Domain {
    /// The label's value; for a node without a leaf its name, for nodes without a super-pod the empty text.
    pub(crate) name: Arc<str>,
    /// Whether nodes carry it as a label.
    pub(crate) labelled: bool,
    /// The digest of its name.
    pub(crate) digest: u64,
    /// What it holds: a leaf its nodes by position, a super-pod its leaves by number.
    pub(crate) members: Range<usize>,
}

/// The whole tree.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Topology {
    /// Nodes in order: by super-pod, leaf and name.
    pub(crate) order: Vec<u32>,
    /// The digest of each node's name, in that order.
    pub(crate) digests: Vec<u64>,
    /// The leaf of each node, in that order.
    pub(crate) leaf_of: Vec<usize>,
    /// Leaves in order.
    pub(crate) leaves: Vec<Domain>,
    /// The super-pod of each leaf.
    pub(crate) superpod_of: Vec<usize>,
    /// Super-pods in order.
    pub(crate) superpods: Vec<Domain>,
    /// Where each node is in the order, by its number; `None` for one that is not there.
    pub(crate) positions: Vec<Option<usize>>,
}

struct Place<'a> {
    superpod: &'a str,
    leaf: &'a str,
    labelled: bool,
    name: &'a str,
    id: u32,
}

impl Topology {
    /// The tree of the nodes that are there.
    pub(crate) fn of(nodes: &[NodeState]) -> Self {
        let place = |(id, node): (u32, &'_ NodeState)| -> Option<(u32, String, Option<String>, String)> {
            let labels = &node.object.as_ref()?.labels;
            let label = |name: &str| labels.get(name).filter(|v| !v.is_empty()).cloned();
            let superpod = label(SUPERPOD_LABEL).unwrap_or_default();
            Some((id, superpod, label(LEAF_LABEL), node.name.as_str().to_owned()))
        };
        let found: Vec<_> = (0u32..).zip(nodes).filter_map(place).collect();
        let mut places: Vec<Place<'_>> = found
            .iter()
            .map(|(id, superpod, leaf, name)| Place {
                superpod,
                leaf: leaf.as_deref().unwrap_or(name),
                labelled: leaf.is_some(),
                name,
                id: *id,
            })
            .collect();
        places.sort_by(|a, b| {
            natural(a.superpod, b.superpod)
                .then_with(|| natural(a.leaf, b.leaf))
                .then_with(|| a.labelled.cmp(&b.labelled))
                .then_with(|| natural(a.name, b.name))
        });
        let mut tree = Self { positions: vec![None; nodes.len()], ..Self::default() };
        for place in &places {
            tree.add(place);
        }
        tree
    }

    fn add(&mut self, place: &Place<'_>) {
        let position = self.order.len();
        let new_superpod = self.superpods.last().is_none_or(|s| *s.name != *place.superpod);
        let new_leaf =
            self.leaves.last().is_none_or(|l| *l.name != *place.leaf || l.labelled != place.labelled);
        if new_superpod {
            let first = self.leaves.len();
            self.superpods.push(domain(place.superpod, !place.superpod.is_empty(), first..first));
        }
        if new_superpod || new_leaf {
            self.leaves.push(domain(place.leaf, place.labelled, position..position));
            self.superpod_of.push(self.superpods.len() - 1);
            if let Some(superpod) = self.superpods.last_mut() {
                superpod.members.end += 1;
            }
        }
        if let Some(leaf) = self.leaves.last_mut() {
            leaf.members.end += 1;
        }
        self.order.push(place.id);
        self.digests.push(digest(place.name.as_bytes()));
        self.leaf_of.push(self.leaves.len() - 1);
        if let Some(at) = self.positions.get_mut(place.id as usize) {
            *at = Some(position);
        }
    }

    /// Where a node is in the order.
    pub(crate) fn position(&self, node: u32) -> Option<usize> {
        self.positions.get(node as usize).copied().flatten()
    }

    /// The leaf at a position, and its super-pod.
    pub(crate) fn domains_at(&self, position: usize) -> Option<(usize, usize)> {
        let leaf = *self.leaf_of.get(position)?;
        Some((leaf, *self.superpod_of.get(leaf)?))
    }
}

fn domain(name: &str, labelled: bool, members: Range<usize>) -> Domain {
    Domain { name: Arc::from(name), labelled, digest: digest(name.as_bytes()), members }
}

/// Compares names with their numbers as numbers: `node-9` before `node-10`.
pub(crate) fn natural(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a, b);
    loop {
        let ((l, l_rest), (r, r_rest)) = (chunk(left), chunk(right));
        if l.is_empty() || r.is_empty() {
            // Names that differ only in leading zeros are not the same name.
            return l.len().cmp(&r.len()).then_with(|| a.cmp(b));
        }
        let digits = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
        let order = if digits(l) && digits(r) {
            let (l, r) = (l.trim_start_matches('0'), r.trim_start_matches('0'));
            l.len().cmp(&r.len()).then_with(|| l.cmp(r))
        } else {
            l.cmp(r)
        };
        if order != Ordering::Equal {
            return order;
        }
        (left, right) = (l_rest, r_rest);
    }
}

/// The digits, or what is none, at the beginning.
fn chunk(text: &str) -> (&str, &str) {
    let digits = text.starts_with(|c: char| c.is_ascii_digit());
    let end = text.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_are_numbers() {
        let mut names = ["n10", "n9", "n09", "a-2-b", "a-10-b", "a", "b1c", "b1", ""];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["", "a", "a-2-b", "a-10-b", "b1", "b1c", "n09", "n9", "n10"]);
    }
}

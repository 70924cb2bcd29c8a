//! Batches whose members differ: the largest first, node by node, in the smallest domain that holds them all. Unlike
//! for equal members this is no exact optimum: the domains that look best are tried, a bounded number of them.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::{Group, Problem, Trial, field, rooms, within_reach};
use crate::batch::Mode;
use crate::field::{Field, Share, Spread};
use crate::view::View;

/// Domains of one size that are tried.
const TRIED: usize = 32;

/// Positions to fill, in order, with what makes one list better than another of the same spread.
struct Candidate {
    nodes: Vec<usize>,
    key: (u64, Reverse<u64>, usize),
}

/// Places all groups; the shares of each, in the order of the groups.
pub(super) fn place(
    view: &mut View,
    problem: &Problem<'_>,
    groups: &[Group],
    trial: &Trial,
    anchors: &BTreeSet<usize>,
) -> Option<Vec<Vec<Share>>> {
    let all: Vec<Vec<u32>> = groups.iter().map(|group| rooms(view, problem, group, trial)).collect();
    for tier in [node_tier, leaf_tier, superpod_tier, everywhere] {
        let candidates = candidates(view, problem, groups, &all, anchors, tier);
        let mut best: Option<(Spread, usize, Vec<Vec<Share>>)> = None;
        for (number, candidate) in candidates.iter().enumerate() {
            // The roomiest nodes first needs the fewest as a rule; the tightest first leaves the least over.
            let tightest: Vec<usize> = candidate.nodes.iter().rev().copied().collect();
            for nodes in [&candidate.nodes, &tightest] {
                let Some(shares) = fill(view, problem, groups, &all, trial, nodes) else { continue };
                let positions = shares.iter().flatten().map(|(p, _)| *p).chain(anchors.iter().copied());
                let spread = Spread::of(&view.topology, positions);
                let better = best.as_ref().is_none_or(|(s, n, _)| (spread, number) < (*s, *n));
                if better && within_reach(problem.batch.reach, spread) {
                    best = Some((spread, number, shares));
                }
            }
        }
        if let Some((.., shares)) = best {
            return Some(shares);
        }
    }
    None
}

type Tier = fn(&[Field<'_>], &[Group]) -> Vec<Candidate>;

fn candidates(
    view: &View,
    problem: &Problem<'_>,
    groups: &[Group],
    rooms: &[Vec<u32>],
    anchors: &BTreeSet<usize>,
    tier: Tier,
) -> Vec<Candidate> {
    let fields: Vec<Field<'_>> =
        rooms.iter().map(|rooms| field(view, problem, rooms.clone(), None)).collect();
    let mut candidates = tier(&fields, groups);
    // Where members lie already comes first, then what is tightest.
    let domains: BTreeSet<usize> =
        anchors.iter().filter_map(|p| view.topology.domains_at(*p)).map(|d| d.0).collect();
    let distance = |nodes: &[usize]| {
        let near = |p: &&usize| view.topology.domains_at(**p).is_some_and(|d| domains.contains(&d.0));
        Reverse((nodes.iter().any(|p| anchors.contains(p)), nodes.iter().any(|p| near(&p))))
    };
    candidates.sort_by_cached_key(|c| (distance(&c.nodes), c.key));
    candidates.truncate(TRIED);
    for candidate in &mut candidates {
        let order = |p: &usize| {
            let first = fields.first();
            let near = view.topology.domains_at(*p).is_some_and(|d| domains.contains(&d.0));
            (
                !anchors.contains(p),
                !near,
                Reverse(first.map(|f| f.room(*p))),
                first.map(|f| f.node_tie(*p)),
                *p,
            )
        };
        candidate.nodes.sort_by_cached_key(order);
    }
    candidates
}

fn enough(fields: &[Field<'_>], groups: &[Group], room: impl Fn(&Field<'_>) -> u64) -> bool {
    fields.iter().zip(groups).all(|(field, group)| room(field) >= u64::from(group.count()))
}

fn node_tier(fields: &[Field<'_>], groups: &[Group]) -> Vec<Candidate> {
    let Some(first) = fields.first() else { return Vec::new() };
    let fitting = |p: &usize| enough(fields, groups, |field| u64::from(field.room(*p)));
    let candidate =
        |p: usize| Candidate { nodes: vec![p], key: (u64::from(first.room(p)), first.node_tie(p), p) };
    (0..first.rooms.len()).filter(fitting).map(candidate).collect()
}

fn leaf_tier(fields: &[Field<'_>], groups: &[Group]) -> Vec<Candidate> {
    let Some(first) = fields.first() else { return Vec::new() };
    let leaves = first.tree.leaves.iter().enumerate();
    let fitting = leaves.filter(|(leaf, _)| enough(fields, groups, |field| field.leaf_room(*leaf)));
    let candidate = |(leaf, domain): (usize, &crate::topology::Domain)| Candidate {
        nodes: domain.members.clone().collect(),
        key: (first.leaf_room(leaf), first.leaf_tie(leaf), leaf),
    };
    fitting.map(candidate).collect()
}

fn superpod_tier(fields: &[Field<'_>], groups: &[Group]) -> Vec<Candidate> {
    let Some(first) = fields.first() else { return Vec::new() };
    let superpods = first.tree.superpods.iter().enumerate();
    let fitting = superpods.filter(|(s, _)| enough(fields, groups, |field| field.superpod_room(*s)));
    let candidate = |(s, domain): (usize, &crate::topology::Domain)| Candidate {
        nodes: by_leaf(first, domain.members.clone()),
        key: (first.superpod_room(s), first.superpod_tie(s), s),
    };
    fitting.map(candidate).collect()
}

fn everywhere(fields: &[Field<'_>], groups: &[Group]) -> Vec<Candidate> {
    let Some(first) = fields.first().filter(|_| enough(fields, groups, |field| field.total())) else {
        return Vec::new();
    };
    let nodes = by_leaf(first, 0..first.tree.leaves.len());
    vec![Candidate { nodes, key: (0, Reverse(0), 0) }]
}

/// The nodes of some leaves, leaf by leaf, the roomiest leaf first.
fn by_leaf(field: &Field<'_>, leaves: std::ops::Range<usize>) -> Vec<usize> {
    let mut leaves: Vec<usize> = leaves.collect();
    leaves.sort_by_cached_key(|leaf| (Reverse(field.leaf_room(*leaf)), field.leaf_tie(*leaf), *leaf));
    leaves.iter().filter_map(|leaf| field.tree.leaves.get(*leaf)).flat_map(|l| l.members.clone()).collect()
}

/// Fills nodes in order, each with the largest that still fit.
fn fill(
    view: &mut View,
    problem: &Problem<'_>,
    groups: &[Group],
    rooms: &[Vec<u32>],
    trial: &Trial,
    nodes: &[usize],
) -> Option<Vec<Vec<Share>>> {
    let mut trial = trial.clone();
    let mut left: Vec<u32> = groups.iter().map(Group::count).collect();
    let mut shares: Vec<Vec<Share>> = vec![Vec::new(); groups.len()];
    let one = problem.batch.mode == Mode::OnePerNode;
    for position in nodes {
        let Some(node) = view.topology.order.get(*position).copied() else { continue };
        let mut used = false;
        for (number, group) in groups.iter().enumerate() {
            let (Some(left), Some(shares)) = (left.get_mut(number), shares.get_mut(number)) else { continue };
            let mut room = rooms.get(number).and_then(|r| r.get(*position)).copied().unwrap_or_default();
            let mut placed = 0;
            while *left > 0 && room > 0 && !(one && used) && trial.place(view, &group.form, node) {
                (*left, room, placed, used) = (*left - 1, room - 1, placed + 1, true);
            }
            if placed > 0 {
                shares.push((*position, placed));
            }
        }
        if left.iter().all(|left| *left == 0) {
            return Some(shares);
        }
    }
    None
}

//! The domains that a plan was chosen among: the best of each size, and why it was not taken.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::ops::Range;

use super::demand::wish;
use super::{DomainNote, Fate, Subject};
use crate::batch::Reach;
use crate::decision::{Outcome, Tier};
use crate::field::Field;
use crate::plan::trial::Trial;
use crate::plan::{self, Group};
use crate::topology::Topology;
use crate::view::{Free, View};

/// Domains of one size that are told.
const TOLD: usize = 3;

/// What was considered.
#[derive(Default)]
pub(super) struct Considered {
    pub(super) notes: Vec<DomainNote>,
    pub(super) tie: Option<String>,
    /// What one unit needs.
    pub(super) wish: String,
}

struct Stretch {
    tier: Tier,
    number: usize,
    room: u64,
    positions: Range<usize>,
}

/// Notes on the domains of all sizes up to the one that was taken.
pub(super) fn notes(
    view: &mut View,
    subject: &Subject<'_>,
    groups: &[Group],
    outcome: &Outcome,
) -> Considered {
    let Some(group) = groups.first() else { return Considered::default() };
    let rooms = plan::rooms(view, subject.problem, group, &Trial::new(false));
    let mut considered = Considered { wish: wish(view, group), ..Considered::default() };
    let field = plan::field(view, subject.problem, rooms, None);
    let pods = u64::try_from(group.units.len()).unwrap_or(u64::MAX);
    let nodes = subject.best.map(|plan| plan.nodes.as_slice()).unwrap_or_default();
    let chosen: BTreeSet<usize> = nodes.iter().filter_map(|node| view.topology.position(*node)).collect();
    let last = match outcome {
        Outcome::Placed(placement) => placement.tier,
        // What is further apart than required is no domain to look at.
        _ => match subject.problem.batch.reach {
            Reach::RequiredNode => Tier::Node,
            Reach::RequiredLeaf => Tier::Leaf,
            Reach::RequiredSuperpod | Reach::Preferred => Tier::Superpod,
        },
    };
    for tier in [Tier::Node, Tier::Leaf, Tier::Superpod] {
        if tier > last {
            break;
        }
        let (low, high) = (chosen.first(), chosen.last());
        let holds = |s: &Stretch, p: Option<&usize>| p.is_some_and(|p| s.positions.contains(p));
        let inside = |s: &Stretch| holds(s, low) && holds(s, high);
        // The chosen one, then what would hold the batch most tightly, then what comes closest to it.
        let rank = |s: &Stretch| {
            let refused = s.room < pods;
            (!inside(s), refused, if refused { u64::MAX - s.room } else { s.room })
        };
        for stretch in first(&field, stretches(&field, tier), rank) {
            let is_chosen = tier == last && inside(&stretch) && matches!(outcome, Outcome::Placed(_));
            considered.notes.push(note(view, &stretch, pods, is_chosen));
        }
    }
    considered.tie = tie(&considered.notes, subject);
    considered
}

/// The rank of a domain, then its tie-break, then its number.
type Place<K> = (K, Reverse<u64>, usize);

/// The first few in order; among equals those that the hash prefers.
fn first<K: Ord>(
    field: &Field<'_>,
    stretches: impl Iterator<Item = Stretch>,
    rank: impl Fn(&Stretch) -> K,
) -> Vec<Stretch> {
    let mut told: Vec<(Place<K>, Stretch)> = Vec::with_capacity(TOLD + 1);
    for stretch in stretches {
        let rank = rank(&stretch);
        let full = told.len() == TOLD;
        if full && told.last().is_some_and(|((last, ..), _)| *last < rank) {
            continue;
        }
        let tie = match stretch.tier {
            Tier::Node => field.node_tie(stretch.number),
            Tier::Leaf => field.leaf_tie(stretch.number),
            Tier::Superpod | Tier::Across => field.superpod_tie(stretch.number),
        };
        let key = (rank, tie, stretch.number);
        let place = told.partition_point(|(other, _)| *other <= key);
        told.insert(place, (key, stretch));
        told.truncate(TOLD);
    }
    told.into_iter().map(|(_, stretch)| stretch).collect()
}

/// All domains of one size.
fn stretches<'a>(field: &'a Field<'_>, tier: Tier) -> impl Iterator<Item = Stretch> + 'a {
    let tree = field.tree;
    let count = match tier {
        Tier::Node => tree.order.len(),
        Tier::Leaf => tree.leaves.len(),
        Tier::Superpod | Tier::Across => tree.superpods.len(),
    };
    (0..count).map(move |number| {
        let (room, positions) = match tier {
            Tier::Node => (u64::from(field.room(number)), number..number + 1),
            Tier::Leaf => (field.leaf_room(number), of_leaves(tree, number..number + 1)),
            Tier::Superpod | Tier::Across => {
                let leaves = tree.superpods.get(number).map_or(0..0, |s| s.members.clone());
                (field.superpod_room(number), of_leaves(tree, leaves))
            }
        };
        Stretch { tier, number, room, positions }
    })
}

fn name(view: &View, stretch: &Stretch) -> String {
    let tree = &view.topology;
    let name = match stretch.tier {
        Tier::Node => {
            let node = tree.order.get(stretch.number).and_then(|node| view.node(*node));
            node.map(|n| n.name.to_string())
        }
        Tier::Leaf => tree.leaves.get(stretch.number).map(|l| l.name.to_string()),
        Tier::Superpod | Tier::Across => tree.superpods.get(stretch.number).map(|s| s.name.to_string()),
    };
    name.unwrap_or_default()
}

fn of_leaves(tree: &Topology, leaves: Range<usize>) -> Range<usize> {
    let first = tree.leaves.get(leaves.start).map_or(0, |l| l.members.start);
    let end = leaves.end.checked_sub(1).and_then(|last| tree.leaves.get(last)).map_or(0, |l| l.members.end);
    first..end
}

fn note(view: &View, stretch: &Stretch, pods: u64, chosen: bool) -> DomainNote {
    let nodes = stretch.positions.clone().filter_map(|p| view.node(*view.topology.order.get(p)?));
    let free = nodes.fold(Free::default(), |free, node| free.and(node.free));
    let fate = match (chosen, stretch.room >= pods) {
        (true, _) => Fate::Chosen,
        (false, true) => Fate::Passed,
        (false, false) => Fate::Refused,
    };
    let reason = format!("{free}, room for {} of {pods} pods", stretch.room.min(pods));
    DomainNote { tier: stretch.tier, name: name(view, stretch), room: stretch.room, free, fate, reason }
}

/// Whether the chosen domain won a tie, as far as the notes show.
fn tie(notes: &[DomainNote], subject: &Subject<'_>) -> Option<String> {
    let chosen = notes.iter().find(|note| note.fate == Fate::Chosen)?;
    let equal = notes.iter().find(|note| {
        note.fate == Fate::Passed
            && note.tier == chosen.tier
            && note.room == chosen.room
            && note.free == chosen.free
    })?;
    let owner = &subject.problem.batch.owner;
    Some(format!("{} is as good as {}; the hash of {owner} decided", equal.name, chosen.name))
}

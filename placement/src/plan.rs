//! A plan for one batch as the view is now: the smallest domain that holds it, by the objective of lexicographic
//! order, or why there is none. Whether the plan is taken is for the queue.

mod mixed;
pub(crate) mod trial;

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::batch::{Batch, Mode, Reach};
use crate::field::{Field, Share, Spread};
use crate::rendezvous::Owner;
use crate::shape::{Halving, Shape, ShapeForm};
use crate::units::Unit;
use crate::view::{Standing, View};

use self::trial::Trial;

/// A batch to plan.
pub(crate) struct Problem<'a> {
    /// The batch.
    pub(crate) batch: &'a Batch,
    /// What is to be placed.
    pub(crate) units: &'a [Unit],
    /// The same by shape, largest first, with up-to-date counts.
    pub(crate) groups: &'a [Group],
    /// Nodes of members that are placed already.
    pub(crate) placed: &'a BTreeSet<u32>,
    /// Nodes where nobody else may be placed: a batch has waited too long for them.
    pub(crate) closed: &'a BTreeSet<u32>,
    /// As if nothing were used.
    pub(crate) empty: bool,
}

/// Where the units go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The node of each unit, by number, in the order of the units.
    pub(crate) nodes: Vec<u32>,
    /// How far apart the batch is then, its placed members included.
    pub(crate) spread: Spread,
}

/// Units of one shape.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    /// The shape.
    pub(crate) form: Arc<ShapeForm>,
    /// Its number.
    pub(crate) shape: u32,
    /// The units, by number in rank order.
    pub(crate) units: Vec<usize>,
}

impl Group {
    fn count(&self) -> u32 {
        u32::try_from(self.units.len()).unwrap_or(u32::MAX)
    }
}

/// The groups of some units, largest first: the fewer fit on an empty node, the larger.
pub(crate) fn groups(view: &mut View, units: &[Unit]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (number, unit) in units.iter().enumerate() {
        match groups.iter_mut().find(|g| Arc::ptr_eq(&g.form, &unit.form) || g.form == unit.form) {
            Some(group) => group.units.push(number),
            None => {
                let shape = view.refresh(&unit.form);
                groups.push(Group { form: Arc::clone(&unit.form), shape, units: vec![number] });
            }
        }
    }
    let most = |g: &Group| view.shapes.get(g.shape).and_then(|s| s.empty.iter().max().copied());
    groups.sort_by_cached_key(|g| (most(g), g.units.first().copied()));
    groups
}

/// The best plan; `None` when the batch fits nowhere.
pub(crate) fn plan(view: &mut View, problem: &Problem<'_>) -> Option<Plan> {
    if problem.units.iter().any(|unit| unit.torn) {
        return None;
    }
    let mut trial = Trial::new(problem.empty);
    let mut nodes: Vec<Option<u32>> = vec![None; problem.units.len()];
    let mut near = problem.placed.clone();
    for (number, unit) in problem.units.iter().enumerate() {
        let Some(node) = unit.fixed else { continue };
        if !trial.place(view, &unit.form, node) {
            return None;
        }
        nodes.get_mut(number).into_iter().for_each(|place| *place = Some(node));
        near.insert(node);
    }
    let open: Vec<Group> =
        problem.groups.iter().filter_map(|group| open_part(group, problem.units)).collect();
    if !problem.empty && trial.touched().next().is_none() && open.iter().any(|group| !could_fit(view, group))
    {
        return None;
    }
    let anchors: BTreeSet<usize> = near.iter().filter_map(|node| view.topology.position(*node)).collect();
    let shares = match open.as_slice() {
        [] => Vec::new(),
        [group] => {
            let rooms = rooms(view, problem, group, &trial);
            let shape = view.shapes.get(group.shape).filter(|_| !problem.empty);
            let field = field(view, problem, rooms, shape);
            vec![near_first(&field, group.count(), &anchors, problem.batch.reach)?]
        }
        several => mixed::place(view, problem, several, &trial, &anchors)?,
    };
    for (group, shares) in open.iter().zip(&shares) {
        deal(view, group, shares, &mut nodes)?;
    }
    let nodes: Vec<u32> = nodes.into_iter().collect::<Option<_>>()?;
    let all = nodes.iter().chain(problem.placed).filter_map(|node| view.topology.position(*node));
    let spread = Spread::of(&view.topology, all);
    within_reach(problem.batch.reach, spread).then_some(Plan { nodes, spread })
}

/// Whether there is enough room anywhere, before anyone looks where: most batches that wait end here.
fn could_fit(view: &View, group: &Group) -> bool {
    view.shapes.get(group.shape).is_some_and(|shape| shape.total >= u64::from(group.count()))
}

fn open_part(group: &Group, units: &[Unit]) -> Option<Group> {
    let open = |number: &usize| units.get(*number).is_some_and(|unit| unit.fixed.is_none());
    let open: Vec<usize> = group.units.iter().copied().filter(open).collect();
    (!open.is_empty()).then(|| Group { units: open, ..group.clone() })
}

/// Whether a plan is as close as is required.
pub(crate) fn within_reach(reach: Reach, spread: Spread) -> bool {
    match reach {
        Reach::Preferred => true,
        Reach::RequiredNode => spread.nodes <= 1,
        Reach::RequiredLeaf => spread.leaves <= 1,
        Reach::RequiredSuperpod => spread.superpods <= 1,
    }
}

/// How many units of a group each node can take, by position, with all that the batch and others want.
pub(crate) fn rooms(view: &mut View, problem: &Problem<'_>, group: &Group, trial: &Trial) -> Vec<u32> {
    let mut rooms = base_rooms(view, problem, group);
    for node in trial.touched() {
        let room = trial.room(view, &group.form, node);
        set(view, &mut rooms, node, room);
    }
    if !problem.empty {
        for node in problem.closed {
            set(view, &mut rooms, *node, 0);
        }
    }
    if problem.batch.mode == Mode::OnePerNode {
        rooms.iter_mut().for_each(|room| *room = (*room).min(1));
        for node in problem.placed.iter().copied().chain(trial.touched()) {
            set(view, &mut rooms, node, 0);
        }
    }
    rooms
}

fn base_rooms(view: &View, problem: &Problem<'_>, group: &Group) -> Vec<u32> {
    let Some(shape) = view.shapes.get(group.shape) else { return Vec::new() };
    let whole = problem.batch.mode == Mode::WholeNodes;
    let counts = if problem.empty { &shape.empty } else { &shape.counts };
    let of_node = |node: &u32| {
        let count = counts.get(*node as usize).copied().unwrap_or_default();
        if problem.empty || count == 0 || !(whole || view.has_alone) {
            return count;
        }
        let Some(standing) = view.node(*node).map(|n| &n.standing) else { return 0 };
        let others = !is_ours(standing, problem.batch);
        if others || (whole && !standing.is_idle()) { 0 } else { count }
    };
    view.topology.order.iter().map(of_node).collect()
}

/// Whether nobody but the batch wants the node's devices alone.
fn is_ours(standing: &Standing, batch: &Batch) -> bool {
    standing.alone.iter().all(|key| *key == batch.key.0)
}

fn set(view: &View, rooms: &mut [u32], node: u32, room: u32) {
    if let Some(place) = view.topology.position(node).and_then(|p| rooms.get_mut(p)) {
        *place = room;
    }
}

pub(crate) fn field<'a>(
    view: &'a View,
    problem: &Problem<'_>,
    rooms: Vec<u32>,
    shape: Option<&'a Shape>,
) -> Field<'a> {
    let contiguous = problem.batch.mode == Mode::WholeNodes;
    // A demand that never makes half modules need not be asked for them.
    let halving = shape.filter(|s| s.makes_halves).map(|shape| Halving { shape, sheets: &view.sheets });
    Field::new(&view.topology, rooms, halving, Owner::of(&problem.batch.owner), contiguous)
}

/// Places `pods` as near to the anchors as there is room: on their nodes, then in their leaves, then in their
/// super-pods, then anywhere.
fn near_first(field: &Field<'_>, pods: u32, anchors: &BTreeSet<usize>, reach: Reach) -> Option<Vec<Share>> {
    if anchors.is_empty() {
        return reachable(field, pods, reach);
    }
    if field.total() < u64::from(pods) {
        return None;
    }
    let domains: Vec<(usize, usize)> = anchors.iter().filter_map(|p| field.tree.domains_at(*p)).collect();
    let at = |position: usize| field.tree.domains_at(position);
    let in_leaf = |p: usize| at(p).is_some_and(|(leaf, _)| domains.iter().any(|(l, _)| *l == leaf));
    let in_superpod =
        |p: usize| at(p).is_some_and(|(_, s)| domains.iter().any(|(_, superpod)| *superpod == s));
    let levels: [&dyn Fn(usize) -> bool; 4] = [&|p| anchors.contains(&p), &in_leaf, &in_superpod, &|_| true];
    let (mut shares, mut left) = (Vec::<Share>::new(), pods);
    for level in levels {
        let taken: BTreeSet<usize> = shares.iter().map(|(position, _)| *position).collect();
        let part = field.only(|p| level(p) && !taken.contains(&p));
        let fits = u32::try_from(part.total()).unwrap_or(u32::MAX).min(left);
        shares.extend(part.choose(fits)?);
        left -= fits;
        if left == 0 {
            return Some(shares);
        }
    }
    None
}

/// The plan in the smallest domain, unless that is further apart than is required. A tighter domain is always tried
/// first, so there is none within reach then.
fn reachable(field: &Field<'_>, pods: u32, reach: Reach) -> Option<Vec<Share>> {
    let shares = field.choose(pods)?;
    let spread = Spread::of(field.tree, shares.iter().map(|(position, _)| *position));
    within_reach(reach, spread).then_some(shares)
}

/// Gives the units of a group their nodes: ranks run along leaf and node.
fn deal(view: &View, group: &Group, shares: &[Share], nodes: &mut [Option<u32>]) -> Option<()> {
    let mut sorted = shares.to_vec();
    sorted.sort_unstable();
    let slots = sorted.iter().flat_map(|(position, pods)| std::iter::repeat_n(*position, *pods as usize));
    let mut dealt = 0;
    for (unit, position) in group.units.iter().zip(slots) {
        *nodes.get_mut(*unit)? = Some(*view.topology.order.get(position)?);
        dealt += 1;
    }
    (dealt == group.units.len()).then_some(())
}

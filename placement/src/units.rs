//! What is placed as one: a pod, or the pods that share an unallocated claim. Here members become units; where the
//! units go is for the plan.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use vnpu_driver::id::ClaimUid;

use crate::batch::{Batch, Member};
use crate::demand::{ClaimDemand, ClaimSpec, NodeFit};
use crate::ledger::{ClaimKey, ReservedClaim};
use crate::shape::ShapeForm;
use crate::topology::natural;
use crate::view::View;

/// Members that go to one node.
#[derive(Debug, Clone)]
pub(crate) struct Unit {
    /// The members, by number in the batch, in rank order.
    pub(crate) members: Vec<usize>,
    /// What they need together.
    pub(crate) form: Arc<ShapeForm>,
    /// The node that an allocated claim fixes, by number.
    pub(crate) fixed: Option<u32>,
    /// Claims fix different nodes, or one that nobody knows: it can go nowhere.
    pub(crate) torn: bool,
}

/// A member's claims that are to be allocated, and what fixes its node.
#[derive(Debug, Default)]
struct Wishes<'a> {
    /// In the pod's order, each with its object where others may use it too.
    open: Vec<(Option<&'a ClaimUid>, &'a ClaimSpec)>,
    fixed: Vec<Option<u32>>,
}

/// The numbers of `members` in the order of their ranks, those without a rank behind the others by name.
pub(crate) fn by_rank(batch: &Batch, members: &[usize]) -> Vec<usize> {
    let mut order: Vec<usize> = members.to_vec();
    let key = |number: &usize| {
        let member = batch.members.get(*number);
        (member.map_or(u32::MAX, |m| m.rank.unwrap_or(u32::MAX)), member.map_or("", |m| m.name.as_str()))
    };
    order.sort_by(|a, b| {
        let ((a, a_name), (b, b_name)) = (key(a), key(b));
        a.cmp(&b).then_with(|| natural(a_name, b_name))
    });
    order
}

/// The units of some members of a batch, in rank order of their first members.
pub(crate) fn units(view: &mut View, batch: &Batch, members: &[usize]) -> Vec<Unit> {
    let order = by_rank(batch, members);
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut of_claim: BTreeMap<&ClaimUid, usize> = BTreeMap::new();
    for number in order {
        let Some(member) = batch.members.get(number) else { continue };
        let shared = member.demand.claims.iter().filter(|c| c.shared).filter_map(|c| c.uid.as_ref());
        let shared: Vec<&ClaimUid> = shared.filter(|uid| view.node_of_claim(uid).is_none()).collect();
        let mut homes: Vec<usize> = shared.iter().filter_map(|uid| of_claim.get(*uid).copied()).collect();
        homes.sort_unstable();
        homes.dedup();
        let home = homes.first().copied().unwrap_or(groups.len());
        if home == groups.len() {
            groups.push(Vec::new());
        }
        // A pod that shares with two groups makes them one.
        for other in homes.iter().skip(1) {
            let moved = groups.get_mut(*other).map(std::mem::take).unwrap_or_default();
            groups.get_mut(home).into_iter().for_each(|group| group.extend(&moved));
            of_claim.values_mut().filter(|at| *at == other).for_each(|at| *at = home);
        }
        groups.get_mut(home).into_iter().for_each(|group| group.push(number));
        of_claim.extend(shared.into_iter().map(|uid| (uid, home)));
    }
    let mut last = None;
    let groups = groups.into_iter().filter(|group| !group.is_empty());
    groups.map(|group| unit(view, batch, &by_rank(batch, &group), &mut last)).collect()
}

fn unit(
    view: &mut View,
    batch: &Batch,
    members: &[usize],
    last: &mut Option<(usize, Arc<ShapeForm>)>,
) -> Unit {
    // Members that share one demand without objects of their own are alike.
    let alone = match members {
        [number] => batch.members.get(*number).map(|m| &m.demand),
        _ => None,
    };
    let alike = alone.filter(|demand| demand.claims.iter().all(|c| c.uid.is_none() && c.node.is_none()));
    let address = alike.map(|demand| Arc::as_ptr(demand).addr());
    if let (Some(address), Some((known, form))) = (address, &*last)
        && address == *known
    {
        return Unit { members: members.to_vec(), form: Arc::clone(form), fixed: None, torn: false };
    }
    let unit = new_unit(view, batch, members);
    *last = address.map(|address| (address, Arc::clone(&unit.form)));
    unit
}

fn new_unit(view: &mut View, batch: &Batch, members: &[usize]) -> Unit {
    let (mut resources, mut fits, mut pods) = (BTreeMap::new(), Vec::new(), Vec::new());
    let (mut nodes, mut seen) = (Vec::new(), BTreeSet::new());
    for member in members.iter().filter_map(|m| batch.members.get(*m)) {
        for (name, amount) in view.amounts(&member.demand.resources) {
            let sum: &mut u64 = resources.entry(name).or_default();
            *sum = sum.saturating_add(amount);
        }
        if !fits.iter().any(|fit: &Arc<NodeFit>| **fit == member.demand.fit) {
            fits.push(Arc::new(member.demand.fit.clone()));
        }
        let wishes = wishes(view, member);
        let open = wishes.open.into_iter().filter(|(shared, _)| shared.is_none_or(|uid| seen.insert(uid)));
        let specs: Vec<u32> = open.map(|(_, spec)| view.shapes.spec(spec)).collect();
        pods.push(view.shapes.asked(&specs));
        nodes.extend(wishes.fixed);
    }
    let fixed = nodes.first().copied().flatten();
    let torn = nodes.iter().any(|node| node.is_none() || *node != fixed);
    let form = ShapeForm { resources: resources.into_iter().collect(), fits: fits.into(), pods: pods.into() };
    Unit { members: members.to_vec(), form: Arc::new(form), fixed, torn }
}

fn wishes<'a>(view: &View, member: &'a Member) -> Wishes<'a> {
    let mut wishes = Wishes::default();
    for claim in &member.demand.claims {
        let known = claim.uid.as_ref().and_then(|uid| view.node_of_claim(uid));
        if let Some(node) = known.or(claim.node.as_ref()) {
            wishes.fixed.push(view.find_node(node));
        } else if !claim.uid.as_ref().is_some_and(|uid| view.is_allocated(uid)) {
            // One that is allocated for more than one node costs nothing, and its nodes are among the pod's terms.
            wishes.open.push((claim.uid.as_ref().filter(|_| claim.shared), &claim.spec));
        }
    }
    wishes
}

fn reserved(view: &mut View, member: &Member, index: u32, claim: &ClaimDemand) -> ReservedClaim {
    let key = match &claim.uid {
        Some(uid) => ClaimKey::Uid(uid.clone()),
        None => ClaimKey::Of { pod: Arc::from(member.uid.as_str()), index },
    };
    ReservedClaim { key, spec: view.shapes.kept_spec(&claim.spec) }
}

/// What a member's reservation holds: every claim of it that is not allocated.
pub(crate) fn reserved_claims(view: &mut View, member: &Member) -> Vec<ReservedClaim> {
    let mut claims = Vec::with_capacity(member.demand.claims.len());
    for (index, claim) in (0u32..).zip(&member.demand.claims) {
        if claim.node.is_none() && !claim.uid.as_ref().is_some_and(|uid| view.is_allocated(uid)) {
            claims.push(reserved(view, member, index, claim));
        }
    }
    claims
}

//! A demand against the devices of one kind of node, resolved to numbers: which devices each request may get and what
//! each of them would be charged. What is free of them is for the search to see.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::demand::{Ask, ClaimSpec, Constraint, Count, Request, Toleration};
use crate::fit::tolerates;
use crate::layout::{Catalog, Layout, is_own, qualified};
use crate::node::{Capacity, Class};
use crate::selector::{Facts, Selectors, Verdict};
use crate::sweep::{Plain, by_cells, plain};

/// A pool of a node.
#[derive(Debug, Clone)]
pub(crate) struct Bay {
    /// Its devices.
    pub(crate) layout: Arc<Layout>,
    /// Their own attributes.
    pub(crate) own: Box<[u32]>,
}

/// A demand, resolved.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    /// Its claims.
    pub(crate) claims: Box<[PreparedClaim]>,
    /// Per constraint of all claims: whether its values must differ.
    pub(crate) distinct: Box<[bool]>,
    /// Selectors that could not be judged.
    pub(crate) unmodelled: BTreeSet<String>,
    /// Whether one pass over the devices counts it.
    pub(crate) plain: Option<Plain>,
    /// Whether each cell of the node can be counted for itself.
    pub(crate) by_cells: bool,
}

/// A claim's requests, each with the ways to serve it.
#[derive(Debug)]
pub(crate) struct PreparedClaim {
    /// Requests, each a list of alternatives that can be served by these devices at all.
    pub(crate) requests: Box<[Box<[PreparedAsk]>]>,
}

/// One way to serve a request.
#[derive(Debug)]
pub(crate) struct PreparedAsk {
    /// How many devices; `None` for all.
    pub(crate) count: Option<u32>,
    /// Administrative access.
    pub(crate) admin: bool,
    /// Devices that match, in order.
    pub(crate) candidates: Box<[Candidate]>,
}

/// A device that a request may get.
#[derive(Debug)]
pub(crate) struct Candidate {
    /// Which pool of the node.
    pub(crate) pool: u16,
    /// Which device of the pool.
    pub(crate) device: u16,
    /// What is charged to each of its capacities; empty for an exclusive device.
    pub(crate) need: Box<[u64]>,
    /// The constraints that look at it, by number, with its value.
    pub(crate) ties: Box<[(u16, Option<u32>)]>,
}

/// What resolving needs.
pub(crate) struct Preparation<'a> {
    /// Names and values.
    pub(crate) catalog: &'a mut Catalog,
    /// Selectors.
    pub(crate) selectors: &'a mut Selectors,
    /// Classes by name.
    pub(crate) classes: &'a BTreeMap<String, Class>,
}

impl Preparation<'_> {
    /// Whether what `claims` ask for depends on attributes that pools of one layout do not share.
    pub(crate) fn reads_own(&mut self, claims: &[ClaimSpec]) -> bool {
        let constrained =
            claims.iter().flat_map(|c| &c.constraints).any(|c| is_own(&qualified(&c.attribute)));
        constrained
            || asks(claims).any(|ask| {
                let class = self.classes.get(&ask.class);
                let mut selectors = class.into_iter().flat_map(|c| &c.selectors).chain(&ask.selectors);
                selectors.any(|text| self.selectors.reads_own(text))
            })
    }

    /// Resolves `claims` against the pools of a node.
    pub(crate) fn resolve(&mut self, claims: &[ClaimSpec], bays: &[Bay]) -> Prepared {
        let mut prepared = Prepared::default();
        let (mut resolved, mut distinct) = (Vec::with_capacity(claims.len()), Vec::new());
        for claim in claims {
            let first = distinct.len();
            distinct.extend(claim.constraints.iter().map(|c| c.distinct));
            let requests = claim.requests.iter().map(|request| {
                let alternatives = request.alternatives.iter();
                let served = alternatives
                    .map(|ask| self.ask(request, ask, &claim.constraints, first, bays, &mut prepared));
                // What these devices can never serve is never tried: the search would only come back from it.
                served.filter(PreparedAsk::is_possible).collect()
            });
            resolved.push(PreparedClaim { requests: requests.collect() });
        }
        prepared.claims = resolved.into();
        prepared.distinct = distinct.into();
        let layouts: Vec<&Layout> = bays.iter().map(|bay| &*bay.layout).collect();
        prepared.plain = plain(&prepared, &layouts);
        prepared.by_cells = by_cells(&prepared, &layouts);
        prepared
    }

    fn ask(
        &mut self,
        request: &Request,
        ask: &Ask,
        constraints: &[Constraint],
        first: usize,
        bays: &[Bay],
        prepared: &mut Prepared,
    ) -> PreparedAsk {
        let count = match ask.count {
            Count::Exactly(count) => Some(count),
            Count::All => None,
        };
        let mut answer = PreparedAsk { count, admin: ask.admin_access, candidates: Box::default() };
        let Some(class) = self.classes.get(&ask.class) else { return answer };
        // A pool that the allocator cannot trust fails a request for all devices, and is skipped otherwise.
        if count.is_none() && bays.iter().any(|bay| bay.layout.broken) {
            return answer;
        }
        let ties: Vec<(u16, u32)> = (first..)
            .zip(constraints)
            .filter(|(_, c)| applies(c, request, ask))
            .map(|(i, c)| {
                (
                    u16::try_from(i).unwrap_or(u16::MAX),
                    self.catalog.texts.id(qualified(&c.attribute).as_str()),
                )
            })
            .collect();
        let selectors: Vec<&String> = class.selectors.iter().chain(&ask.selectors).collect();
        let mut candidates = Vec::new();
        for (pool, bay) in (0u16..).zip(bays).filter(|(_, bay)| !bay.layout.broken) {
            for (device, _) in (0u16..).zip(bay.layout.blueprint.devices.iter()) {
                let facts = Facts { layout: &bay.layout, own: &bay.own, device: usize::from(device) };
                if !self.matches(&selectors, facts, &ask.tolerations, prepared) {
                    continue;
                }
                let Some(need) = need(self.catalog, facts, &ask.capacity) else { continue };
                let value = |name| self.catalog.attribute(facts.layout, facts.own, facts.device, name);
                let ties = ties.iter().map(|(constraint, name)| (*constraint, value(*name))).collect();
                candidates.push(Candidate { pool, device, need, ties });
            }
        }
        answer.candidates = candidates.into();
        answer
    }

    fn matches(
        &mut self,
        selectors: &[&String],
        facts: Facts<'_>,
        tolerations: &[Toleration],
        prepared: &mut Prepared,
    ) -> bool {
        for selector in selectors {
            match self.selectors.verdict(self.catalog, selector, facts) {
                Verdict::Yes => {}
                Verdict::No => return false,
                Verdict::Unknown => {
                    prepared.unmodelled.insert((*selector).clone());
                }
            }
        }
        let taints =
            facts.layout.form(facts.device).and_then(|f| f.taints).and_then(|t| self.catalog.taints.get(t));
        taints.is_none_or(|taints| taints.iter().all(|taint| tolerates(tolerations, taint)))
    }
}

impl PreparedAsk {
    fn is_possible(&self) -> bool {
        let needed = usize::try_from(self.count.unwrap_or(1)).unwrap_or(usize::MAX);
        self.candidates.len() >= needed
    }
}

/// All ways of all requests of `claims`.
pub(crate) fn asks(claims: &[ClaimSpec]) -> impl Iterator<Item = &Ask> {
    claims.iter().flat_map(|c| &c.requests).flat_map(|r| &r.alternatives)
}

/// Whether a constraint looks at the devices of this way of a request: by the request's name, or by both.
fn applies(constraint: &Constraint, request: &Request, ask: &Ask) -> bool {
    constraint.requests.is_empty()
        || constraint.requests.iter().any(|name| match name.split_once('/') {
            None => *name == request.name,
            Some((main, sub)) => main == request.name && sub == ask.name,
        })
}

/// What a device would be charged; `None` when it cannot serve the request. Keys are compared as they are written
/// (`consumable_capacity.go`).
fn need(catalog: &Catalog, facts: Facts<'_>, asked: &BTreeMap<String, u64>) -> Option<Box<[u64]>> {
    let form = facts.layout.form(facts.device)?;
    let set = catalog.capacities.get(form.capacity)?;
    let named = |id: &u32| catalog.texts.get(*id).map(|name| &**name);
    let known = |name: &String| set.iter().any(|(id, _)| named(id) == Some(name.as_str()));
    if !asked.keys().all(known) {
        return None;
    }
    let amount = |id: &u32| named(id).and_then(|name| asked.get(name)).copied();
    if !form.shareable {
        let enough = set.iter().all(|(id, c)| amount(id).is_none_or(|asked| asked <= c.value));
        return enough.then(Box::default);
    }
    set.iter().map(|(id, capacity)| consumed(capacity, amount(id))).collect()
}

/// The amount that a request is rounded up to; `None` above the most that is given.
fn consumed(capacity: &Capacity, asked: Option<u64>) -> Option<u64> {
    let Some(asked) = asked else { return Some(capacity.default.unwrap_or(capacity.value)) };
    let Some((min, step, max)) = capacity.range else {
        return (asked <= capacity.value).then_some(asked);
    };
    let amount = match asked.checked_sub(min) {
        None => min,
        Some(above) if step > 0 => min.checked_add(above.div_ceil(step).checked_mul(step)?)?,
        Some(_) => asked,
    };
    (amount <= max).then_some(amount)
}

#[cfg(test)]
mod tests;

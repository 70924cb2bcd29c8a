//! The scheduler's allocator, emulated: depth first, the first full solution wins, devices in slice order
//! (`k8s.io/dynamic-resource-allocation`, `allocator_incubating.go`). It works on a copy of what is used and leaves
//! there what it took.

use std::sync::Arc;

use crate::layout::Layout;
use crate::prepare::{Candidate, Prepared, PreparedAsk};
use crate::usage::Usage;

/// Devices that are tried for one pod before it is taken as not fitting. The allocator itself would go on until its
/// time is over.
const BOUND: u32 = 20_000;
/// Devices of one claim (`AllocationResultsMaxSize`).
const MOST_DEVICES: usize = 32;

/// How a search ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// It found devices, which are taken now.
    Yes,
    /// There are none.
    No,
    /// It was given up.
    GivenUp,
}

/// A device that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pick {
    /// For which claim.
    pub(crate) claim: usize,
    /// Of which pool.
    pub(crate) pool: u16,
    /// Which.
    pub(crate) device: u16,
}

/// Finds devices for one pod and takes them from `usages`.
pub(crate) fn place(
    prepared: &Prepared,
    layouts: &[Arc<Layout>],
    usages: &mut [Usage],
) -> (Found, Vec<Pick>) {
    let mut search = Search {
        prepared,
        layouts,
        usages,
        ties: vec![Vec::new(); prepared.distinct.len()],
        picks: Vec::new(),
        all: Vec::new(),
        left: BOUND,
    };
    if !search.collect_all() {
        return (Found::No, Vec::new());
    }
    let found = search.request(0, 0);
    match (found, search.left) {
        (true, _) => (Found::Yes, search.picks),
        (false, 0) => (Found::GivenUp, Vec::new()),
        (false, _) => (Found::No, Vec::new()),
    }
}

struct Search<'a> {
    prepared: &'a Prepared,
    layouts: &'a [Arc<Layout>],
    usages: &'a mut [Usage],
    /// What each constraint has seen: by request, its last device's value.
    ties: Vec<Vec<(usize, u32)>>,
    picks: Vec<Pick>,
    /// What requests for all devices must take: claim, request, alternative, candidates.
    all: Vec<(usize, usize, usize, Vec<usize>)>,
    left: u32,
}

/// What was done to take a device.
struct Taken {
    paid: bool,
}

impl<'a> Search<'a> {
    fn ask(&self, claim: usize, request: usize, alternative: usize) -> Option<&'a PreparedAsk> {
        self.prepared.claims.get(claim)?.requests.get(request)?.get(alternative)
    }

    /// What "all" means is settled before the search begins: shared devices without room are left out.
    fn collect_all(&mut self) -> bool {
        for (c, claim) in self.prepared.claims.iter().enumerate() {
            for (r, alternatives) in claim.requests.iter().enumerate() {
                if alternatives.is_empty() {
                    return false;
                }
                for (a, ask) in alternatives.iter().enumerate().filter(|(_, ask)| ask.count.is_none()) {
                    let fits = |(_, candidate): &(usize, &Candidate)| self.has_room(candidate);
                    let members = ask.candidates.iter().enumerate().filter(fits).map(|(i, _)| i).collect();
                    self.all.push((c, r, a, members));
                }
            }
        }
        true
    }

    fn request(&mut self, claim: usize, request: usize) -> bool {
        let Some(prepared) = self.prepared.claims.get(claim) else { return true };
        let Some(alternatives) = prepared.requests.get(request) else { return self.request(claim + 1, 0) };
        for (alternative, ask) in alternatives.iter().enumerate() {
            let found = match ask.count {
                Some(count) => {
                    let count = usize::try_from(count).unwrap_or(usize::MAX);
                    self.some(claim, request, alternative, count, 0)
                }
                None => self.every(claim, request, alternative, 0),
            };
            if found {
                return true;
            }
        }
        false
    }

    /// Takes `count` more devices from candidate `from` on, then goes on with the next request.
    fn some(&mut self, claim: usize, request: usize, alternative: usize, count: usize, from: usize) -> bool {
        if count == 0 {
            return self.request(claim, request + 1);
        }
        let Some(ask) = self.ask(claim, request, alternative) else { return false };
        let candidates = ask.candidates.iter().enumerate().skip(from);
        for (position, candidate) in candidates {
            if ask.candidates.len() - position < count {
                return false;
            }
            let Some(taken) = self.take(claim, request, ask.admin, candidate) else { continue };
            if self.some(claim, request, alternative, count - 1, position + 1) {
                return true;
            }
            self.give_back(request, ask.admin, candidate, &taken);
            if self.left == 0 {
                return false;
            }
        }
        false
    }

    /// Takes all devices of a request for all, then goes on.
    fn every(&mut self, claim: usize, request: usize, alternative: usize, next: usize) -> bool {
        let members = self.all.iter().find(|(c, r, a, _)| (*c, *r, *a) == (claim, request, alternative));
        let Some((.., members)) = members else { return false };
        let Some(member) = members.get(next).copied() else {
            return next > 0 && self.request(claim, request + 1);
        };
        let Some(ask) = self.ask(claim, request, alternative) else { return false };
        let Some(candidate) = ask.candidates.get(member) else { return false };
        let Some(taken) = self.take(claim, request, ask.admin, candidate) else { return false };
        if self.every(claim, request, alternative, next + 1) {
            return true;
        }
        self.give_back(request, ask.admin, candidate, &taken);
        false
    }

    fn take(&mut self, claim: usize, request: usize, admin: bool, candidate: &'a Candidate) -> Option<Taken> {
        self.left = self.left.checked_sub(1)?;
        let device = usize::from(candidate.device);
        let layout = self.layouts.get(usize::from(candidate.pool))?;
        let form = layout.form(device)?;
        let usage = self.usages.get(usize::from(candidate.pool))?;
        let count = |counts: &[u16]| counts.get(device).copied().unwrap_or_default();
        let in_use = count(&usage.blocked) > 0 || (!form.shareable && count(&usage.shares) > 0);
        // Administrative access passes by exclusive use, but by neither capacities nor counters (kubernetes#140729).
        if (in_use && !admin) || !self.has_room(candidate) {
            return None;
        }
        let pays = !form.pays.is_empty() && count(&usage.shares) == 0;
        if pays && !has_counters(usage, layout, &form.pays) {
            return None;
        }
        let of_claim = self.picks.iter().filter(|pick| pick.claim == claim).count();
        if of_claim >= MOST_DEVICES || !self.tie(request, candidate) {
            return None;
        }
        self.picks.push(Pick { claim, pool: candidate.pool, device: candidate.device });
        let paid = pays && !admin;
        if !admin {
            self.charge(candidate, form.shareable, paid.then_some(&form.pays), u64::saturating_add, true);
        }
        Some(Taken { paid })
    }

    fn give_back(&mut self, request: usize, admin: bool, candidate: &Candidate, taken: &Taken) {
        self.picks.pop();
        self.untie(request, candidate, candidate.ties.len());
        let layout = self.layouts.get(usize::from(candidate.pool));
        let Some(form) = layout.and_then(|l| l.form(usize::from(candidate.device))) else { return };
        if !admin {
            self.charge(
                candidate,
                form.shareable,
                taken.paid.then_some(&form.pays),
                u64::saturating_sub,
                false,
            );
        }
    }

    fn charge(
        &mut self,
        candidate: &Candidate,
        shareable: bool,
        pays: Option<&[(u16, u64)]>,
        apply: fn(u64, u64) -> u64,
        more: bool,
    ) {
        let device = usize::from(candidate.device);
        let Some(layout) = self.layouts.get(usize::from(candidate.pool)) else { return };
        let Some(usage) = self.usages.get_mut(usize::from(candidate.pool)) else { return };
        let counts = if shareable { &mut usage.shares } else { &mut usage.blocked };
        if let Some(count) = counts.get_mut(device) {
            *count = if more { count.saturating_add(1) } else { count.saturating_sub(1) };
        }
        for (used, need) in
            usage.rooms.get_mut(layout.rooms(device)).into_iter().flatten().zip(&candidate.need)
        {
            *used = apply(*used, *need);
        }
        for (counter, amount) in pays.unwrap_or_default() {
            if let Some(used) = usage.counters.get_mut(usize::from(*counter)) {
                *used = apply(*used, *amount);
            }
        }
    }

    fn has_room(&self, candidate: &Candidate) -> bool {
        let pool = usize::from(candidate.pool);
        let (Some(layout), Some(usage)) = (self.layouts.get(pool), self.usages.get(pool)) else {
            return false;
        };
        let rooms = layout.rooms(usize::from(candidate.device));
        let used = usage.rooms.get(rooms.clone()).unwrap_or_default();
        let sizes = layout.sizes.get(rooms).unwrap_or_default();
        used.iter()
            .zip(sizes)
            .zip(&candidate.need)
            .all(|((used, size), need)| used.saturating_add(*need) <= *size)
    }

    /// Shows the device to its constraints; undone when one of them refuses it.
    fn tie(&mut self, request: usize, candidate: &Candidate) -> bool {
        for (seen, (constraint, value)) in candidate.ties.iter().enumerate() {
            if !self.tie_one(request, usize::from(*constraint), *value) {
                self.untie(request, candidate, seen);
                return false;
            }
        }
        true
    }

    fn tie_one(&mut self, request: usize, constraint: usize, value: Option<u32>) -> bool {
        let distinct = self.prepared.distinct.get(constraint).copied().unwrap_or_default();
        let (Some(value), Some(seen)) = (value, self.ties.get_mut(constraint)) else { return false };
        if !distinct {
            let same = seen.first().is_none_or(|(_, first)| *first == value);
            if same {
                seen.push((request, value));
            }
            return same;
        }
        if seen.iter().any(|(_, other)| *other == value) {
            return false;
        }
        // As in `constraint.go`: one value per request, of its last device.
        match seen.iter_mut().find(|(r, _)| *r == request) {
            Some((_, last)) => *last = value,
            None => seen.push((request, value)),
        }
        true
    }

    fn untie(&mut self, request: usize, candidate: &Candidate, count: usize) {
        for (constraint, _) in candidate.ties.iter().take(count) {
            let constraint = usize::from(*constraint);
            let distinct = self.prepared.distinct.get(constraint).copied().unwrap_or_default();
            let Some(seen) = self.ties.get_mut(constraint) else { continue };
            if distinct {
                seen.retain(|(r, _)| *r != request);
            } else {
                seen.pop();
            }
        }
    }
}

fn has_counters(usage: &Usage, layout: &Layout, pays: &[(u16, u64)]) -> bool {
    !usage.overdrawn
        && pays.iter().all(|(counter, amount)| {
            let counter = usize::from(*counter);
            let total = layout.blueprint.counters.get(counter).map_or(0, |(_, _, total)| *total);
            usage.counters.get(counter).is_some_and(|used| used.saturating_add(*amount) <= total)
        })
}

#[cfg(test)]
mod tests;

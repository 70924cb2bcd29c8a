//! The count of pods in one pass over the devices, for the demands that nearly everybody has: one request, of devices
//! that do not get in each other's way. It finds what the search would find; all else is left to the search.

use std::ops::Range;
use std::sync::Arc;

use crate::cells::CellRoom;
use crate::count::{Halves, Room};
use crate::layout::Layout;
use crate::prepare::{Candidate, Prepared, PreparedAsk};
use crate::shape::MOST;
use crate::usage::Usage;

/// A demand that one pass can count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plain {
    /// One device per pod.
    One,
    /// Several devices per pod, any of them.
    Several(u32),
    /// Several devices per pod that agree in one attribute.
    Agreeing(u32),
}

/// Whether one pass can count `prepared`.
pub(crate) fn plain(prepared: &Prepared, layouts: &[&Layout]) -> Option<Plain> {
    let ask = only_ask(prepared)?;
    let count = ask.count.filter(|count| *count > 0 && !ask.admin)?;
    if count == 1 && ask.candidates.iter().all(|c| c.ties.is_empty()) {
        return Some(Plain::One);
    }
    // Devices that pay the same counter can be in each other's way: then the choice among them matters.
    if count > 32 || !pay_apart(ask, layouts) {
        return None;
    }
    let ties = |wanted: usize| ask.candidates.iter().all(|c| c.ties.len() == wanted);
    match prepared.distinct.as_ref() {
        _ if ties(0) => Some(Plain::Several(count)),
        [false] if ties(1) => Some(Plain::Agreeing(count)),
        _ => None,
    }
}

fn only_ask(prepared: &Prepared) -> Option<&PreparedAsk> {
    let [claim] = prepared.claims.as_ref() else { return None };
    let [request] = claim.requests.as_ref() else { return None };
    let [ask] = request.as_ref() else { return None };
    Some(ask)
}

fn pay_apart(ask: &PreparedAsk, layouts: &[&Layout]) -> bool {
    let mut paid: Vec<(u16, u16)> = Vec::new();
    for candidate in &ask.candidates {
        let layout = layouts.get(usize::from(candidate.pool));
        let form = layout.and_then(|l| l.form(usize::from(candidate.device)));
        paid.extend(form.iter().flat_map(|f| f.pays.iter()).map(|(counter, _)| (candidate.pool, *counter)));
    }
    let all = paid.len();
    paid.sort_unstable();
    paid.dedup();
    paid.len() == all
}

/// How many pods fit; `None` where this pass cannot tell.
pub(crate) fn count(
    prepared: &Prepared,
    layouts: &[Arc<Layout>],
    usages: &[Usage],
    limit: u32,
) -> Option<Room> {
    let (plain, ask) = (prepared.plain?, only_ask(prepared)?);
    let mut sweep = Sweep::new(layouts, usages);
    let count = match plain {
        Plain::One => sweep.ones(&ask.candidates, limit),
        Plain::Several(size) => sweep.several(&ask.candidates, size, limit)?,
        Plain::Agreeing(size) => sweep.agreeing(&ask.candidates, size, limit)?,
    };
    Some(Room { count, made: sweep.made.finish(), ..Room::default() })
}

/// What one cell can take; `None` where that cannot be told without the others.
pub(crate) fn count_cell(
    prepared: &Prepared,
    layouts: &[Arc<Layout>],
    usages: &[Usage],
    pool: u16,
    devices: &Range<u16>,
) -> Option<CellRoom> {
    let (plain, ask) = (prepared.plain?, only_ask(prepared)?);
    let place = |candidate: &Candidate| (candidate.pool, candidate.device);
    let first = ask.candidates.partition_point(|c| place(c) < (pool, devices.start));
    let end = ask.candidates.partition_point(|c| place(c) < (pool, devices.end));
    let candidates = ask.candidates.get(first..end)?;
    let mut sweep = Sweep::new(layouts, usages);
    let (takes, per_pod) = match plain {
        Plain::One => (sweep.ones(candidates, MOST), 1),
        // The devices of a pod may lie in several cells, so devices are counted.
        Plain::Several(size) => (sweep.several(candidates, 1, MOST)?, size),
        Plain::Agreeing(size) => (sweep.agreeing(candidates, size, MOST)?, 1),
    };
    Some(CellRoom { takes, per_pod, made: sweep.made.finish() })
}

/// Whether what a node can take is the sum over its cells: not where devices of several cells agree in a value.
pub(crate) fn by_cells(prepared: &Prepared, layouts: &[&Layout]) -> bool {
    let (Some(plain), Some(ask)) = (prepared.plain, only_ask(prepared)) else { return false };
    if !matches!(plain, Plain::Agreeing(_)) {
        return true;
    }
    let cell = |candidate: &Candidate| {
        let layout = layouts.get(usize::from(candidate.pool));
        layout.map(|l| l.cells.partition_point(|devices| devices.end <= candidate.device))
    };
    let value = |c: &Candidate| c.ties.first().and_then(|(_, value)| *value);
    let mut places: Vec<(u32, u16, Option<usize>)> =
        ask.candidates.iter().filter_map(|c| Some((value(c)?, c.pool, cell(c)))).collect();
    places.sort_unstable();
    places.dedup();
    places.is_sorted_by(|(a, ..), (b, ..)| a < b)
}

/// The counters of all pools, as they change during the pass.
struct Counters {
    used: Vec<u64>,
    first: Vec<usize>,
}

impl Counters {
    fn of(usages: &[Usage]) -> Self {
        let mut counters = Self { used: Vec::new(), first: Vec::with_capacity(usages.len()) };
        for usage in usages {
            counters.first.push(counters.used.len());
            counters.used.extend_from_slice(&usage.counters);
        }
        counters
    }

    fn get(&self, pool: u16, counter: u16) -> u64 {
        let first = self.first.get(usize::from(pool)).copied().unwrap_or(usize::MAX);
        self.used.get(first.saturating_add(usize::from(counter))).copied().unwrap_or(u64::MAX)
    }

    fn pay(&mut self, pool: u16, counter: u16, amount: u64) {
        let first = self.first.get(usize::from(pool)).copied().unwrap_or(usize::MAX);
        if let Some(used) = self.used.get_mut(first.saturating_add(usize::from(counter))) {
            *used = used.saturating_add(amount);
        }
    }
}

struct Sweep<'a> {
    layouts: &'a [Arc<Layout>],
    usages: &'a [Usage],
    counters: Counters,
    made: Halves,
    halves: i64,
}

impl<'a> Sweep<'a> {
    fn new(layouts: &'a [Arc<Layout>], usages: &'a [Usage]) -> Self {
        Self { layouts, usages, counters: Counters::of(usages), made: Halves::default(), halves: 0 }
    }

    /// How many pods one after the other can take the device.
    fn times(&self, candidate: &Candidate) -> u32 {
        let (pool, device) = (usize::from(candidate.pool), usize::from(candidate.device));
        let (Some(layout), Some(usage)) = (self.layouts.get(pool), self.usages.get(pool)) else { return 0 };
        let Some(form) = layout.form(device) else { return 0 };
        let shares = usage.shares.get(device).copied().unwrap_or_default();
        if usage.blocked.get(device).is_some_and(|blocked| *blocked > 0) || (!form.shareable && shares > 0) {
            return 0;
        }
        if shares == 0 && !form.pays.is_empty() && !self.can_pay(layout, usage, candidate.pool, &form.pays) {
            return 0;
        }
        if !form.shareable {
            return 1;
        }
        let rooms = layout.rooms(device);
        let sizes = layout.sizes.get(rooms.clone()).unwrap_or_default();
        let used = usage.rooms.get(rooms).unwrap_or_default();
        let times = sizes.iter().zip(used).zip(&candidate.need).filter(|(_, need)| **need > 0);
        let least = times.map(|((size, used), need)| size.saturating_sub(*used) / *need).min();
        least.map_or(MOST, |least| u32::try_from(least).unwrap_or(MOST).min(MOST))
    }

    fn can_pay(&self, layout: &Layout, usage: &Usage, pool: u16, pays: &[(u16, u64)]) -> bool {
        !usage.overdrawn
            && pays.iter().all(|(counter, amount)| {
                let total =
                    layout.blueprint.counters.get(usize::from(*counter)).map_or(0, |(_, _, total)| *total);
                self.counters.get(pool, *counter).saturating_add(*amount) <= total
            })
    }

    /// Takes the device for the first time in this pass.
    fn take(&mut self, candidate: &Candidate) {
        let (pool, device) = (usize::from(candidate.pool), usize::from(candidate.device));
        let (Some(layout), Some(usage)) = (self.layouts.get(pool), self.usages.get(pool)) else { return };
        let Some(form) = layout.form(device).filter(|_| !usage.is_used(device)) else { return };
        let module = form.pays.first().and_then(|(counter, _)| layout.module_of(*counter));
        let before = module.map(|m| self.is_half(candidate.pool, m));
        for (counter, amount) in &form.pays {
            self.counters.pay(candidate.pool, *counter, *amount);
        }
        let after = module.map(|m| self.is_half(candidate.pool, m));
        self.halves += i64::from(after == Some(true)) - i64::from(before == Some(true));
    }

    fn is_half(&self, pool: u16, module: &[u16]) -> bool {
        let used = module.iter().filter(|counter| self.counters.get(pool, **counter) > 0).count();
        used > 0 && used < module.len()
    }

    fn pods(&mut self, count: u32) {
        self.made.push(count, self.halves);
    }

    fn ones(&mut self, candidates: &[Candidate], limit: u32) -> u32 {
        let mut left = limit;
        for candidate in candidates {
            let times = self.times(candidate).min(left);
            if times > 0 {
                self.take(candidate);
                self.pods(times);
                left -= times;
            }
            if left == 0 {
                break;
            }
        }
        limit - left
    }

    fn several(&mut self, candidates: &[Candidate], size: u32, limit: u32) -> Option<u32> {
        let (mut pods, mut held) = (0, Vec::with_capacity(size as usize));
        for candidate in candidates {
            if pods == limit {
                break;
            }
            match self.times(candidate) {
                0 => continue,
                1 => held.push(candidate),
                // Shares of one device for several pods: which devices go together changes from pod to pod.
                _ => return None,
            }
            if held.len() == size as usize {
                held.drain(..).for_each(|candidate| self.take(candidate));
                self.pods(1);
                pods += 1;
            }
        }
        Some(pods)
    }

    fn agreeing(&mut self, candidates: &[Candidate], size: u32, limit: u32) -> Option<u32> {
        let mut free: Vec<(usize, u32)> = Vec::with_capacity(candidates.len());
        for (position, candidate) in candidates.iter().enumerate() {
            match (self.times(candidate), candidate.ties.first()) {
                (0, _) | (_, None | Some((_, None))) => {}
                (1, Some((_, Some(value)))) => free.push((position, *value)),
                _ => return None,
            }
        }
        let mut pods = 0;
        let mut from = 0;
        // The first device that has enough others like it behind it is where the search ends too.
        while let Some((_, value)) = free.get(from).copied().filter(|_| pods < limit) {
            let like: Vec<usize> =
                free.iter().skip(from).filter(|(_, v)| *v == value).map(|(p, _)| *p).collect();
            if like.len() < size as usize {
                from += 1;
                continue;
            }
            let taken = like.get(..size as usize).unwrap_or_default();
            taken.iter().filter_map(|p| candidates.get(*p)).for_each(|candidate| self.take(candidate));
            free.retain(|(position, _)| !taken.contains(position));
            self.pods(1);
            pods += 1;
        }
        Some(pods)
    }
}

#[cfg(test)]
mod tests;

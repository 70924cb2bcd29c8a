//! The order of modules inside a device slice, which is the first-fit allocator's priority. Rewriting a slice
//! costs an API write, so the order changes only when keeping it would break a module without need.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::DeviceName;
use crate::slices::{PoolPlan, SliceKey};

/// The cards of each device slice in the order in which they are published now.
pub type PublishedOrder = BTreeMap<SliceKey, Vec<u32>>;

/// How much of one module is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModuleUse {
    /// Nothing of it is allocated.
    Whole,
    /// One chip is free, the other is used (whole or in part).
    Half,
    /// No chip is free.
    Full,
}

/// How much of the module `card` is free. `dies` are the dies that are published.
pub fn module_use(card: u32, dies: &[u32], in_use: &BTreeSet<DeviceName>) -> ModuleUse {
    if in_use.contains(&DeviceName::Module { card }) {
        return ModuleUse::Full;
    }
    let used = dies.iter().filter(|die| in_use.contains(&DeviceName::Chip { card, die: **die })).count();
    match (used, dies.len().saturating_sub(used)) {
        (_, 0) => ModuleUse::Full,
        // A module with one living die cannot be broken any more: its chip is as good as a half's.
        (0, 1) => ModuleUse::Half,
        (0, _) => ModuleUse::Whole,
        _ => ModuleUse::Half,
    }
}

/// Whether the next claim of one whole chip would break a whole module although a half one is free, when the
/// modules are tried in `order`.
pub fn breaks_needlessly(order: &[ModuleUse]) -> bool {
    let first = |wanted| order.iter().position(|m| *m == wanted);
    // Only the first counts: once that half module is full, the question is asked again.
    matches!((first(ModuleUse::Whole), first(ModuleUse::Half)), (Some(whole), Some(half)) if whole < half)
}

/// The order for one slice: the published one where it does no harm, otherwise half-used modules first. Cards
/// that are not published yet come last, by number.
pub fn ordered_cards(
    published: &[u32],
    cards: &BTreeMap<u32, Vec<u32>>,
    in_use: &BTreeSet<DeviceName>,
) -> Vec<u32> {
    let mut order: Vec<u32> = Vec::with_capacity(cards.len());
    let mut seen = BTreeSet::new();
    for card in published.iter().chain(cards.keys()) {
        if cards.contains_key(card) && seen.insert(*card) {
            order.push(*card);
        }
    }
    let use_of = |card: &u32| module_use(*card, cards.get(card).map_or(&[], Vec::as_slice), in_use);
    let uses: Vec<ModuleUse> = order.iter().map(use_of).collect();
    if breaks_needlessly(&uses) {
        // Stable: inside each group the published order stays.
        order.sort_by_key(|card| use_of(card) != ModuleUse::Half);
    }
    order
}

/// The order in which a plan lists its cards: what to hand back with the next plan.
pub fn published_order(plan: &PoolPlan) -> PublishedOrder {
    let mut order = PublishedOrder::new();
    for slice in &plan.slices {
        if let SliceKey::Modules(_) = slice.key {
            order.insert(slice.key, cards_in_order(slice.devices().iter().map(|d| d.name)));
        }
    }
    order
}

/// The cards of device names, each once, as they first appear.
pub fn cards_in_order(names: impl IntoIterator<Item = DeviceName>) -> Vec<u32> {
    let mut seen = BTreeSet::new();
    names
        .into_iter()
        .map(|name| match name {
            DeviceName::Chip { card, .. }
            | DeviceName::Module { card }
            | DeviceName::Partition { card, .. } => card,
        })
        .filter(|card| seen.insert(*card))
        .collect()
}

#[cfg(test)]
mod tests;

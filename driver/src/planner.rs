//! The slice planner: from what discovery saw to what the pool publishes, within the API's limits, such that
//! a card that comes or goes changes nothing about any other.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use crate::attributes;
use crate::hardware::{Chip, Inventory, MultiDiePolicy, Problem};
use crate::id::{DeviceName, InvalidId, NodeName, PoolName};
use crate::order::{PublishedOrder, ordered_cards};
use crate::quantity::{Bytes, Percent};
use crate::slices::{
    CARDS_PER_SLICE, Capacity, CapacityValue, CounterSetPlan, CounterUse, DIES_PER_CARD, DevicePlan,
    MAX_CARD, MAX_COUNTER_SETS, MODULES_PER_SET, MODULES_PER_SLICE, PARTITIONED_CARDS_PER_SLICE,
    PARTITIONS_PER_CARD, PoolPlan, RequestPolicy, SliceContent, SliceKey, SlicePlan, Taint, TaintEffect,
    UNHEALTHY_TAINT,
};

/// Topology from the node's labels; empty when unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeLabels {
    /// `vnpu.dev/leaf`.
    pub leaf: String,
    /// `vnpu.dev/superpod`.
    pub superpod: String,
}

/// Everything that decides what a pool publishes.
#[derive(Debug, Clone, Copy)]
pub struct PlanInput<'a> {
    /// The node.
    pub node: &'a NodeName,
    /// What discovery sees now.
    pub inventory: &'a Inventory,
    /// Topology.
    pub labels: &'a NodeLabels,
    /// Devices of this pool that are allocated or prepared, whole or in part.
    pub in_use: &'a BTreeSet<DeviceName>,
    /// Chips seen earlier and not now. Those that are in use (or whose module is) stay published, tainted.
    pub vanished: &'a [Chip],
    /// Chips to taint although they are there, each with the taint's effect.
    pub sick: &'a BTreeMap<DeviceName, TaintEffect>,
    /// The order published now ([`crate::order::published_order`]); empty at first.
    pub order: &'a PublishedOrder,
}

/// Why there is no plan at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The node's name is too long to be part of a pool's.
    #[error("the node's name leaves no room for the pool's name: {0}")]
    PoolName(#[from] InvalidId),
}

impl PlanError {
    /// Whether another try may succeed: never, the name stays.
    pub const fn retryable(&self) -> bool {
        false
    }

    /// Stable word for metrics and logs.
    pub const fn reason(&self) -> &'static str {
        "pool_name"
    }
}

/// What a chip publishes of its memory: whole GiB, because memory is claimed in steps of 1Gi from 1Gi and the
/// API refuses a range whose end is not on a step. A chip below 1Gi publishes what it has.
pub fn published_memory(memory: Bytes) -> Bytes {
    // The API server calculates with 64-bit signed integers, and a module adds two chips.
    let memory = Bytes(memory.0.min(1 << 61));
    let floor = memory.floor_gib();
    if floor == Bytes(0) { memory } else { floor }
}

/// Plans a pool.
///
/// # Errors
/// Only for a node name that makes no pool name; chips that cannot be published are named in the plan.
pub fn plan_pool(input: &PlanInput<'_>) -> Result<PoolPlan, PlanError> {
    let pool = PoolName::of(input.node, input.inventory.vendor)?;
    let mut problems = Vec::new();
    let chips = usable_chips(input, &mut problems);
    let mut slices = BTreeMap::new();
    let modules = modules(&chips);
    add_counters(&modules, &mut slices);
    add_modules(input, &modules, &mut slices);
    add_single_chips(input, &chips, &mut slices);
    if slices.is_empty() {
        slices.insert(SliceKey::Chips(0), SliceContent::Devices(Vec::new()));
    }
    let slices = slices.into_iter().map(|(key, content)| SlicePlan { key, content }).collect();
    Ok(PoolPlan { node: input.node.clone(), pool, slices, problems })
}

/// A chip and whether it is really there.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    chip: &'a Chip,
    present: bool,
}

/// Chips and partitions by name: chips by card and die, then partitions.
type Chips<'a> = BTreeMap<DeviceName, Candidate<'a>>;

/// What may be published at all. Vanished chips stay while they or their module are in use.
fn usable_chips<'a>(input: &PlanInput<'a>, problems: &mut Vec<Problem>) -> Chips<'a> {
    let mut usable = Chips::new();
    for chip in &input.inventory.chips {
        if let Err(problem) = check_place(chip) {
            problems.push(problem);
            continue;
        }
        if chip.traits.partition.is_some() && partitions_of(&usable, chip.card) >= PARTITIONS_PER_CARD {
            problems.push(problem_of(
                chip,
                "too_many_partitions",
                "a card's first 8 partitions are published",
            ));
            continue;
        }
        match usable.entry(chip.name()) {
            Entry::Vacant(place) => {
                place.insert(Candidate { chip, present: true });
            }
            Entry::Occupied(_) => problems.push(problem_of(
                chip,
                "duplicate_place",
                "two chips claim this card and die; the first is published",
            )),
        }
    }
    for chip in input.vanished {
        let held = input.in_use.contains(&chip.name())
            || chip.module.is_some_and(|card| input.in_use.contains(&DeviceName::Module { card }));
        let room = chip.traits.partition.is_none() || partitions_of(&usable, chip.card) < PARTITIONS_PER_CARD;
        if held && room && check_place(chip).is_ok() {
            usable.entry(chip.name()).or_insert(Candidate { chip, present: false });
        }
    }
    usable
}

fn partitions_of(chips: &Chips<'_>, card: u32) -> usize {
    let (first, last) =
        [0, u32::MAX].map(|id| DeviceName::Partition { card, gpu_instance: id, compute_instance: id }).into();
    chips.range(first..=last).count()
}

fn check_place(chip: &Chip) -> Result<(), Problem> {
    if chip.traits.partition.is_some() && chip.module.is_some() {
        return Err(problem_of(chip, "module_mismatch", "a part of a module's chip cannot be published"));
    }
    if chip.card >= MAX_CARD {
        return Err(problem_of(chip, "card_out_of_range", "card ids from 1048576 on cannot be published"));
    }
    match chip.module {
        Some(module) if module != chip.card => {
            Err(problem_of(chip, "module_mismatch", "a module's number must be its card id"))
        }
        Some(_) if chip.die > 1 => Err(problem_of(chip, "die_out_of_range", "a module has dies 0 and 1")),
        None if chip.die / DIES_PER_CARD >= 8 => {
            Err(problem_of(chip, "die_out_of_range", "a card's die ids from 32 on cannot be published"))
        }
        _ => Ok(()),
    }
}

fn problem_of(chip: &Chip, reason: &str, message: &str) -> Problem {
    Problem {
        object: format!("card {} die {} ({})", chip.card, chip.die, chip.uuid),
        message: format!("not published: {message}"),
        reason: reason.to_owned(),
    }
}

type Modules<'a> = BTreeMap<u32, Vec<Candidate<'a>>>;

/// Dual-die modules by card, dies ascending.
fn modules<'a>(chips: &Chips<'a>) -> Modules<'a> {
    let mut modules = Modules::new();
    for candidate in chips.values() {
        if let Some(card) = candidate.chip.module {
            modules.entry(card).or_default().push(*candidate);
        }
    }
    modules
}

fn set_name(card: u32) -> String {
    format!("modules-{}", card / MODULES_PER_SET)
}

fn counter_name(card: u32, die: u32) -> String {
    format!("m{card}-c{die}")
}

fn add_counters(modules: &Modules<'_>, slices: &mut BTreeMap<SliceKey, SliceContent>) {
    let sets: BTreeSet<u32> = modules.keys().map(|card| card / MODULES_PER_SET).collect();
    let sets_per_slice = u32::try_from(MAX_COUNTER_SETS).unwrap_or(1);
    for set in sets {
        let first = set * MODULES_PER_SET;
        let counters = (first..first + MODULES_PER_SET)
            .flat_map(|card| [counter_name(card, 0), counter_name(card, 1)])
            .collect();
        let plan = CounterSetPlan { name: set_name(first), counters };
        let content = slices
            .entry(SliceKey::Counters(set / sets_per_slice))
            .or_insert_with(|| SliceContent::Counters(Vec::new()));
        if let SliceContent::Counters(sets) = content {
            sets.push(plan);
        }
    }
}

fn add_modules(input: &PlanInput<'_>, modules: &Modules<'_>, slices: &mut BTreeMap<SliceKey, SliceContent>) {
    let mut by_slice: BTreeMap<SliceKey, BTreeMap<u32, Vec<u32>>> = BTreeMap::new();
    for (card, dies) in modules {
        by_slice
            .entry(SliceKey::Modules(card / MODULES_PER_SLICE))
            .or_default()
            .insert(*card, dies.iter().map(|c| c.chip.die).collect());
    }
    for (key, cards) in by_slice {
        let published = input.order.get(&key).map_or(&[][..], Vec::as_slice);
        let mut devices = Vec::new();
        for card in ordered_cards(published, &cards, input.in_use) {
            let dies = modules.get(&card).map_or(&[][..], Vec::as_slice);
            devices.extend(module_device(input, card, dies));
            devices.extend(dies.iter().filter_map(|die| module_chip(input, card, *die)));
        }
        slices.insert(key, SliceContent::Devices(devices));
    }
}

/// The module device: only with both dies, or while somebody holds it.
fn module_device(input: &PlanInput<'_>, card: u32, dies: &[Candidate<'_>]) -> Option<DevicePlan> {
    let [first, second] = dies else { return None };
    let name = DeviceName::Module { card };
    let present = first.present && second.present;
    if !present && !input.in_use.contains(&name) {
        return None;
    }
    let memory = published_memory(first.chip.memory).saturating_add(published_memory(second.chip.memory));
    let cores = u64::from(Percent::FULL.0) * 2;
    let sick = [first, second].iter().filter_map(|c| input.sick.get(&c.chip.name())).max().copied();
    Some(DevicePlan {
        name,
        attributes: attributes::of_module(first.chip, second.chip, input.inventory, input.labels),
        capacity: BTreeMap::from([
            ("memory".to_owned(), Capacity { value: CapacityValue::Bytes(memory), policy: None }),
            ("cores".to_owned(), Capacity { value: CapacityValue::Count(cores), policy: None }),
        ]),
        allow_multiple_allocations: false,
        consumes_counters: vec![CounterUse {
            set: set_name(card),
            counters: vec![counter_name(card, 0), counter_name(card, 1)],
        }],
        taints: taints(present, sick),
    })
}

/// A chip of a module. Under the UNION policy chips are never given out singly; one that somebody holds
/// nevertheless stays, so that the scheduler goes on counting it.
fn module_chip(input: &PlanInput<'_>, card: u32, die: Candidate<'_>) -> Option<DevicePlan> {
    let name = die.chip.name();
    let held = input.in_use.contains(&name);
    if !held && (input.inventory.multi_die_policy == MultiDiePolicy::Union || !die.present) {
        return None;
    }
    let mut device = chip_device(input, die);
    device.consumes_counters =
        vec![CounterUse { set: set_name(card), counters: vec![counter_name(card, die.chip.die)] }];
    Some(device)
}

/// Chips of single-die hardware, and partitions.
fn add_single_chips(input: &PlanInput<'_>, chips: &Chips<'_>, slices: &mut BTreeMap<SliceKey, SliceContent>) {
    for candidate in chips.values().filter(|c| c.chip.module.is_none()) {
        let (card, die) = (candidate.chip.card, candidate.chip.die);
        let key = if candidate.chip.traits.partition.is_some() {
            SliceKey::Partitions(card / PARTITIONED_CARDS_PER_SLICE)
        } else {
            SliceKey::Chips((die / DIES_PER_CARD) * (MAX_CARD / CARDS_PER_SLICE) + card / CARDS_PER_SLICE)
        };
        let content = slices.entry(key).or_insert_with(|| SliceContent::Devices(Vec::new()));
        if let SliceContent::Devices(devices) = content {
            devices.push(chip_device(input, *candidate));
        }
    }
}

fn chip_device(input: &PlanInput<'_>, candidate: Candidate<'_>) -> DevicePlan {
    let chip = candidate.chip;
    let partition = chip.traits.partition.as_ref();
    let shared = partition.is_none() && chip.traits.whole_only.is_none();
    let (mut memory, mut cores) = (memory_capacity(chip.memory), cores_capacity());
    if let Some(partition) = partition {
        cores.value = CapacityValue::Count(u64::from(partition.cores.0));
    }
    if !shared {
        // The API knows no parts of what only one claim may hold.
        (memory.policy, cores.policy) = (None, None);
    }
    DevicePlan {
        name: chip.name(),
        attributes: attributes::of_chip(chip, input.inventory, input.labels),
        capacity: BTreeMap::from([("memory".to_owned(), memory), ("cores".to_owned(), cores)]),
        allow_multiple_allocations: shared,
        consumes_counters: Vec::new(),
        taints: taints(candidate.present, input.sick.get(&chip.name()).copied()),
    }
}

/// Parts of 1Gi. The API refuses a step where `min + step` exceeds the value, so below 2Gi the chip is only
/// given whole in memory.
fn memory_capacity(memory: Bytes) -> Capacity {
    let full = published_memory(memory);
    let value = CapacityValue::Bytes(full);
    let policy = if full >= Bytes::gib(2) {
        let gib = CapacityValue::Bytes(Bytes::GIB);
        RequestPolicy::Range { default: value, min: gib, max: value, step: gib }
    } else {
        RequestPolicy::Only(value)
    };
    Capacity { value, policy: Some(policy) }
}

fn cores_capacity() -> Capacity {
    let value = CapacityValue::Count(u64::from(Percent::FULL.0));
    let one = CapacityValue::Count(1);
    Capacity { value, policy: Some(RequestPolicy::Range { default: value, min: one, max: value, step: one }) }
}

fn taints(present: bool, sick: Option<TaintEffect>) -> Vec<Taint> {
    let (value, effect) = match (present, sick) {
        (false, sick) => ("absent", sick.unwrap_or(TaintEffect::NoSchedule)),
        (true, Some(effect)) => ("unhealthy", effect),
        (true, None) => return Vec::new(),
    };
    vec![Taint { key: UNHEALTHY_TAINT.to_owned(), value: value.to_owned(), effect }]
}

#[cfg(test)]
mod tests;

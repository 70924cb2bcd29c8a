//! One node as its plugin publishes it: devices in an order, which first fit follows, and the order's changes.

use std::collections::{BTreeMap, BTreeSet};

use vnpu_driver::id::{ClaimUid, DeviceName, InvalidId, NodeName, PoolName};
use vnpu_driver::order::ordered_cards;
use vnpu_placement::node::{AllocatedClaim, Attribute, Capacity, Device, Holding, Node, Pool};
use vnpu_placement::resources::Resources;
use vnpu_placement::{LEAF_LABEL, SUPERPOD_LABEL};

use super::objects::{CORES, MEMORY, consumed};
use crate::chips::{Chips, Taken};
use crate::job::{Ask, Shape};

/// A node and its one pool.
pub(super) struct PublishedNode {
    /// Its name.
    pub(super) name: NodeName,
    /// What of it is used, as the plugin sees it.
    pub(super) seen: Chips,
    pool: PoolName,
    /// Dies by card, a module being a card.
    cards: BTreeMap<u32, Vec<u32>>,
    /// The cards in published order.
    order: Vec<u32>,
    dual: bool,
}

impl PublishedNode {
    /// An empty node.
    pub(super) fn new(shape: &Shape, number: usize) -> Result<Self, InvalidId> {
        let name = NodeName::new(format!("node-{number}"))?;
        let pool = PoolName::new(format!("{name}/ascend"))?;
        let (count, dies) = if shape.dual { (shape.chips / 2, 2) } else { (shape.chips, 1) };
        let cards: BTreeMap<u32, Vec<u32>> = (0..count).map(|card| (card, (0..dies).collect())).collect();
        let order = cards.keys().copied().collect();
        Ok(Self { name, seen: Chips::new(shape), pool, cards, order, dual: shape.dual })
    }

    /// Its Node object.
    pub(super) fn object(&self, leaf: usize) -> Node {
        let labels = [(LEAF_LABEL, format!("leaf-{leaf}")), (SUPERPOD_LABEL, "pod-0".to_owned())];
        Node {
            name: self.name.clone(),
            labels: labels.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            taints: Vec::new(),
            unschedulable: false,
            allocatable: Resources(BTreeMap::from([("pods".to_owned(), 256)])),
        }
    }

    /// The number of a chip, as in [`Chips`].
    const fn chip(&self, card: u32, die: u32) -> u32 {
        if self.dual { 2 * card + die } else { card }
    }

    fn card(&self, chip: u32) -> (u32, u32) {
        if self.dual { (chip / 2, chip % 2) } else { (chip, 0) }
    }

    /// Its devices in published order: a module, then its chips.
    pub(super) fn pool(&self) -> Pool {
        let counter = |card: u32, die: u32| (format!("modules-{}", card / 16), format!("m{card}-c{die}"), 1);
        let mut counters = Vec::new();
        if self.dual {
            let sets = self.cards.iter().flat_map(|(card, dies)| dies.iter().map(|die| counter(*card, *die)));
            counters.extend(sets);
        }
        let mut devices = Vec::new();
        for (card, dies) in self.order.iter().filter_map(|card| Some((*card, self.cards.get(card)?))) {
            let pays = |die: &u32| counter(card, *die);
            if self.dual {
                devices.push(Device {
                    name: DeviceName::Module { card }.to_string(),
                    attributes: attributes("module", i64::from(card), 2),
                    capacity: BTreeMap::new(),
                    shareable: false,
                    counters: dies.iter().map(pays).collect(),
                    taints: Vec::new(),
                });
            }
            devices.extend(dies.iter().map(|die| {
                let (module, count) = if self.dual { (i64::from(card), 2) } else { (-1, 1) };
                Device {
                    name: DeviceName::Chip { card, die: *die }.to_string(),
                    attributes: attributes("chip", module, count),
                    capacity: BTreeMap::from([
                        ("memory".to_owned(), shared(MEMORY)),
                        ("cores".to_owned(), shared(CORES)),
                    ]),
                    shareable: true,
                    counters: if self.dual { vec![pays(die)] } else { Vec::new() },
                    taints: Vec::new(),
                }
            }));
        }
        Pool { name: self.pool.clone(), node: self.name.clone(), counters, devices }
    }

    /// What kube-scheduler gives to one pod: the first devices that serve it.
    pub(super) fn first_fit(&self, chips: &mut Chips, ask: Ask) -> Option<Taken> {
        let chip_order = || {
            let dies = self.order.iter().filter_map(|card| Some((*card, self.cards.get(card)?)));
            dies.flat_map(|(card, dies)| dies.iter().map(move |die| self.chip(card, *die)))
        };
        let bit = |chip: u32| 1_u64.checked_shl(chip).unwrap_or_default();
        let mut one = |taken: Taken| chips.occupy(taken).then_some(taken);
        match ask {
            Ask::Share(part) => {
                chip_order().find_map(|chip| one(Taken { chips: 0, share: Some((chip, part)) }))
            }
            Ask::Chips(count) if count > 1 && self.dual => {
                let modules = self.order.iter().map(|card| bit(2 * card) | bit(2 * card + 1));
                let modules = modules.filter_map(|chips| one(Taken { chips, share: None }));
                let taken: Vec<Taken> = modules.take((count / 2) as usize).collect();
                whole(chips, taken, count / 2)
            }
            Ask::Chips(count) => {
                let single = chip_order().filter_map(|chip| one(Taken { chips: bit(chip), share: None }));
                let taken: Vec<Taken> = single.take(count as usize).collect();
                whole(chips, taken, count)
            }
        }
    }

    /// The claim that holds this.
    pub(super) fn allocated(&self, uid: ClaimUid, taken: Taken) -> AllocatedClaim {
        let holding = |device: DeviceName, consumed: BTreeMap<String, u64>| Holding {
            pool: self.pool.clone(),
            device: device.to_string(),
            consumed,
            admin_access: false,
        };
        let all = BTreeMap::from([("memory".to_owned(), MEMORY), ("cores".to_owned(), CORES)]);
        let chip = |number: u32, consumed: BTreeMap<String, u64>| {
            let (card, die) = self.card(number);
            holding(DeviceName::Chip { card, die }, consumed)
        };
        let held = |number: &u32| taken.chips & 1_u64.checked_shl(*number).unwrap_or_default() != 0;
        let mut holdings: Vec<Holding> = match taken.share {
            Some((number, part)) => vec![chip(number, consumed(part))],
            None if taken.halves() == 0 && self.dual => {
                let cards = self.cards.keys().filter(|card| held(&(2 * **card)));
                cards.map(|card| holding(DeviceName::Module { card: *card }, BTreeMap::new())).collect()
            }
            None => (0..64).filter(held).map(|number| chip(number, all.clone())).collect(),
        };
        holdings.sort();
        AllocatedClaim { uid, node: Some(self.name.clone()), holdings }
    }

    /// Orders the cards anew where keeping the order would break a module without need; whether it did.
    pub(super) fn reorder(&mut self) -> bool {
        let mut in_use = BTreeSet::new();
        for (card, dies) in &self.cards {
            for die in dies {
                if self.seen.is_used(self.chip(*card, *die)) {
                    in_use.insert(DeviceName::Chip { card: *card, die: *die });
                }
            }
        }
        let order = ordered_cards(&self.order, &self.cards, &in_use);
        let changed = order != self.order;
        self.order = order;
        changed
    }
}

/// All of the pieces, or none of them.
fn whole(chips: &mut Chips, taken: Vec<Taken>, count: u32) -> Option<Taken> {
    if taken.len() == count as usize {
        let all = taken.iter().fold(0, |all, taken| all | taken.chips);
        return Some(Taken { chips: all, share: None });
    }
    taken.into_iter().for_each(|taken| chips.give(taken));
    None
}

fn attributes(kind: &str, module: i64, dies: i64) -> BTreeMap<String, Attribute> {
    BTreeMap::from([
        ("vnpu.dev/type".to_owned(), Attribute::String(kind.to_owned())),
        ("vnpu.dev/module".to_owned(), Attribute::Int(module)),
        ("vnpu.dev/dies".to_owned(), Attribute::Int(dies)),
    ])
}

const fn shared(value: u64) -> Capacity {
    Capacity { value, default: Some(value), range: Some((1, 1, value)) }
}

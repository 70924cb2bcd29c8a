//! Hardware for tests: a node of dual-die modules, a node of single-die chips, and random ones.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use crate::hardware::{Chip, Health, Inventory, MultiDiePolicy, Partition, PciAddress, Traits, Vendor};
use crate::id::{DeviceName, DeviceUuid, NodeName};
use crate::order::PublishedOrder;
use crate::planner::{NodeLabels, PlanInput, plan_pool};
use crate::quantity::{Bytes, Percent};
use crate::slices::{PoolPlan, TaintEffect};

pub(crate) fn chip(card: u32, die: u32, module: bool, memory: Bytes) -> Chip {
    Chip {
        card,
        die,
        uuid: DeviceUuid::new(format!("VDIE-{card:04}-{die}")).unwrap(),
        module: module.then_some(card),
        model: if module { "910C" } else { "910B" }.to_owned(),
        product_name: "Stand-in".to_owned(),
        memory,
        phys_id: card * 2 + die,
        pci: Some(PciAddress { domain: 0, bus: u8::try_from(card % 256).unwrap(), device: 0, function: 0 }),
        numa_node: Some(i64::from(card / 4)),
        pcie_root: Some(format!("pci0000:{:02x}", card % 256)),
        health: Health::Healthy,
        traits: Traits::default(),
    }
}

pub(crate) fn inventory(chips: Vec<Chip>) -> Inventory {
    Inventory {
        vendor: Vendor::Ascend,
        chips,
        multi_die_policy: MultiDiePolicy::Independent,
        driver_version: "25.0.rc1".to_owned(),
        cuda_version: String::new(),
        superpod: None,
        problems: Vec::new(),
    }
}

/// `modules` dual-die modules of twice 64Gi.
pub(crate) fn dual(modules: u32) -> Inventory {
    inventory((0..modules).flat_map(|card| [0, 1].map(|die| chip(card, die, true, Bytes::gib(64)))).collect())
}

/// A GPU of 80Gi.
pub(crate) fn gpu(card: u32) -> Chip {
    Chip {
        uuid: DeviceUuid::new(format!("GPU-{card:04}")).unwrap(),
        model: "H100".to_owned(),
        phys_id: card,
        traits: Traits {
            compute_capability: "9.0".to_owned(),
            link_group: "GPU-0000".to_owned(),
            ..Traits::default()
        },
        ..chip(card, 0, false, Bytes::gib(80))
    }
}

/// The instance `1g.10gb` with this number of a GPU.
pub(crate) fn partition(card: u32, gpu_instance: u32) -> Chip {
    let mut chip = gpu(card);
    chip.uuid = DeviceUuid::new(format!("MIG-{card:04}-{gpu_instance}")).unwrap();
    chip.memory = Bytes::gib(10);
    chip.traits.partition = Some(Partition {
        gpu_instance,
        compute_instance: 0,
        profile: "1g.10gb".to_owned(),
        cores: Percent(14),
    });
    chip
}

/// A pool of GPUs and their partitions.
pub(crate) fn gpus(chips: Vec<Chip>) -> Inventory {
    Inventory {
        vendor: Vendor::Nvidia,
        driver_version: "570.124.06".to_owned(),
        cuda_version: "12.8".to_owned(),
        ..inventory(chips)
    }
}

/// `cards` single-die chips of 64Gi.
pub(crate) fn single(cards: u32) -> Inventory {
    inventory((0..cards).map(|card| chip(card, 0, false, Bytes::gib(64))).collect())
}

/// Everything but the hardware that a plan depends on.
#[derive(Debug, Default, Clone)]
pub(crate) struct Around {
    pub(crate) labels: NodeLabels,
    pub(crate) in_use: BTreeSet<DeviceName>,
    pub(crate) vanished: Vec<Chip>,
    pub(crate) sick: BTreeMap<DeviceName, TaintEffect>,
    pub(crate) order: PublishedOrder,
}

impl Around {
    pub(crate) fn plan(&self, inventory: &Inventory) -> PoolPlan {
        plan_pool(&PlanInput {
            node: &NodeName::new("node-1").unwrap(),
            inventory,
            labels: &self.labels,
            in_use: &self.in_use,
            vanished: &self.vanished,
            sick: &self.sick,
            order: &self.order,
        })
        .unwrap()
    }

    pub(crate) fn using(names: &[&str]) -> Self {
        Self { in_use: names.iter().map(|n| n.parse().unwrap()).collect(), ..Self::default() }
    }
}

/// Random hardware: up to 64 cards with gaps, missing dies, odd sizes and texts, both kinds mixed.
pub(crate) fn any_inventory() -> impl Strategy<Value = Inventory> {
    let card = prop_oneof![8 => 0u32..80, 1 => 0u32..2_000_000];
    let dies = prop_oneof![
        4 => Just((true, vec![0, 1])),
        1 => Just((true, vec![0])),
        1 => Just((true, vec![1])),
        1 => Just((true, vec![0, 2])),
        3 => Just((false, vec![0])),
        1 => Just((false, vec![0, 1, 2, 3, 4, 40])),
    ];
    let memory = prop_oneof![
        Just(Bytes::gib(64)),
        Just(Bytes(65_452 << 20)),
        (0u64..4 << 30).prop_map(Bytes),
        any::<u64>().prop_map(Bytes)
    ];
    // A few odd texts for all cards: making one per card is what would take the time.
    let texts = proptest::collection::vec("\\PC{0,80}", 4);
    let long_uuid = "[A-Za-z0-9][A-Za-z0-9_.-]{40,50}";
    let entry = (card, dies, memory, 0usize..4, any::<bool>(), -2i64..4);
    let policy = prop_oneof![4 => Just(MultiDiePolicy::Independent), 1 => Just(MultiDiePolicy::Union)];
    let cards = proptest::collection::vec(entry, 0..=64);
    (cards, policy, texts, long_uuid, "\\PC{0,80}").prop_map(|(cards, policy, texts, uuid, version)| {
        let mut chips = BTreeMap::new();
        for (card, (module, dies), memory, text, long, numa) in cards {
            if chips.keys().any(|(c, _)| *c == card) {
                continue;
            }
            for die in dies {
                let mut chip = chip(card % 100, die, module, memory);
                chip.card = card;
                chip.module = module.then_some(card);
                chip.product_name.clone_from(&texts[text]);
                chip.numa_node = (numa > -2).then_some(numa);
                if !module && card % 5 == 0 {
                    let (gpu_instance, cores) = (die + 1, Percent(14));
                    let profile = texts[text].clone();
                    chip.traits.partition =
                        Some(Partition { gpu_instance, compute_instance: 0, profile, cores });
                }
                let unique = format!("{card}-{die}");
                let uuid = if long { format!("{uuid}{unique}") } else { unique };
                chip.uuid = DeviceUuid::new(uuid.chars().take(64).collect::<String>()).unwrap();
                chips.insert((card, die), chip);
            }
        }
        Inventory {
            multi_die_policy: policy,
            driver_version: version,
            ..inventory(chips.into_values().collect())
        }
    })
}

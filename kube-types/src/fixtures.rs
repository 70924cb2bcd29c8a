//! Plans for tests: a node of dual-die modules as discovery would report it.

use std::collections::BTreeSet;

use vnpu_driver::hardware::{Chip, Health, Inventory, MultiDiePolicy, Traits, Vendor};
use vnpu_driver::id::{DeviceName, DeviceUuid, NodeName};
use vnpu_driver::order::PublishedOrder;
use vnpu_driver::quantity::Bytes;
use vnpu_driver::slices::{NodeLabels, PlanInput, PoolPlan, TaintEffect, plan_pool};

use crate::slice::NodeOwner;

pub(crate) fn inventory(modules: u32) -> Inventory {
    let chip = |card, die| Chip {
        card,
        die,
        uuid: DeviceUuid::new(format!("VDIE-{card}-{die}")).unwrap(),
        module: Some(card),
        model: "910C".to_owned(),
        product_name: "Stand-in".to_owned(),
        memory: Bytes::gib(64),
        phys_id: card * 2 + die,
        pci: None,
        numa_node: None,
        pcie_root: None,
        health: Health::Healthy,
        traits: Traits::default(),
    };
    Inventory {
        vendor: Vendor::Ascend,
        chips: (0..modules).flat_map(|card| [chip(card, 0), chip(card, 1)]).collect(),
        multi_die_policy: MultiDiePolicy::Independent,
        driver_version: "25.0.rc1".to_owned(),
        cuda_version: String::new(),
        superpod: None,
        problems: Vec::new(),
    }
}

pub(crate) fn plan_with(modules: u32, sick: &[&str], in_use: &[&str]) -> PoolPlan {
    let names = |list: &[&str]| list.iter().map(|n| n.parse().unwrap()).collect::<BTreeSet<DeviceName>>();
    plan_pool(&PlanInput {
        node: &NodeName::new("node-1").unwrap(),
        inventory: &inventory(modules),
        labels: &NodeLabels::default(),
        in_use: &names(in_use),
        vanished: &[],
        sick: &names(sick).into_iter().map(|name| (name, TaintEffect::NoSchedule)).collect(),
        order: &PublishedOrder::new(),
    })
    .unwrap()
}

pub(crate) fn plan(modules: u32) -> PoolPlan {
    plan_with(modules, &[], &[])
}

pub(crate) fn owner() -> NodeOwner {
    NodeOwner { name: NodeName::new("node-1").unwrap(), uid: "node-uid".to_owned() }
}

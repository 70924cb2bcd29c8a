//! Clusters and batches for tests and benches, as the driver and the controller would tell of them.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each user takes what it needs")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "made for tests")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use vnpu_driver::id::{ClaimUid, NodeName, PoolName};
use vnpu_placement::batch::{Batch, BatchKey, Member, Mode, Reach};
use vnpu_placement::demand::{Ask, ClaimDemand, ClaimSpec, Constraint, Count, PodDemand, Request};
use vnpu_placement::moment::Moment;
use vnpu_placement::node::{AllocatedClaim, Attribute, Capacity, Class, Device, Holding, Node, Pool};
use vnpu_placement::resources::Resources;
use vnpu_placement::{Change, Config, Planner};

pub const GI: u64 = 1 << 30;

pub fn node_name(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

pub fn claim_uid(number: u64) -> ClaimUid {
    ClaimUid::new(format!("{number:08x}-0000-4000-8000-{number:012x}")).unwrap()
}

pub fn resources(list: &[(&str, u64)]) -> Resources {
    Resources(list.iter().map(|(name, amount)| ((*name).to_owned(), *amount)).collect())
}

pub fn node(name: &str, leaf: &str, superpod: &str) -> Node {
    let label = |key: &str, value: &str| (!value.is_empty()).then(|| (key.to_owned(), value.to_owned()));
    let labels = [label("vnpu.dev/leaf", leaf), label("vnpu.dev/superpod", superpod)];
    Node {
        name: node_name(name),
        labels: labels
            .into_iter()
            .flatten()
            .chain([("kubernetes.io/hostname".into(), name.into())])
            .collect(),
        taints: vec![],
        unschedulable: false,
        allocatable: resources(&[("cpu", 192_000), ("memory", 1 << 40), ("pods", 110)]),
    }
}

fn text(value: &str) -> Attribute {
    Attribute::String(value.to_owned())
}

fn attributes(node: &Node, kind: &str, module: i64, chips: i64, uuid: &str) -> BTreeMap<String, Attribute> {
    let label = |key: &str| text(node.labels.get(key).map_or("", String::as_str));
    [
        ("type", text(kind)),
        ("vendor", text("ascend")),
        ("model", text("910C")),
        ("productName", text("Atlas 800T A3")),
        ("uuid", text(uuid)),
        ("module", Attribute::Int(module)),
        ("dies", Attribute::Int(if module < 0 { 1 } else { 2 })),
        ("chips", Attribute::Int(chips)),
        ("leaf", label("vnpu.dev/leaf")),
        ("superpod", label("vnpu.dev/superpod")),
        ("driverVersion", Attribute::Version("25.0.1".into())),
    ]
    .into_iter()
    .map(|(name, value)| (format!("vnpu.dev/{name}"), value))
    .collect()
}

fn chip_capacity(shareable: bool) -> BTreeMap<String, Capacity> {
    let policy = |value: u64, step: u64| Capacity {
        value,
        default: shareable.then_some(value),
        range: shareable.then_some((step, step, value)),
    };
    BTreeMap::from([("memory".to_owned(), policy(64 * GI, GI)), ("cores".to_owned(), policy(100, 1))])
}

/// Dual-die modules as the driver publishes them: module, then its two chips, module after module.
pub fn modules(node: &Node, cards: &[u32]) -> Pool {
    let counters = cards.iter().flat_map(|c| [0, 1].map(|die| (set(*c), format!("m{c}-c{die}"), 1)));
    let counters: Vec<_> = counters.collect();
    let mut devices = Vec::new();
    for card in cards {
        let module = i64::from(*card);
        let pays = |die: u32| (set(*card), format!("m{card}-c{die}"), 1);
        let full = Capacity { value: 128 * GI, default: None, range: None };
        devices.push(Device {
            name: format!("module-{card}"),
            attributes: attributes(node, "module", module, 2, &format!("M-{}-{card}", node.name)),
            capacity: BTreeMap::from([("memory".to_owned(), full)]),
            shareable: false,
            counters: vec![pays(0), pays(1)],
            taints: vec![],
        });
        for die in 0..2 {
            devices.push(Device {
                name: format!("chip-{card}-{die}"),
                attributes: attributes(node, "chip", module, 1, &format!("{}-{card}-{die}", node.name)),
                capacity: chip_capacity(true),
                shareable: true,
                counters: vec![pays(die)],
                taints: vec![],
            });
        }
    }
    Pool { name: pool_name(node), node: node.name.clone(), counters, devices }
}

/// Single-die chips.
pub fn chips(node: &Node, count: u32) -> Pool {
    let device = |card: u32| Device {
        name: format!("chip-{card}-0"),
        attributes: attributes(node, "chip", -1, 1, &format!("{}-{card}", node.name)),
        capacity: chip_capacity(true),
        shareable: true,
        counters: vec![],
        taints: vec![],
    };
    Pool {
        name: pool_name(node),
        node: node.name.clone(),
        counters: vec![],
        devices: (0..count).map(device).collect(),
    }
}

fn set(card: u32) -> String {
    format!("modules-{}", card / 16)
}

pub fn pool_name(node: &Node) -> PoolName {
    PoolName::new(format!("{}/ascend", node.name)).unwrap()
}

pub fn classes() -> Vec<Class> {
    let class = |name: &str, kind: &str| Class {
        name: name.to_owned(),
        selectors: vec![format!(
            "device.driver == \"vnpu.dev\" && device.attributes[\"vnpu.dev\"].vendor == \"ascend\" && \
             device.attributes[\"vnpu.dev\"].type == \"{kind}\""
        )],
    };
    vec![class("npu.vnpu.dev", "chip"), class("npu-module.vnpu.dev", "module")]
}

pub fn ask(class: &str, count: u32) -> Ask {
    Ask {
        name: String::new(),
        class: class.to_owned(),
        selectors: vec![],
        count: Count::Exactly(count),
        capacity: BTreeMap::new(),
        tolerations: vec![],
        admin_access: false,
    }
}

pub fn request(name: &str, alternatives: Vec<Ask>) -> Request {
    Request { name: name.to_owned(), alternatives }
}

pub fn spec(requests: Vec<Request>) -> ClaimSpec {
    ClaimSpec { requests, constraints: vec![] }
}

/// Whole modules.
pub fn whole(count: u32) -> ClaimSpec {
    spec(vec![request("npu", vec![ask("npu-module.vnpu.dev", count)])])
}

/// Whole chips, without a constraint.
pub fn plain_chips(count: u32) -> ClaimSpec {
    spec(vec![request("npu", vec![ask("npu.vnpu.dev", count)])])
}

/// Two chips of one module.
pub fn pair() -> ClaimSpec {
    ClaimSpec { constraints: vec![same_module()], ..plain_chips(2) }
}

pub fn same_module() -> Constraint {
    Constraint { requests: vec![], attribute: "vnpu.dev/module".into(), distinct: false }
}

/// A share of one chip.
pub fn share(memory: u64, cores: u64) -> ClaimSpec {
    let mut ask = ask("npu.vnpu.dev", 1);
    ask.capacity = BTreeMap::from([("memory".to_owned(), memory), ("cores".to_owned(), cores)]);
    spec(vec![request("npu", vec![ask])])
}

/// An even number of chips, as admission rewrites it.
pub fn even_chips(count: u32) -> ClaimSpec {
    let mut modules = ask("npu-module.vnpu.dev", count / 2);
    modules.name = "modules".into();
    let mut chips = ask("npu.vnpu.dev", count);
    chips.name = "chips".into();
    chips.selectors = vec!["device.attributes[\"vnpu.dev\"].dies == 1".into()];
    spec(vec![request("npu", vec![modules, chips])])
}

pub fn demand(claims: Vec<ClaimSpec>) -> PodDemand {
    let claim = |spec| ClaimDemand { uid: None, shared: false, node: None, spec };
    PodDemand {
        resources: resources(&[("cpu", 1000), ("memory", GI), ("pods", 1)]),
        claims: claims.into_iter().map(claim).collect(),
        ..PodDemand::default()
    }
}

pub fn batch_of(key: &str, demands: Vec<Arc<PodDemand>>) -> Batch {
    let member = |(number, demand): (usize, Arc<PodDemand>)| Member {
        uid: format!("{key}-{number}"),
        name: format!("bank/{key}-{number}"),
        rank: u32::try_from(number).ok(),
        demand,
    };
    Batch {
        key: BatchKey(Arc::from(key)),
        owner: format!("owner-{key}"),
        title: format!("Job bank/{key}"),
        mode: Mode::Pack,
        reach: Reach::Preferred,
        priority: 0,
        arrived: Moment::default(),
        patience: Duration::ZERO,
        members: demands.into_iter().enumerate().map(member).collect(),
        placed: vec![],
        unmodelled: vec![],
    }
}

/// Equal pods with one claim each.
pub fn batch(key: &str, pods: usize, claim: ClaimSpec) -> Batch {
    let demand = Arc::new(demand(vec![claim]));
    batch_of(key, vec![demand; pods])
}

/// `count` nodes, so many to a leaf and leaves to a super-pod, each with dual-die modules.
pub fn changes(count: usize, per_leaf: usize, leaves_per_superpod: usize, cards: u32) -> Vec<Change> {
    let mut changes: Vec<Change> = classes().into_iter().map(Change::Class).collect();
    let cards: Vec<u32> = (0..cards).collect();
    for number in 0..count {
        let leaf = number / per_leaf;
        let node = node(
            &format!("node-{number}"),
            &format!("leaf-{leaf}"),
            &format!("pod-{}", leaf / leaves_per_superpod),
        );
        changes.push(Change::Pool(modules(&node, &cards)));
        changes.push(Change::Node(node));
    }
    changes
}

pub fn planner(changes: Vec<Change>) -> Planner {
    let mut planner = Planner::new(Config::default());
    changes.into_iter().for_each(|change| planner.update(change));
    planner
}

/// A claim that holds whole devices of a node.
pub fn allocated(number: u64, node: &str, devices: &[&str]) -> AllocatedClaim {
    let holding = |device: &&str| Holding {
        pool: PoolName::new(format!("{node}/ascend")).unwrap(),
        device: (*device).to_owned(),
        consumed: if device.starts_with("chip") {
            BTreeMap::from([("memory".to_owned(), 64 * GI), ("cores".to_owned(), 100)])
        } else {
            BTreeMap::new()
        },
        admin_access: false,
    };
    AllocatedClaim {
        uid: claim_uid(number),
        node: Some(node_name(node)),
        holdings: devices.iter().map(holding).collect(),
    }
}

pub fn at(seconds: u64) -> Moment {
    Moment(Duration::from_secs(seconds))
}

//! A small cluster as the API server has it: slices as the node plugin publishes them, and claims as the scheduler
//! allocates them.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each user takes what it needs")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "made for tests")]

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use serde_json::{Value, json};
use vnpu_driver::hardware::{Chip, Health, Inventory, MultiDiePolicy, Partition, Traits};
use vnpu_driver::id::{DeviceName, DeviceUuid, NodeName};
use vnpu_driver::order::PublishedOrder;
use vnpu_driver::planner::{NodeLabels, PlanInput, plan_pool};
use vnpu_driver::quantity::{Bytes, Percent};
use vnpu_driver::slices::TaintEffect;
use vnpu_kube_types::slice::{NodeOwner, resource_slices};

/// One node.
pub struct Hardware<'a> {
    pub node: &'a str,
    pub leaf: &'a str,
    pub superpod: &'a str,
    pub vendor: &'a str,
    pub model: &'a str,
    /// GiB of a chip.
    pub memory: u64,
    /// Modules of two chips, or chips where `dual` is false.
    pub cards: u32,
    pub dual: bool,
    /// Chips that the driver cannot share.
    pub whole_only: bool,
    /// Instances in place of a card's chip, as (card, profile, GiB, percent).
    pub parts: &'a [(u32, &'a str, u64, u32)],
    /// Devices with a taint.
    pub sick: &'a [&'a str],
    /// Dies that are not there, as (card, die).
    pub dead: &'a [(u32, u32)],
}

/// Eight modules of 910C.
pub const PLAIN: Hardware<'static> = Hardware {
    node: "",
    leaf: "",
    superpod: "",
    vendor: "ascend",
    model: "910C",
    memory: 64,
    cards: 8,
    dual: true,
    whole_only: false,
    parts: &[],
    sick: &[],
    dead: &[],
};

/// Eight GPUs.
pub const GPUS: Hardware<'static> =
    Hardware { vendor: "nvidia", model: "H100", memory: 80, dual: false, ..PLAIN };

pub fn slices(hardware: &Hardware<'_>) -> Vec<ResourceSlice> {
    let Hardware { node, leaf, superpod, vendor, model, memory, cards, dual, .. } = *hardware;
    let Hardware { whole_only, parts, sick, dead, .. } = *hardware;
    let chip = |card: u32, die: u32| Chip {
        card,
        die,
        uuid: DeviceUuid::new(format!("{node}-{card}-{die}")).unwrap(),
        module: dual.then_some(card),
        model: model.to_owned(),
        product_name: format!("the {model}"),
        memory: Bytes::gib(memory),
        phys_id: card * 2 + die,
        pci: None,
        numa_node: None,
        pcie_root: None,
        health: Health::Healthy,
        traits: Traits {
            whole_only: whole_only.then(|| "its driver cannot share".to_owned()),
            ..Traits::default()
        },
    };
    let part = |(instance, (card, profile, gib, percent)): (usize, &(u32, &str, u64, u32))| {
        let instance = u32::try_from(instance).unwrap() + 1;
        let partition = Partition {
            gpu_instance: instance,
            compute_instance: 0,
            profile: (*profile).to_owned(),
            cores: Percent(*percent),
        };
        Chip {
            uuid: DeviceUuid::new(format!("MIG-{node}-{card}-{instance}")).unwrap(),
            memory: Bytes::gib(*gib),
            traits: Traits { partition: Some(partition), ..Traits::default() },
            ..chip(*card, 0)
        }
    };
    let dies = if dual { 2 } else { 1 };
    let all = (0..cards).flat_map(|card| (0..dies).map(move |die| (card, die)));
    let is_whole = |card: u32| !parts.iter().any(|(parted, ..)| *parted == card);
    let whole = all.filter(|place| !dead.contains(place) && is_whole(place.0));
    let inventory = Inventory {
        vendor: vendor.parse().unwrap(),
        chips: whole.map(|(card, die)| chip(card, die)).chain(parts.iter().enumerate().map(part)).collect(),
        multi_die_policy: MultiDiePolicy::Independent,
        driver_version: "25.2.3".to_owned(),
        cuda_version: String::new(),
        superpod: None,
        problems: Vec::new(),
    };
    let sick: BTreeMap<DeviceName, TaintEffect> =
        sick.iter().map(|name| (name.parse().unwrap(), TaintEffect::NoSchedule)).collect();
    let plan = plan_pool(&PlanInput {
        node: &NodeName::new(node).unwrap(),
        inventory: &inventory,
        labels: &NodeLabels { leaf: leaf.to_owned(), superpod: superpod.to_owned() },
        in_use: &BTreeSet::new(),
        vanished: &[],
        sick: &sick,
        order: &PublishedOrder::new(),
    })
    .unwrap();
    let owner = NodeOwner { name: NodeName::new(node).unwrap(), uid: format!("uid-{node}") };
    resource_slices(&plan, &owner, 1)
}

/// A claim with its devices: (device, memory in GiB and percent of a share, or `None` for all of it).
pub fn claim(
    name: &str,
    pod: Option<&str>,
    pool: &str,
    devices: &[(&str, Option<(u64, u64)>)],
) -> ResourceClaim {
    let (namespace, name) = name.split_once('/').unwrap();
    let results: Vec<Value> = devices
        .iter()
        .map(|(device, share)| {
            let mut result = json!({"request": "npu", "driver": "vnpu.dev", "pool": pool, "device": device});
            // What only goes whole is counted by nothing.
            if device.starts_with("chip") && !pool.ends_with("acme") {
                let whole = if pool.ends_with("nvidia") { 80 } else { 64 };
                let (memory, cores) = share.unwrap_or((whole, 100));
                result["consumedCapacity"] =
                    json!({"memory": format!("{memory}Gi"), "cores": cores.to_string()});
                result["shareID"] = json!("00000000-0000-4000-8000-000000000001");
            }
            result
        })
        .collect();
    let reserved: Vec<Value> =
        pod.iter().map(|pod| json!({"resource": "pods", "name": pod, "uid": format!("uid-{pod}")})).collect();
    let number = name.bytes().fold(7_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    serde_json::from_value(json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
        "metadata": {"namespace": namespace, "name": name,
            "uid": format!("00000000-0000-4000-8000-{:012x}", number & 0xffff_ffff_ffff)},
        "spec": {"devices": {}},
        "status": {"allocation": {"devices": {"results": results}}, "reservedFor": reserved},
    }))
    .unwrap()
}

/// Five nodes of modules on two leaves, one of GPUs, and some claims.
pub fn bank() -> (Vec<ResourceSlice>, Vec<ResourceClaim>) {
    let on = |node: &'static str, leaf: &'static str| Hardware { node, leaf, superpod: "sp-1", ..PLAIN };
    let slices = [
        on("node-1", "leaf-1"),
        on("node-2", "leaf-1"),
        Hardware { sick: &["chip-6-1"], dead: &[(7, 0)], ..on("node-3", "leaf-2") },
        on("node-10", "leaf-2"),
        Hardware { node: "gpu-1", ..GPUS },
    ];
    let modules = |from: u32, to: u32| (from..to).map(|card| format!("module-{card}")).collect::<Vec<_>>();
    let whole = |name: &str, pod: &str, pool: &str, devices: &[String]| {
        let devices: Vec<_> = devices.iter().map(|device| (device.as_str(), None)).collect();
        claim(name, Some(pod), pool, &devices)
    };
    let claims = vec![
        whole("bank/train-0-npu", "train-0", "node-1/ascend", &modules(0, 4)),
        whole("bank/train-1-npu", "train-1", "node-2/ascend", &modules(0, 8)),
        claim("bank/infer-a", Some("infer-a-7d9f"), "node-1/ascend", &[("chip-4-0", Some((16, 25)))]),
        claim("bank/infer-b", Some("infer-b-5c1e"), "node-1/ascend", &[("chip-4-0", Some((8, 20)))]),
        claim("risk/score", Some("score-0"), "node-1/ascend", &[("chip-5-0", None)]),
        claim(
            "risk/idle",
            None,
            "node-1/ascend",
            &[("chip-6-0", Some((32, 10))), ("chip-6-1", Some((32, 10)))],
        ),
        claim("risk/old", Some("old-0"), "node-3/ascend", &[("module-7", None)]),
        claim("risk/sick", Some("sick-0"), "node-3/ascend", &[("chip-6-1", None)]),
        claim("web/vision", Some("vision-0"), "gpu-1/nvidia", &[("chip-0-0", None)]),
        claim("web/chat", Some("chat-0"), "gpu-1/nvidia", &[("chip-1-0", Some((70, 5)))]),
    ];
    (slices.iter().flat_map(slices_of).collect(), claims)
}

/// [`bank`], and three nodes more: of single-die NPUs, of GPUs in parts, and of a vendor that a file describes.
pub fn mixed() -> (Vec<ResourceSlice>, Vec<ResourceClaim>) {
    let (mut slices, mut claims) = bank();
    let boxes = Hardware { vendor: "acme", model: "Roadrunner", memory: 32, whole_only: true, ..GPUS };
    let parts = [(1, "1g.10gb", 10, 14), (1, "1g.10gb", 10, 14), (1, "3g.40gb", 40, 42)];
    let nodes = [
        Hardware { node: "npu-1", model: "910B", dual: false, ..PLAIN },
        Hardware { node: "gpu-2", cards: 2, parts: &parts, ..GPUS },
        Hardware { node: "box-1", cards: 4, ..boxes },
    ];
    slices.extend(nodes.iter().flat_map(slices_of));
    claims.extend([
        claim("web/rank", Some("rank-0"), "npu-1/ascend", &[("chip-0-0", None), ("chip-1-0", None)]),
        claim("web/embed", Some("embed-0"), "npu-1/ascend", &[("chip-2-0", Some((24, 50)))]),
        claim("web/tiny", Some("tiny-0"), "gpu-2/nvidia", &[("partition-1-1-0", None)]),
        claim("risk/odd", Some("odd-0"), "box-1/acme", &[("chip-3-0", None)]),
    ]);
    (slices, claims)
}

fn slices_of(hardware: &Hardware<'_>) -> Vec<ResourceSlice> {
    let mut slices = slices(hardware);
    for (number, slice) in slices.iter_mut().enumerate() {
        slice.metadata.name = Some(format!("{}-{number}", slice.metadata.generate_name.take().unwrap()));
    }
    slices
}

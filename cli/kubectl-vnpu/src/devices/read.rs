//! From ResourceSlices and ResourceClaims to the model. What is not of this driver is passed over.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::resource::v1 as api;
use vnpu_driver::DRIVER_NAME;
use vnpu_driver::claim::{AllocationResult, Claim};
use vnpu_driver::quantity::Quantity;
use vnpu_kube_types::claim::read_claim;
use vnpu_kube_types::taint_rule::TaintRule;

use super::model::{Chip, Module, Node, Pool, Share, Taint, Unpublished};
use super::tolerance::{Tolerance, tolerance};

/// The attribute `type` of a part of a chip.
const PARTITION: &str = "partition";

/// A claim that holds devices of this driver.
#[derive(Debug, Clone)]
pub(crate) struct Holder {
    claim: String,
    pods: Vec<String>,
    results: Vec<(AllocationResult, Tolerance)>,
}

/// What a claim holds; `None` when it is nothing of this driver.
pub(crate) fn holder(object: &api::ResourceClaim) -> Option<Holder> {
    let Claim { namespace, name, results, reserved_for, .. } = read_claim(object).ok()?;
    // Who looks with administrative access takes nothing.
    let results = results.into_iter().filter(|result| !result.admin_access);
    let results: Vec<_> = results
        .map(|result| {
            let tolerance = tolerated(object, &result);
            (result, tolerance)
        })
        .collect();
    let pods = reserved_for.into_iter().filter(|consumer| consumer.is_pod()).map(|pod| pod.name);
    (!results.is_empty()).then(|| Holder {
        claim: format!("{namespace}/{name}"),
        pods: pods.collect(),
        results,
    })
}

/// What the claim says of eviction from a device.
fn tolerated(object: &api::ResourceClaim, result: &AllocationResult) -> Tolerance {
    let allocation = object.status.as_ref().and_then(|status| status.allocation.as_ref());
    let results = allocation.and_then(|a| a.devices.as_ref()?.results.as_ref());
    let tolerations = results.and_then(|results| results.get(result.index)?.tolerations.as_deref());
    tolerance(tolerations.unwrap_or_default())
}

/// A claim and what it holds of a device.
type Part<'a> = (&'a Holder, &'a AllocationResult, Tolerance);

/// Who holds a device, by pool and device.
type Held<'a> = BTreeMap<(&'a str, &'a str), Vec<Part<'a>>>;

/// All nodes: super-pod by super-pod, leaf by leaf.
pub(crate) fn nodes(slices: &[api::ResourceSlice], holders: &[Holder], rules: &[TaintRule]) -> Vec<Node> {
    let mut held = Held::new();
    for holder in holders {
        for (result, tolerance) in &holder.results {
            held.entry((&result.pool, &result.device)).or_default().push((holder, result, *tolerance));
        }
    }
    let mut pools: BTreeMap<(&str, &str), Vec<&api::ResourceSlice>> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.spec.driver == DRIVER_NAME) {
        let Some(node) = slice.spec.node_name.as_deref() else { continue };
        pools.entry((node, &slice.spec.pool.name)).or_default().push(slice);
    }
    let mut nodes: Vec<Node> = Vec::new();
    for ((node, name), slices) in pools {
        let (pool, place) = pool(name, &slices, &held, rules);
        if nodes.last().is_none_or(|last| last.name != node) {
            let node = node.to_owned();
            nodes.push(Node { name: node, leaf: String::new(), superpod: String::new(), pools: Vec::new() });
        }
        let Some(last) = nodes.last_mut() else { continue };
        if last.leaf.is_empty() {
            last.leaf = place.0;
        }
        if last.superpod.is_empty() {
            last.superpod = place.1;
        }
        last.pools.push(pool);
    }
    nodes.sort_by_cached_key(|node| (natural(&node.superpod), natural(&node.leaf), natural(&node.name)));
    nodes
}

/// A pool, with leaf and super-pod as its devices say.
fn pool(
    name: &str,
    slices: &[&api::ResourceSlice],
    held: &Held<'_>,
    rules: &[TaintRule],
) -> (Pool, (String, String)) {
    // Only the newest generation counts, and the pool is whole when all its slices are there.
    let newest = slices.iter().map(|s| s.spec.pool.generation).max().unwrap_or_default();
    let current: Vec<_> = slices.iter().filter(|s| s.spec.pool.generation == newest).collect();
    let count = current.first().map(|s| s.spec.pool.resource_slice_count).unwrap_or_default();
    let devices: Vec<&api::Device> = current.iter().flat_map(|s| s.spec.devices.iter().flatten()).collect();
    let first = devices.first();
    let rules: Vec<&TaintRule> = rules.iter().filter(|rule| rule.is_about_pool(name)).collect();
    let models: BTreeSet<String> = devices.iter().map(|d| text(d, "model")).collect();
    let word = |attribute: &str| first.map(|d| text(d, attribute)).unwrap_or_default();
    let published: BTreeSet<&str> = devices.iter().map(|d| d.name.as_str()).collect();
    let unpublished = held.range((name, "")..).take_while(|((pool, _), _)| *pool == name);
    let unpublished = unpublished.filter(|((_, device), _)| !published.contains(device));
    let unpublished = unpublished.flat_map(|((_, device), holders)| {
        holders
            .iter()
            .map(|(holder, ..)| Unpublished { device: (*device).to_owned(), claim: holder.claim.clone() })
    });
    let pool = Pool {
        name: name.to_owned(),
        vendor: word("vendor"),
        model: models.into_iter().filter(|model| !model.is_empty()).collect::<Vec<_>>().join(","),
        driver_version: word("driverVersion"),
        incomplete: usize::try_from(count).ok() != Some(current.len()),
        modules: modules(name, &devices, held, &rules),
        unpublished: unpublished.collect(),
    };
    (pool, (word("leaf"), word("superpod")))
}

fn modules(pool: &str, devices: &[&api::Device], held: &Held<'_>, rules: &[&TaintRule]) -> Vec<Module> {
    let mut modules: BTreeMap<i64, Module> = BTreeMap::new();
    let mut alone: Vec<Module> = Vec::new();
    let mut whole: Vec<(i64, &api::Device)> = Vec::new();
    for device in devices {
        let taints = || taints(pool, device, rules);
        let shares = shares(held.get(&(pool, device.name.as_str())), device);
        match number(device, "module").filter(|card| *card >= 0) {
            Some(card) if text(device, "type") == "module" => whole.push((card, device)),
            Some(card) => {
                let module = modules.entry(card).or_insert_with(|| empty(Some(card)));
                module.chips.push(chip(device, shares, taints()));
            }
            None => alone.push(Module { chips: vec![chip(device, shares, taints())], ..empty(None) }),
        }
    }
    for module in modules.values_mut() {
        module.chips.sort_by_cached_key(|chip| natural(&chip.device));
        fill(module, devices);
    }
    for (card, device) in whole {
        let taints = taints(pool, device, rules);
        let module = modules
            .entry(card)
            .or_insert_with(|| Module { chips: halves(device, &taints), ..empty(Some(card)) });
        module.device.clone_from(&device.name);
        module.taints = taints;
        for share in shares(held.get(&(pool, device.name.as_str())), device) {
            for chip in module.chips.iter_mut().filter(|chip| !chip.device.is_empty()) {
                let (memory, cores) = (chip.memory, chip.cores);
                chip.held.push(Share { memory, cores, ..share.clone() });
            }
        }
    }
    alone.sort_by_cached_key(|module| module.chips.first().map(|chip| natural(&chip.device)));
    modules.into_values().chain(alone).collect()
}

fn empty(module: Option<i64>) -> Module {
    Module { module, device: String::new(), taints: Vec::new(), chips: Vec::new() }
}

/// Places for dies that are not published, so that each stands where it belongs.
fn fill(module: &mut Module, devices: &[&api::Device]) {
    let dies = module.chips.iter().filter_map(|chip| {
        let device = devices.iter().find(|device| device.name == chip.device)?;
        usize::try_from(number(device, "dies")?).ok()
    });
    // More dies than any module has are a mistake of whoever published them.
    let dies = dies.max().unwrap_or(1).min(8);
    for die in 0..dies {
        let is_here = module.chips.get(die).is_some_and(|chip| chip.device.ends_with(&format!("-{die}")));
        if !is_here && module.chips.len() < dies {
            let model = module.chips.first().map(|chip| chip.model.clone()).unwrap_or_default();
            module.chips.insert(die.min(module.chips.len()), absent(model));
        }
    }
}

fn absent(model: String) -> Chip {
    Chip {
        device: String::new(),
        uuid: String::new(),
        model,
        partition: None,
        shareable: false,
        memory: 0,
        cores: 0,
        taints: Vec::new(),
        held: Vec::new(),
    }
}

/// The chips of a module that is published only as a whole.
fn halves(device: &api::Device, taints: &[Taint]) -> Vec<Chip> {
    let module = chip(device, Vec::new(), taints.to_vec());
    let count = number(device, "chips").unwrap_or(2).clamp(1, 8).unsigned_abs();
    let half = |_| Chip { memory: module.memory / count, cores: 100, ..module.clone() };
    (0..count).map(half).collect()
}

/// Taints that keep claims away: of the slice, and of rules.
fn taints(pool: &str, device: &api::Device, rules: &[&TaintRule]) -> Vec<Taint> {
    let own = device.taints.iter().flatten().filter(|taint| taint.effect != "None").map(|taint| Taint {
        key: taint.key.clone(),
        value: taint.value.clone().unwrap_or_default(),
        effect: taint.effect.clone(),
    });
    let rules = rules.iter().filter(|rule| rule.is_about(pool, &device.name)).map(|rule| Taint {
        key: rule.key.clone(),
        value: rule.value.clone(),
        effect: rule.effect.as_str().to_owned(),
    });
    own.chain(rules).collect()
}

fn chip(device: &api::Device, held: Vec<Share>, taints: Vec<Taint>) -> Chip {
    let profile = || Some(text(device, "profile")).filter(|profile| !profile.is_empty());
    let is_part = text(device, "type") == PARTITION;
    Chip {
        device: device.name.clone(),
        uuid: text(device, "uuid"),
        model: text(device, "model"),
        partition: is_part.then(|| profile().unwrap_or_else(|| PARTITION.to_owned())),
        shareable: device.allow_multiple_allocations == Some(true),
        memory: capacity(device, "memory").unwrap_or_default(),
        cores: capacity(device, "cores").unwrap_or(100),
        taints,
        held,
    }
}

fn shares(holders: Option<&Vec<Part<'_>>>, device: &api::Device) -> Vec<Share> {
    let whole = (capacity(device, "memory").unwrap_or_default(), capacity(device, "cores").unwrap_or(100));
    let share = |(holder, result, tolerance): &Part<'_>| {
        let consumed = |name: &str, otherwise: u64| {
            let text = result.consumed_capacity.get(name);
            text.map_or(otherwise, |text| text.parse::<Quantity>().map(Quantity::ceil).unwrap_or(otherwise))
        };
        let (memory, cores) = (consumed("memory", whole.0), consumed("cores", whole.1));
        Share {
            claim: holder.claim.clone(),
            pods: holder.pods.clone(),
            whole: memory >= whole.0 && cores >= whole.1,
            memory,
            cores,
            tolerance: *tolerance,
        }
    };
    holders.into_iter().flatten().map(share).collect()
}

/// An attribute or capacity of this driver may be written with its domain or without.
fn named<'a, T>(map: Option<&'a BTreeMap<String, T>>, name: &str) -> Option<&'a T> {
    let map = map?;
    map.get(name).or_else(|| map.get(&format!("{DRIVER_NAME}/{name}")))
}

fn text(device: &api::Device, name: &str) -> String {
    let attribute = named(device.attributes.as_ref(), name);
    attribute.and_then(|a| a.string.clone().or_else(|| a.version.clone())).unwrap_or_default()
}

fn number(device: &api::Device, name: &str) -> Option<i64> {
    named(device.attributes.as_ref(), name)?.int
}

fn capacity(device: &api::Device, name: &str) -> Option<u64> {
    named(device.capacity.as_ref(), name)?.value.0.parse::<Quantity>().ok().map(Quantity::ceil)
}

/// An order in which `node-2` comes before `node-10`: numbers by their length, then by their digits.
fn natural(text: &str) -> Vec<(bool, usize, String)> {
    let mut parts: Vec<(bool, usize, String)> = Vec::new();
    for c in text.chars() {
        let digit = c.is_ascii_digit();
        match parts.last_mut().filter(|(number, ..)| *number == digit) {
            Some((_, _, part)) => part.push(c),
            None => parts.push((digit, 0, c.to_string())),
        }
    }
    for (number, length, part) in &mut parts {
        if *number {
            *part = part.trim_start_matches('0').to_owned();
            *length = part.len();
        }
    }
    parts
}

//! ResourceSlices, put together to pools: a pool is known when all slices of its newest generation are there. What
//! DeviceTaintRules say of its devices is added to what the slices say.

use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1 as api;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use vnpu_driver::DRIVER_NAME;
use vnpu_driver::id::{NodeName, PoolName};
use vnpu_driver::quantity::Quantity;
use vnpu_kube_types::taint_rule::TaintRule;
use vnpu_placement::node::{Attribute, Capacity, Device, NodeTaint, Pool};

/// What one slice holds.
#[derive(Debug, Clone)]
pub struct Slice {
    /// Its name.
    pub name: String,
    /// Its pool.
    pub pool: PoolName,
    /// Its node.
    pub node: NodeName,
    generation: i64,
    count: i64,
    counters: Vec<(String, String, u64)>,
    devices: Vec<Device>,
}

/// Reads a slice of this driver on one node; `None` for any other.
pub fn read(object: &api::ResourceSlice) -> Option<Slice> {
    let spec = &object.spec;
    if spec.driver != DRIVER_NAME {
        return None;
    }
    let sets = spec.shared_counters.iter().flatten();
    let counters = sets.flat_map(|set| {
        set.counters.iter().map(|(name, counter)| (set.name.clone(), name.clone(), whole(&counter.value)))
    });
    Some(Slice {
        name: object.metadata.name.clone()?,
        pool: PoolName::new(spec.pool.name.clone()).ok()?,
        node: NodeName::new(spec.node_name.clone()?).ok()?,
        generation: spec.pool.generation,
        count: spec.pool.resource_slice_count,
        counters: counters.collect(),
        devices: spec.devices.iter().flatten().map(device).collect(),
    })
}

fn whole(quantity: &ApiQuantity) -> u64 {
    quantity.0.parse::<Quantity>().map(Quantity::ceil).unwrap_or_default()
}

fn device(device: &api::Device) -> Device {
    let attributes = device.attributes.iter().flatten();
    let capacities = device.capacity.iter().flatten();
    let used = device.consumes_counters.iter().flatten();
    Device {
        name: device.name.clone(),
        attributes: attributes.filter_map(|(k, v)| Some((qualified(k), attribute(v)?))).collect(),
        capacity: capacities.map(|(name, value)| (name.clone(), capacity(value))).collect(),
        shareable: device.allow_multiple_allocations == Some(true),
        counters: used
            .flat_map(|set| {
                set.counters.iter().map(|(c, v)| (set.counter_set.clone(), c.clone(), whole(&v.value)))
            })
            .collect(),
        taints: device
            .taints
            .iter()
            .flatten()
            .filter(|t| t.effect != "None")
            .map(|t| NodeTaint {
                key: t.key.clone(),
                value: t.value.clone().unwrap_or_default(),
                effect: t.effect.clone(),
            })
            .collect(),
    }
}

/// A name without a domain belongs to the driver's (`resource/v1` `QualifiedName`).
pub fn qualified(name: &str) -> String {
    if name.contains('/') { name.to_owned() } else { format!("{DRIVER_NAME}/{name}") }
}

fn attribute(value: &api::DeviceAttribute) -> Option<Attribute> {
    let text = value.string.clone().map(Attribute::String);
    text.or_else(|| value.int.map(Attribute::Int))
        .or_else(|| value.bool.map(Attribute::Bool))
        .or_else(|| value.version.clone().map(Attribute::Version))
}

fn capacity(capacity: &api::DeviceCapacity) -> Capacity {
    let value = whole(&capacity.value);
    let policy = capacity.request_policy.as_ref();
    let range = policy.and_then(|p| p.valid_range.as_ref()).map(|range| {
        let step = range.step.as_ref().map_or(1, whole);
        (whole(&range.min), step, range.max.as_ref().map_or(value, whole))
    });
    let only = policy.and_then(|p| p.valid_values.as_ref()).and_then(|v| v.last()).map(whole);
    Capacity {
        value,
        default: policy.and_then(|p| p.default.as_ref()).map(whole),
        range: range.or_else(|| only.map(|only| (only, 1, only))),
    }
}

/// A slice as it is kept for the day when another one of its pool changes: its devices as bytes, a tenth of what they are
/// in memory.
#[derive(Debug)]
struct Packed {
    node: NodeName,
    generation: i64,
    count: i64,
    counters: Box<[(String, String, u64)]>,
    devices: Box<[u8]>,
}

impl Packed {
    fn of(slice: Slice) -> Self {
        Self {
            node: slice.node,
            generation: slice.generation,
            count: slice.count,
            counters: slice.counters.into(),
            // Maps with text as keys and numbers: nothing of it cannot be written.
            devices: serde_json::to_vec(&slice.devices).unwrap_or_default().into(),
        }
    }

    fn devices(&self) -> Vec<Device> {
        serde_json::from_slice(&self.devices).unwrap_or_default()
    }
}

/// All slices, and the pools that they make.
#[derive(Debug, Default)]
pub struct Slices {
    pools: BTreeMap<PoolName, BTreeMap<String, Packed>>,
    /// The pool of a slice, by name.
    homes: BTreeMap<String, PoolName>,
    /// Rules that taint devices, by name.
    rules: BTreeMap<String, TaintRule>,
}

/// What became of a pool.
#[derive(Debug, Clone)]
pub enum PoolChange {
    /// It is complete, and this is it.
    Known(Pool),
    /// Some of it is missing (it is being rewritten): what was known of it stays.
    Incomplete,
    /// It has no slice any more.
    Gone(PoolName),
}

impl Slices {
    /// Takes a new or changed slice.
    pub fn put(&mut self, slice: Slice) -> PoolChange {
        let pool = slice.pool.clone();
        self.homes.insert(slice.name.clone(), pool.clone());
        self.pools.entry(pool.clone()).or_default().insert(slice.name.clone(), Packed::of(slice));
        self.change(pool)
    }

    /// Forgets a slice; `None` when it was not known.
    pub fn remove(&mut self, name: &str) -> Option<PoolChange> {
        let pool = self.homes.remove(name)?;
        if let Some(slices) = self.pools.get_mut(&pool) {
            slices.remove(name);
        }
        Some(self.change(pool))
    }

    /// Takes a new or changed rule: what becomes of the pools that it was or is about.
    pub fn put_rule(&mut self, rule: TaintRule) -> Vec<PoolChange> {
        let before = self.rules.insert(rule.name.clone(), rule.clone());
        // Its status changes often while pods are evicted.
        if before.as_ref() == Some(&rule) {
            return Vec::new();
        }
        self.change_all(before.iter().chain([&rule]))
    }

    /// Forgets a rule.
    pub fn remove_rule(&mut self, name: &str) -> Vec<PoolChange> {
        let gone = self.rules.remove(name);
        self.change_all(&gone)
    }

    fn change_all<'a>(&mut self, rules: impl IntoIterator<Item = &'a TaintRule> + Clone) -> Vec<PoolChange> {
        let about =
            |pool: &&PoolName| rules.clone().into_iter().any(|rule| rule.is_about_pool(pool.as_str()));
        let pools: Vec<PoolName> = self.pools.keys().filter(about).cloned().collect();
        pools.into_iter().map(|pool| self.change(pool)).collect()
    }

    /// Only the newest generation counts, and only whole (`dra` `pools_incubating.go`).
    fn change(&mut self, name: PoolName) -> PoolChange {
        let slices = self.pools.get(&name).filter(|slices| !slices.is_empty());
        let Some(slices) = slices else {
            self.pools.remove(&name);
            return PoolChange::Gone(name);
        };
        let newest = slices.values().map(|s| s.generation).max().unwrap_or_default();
        let current: Vec<&Packed> = slices.values().filter(|s| s.generation == newest).collect();
        let Some(first) = current.first() else { return PoolChange::Incomplete };
        if usize::try_from(first.count).ok() != Some(current.len()) {
            return PoolChange::Incomplete;
        }
        PoolChange::Known(Pool {
            node: first.node.clone(),
            counters: current.iter().flat_map(|s| s.counters.iter().cloned()).collect(),
            // Slices by name, devices by position: the scheduler's order.
            devices: taint(current.iter().flat_map(|s| s.devices()).collect(), &name, &self.rules),
            name,
        })
    }
}

/// Adds what rules say to what the slices say (`resourceslice/tracker` `applyPatches`).
fn taint(mut devices: Vec<Device>, pool: &PoolName, rules: &BTreeMap<String, TaintRule>) -> Vec<Device> {
    let rules: Vec<&TaintRule> = rules.values().filter(|rule| rule.is_about_pool(pool.as_str())).collect();
    for device in &mut devices {
        let about = rules.iter().filter(|rule| rule.is_about(pool.as_str(), &device.name));
        let taints: Vec<NodeTaint> = about
            .map(|rule| NodeTaint {
                key: rule.key.clone(),
                value: rule.value.clone(),
                effect: rule.effect.as_str().to_owned(),
            })
            .collect();
        device.taints.extend(taints);
    }
    devices
}

#[cfg(test)]
mod tests;

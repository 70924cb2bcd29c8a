//! Comparing what we want published with what the API server has: by meaning, not by spelling. And telling
//! what the server dropped of a write because one of its feature gates is off.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use k8s_openapi::api::resource::v1 as api;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use vnpu_driver::degrade::Lacking;

/// Whether two slices publish the same: everything of the spec but the pool's generation and slice count.
/// Quantities are compared by value, times of taints not at all, absent and empty are the same.
pub fn same_content(a: &api::ResourceSlice, b: &api::ResourceSlice) -> bool {
    normal(&a.spec) == normal(&b.spec)
}

/// What the server dropped of a write, from the object sent and the object returned.
pub fn dropped_fields(sent: &api::ResourceSlice, returned: &api::ResourceSlice) -> BTreeSet<Lacking> {
    let mut dropped = BTreeSet::new();
    if sent.spec.shared_counters.is_some() && returned.spec.shared_counters.is_none() {
        dropped.insert(Lacking::Counters);
    }
    let returned: BTreeMap<&str, &api::Device> =
        returned.spec.devices.iter().flatten().map(|d| (d.name.as_str(), d)).collect();
    for device in sent.spec.devices.iter().flatten() {
        let Some(back) = returned.get(device.name.as_str()) else { continue };
        if device.consumes_counters.is_some() && back.consumes_counters.is_none() {
            dropped.insert(Lacking::Counters);
        }
        if device.taints.is_some() && back.taints.is_none() {
            dropped.insert(Lacking::Taints);
        }
        let shared = device.allow_multiple_allocations == Some(true);
        if shared && (back.allow_multiple_allocations != Some(true) || lost_policy(device, back)) {
            dropped.insert(Lacking::Sharing);
        }
    }
    dropped
}

fn lost_policy(sent: &api::Device, returned: &api::Device) -> bool {
    sent.capacity.iter().flatten().any(|(name, capacity)| {
        let back = returned.capacity.as_ref().and_then(|c| c.get(name));
        capacity.request_policy.is_some() && back.is_some_and(|b| b.request_policy.is_none())
    })
}

fn normal(spec: &api::ResourceSliceSpec) -> api::ResourceSliceSpec {
    let mut spec = spec.clone();
    spec.pool.generation = 0;
    spec.pool.resource_slice_count = 0;
    spec.all_nodes = truth(spec.all_nodes);
    spec.per_device_node_selection = truth(spec.per_device_node_selection);
    spec.skip_node_operations = list(spec.skip_node_operations);
    spec.devices = list(spec.devices);
    spec.shared_counters = list(spec.shared_counters);
    spec.devices.iter_mut().flatten().for_each(normal_device);
    for set in spec.shared_counters.iter_mut().flatten() {
        normal_counters(&mut set.counters);
    }
    spec
}

fn normal_device(device: &mut api::Device) {
    device.all_nodes = truth(device.all_nodes);
    device.allow_multiple_allocations = truth(device.allow_multiple_allocations);
    device.binds_to_node = truth(device.binds_to_node);
    device.binding_conditions = list(device.binding_conditions.take());
    device.binding_failure_conditions = list(device.binding_failure_conditions.take());
    device.consumes_counters = list(device.consumes_counters.take());
    device.taints = list(device.taints.take());
    device.attributes = map(device.attributes.take());
    device.capacity = map(device.capacity.take());
    for capacity in device.capacity.iter_mut().flatten().map(|(_, c)| c) {
        normal_quantity(&mut capacity.value);
        if let Some(policy) = &mut capacity.request_policy {
            normal_policy(policy);
        }
    }
    for used in device.consumes_counters.iter_mut().flatten() {
        used.compatibility_groups = list(used.compatibility_groups.take());
        normal_counters(&mut used.counters);
    }
    for taint in device.taints.iter_mut().flatten() {
        taint.time_added = None;
        taint.value = taint.value.take().filter(|v| !v.is_empty());
    }
}

fn normal_policy(policy: &mut api::CapacityRequestPolicy) {
    policy.valid_values = list(policy.valid_values.take());
    policy.default.iter_mut().for_each(normal_quantity);
    policy.valid_values.iter_mut().flatten().for_each(normal_quantity);
    if let Some(range) = &mut policy.valid_range {
        normal_quantity(&mut range.min);
        range.max.iter_mut().for_each(normal_quantity);
        range.step.iter_mut().for_each(normal_quantity);
    }
}

fn normal_counters(counters: &mut BTreeMap<String, api::Counter>) {
    counters.values_mut().for_each(|c| normal_quantity(&mut c.value));
}

/// One spelling per value; what cannot be read stays and so differs from everything that can.
fn normal_quantity(quantity: &mut Quantity) {
    if let Ok(value) = vnpu_driver::quantity::Quantity::from_str(&quantity.0) {
        quantity.0 = value.to_string();
    }
}

fn truth(value: Option<bool>) -> Option<bool> {
    value.filter(|v| *v)
}

fn list<T>(value: Option<Vec<T>>) -> Option<Vec<T>> {
    value.filter(|v| !v.is_empty())
}

fn map<K, V>(value: Option<BTreeMap<K, V>>) -> Option<BTreeMap<K, V>> {
    value.filter(|v| !v.is_empty())
}

#[cfg(test)]
mod tests;

//! From a slice plan to the ResourceSlice object that the API server gets.

use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1 as api;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use vnpu_driver::DRIVER_NAME;
use vnpu_driver::id::NodeName;
use vnpu_driver::slices::{
    AttributeValue, Capacity, CounterSetPlan, CounterUse, DevicePlan, PoolPlan, RequestPolicy, SliceContent,
    SliceKey, SlicePlan, Taint,
};

/// The Node object that owns the slices: they go when it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeOwner {
    /// Its name.
    pub name: NodeName,
    /// Its UID.
    pub uid: String,
}

impl NodeOwner {
    /// The owner reference of a slice.
    pub fn reference(&self) -> OwnerReference {
        OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: self.name.to_string(),
            uid: self.uid.clone(),
            controller: Some(true),
            block_owner_deletion: None,
        }
    }
}

/// The object for one slice of `plan`, to be created: without a name of its own, only `generateName`.
pub fn resource_slice(
    plan: &PoolPlan,
    slice: &SlicePlan,
    owner: &NodeOwner,
    generation: i64,
) -> api::ResourceSlice {
    let (devices, shared_counters) = match &slice.content {
        SliceContent::Devices(devices) => (some(devices.iter().map(device).collect()), None),
        SliceContent::Counters(sets) => (None, some(sets.iter().map(counter_set).collect())),
    };
    api::ResourceSlice {
        metadata: ObjectMeta {
            generate_name: Some(slice.key.generate_name(&plan.node)),
            owner_references: Some(vec![owner.reference()]),
            ..ObjectMeta::default()
        },
        spec: api::ResourceSliceSpec {
            driver: DRIVER_NAME.to_owned(),
            node_name: Some(plan.node.to_string()),
            pool: api::ResourcePool {
                name: plan.pool.to_string(),
                generation,
                resource_slice_count: i64::try_from(plan.slices.len()).unwrap_or(i64::MAX),
            },
            devices,
            shared_counters,
            ..api::ResourceSliceSpec::default()
        },
    }
}

/// All objects of a pool.
pub fn resource_slices(plan: &PoolPlan, owner: &NodeOwner, generation: i64) -> Vec<api::ResourceSlice> {
    plan.slices.iter().map(|slice| resource_slice(plan, slice, owner, generation)).collect()
}

/// The key of an existing slice, from its name; `None` when the name is not one of ours.
pub fn key_of(slice: &api::ResourceSlice) -> Option<SliceKey> {
    SliceKey::from_slice_name(slice.metadata.name.as_deref()?)
}

/// Lists and maps that are empty are left out, as the API server leaves them out.
fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

fn counters(names: &[String]) -> BTreeMap<String, api::Counter> {
    names.iter().map(|name| (name.clone(), api::Counter { value: Quantity("1".to_owned()) })).collect()
}

fn counter_set(set: &CounterSetPlan) -> api::CounterSet {
    api::CounterSet { name: set.name.clone(), counters: counters(&set.counters) }
}

fn counter_use(used: &CounterUse) -> api::DeviceCounterConsumption {
    api::DeviceCounterConsumption {
        counter_set: used.set.clone(),
        counters: counters(&used.counters),
        ..api::DeviceCounterConsumption::default()
    }
}

fn device(plan: &DevicePlan) -> api::Device {
    api::Device {
        name: plan.name.to_string(),
        attributes: Some(plan.attributes.iter().map(|(k, v)| (k.clone(), attribute(v))).collect()),
        capacity: Some(plan.capacity.iter().map(|(k, v)| (k.clone(), capacity(v))).collect()),
        allow_multiple_allocations: plan.allow_multiple_allocations.then_some(true),
        consumes_counters: some(plan.consumes_counters.iter().map(counter_use).collect()),
        taints: some(plan.taints.iter().map(taint).collect()),
        ..api::Device::default()
    }
}

fn attribute(value: &AttributeValue) -> api::DeviceAttribute {
    let mut attribute = api::DeviceAttribute::default();
    match value {
        AttributeValue::Str(text) => attribute.string = Some(text.clone()),
        AttributeValue::Int(number) => attribute.int = Some(*number),
        AttributeValue::Bool(truth) => attribute.bool = Some(*truth),
        AttributeValue::Version(version) => attribute.version = Some(version.clone()),
    }
    attribute
}

fn capacity(capacity: &Capacity) -> api::DeviceCapacity {
    api::DeviceCapacity {
        value: Quantity(capacity.value.to_string()),
        request_policy: capacity.policy.as_ref().map(request_policy),
    }
}

fn request_policy(policy: &RequestPolicy) -> api::CapacityRequestPolicy {
    match policy {
        RequestPolicy::Range { default, min, max, step } => api::CapacityRequestPolicy {
            default: Some(Quantity(default.to_string())),
            valid_range: Some(api::CapacityRequestPolicyRange {
                min: Quantity(min.to_string()),
                max: Some(Quantity(max.to_string())),
                step: Some(Quantity(step.to_string())),
            }),
            valid_values: None,
        },
        RequestPolicy::Only(value) => api::CapacityRequestPolicy {
            default: Some(Quantity(value.to_string())),
            valid_range: None,
            valid_values: Some(vec![Quantity(value.to_string())]),
        },
    }
}

fn taint(taint: &Taint) -> api::DeviceTaint {
    api::DeviceTaint {
        key: taint.key.clone(),
        value: Some(taint.value.clone()),
        effect: taint.effect.as_str().to_owned(),
        time_added: None,
    }
}

#[cfg(test)]
mod tests;

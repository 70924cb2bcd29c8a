//! What the planner is told of nodes, of their devices, and of what uses them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use vnpu_driver::id::{ClaimUid, NodeName, PoolName};

use crate::resources::Resources;

/// A taint of a node that keeps pods away (`NoSchedule` or `NoExecute`; `PreferNoSchedule` is not told).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeTaint {
    /// Key.
    pub key: String,
    /// Value; may be empty.
    pub value: String,
    /// `NoSchedule` or `NoExecute`.
    pub effect: String,
}

/// A Node object, as far as placement looks at it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// Its labels; `vnpu.dev/leaf` and `vnpu.dev/superpod` are read from here. A node without a leaf is a leaf of its
    /// own; one without a super-pod belongs to a super-pod of all that have none.
    pub labels: BTreeMap<String, String>,
    /// Its taints.
    pub taints: Vec<NodeTaint>,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
    /// `status.allocatable`.
    pub allocatable: Resources,
}

/// The value of a device attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Attribute {
    /// Text.
    String(String),
    /// Whole number.
    Int(i64),
    /// Truth value.
    Bool(bool),
    /// Semantic version.
    Version(String),
}

/// One capacity of a device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Capacity {
    /// All of it.
    pub value: u64,
    /// What a request that does not name it gets; `None` means all.
    pub default: Option<u64>,
    /// The least that is given, the step above it, and the most, where requests have a range.
    pub range: Option<(u64, u64, u64)>,
}

/// A device of a ResourceSlice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Device {
    /// Its name in the slice, such as `chip-3-1`.
    pub name: String,
    /// Attributes by qualified name (`vnpu.dev/module`).
    pub attributes: BTreeMap<String, Attribute>,
    /// Capacities by name as published (`memory` in bytes, `cores` in percent).
    pub capacity: BTreeMap<String, Capacity>,
    /// `allowMultipleAllocations`.
    pub shareable: bool,
    /// Counters that it consumes, as (set, counter, amount).
    pub counters: Vec<(String, String, u64)>,
    /// Taints that keep claims away, unless tolerated.
    pub taints: Vec<NodeTaint>,
}

/// One pool of devices on one node, complete: all slices of its newest generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// The pool.
    pub name: PoolName,
    /// Its node.
    pub node: NodeName,
    /// What the counters hold, as (set, counter, amount).
    pub counters: Vec<(String, String, u64)>,
    /// The devices in the order in which the scheduler tries them.
    pub devices: Vec<Device>,
}

/// One device that an allocated claim holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Holding {
    /// The pool.
    pub pool: PoolName,
    /// The device's name.
    pub device: String,
    /// What was counted against a shareable device, by capacity; empty for an exclusive one.
    pub consumed: BTreeMap<String, u64>,
    /// Administrative access, which uses nothing up.
    pub admin_access: bool,
}

/// An allocated claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllocatedClaim {
    /// Whose.
    pub uid: ClaimUid,
    /// The one node that the allocation is for; `None` when it is for others than one.
    pub node: Option<NodeName>,
    /// Its devices, of this driver.
    pub holdings: Vec<Holding>,
}

/// A pod that is bound to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundPod {
    /// `metadata.uid`.
    pub uid: String,
    /// Its node.
    pub node: NodeName,
    /// What it takes there: requests, overhead included, and one of `pods`.
    pub resources: Resources,
}

/// A DeviceClass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Class {
    /// Its name.
    pub name: String,
    /// Its CEL selectors, all of which must hold.
    pub selectors: Vec<String>,
}

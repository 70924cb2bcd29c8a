//! What a pool's slices look like, independent of the API's types: keys that never change, counter sets,
//! devices. `planner` fills these, `kube-types` turns them into ResourceSlices.

use std::collections::BTreeMap;
use std::fmt;

use crate::hardware::Problem;
use crate::id::{DeviceName, NodeName, PoolName};
use crate::quantity::{Bytes, Quantity};

/// `resource.k8s.io/v1`: devices per slice where any has taints or counters. Taints may come at any time.
pub const MAX_DEVICES: usize = 64;
/// `resource.k8s.io/v1`: counter sets per slice.
pub const MAX_COUNTER_SETS: usize = 8;
/// `resource.k8s.io/v1`: counters per set.
pub const MAX_COUNTERS: usize = 32;
/// `resource.k8s.io/v1`: bytes of a string or version attribute.
pub const MAX_ATTRIBUTE: usize = 64;

/// Modules in one counter set.
pub const MODULES_PER_SET: u32 = 16;
/// Modules in one device slice: three devices each, below [`MAX_DEVICES`].
pub const MODULES_PER_SLICE: u32 = 21;
/// Cards of single-die hardware in one device slice, up to four dies each: [`MAX_DEVICES`].
pub const CARDS_PER_SLICE: u32 = 16;
/// Dies of one card of single-die hardware that share a slice.
pub const DIES_PER_CARD: u32 = 4;
/// Partitioned cards in one device slice: eight partitions each, [`MAX_DEVICES`] together.
pub const PARTITIONED_CARDS_PER_SLICE: u32 = 8;
/// Partitions of one card that can be published. No GPU of today has more than seven.
pub const PARTITIONS_PER_CARD: usize = 8;
/// Card ids from here on are not published: slice names have five hexadecimal digits.
pub const MAX_CARD: u32 = 1 << 20;

/// Which slice of a pool. It depends on card ids alone, so a card that comes or goes moves no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SliceKey {
    /// Counter sets `modules-<8n>` to `modules-<8n+7>`.
    Counters(u32),
    /// Modules with card / 21 == n, and their chips.
    Modules(u32),
    /// Partitions of cards with card / 8 == n.
    Partitions(u32),
    /// Chips of single-die hardware: n = card / 16, plus 65536 for every four dies above the first four.
    Chips(u32),
}

impl SliceKey {
    const SPAN: u32 = 0x4_0000;
    /// Partitions have the upper half of the modules' span: those need less than a quarter of it.
    const PARTITIONS: u32 = Self::SPAN / 2;

    /// The number at the beginning of the slice's name. Slices are searched by name, so it is the order too:
    /// counters, modules, partitions, chips.
    pub const fn index(self) -> u32 {
        match self {
            Self::Counters(n) => n,
            Self::Modules(n) => Self::SPAN + n,
            Self::Partitions(n) => Self::SPAN + Self::PARTITIONS + n,
            Self::Chips(n) => 2 * Self::SPAN + n,
        }
    }

    /// The key of an index; `None` for one that no key has.
    pub const fn from_index(index: u32) -> Option<Self> {
        let n = index % Self::SPAN;
        match index / Self::SPAN {
            0 => Some(Self::Counters(n)),
            1 if n >= Self::PARTITIONS => Some(Self::Partitions(n - Self::PARTITIONS)),
            1 => Some(Self::Modules(n)),
            // Chips need twice the room: slices of high die numbers come above those of low ones.
            2 | 3 => Some(Self::Chips(index - 2 * Self::SPAN)),
            _ => None,
        }
    }

    /// `metadata.generateName` of the slice: `<5 hexadecimal digits>-vnpu.dev-<node>-`. A node name too long
    /// for it is cut; the name is not the identity of the node there.
    pub fn generate_name(self, node: &NodeName) -> String {
        // The API server makes names of 63 characters and cuts what comes before its random 5.
        const NODE: usize = 42;
        let node: String = node.as_str().chars().take(NODE).collect();
        format!("{:05x}-{}-{}-", self.index(), crate::DRIVER_NAME, node.trim_end_matches(['-', '.']))
    }

    /// The key in the name of a slice of ours; `None` for any other name.
    pub fn from_slice_name(name: &str) -> Option<Self> {
        let (digits, rest) = name.split_at_checked(5)?;
        rest.strip_prefix('-')?.strip_prefix(crate::DRIVER_NAME)?.strip_prefix('-')?;
        if !digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return None;
        }
        Self::from_index(u32::from_str_radix(digits, 16).ok()?)
    }
}

impl fmt::Display for SliceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Counters(n) => write!(f, "counters-{n}"),
            Self::Modules(n) => write!(f, "modules-{n}"),
            Self::Partitions(n) => write!(f, "partitions-{n}"),
            Self::Chips(n) => write!(f, "chips-{n}"),
        }
    }
}

/// The value of a device attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttributeValue {
    /// At most 64 bytes.
    Str(String),
    /// A whole number.
    Int(i64),
    /// A truth value.
    Bool(bool),
    /// A semantic version, at most 64 bytes.
    Version(String),
}

/// Which parts of a capacity may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestPolicy {
    /// `validRange`: from `min` in steps of `step` up to `max`.
    Range {
        /// What a request that names nothing gets.
        default: CapacityValue,
        /// The least.
        min: CapacityValue,
        /// The most.
        max: CapacityValue,
        /// The step.
        step: CapacityValue,
    },
    /// `validValues` with this one value: the API refuses a range with a step where there is no room for one.
    Only(CapacityValue),
}

/// An amount of a capacity, with the way it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CapacityValue {
    /// Bytes, written with a binary suffix.
    Bytes(Bytes),
    /// A plain number.
    Count(u64),
}

impl CapacityValue {
    /// The number alone.
    pub const fn number(self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.0,
            Self::Count(count) => count,
        }
    }
}

impl fmt::Display for CapacityValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => bytes.fmt(f),
            Self::Count(count) => count.fmt(f),
        }
    }
}

impl From<CapacityValue> for Quantity {
    fn from(value: CapacityValue) -> Self {
        Self::from(Bytes(value.number()))
    }
}

/// One capacity of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// All of it.
    pub value: CapacityValue,
    /// How parts are asked for; `None` on devices that are only given whole.
    pub policy: Option<RequestPolicy>,
}

/// What a taint does. Ordered: of two the stronger counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TaintEffect {
    /// No new claim gets the device.
    NoSchedule,
    /// And pods that use it are evicted.
    NoExecute,
}

impl TaintEffect {
    /// The API's spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoSchedule => "NoSchedule",
            Self::NoExecute => "NoExecute",
        }
    }
}

/// Key of the taint on sick or vanished devices.
pub const UNHEALTHY_TAINT: &str = "vnpu.dev/unhealthy";

/// Key of the taint by which an administrator takes devices out of service (`kubectl vnpu drain`). It is not in slices,
/// but in DeviceTaintRules.
pub const DRAIN_TAINT: &str = "vnpu.dev/drain";

/// One taint of a device. When it was added is the API server's to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taint {
    /// Qualified name.
    pub key: String,
    /// A label value: why.
    pub value: String,
    /// What it does.
    pub effect: TaintEffect,
}

/// What a device takes of one counter set: one of each counter named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CounterUse {
    /// The set.
    pub set: String,
    /// The counters, one taken of each.
    pub counters: Vec<String>,
}

/// A set of counters, each of value 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CounterSetPlan {
    /// `modules-<k>`.
    pub name: String,
    /// `m<card>-c<die>` of 16 modules, whether they are there or not: a card that vanishes changes nothing.
    pub counters: Vec<String>,
}

/// One published device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevicePlan {
    /// Name in the slice.
    pub name: DeviceName,
    /// Attributes; names without a domain are this driver's.
    pub attributes: BTreeMap<String, AttributeValue>,
    /// `memory` and `cores`.
    pub capacity: BTreeMap<String, Capacity>,
    /// Whether many claims may hold shares of it.
    pub allow_multiple_allocations: bool,
    /// What it takes of the counters; nothing on single-die hardware.
    pub consumes_counters: Vec<CounterUse>,
    /// Taints.
    pub taints: Vec<Taint>,
}

/// What is in one slice: the API allows either the one or the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SliceContent {
    /// Counter sets.
    Counters(Vec<CounterSetPlan>),
    /// Devices, in the order in which the allocator tries them.
    Devices(Vec<DevicePlan>),
}

/// One slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlicePlan {
    /// Which.
    pub key: SliceKey,
    /// What is in it.
    pub content: SliceContent,
}

impl SlicePlan {
    /// The devices; empty for counters.
    pub fn devices(&self) -> &[DevicePlan] {
        match &self.content {
            SliceContent::Devices(devices) => devices,
            SliceContent::Counters(_) => &[],
        }
    }
}

/// Everything a node publishes of one vendor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolPlan {
    /// The node.
    pub node: NodeName,
    /// The pool.
    pub pool: PoolName,
    /// The slices by ascending key. A pool without devices has one empty slice, so that it is known as empty.
    pub slices: Vec<SlicePlan>,
    /// Chips that could not be published, and why.
    pub problems: Vec<Problem>,
}

impl PoolPlan {
    /// All devices of the pool, in the allocator's order.
    pub fn devices(&self) -> impl Iterator<Item = &DevicePlan> {
        self.slices.iter().flat_map(SlicePlan::devices)
    }
}

pub use crate::planner::{NodeLabels, PlanError, PlanInput, plan_pool, published_memory};

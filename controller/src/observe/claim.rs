//! ResourceClaims, their templates and DeviceClasses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::resource::v1 as api;
use vnpu_driver::DRIVER_NAME;
use vnpu_driver::claim::Claim;
use vnpu_driver::id::{ClaimUid, NodeName, PoolName};
use vnpu_driver::quantity::Quantity;
use vnpu_kube_types::claim::read_claim;
use vnpu_placement::demand::{Ask, ClaimSpec, Constraint, Count, Request, Toleration};
use vnpu_placement::node::{AllocatedClaim, Class, Holding};

use super::slice::qualified;

/// A DeviceClass, and what it is to us.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassSeen {
    /// Its name and selectors.
    pub class: Class,
    /// `spec.extendedResourceName`.
    pub extended_resource: Option<String>,
    /// Whether one of its selectors names this driver.
    pub ours: bool,
    /// The opaque parameters that it has for this driver.
    pub policies: Vec<serde_json::Value>,
}

/// Reads a DeviceClass.
pub fn class(object: &api::DeviceClass) -> Option<ClassSeen> {
    let spec = object.spec.as_ref()?;
    let selectors = expressions(spec.selectors.as_deref());
    let driver = format!("\"{DRIVER_NAME}\"");
    let opaque = spec.config.iter().flatten().filter_map(|c| c.opaque.as_ref());
    Some(ClassSeen {
        policies: opaque.filter(|o| o.driver == DRIVER_NAME).map(|o| o.parameters.0.clone()).collect(),
        ours: selectors.iter().any(|s| s.contains(&driver)),
        extended_resource: spec.extended_resource_name.clone(),
        class: Class { name: object.metadata.name.clone()?, selectors },
    })
}

fn expressions(selectors: Option<&[api::DeviceSelector]>) -> Vec<String> {
    let cel = selectors.into_iter().flatten().filter_map(|s| s.cel.as_ref());
    cel.map(|c| c.expression.clone()).collect()
}

/// What a claim or a template asks for, of all drivers' classes.
pub fn spec(spec: &api::ResourceClaimSpec) -> ClaimSpec {
    let devices = spec.devices.as_ref();
    let requests = devices.and_then(|d| d.requests.as_ref()).into_iter().flatten();
    let constraints = devices.and_then(|d| d.constraints.as_ref()).into_iter().flatten();
    ClaimSpec {
        requests: requests.map(request).collect(),
        constraints: constraints.filter_map(constraint).collect(),
    }
}

/// The part of `spec` that asks for classes of this driver. An alternative of another driver stays out too: the planner
/// cannot know whether it can be had.
pub fn ours(spec: &ClaimSpec, classes: &BTreeSet<String>) -> ClaimSpec {
    let own = |request: &Request| {
        let alternatives: Vec<Ask> =
            request.alternatives.iter().filter(|a| classes.contains(&a.class)).cloned().collect();
        (!alternatives.is_empty()).then(|| Request { name: request.name.clone(), alternatives })
    };
    ClaimSpec {
        requests: spec.requests.iter().filter_map(own).collect(),
        constraints: spec.constraints.clone(),
    }
}

/// Whether anything in `spec` is of a class that is not in `classes`.
pub fn has_foreign(spec: &ClaimSpec, classes: &BTreeSet<String>) -> bool {
    spec.requests.iter().flat_map(|r| &r.alternatives).any(|a| !classes.contains(&a.class))
}

fn request(request: &api::DeviceRequest) -> Request {
    let exactly = request.exactly.iter().map(|ask| Ask {
        name: String::new(),
        class: ask.device_class_name.clone(),
        selectors: expressions(ask.selectors.as_deref()),
        count: count(ask.allocation_mode.as_deref(), ask.count),
        capacity: capacity(ask.capacity.as_ref()),
        tolerations: tolerations(ask.tolerations.as_deref()),
        admin_access: ask.admin_access == Some(true),
    });
    let alternatives = request.first_available.iter().flatten().map(|ask| Ask {
        name: ask.name.clone(),
        class: ask.device_class_name.clone(),
        selectors: expressions(ask.selectors.as_deref()),
        count: count(ask.allocation_mode.as_deref(), ask.count),
        capacity: capacity(ask.capacity.as_ref()),
        tolerations: tolerations(ask.tolerations.as_deref()),
        admin_access: false,
    });
    Request { name: request.name.clone(), alternatives: exactly.chain(alternatives).collect() }
}

fn count(mode: Option<&str>, count: Option<i64>) -> Count {
    if mode == Some("All") {
        return Count::All;
    }
    Count::Exactly(count.map_or(1, |count| u32::try_from(count).unwrap_or(u32::MAX)))
}

fn capacity(capacity: Option<&api::CapacityRequirements>) -> BTreeMap<String, u64> {
    let requests = capacity.and_then(|c| c.requests.as_ref()).into_iter().flatten();
    let read = |(name, amount): (&String, &k8s_openapi::apimachinery::pkg::api::resource::Quantity)| {
        let amount: Quantity = amount.0.parse().ok()?;
        Some((name.clone(), amount.ceil()))
    };
    requests.filter_map(read).collect()
}

fn tolerations(tolerations: Option<&[api::DeviceToleration]>) -> Vec<Toleration> {
    let read = |t: &api::DeviceToleration| Toleration {
        key: t.key.clone().unwrap_or_default(),
        value: (t.operator.as_deref() != Some("Exists")).then(|| t.value.clone().unwrap_or_default()),
        effect: t.effect.clone().unwrap_or_default(),
    };
    tolerations.into_iter().flatten().map(read).collect()
}

fn constraint(constraint: &api::DeviceConstraint) -> Option<Constraint> {
    let distinct = constraint.match_attribute.is_none();
    let attribute = constraint.match_attribute.as_ref().or(constraint.distinct_attribute.as_ref())?;
    Some(Constraint {
        requests: constraint.requests.clone().unwrap_or_default(),
        attribute: qualified(attribute),
        distinct,
    })
}

/// A ResourceClaim.
#[derive(Debug, Clone, PartialEq)]
pub struct ClaimSeen {
    /// Its UID.
    pub uid: ClaimUid,
    /// What it asks for, of all drivers.
    pub spec: Arc<ClaimSpec>,
    /// What it was given, of this driver; `None` while it is not allocated.
    pub allocated: Option<AllocatedClaim>,
    /// All that there is to judge about an allocation of this driver.
    pub audit: Option<Box<Claim>>,
}

/// Reads a claim; `None` for one that the API server would not have made.
pub fn read(object: &api::ResourceClaim) -> Option<ClaimSeen> {
    let uid = ClaimUid::new(object.metadata.uid.clone()?).ok()?;
    let allocation = object.status.as_ref().and_then(|s| s.allocation.as_ref());
    let allocated = allocation.map(|allocation| AllocatedClaim {
        uid: uid.clone(),
        node: allocation.node_selector.as_ref().and_then(only_node),
        holdings: allocation
            .devices
            .iter()
            .flat_map(|d| d.results.iter().flatten())
            .filter(|r| r.driver == DRIVER_NAME)
            .filter_map(holding)
            .collect(),
    });
    let audit = read_claim(object).ok().filter(|claim| !claim.results.is_empty()).map(Box::new);
    Some(ClaimSeen {
        audit,
        uid,
        spec: Arc::new(object.spec.as_ref().map(spec).unwrap_or_default()),
        allocated,
    })
}

fn holding(result: &api::DeviceRequestAllocationResult) -> Option<Holding> {
    let consumed = result.consumed_capacity.iter().flatten();
    Some(Holding {
        pool: PoolName::new(result.pool.clone()).ok()?,
        device: result.device.clone(),
        consumed: consumed
            .filter_map(|(name, amount)| Some((name.clone(), amount.0.parse::<Quantity>().ok()?.ceil())))
            .collect(),
        admin_access: result.admin_access == Some(true),
    })
}

/// The node of a selector that names exactly one, as the scheduler writes it for devices of a node.
fn only_node(selector: &k8s_openapi::api::core::v1::NodeSelector) -> Option<NodeName> {
    let [term] = selector.node_selector_terms.as_slice() else { return None };
    let mut names =
        term.match_fields.iter().flatten().filter(|f| f.key == "metadata.name" && f.operator == "In");
    let values = names.next()?.values.as_deref()?;
    let [name] = values else { return None };
    NodeName::new(name.clone()).ok()
}

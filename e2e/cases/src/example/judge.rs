//! Compares what a cluster shows with what an example expects. Objects are JSON as the API server gives them,
//! so that no version of typed objects hides a field.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;
use serde_json::Value;
use vnpu_driver::quantity::Quantity;

use super::{ClaimExpectation, Expectation, Phase, PodExpectation};

/// What the cluster shows.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The pods of the example's namespace.
    pub pods: Vec<Value>,
    /// The ResourceClaims of the example's namespace.
    pub claims: Vec<Value>,
    /// The ResourceSlices of the cluster.
    pub slices: Vec<Value>,
}

/// How far a pod is on the way to its phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodProgress {
    /// There.
    Reached,
    /// Not yet; what it shows.
    Waiting(String),
    /// Ended otherwise, and will not get there; what it shows.
    Lost(String),
}

impl PodExpectation {
    /// How far the pod of this name is.
    pub fn progress(&self, seen: &Seen) -> PodProgress {
        let Some(pod) = named(&seen.pods, &self.name) else {
            return PodProgress::Waiting(format!("there is no pod {}", self.name));
        };
        let phase = text(pod, "/status/phase");
        let shown = format!("pod {} is {phase}: {}", self.name, why(pod));
        if phase == format!("{:?}", self.phase) {
            PodProgress::Reached
        } else if matches!(phase.as_str(), "Succeeded" | "Failed") {
            PodProgress::Lost(shown)
        } else {
            PodProgress::Waiting(shown)
        }
    }

    /// The expressions that match nowhere in `logs`, as sentences.
    pub fn missing_in(&self, logs: &str) -> Vec<String> {
        let matches = |expression: &&String| Regex::new(expression).is_ok_and(|e| e.is_match(logs));
        let missing = self.logs.iter().filter(|e| !matches(e));
        missing.map(|e| format!("the logs of pod {} have no `{e}`: {logs}", self.name)).collect()
    }

    /// Whether missing lines may still come: a pod that goes on running writes them a moment later.
    pub fn logs_may_follow(&self) -> bool {
        self.phase == Phase::Running && !self.logs.is_empty()
    }
}

impl Expectation {
    /// What the claims show otherwise than expected, as sentences; none when all is as it should be.
    pub fn unmet(&self, seen: &Seen) -> Vec<String> {
        let mut unmet: Vec<String> = self.claims.iter().flat_map(|claim| claim.unmet(seen)).collect();
        let devices: Vec<String> =
            self.claims.iter().filter_map(|c| c.find(seen)).flat_map(results).map(device_key).collect();
        let different = devices.iter().collect::<BTreeSet<_>>().len();
        match self.same_device {
            Some(true) if different != 1 => {
                unmet.push(format!("one device was expected, there are {devices:?}"))
            }
            Some(false) if different != devices.len() => {
                unmet.push(format!("different devices were expected, there are {devices:?}"));
            }
            _ => {}
        }
        unmet
    }
}

impl ClaimExpectation {
    /// The claim that is meant.
    fn find<'a>(&self, seen: &'a Seen) -> Option<&'a Value> {
        if let Some(name) = &self.name {
            return named(&seen.claims, name);
        }
        let pod = named(&seen.pods, self.pod.as_deref()?)?;
        let name = if self.extended_resource {
            text(pod, "/status/extendedResourceClaimStatus/resourceClaimName")
        } else {
            let statuses = list(pod, "/status/resourceClaimStatuses");
            let wanted = self.pod_claim.as_deref()?;
            text(statuses.iter().find(|s| text(s, "/name") == wanted)?, "/resourceClaimName")
        };
        named(&seen.claims, &name)
    }

    fn unmet(&self, seen: &Seen) -> Vec<String> {
        let Some(claim) = self.find(seen) else {
            return vec![format!("there is no claim for {:?}", self.name.as_ref().or(self.pod.as_ref()))];
        };
        let name = text(claim, "/metadata/name");
        let results = results(claim);
        let mut unmet = self.differing_lists(claim, &results);
        if let Some(expected) = self.modules {
            let modules: BTreeSet<String> =
                results.iter().map(|r| attribute(published(seen, r), "module")).collect();
            if modules.len() != expected || modules.contains("") {
                unmet.push(format!("expected {expected} modules, has {modules:?}"));
            }
        }
        for result in &results {
            for (key, expected) in self.consumed.iter().flatten() {
                let has = result.pointer("/consumedCapacity").and_then(|c| c.get(key));
                let has = has.map(plain).unwrap_or_default();
                if !same_quantity(expected, &has) {
                    unmet.push(format!("expected {key} {expected}, has `{has}`"));
                }
            }
            for (key, expected) in self.attributes.iter().flatten() {
                let has = attribute(published(seen, result), key);
                if *expected != has {
                    unmet.push(format!("expected a device with {key} {expected}, has `{has}`"));
                }
            }
        }
        unmet.into_iter().map(|what| format!("claim {name}: {what}")).collect()
    }

    /// Devices, requests and holders: lists in any order.
    fn differing_lists(&self, claim: &Value, results: &[&Value]) -> Vec<String> {
        let mut unmet = Vec::new();
        let devices: Vec<String> = results.iter().map(|r| text(r, "/device")).collect();
        if !assign(&self.devices, &devices) {
            unmet.push(format!("expected devices {:?}, has {devices:?}", self.devices));
        }
        let requests: Vec<String> = results.iter().map(|r| text(r, "/request")).collect();
        if self.requests.as_ref().is_some_and(|expected| sorted(expected) != sorted(&requests)) {
            unmet.push(format!("expected requests {:?}, has {requests:?}", self.requests));
        }
        let holders: Vec<String> =
            list(claim, "/status/reservedFor").iter().map(|r| text(r, "/name")).collect();
        if self.reserved_for.as_ref().is_some_and(|expected| sorted(expected) != sorted(&holders)) {
            unmet.push(format!("expected to be held by {:?}, is by {holders:?}", self.reserved_for));
        }
        unmet
    }
}

/// Whether every expression can have a device of its own. Lists are a few entries long, so trying is enough.
fn assign(expressions: &[String], devices: &[String]) -> bool {
    let Some((first, rest)) = expressions.split_first() else { return devices.is_empty() };
    let Ok(expression) = Regex::new(&format!("^(?:{first})$")) else { return false };
    devices.iter().enumerate().filter(|(_, device)| expression.is_match(device)).any(|(index, _)| {
        let others: Vec<String> =
            devices.iter().enumerate().filter(|(i, _)| *i != index).map(|(_, d)| d.clone()).collect();
        assign(rest, &others)
    })
}

fn same_quantity(a: &str, b: &str) -> bool {
    matches!((a.parse::<Quantity>(), b.parse::<Quantity>()), (Ok(a), Ok(b)) if a == b)
}

/// The device as its node publishes it.
fn published<'a>(seen: &'a Seen, result: &Value) -> Option<&'a Value> {
    let of_pool = |slice: &&Value| {
        text(slice, "/spec/driver") == text(result, "/driver")
            && text(slice, "/spec/pool/name") == text(result, "/pool")
    };
    let slices = seen.slices.iter().filter(of_pool);
    let mut devices = slices.flat_map(|slice| list(slice, "/spec/devices"));
    devices.find(|device| text(device, "/name") == text(result, "/device"))
}

/// An attribute as text, whatever its type; empty when absent. Names of the driver's own domain go without it.
fn attribute(device: Option<&Value>, name: &str) -> String {
    let attributes = device.and_then(|d| d.get("attributes"));
    let value = attributes.and_then(|a| a.get(name).or_else(|| a.get(format!("vnpu.dev/{name}"))));
    let typed: BTreeMap<String, Value> =
        value.and_then(|v| serde_json::from_value(v.clone()).ok()).unwrap_or_default();
    typed.values().next().map(plain).unwrap_or_default()
}

/// Why the pod is where it is: conditions that are not true, and what its containers wait for.
fn why(pod: &Value) -> String {
    let conditions = list(pod, "/status/conditions");
    let conditions = conditions.iter().filter(|c| text(c, "/status") != "True").map(|c| text(c, "/message"));
    let containers = list(pod, "/status/containerStatuses");
    let states = containers.iter().filter_map(|c| c.get("state")).map(Value::to_string);
    conditions.chain(states).filter(|s| !s.is_empty()).collect::<Vec<_>>().join("; ")
}

fn results(claim: &Value) -> Vec<&Value> {
    list(claim, "/status/allocation/devices/results").iter().collect()
}

/// What tells a device from all others of the cluster.
fn device_key(result: &Value) -> String {
    format!("{}/{}/{}", text(result, "/driver"), text(result, "/pool"), text(result, "/device"))
}

fn named<'a>(objects: &'a [Value], name: &str) -> Option<&'a Value> {
    objects.iter().find(|o| !name.is_empty() && text(o, "/metadata/name") == name)
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).map(plain).unwrap_or_default()
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn sorted(strings: &[String]) -> Vec<&String> {
    let mut sorted: Vec<&String> = strings.iter().collect();
    sorted.sort();
    sorted
}

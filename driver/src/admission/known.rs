//! What admission may look up about the cluster: classes, claims and templates, as far as somebody knows them. The
//! controller answers from its caches, `kubectl vnpu lint` from the files it was given.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::DRIVER_NAME;

/// What is looked at of a DeviceClass.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClassFacts {
    /// The CEL expressions of its selectors.
    pub selectors: Vec<String>,
    /// The opaque parameters that it has for our driver.
    pub policies: Vec<Value>,
    /// `spec.extendedResourceName`.
    pub extended_resource: Option<String>,
}

/// What is looked at of a ResourceClaim or of a template's specification.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClaimFacts {
    /// The classes that its requests and their alternatives name.
    pub classes: BTreeSet<String>,
    /// Whether the scheduler has given it devices.
    pub allocated: bool,
}

/// What somebody knows of the cluster. `None` means unknown, not absent.
pub trait Known {
    /// A DeviceClass.
    fn class(&self, name: &str) -> Option<ClassFacts>;
    /// The class whose `extendedResourceName` is this.
    fn class_of_resource(&self, resource: &str) -> Option<String>;
    /// A ResourceClaim.
    fn claim(&self, namespace: &str, name: &str) -> Option<ClaimFacts>;
    /// A ResourceClaimTemplate; `allocated` is `false`.
    fn template(&self, namespace: &str, name: &str) -> Option<ClaimFacts>;
}

impl ClassFacts {
    /// Reads a DeviceClass of any served version.
    pub fn of(class: &Value) -> Self {
        let list = |pointer: &str| class.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
        let expression = |s: &Value| s.pointer("/cel/expression").and_then(Value::as_str).map(str::to_owned);
        let opaque = list("/spec/config").filter_map(|c| c.get("opaque"));
        let ours = opaque.filter(|o| o.get("driver").and_then(Value::as_str) == Some(DRIVER_NAME));
        Self {
            selectors: list("/spec/selectors").filter_map(expression).collect(),
            policies: ours.filter_map(|o| o.get("parameters").cloned()).collect(),
            extended_resource: class
                .pointer("/spec/extendedResourceName")
                .and_then(Value::as_str)
                .map(str::to_owned),
        }
    }
}

impl ClaimFacts {
    /// Reads a ResourceClaim or ResourceClaimTemplate of any served version.
    pub fn of(object: &Value) -> Self {
        let spec = object.pointer("/spec/spec").or_else(|| object.get("spec"));
        let requests = spec.and_then(|s| s.pointer("/devices/requests")).and_then(Value::as_array);
        let mut classes = BTreeSet::new();
        for request in requests.into_iter().flatten() {
            let alternatives = request.get("firstAvailable").and_then(Value::as_array).into_iter().flatten();
            for ask in alternatives.chain([request]).chain(request.get("exactly")) {
                classes.extend(ask.get("deviceClassName").and_then(Value::as_str).map(str::to_owned));
            }
        }
        Self { classes, allocated: object.pointer("/status/allocation").is_some_and(Value::is_object) }
    }
}

/// Objects at hand, and nothing else.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    classes: BTreeMap<String, ClassFacts>,
    claims: BTreeMap<(String, String), ClaimFacts>,
    templates: BTreeMap<(String, String), ClaimFacts>,
}

impl Objects {
    /// Takes note of an object; what admission never looks up is ignored. One without a namespace counts as of
    /// `namespace`.
    pub fn learn(&mut self, object: &Value, namespace: &str) {
        let word =
            |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        if !word("/apiVersion").starts_with("resource.k8s.io/") {
            return;
        }
        let namespace =
            Some(word("/metadata/namespace")).filter(|n| !n.is_empty()).unwrap_or(namespace.to_owned());
        let place = (namespace, word("/metadata/name"));
        match word("/kind").as_str() {
            "DeviceClass" => _ = self.classes.insert(place.1, ClassFacts::of(object)),
            "ResourceClaim" => _ = self.claims.insert(place, ClaimFacts::of(object)),
            "ResourceClaimTemplate" => _ = self.templates.insert(place, ClaimFacts::of(object)),
            _ => {}
        }
    }
}

impl Known for Objects {
    fn class(&self, name: &str) -> Option<ClassFacts> {
        self.classes.get(name).cloned()
    }

    fn class_of_resource(&self, resource: &str) -> Option<String> {
        let named = |facts: &ClassFacts| facts.extended_resource.as_deref() == Some(resource);
        self.classes.iter().find(|(_, facts)| named(facts)).map(|(name, _)| name.clone())
    }

    fn claim(&self, namespace: &str, name: &str) -> Option<ClaimFacts> {
        self.claims.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    fn template(&self, namespace: &str, name: &str) -> Option<ClaimFacts> {
        self.templates.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }
}

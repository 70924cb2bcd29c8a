//! What a node's two labels are, who manages them, and what is to be written into them. Pure; the writing is done in
//! [`super::write`].

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use vnpu_driver::admission::pod::LEAF;

use super::{Found, Place, Resolved};
use crate::planner::patch::SUPERPOD;

/// The field manager that the labels are written under.
pub const MANAGER: &str = "vnpu-topology";

/// One of the two labels on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// Its value.
    pub value: Option<String>,
    /// Whether it was written here.
    pub ours: bool,
    /// Another manager of it, by name.
    pub other: Option<String>,
}

/// A node, as far as its place goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeSeen {
    /// Its UID.
    pub uid: String,
    /// Its labels: the sources.
    pub labels: BTreeMap<String, String>,
    /// `vnpu.dev/leaf`.
    pub leaf: Held,
    /// `vnpu.dev/superpod`.
    pub superpod: Held,
}

impl NodeSeen {
    /// Reads a Node's metadata.
    pub fn read(object: &ObjectMeta) -> Self {
        let mut labels = object.labels.clone().unwrap_or_default();
        let managed = object.managed_fields.as_deref().unwrap_or_default();
        let mut held = |label: &str| {
            let mut managers = managed.iter().filter(|entry| manages(entry, label));
            Held {
                value: labels.remove(label),
                ours: managers.clone().any(is_ours),
                other: managers
                    .find(|entry| !is_ours(entry))
                    .map(|entry| entry.manager.clone().unwrap_or_default()),
            }
        };
        let (leaf, superpod) = (held(LEAF), held(SUPERPOD));
        Self { uid: object.uid.clone().unwrap_or_default(), labels, leaf, superpod }
    }

    /// What was written here and still stands.
    pub fn written(&self) -> Place {
        let ours = |held: &Held| held.value.clone().filter(|_| held.ours);
        Place { leaf: ours(&self.leaf), superpod: ours(&self.superpod) }
    }
}

fn is_ours(entry: &ManagedFieldsEntry) -> bool {
    entry.manager.as_deref() == Some(MANAGER) && entry.operation.as_deref() == Some("Apply")
}

fn manages(entry: &ManagedFieldsEntry, label: &str) -> bool {
    let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
    let labels = fields.and_then(|f| f.get("f:metadata")).and_then(|f| f.get("f:labels"));
    labels.is_some_and(|labels| labels.get(format!("f:{label}")).is_some())
}

/// What is to be done about a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// What is to be written, as a whole: a label that is `None` is given up. `None` when all is as it should be.
    pub write: Option<Place>,
    /// Who says different things about it, in words.
    pub disagreements: Vec<String>,
}

/// Compares what was found for the node `name` with its labels. A label that somebody else manages stays as it is.
pub fn decide(name: &str, node: &NodeSeen, resolved: &Resolved) -> Decision {
    let mut disagreements = resolved.disagreements.clone();
    let mut wish = |label: &str, held: &Held, found: Option<&Found>| -> Option<String> {
        let found = found?;
        let Some(value) = &held.value else { return Some(found.value.clone()) };
        if *value == found.value {
            return held.ours.then(|| value.clone());
        }
        if held.ours && held.other.is_none() {
            return Some(found.value.clone());
        }
        // An object whose managed fields were cleared has values that nobody is known to manage.
        let manager = held.other.as_deref().unwrap_or("somebody unknown");
        disagreements.push(format!(
            "{label} of {name} is {value}, as {manager} has written it and as it stays; {} says {}",
            found.source, found.value
        ));
        None
    };
    let wished = Place {
        leaf: wish(LEAF, &node.leaf, resolved.leaf.as_ref()),
        superpod: wish(SUPERPOD, &node.superpod, resolved.superpod.as_ref()),
    };
    Decision { write: (wished != node.written()).then_some(wished), disagreements }
}

#[cfg(test)]
mod tests;

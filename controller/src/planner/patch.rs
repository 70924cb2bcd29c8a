//! The patches that carry a plan out. Strategic merge patches: a list that another party may also write is never
//! replaced, except affinity, whose lists the API knows as one value each; the resource version guards that.

use k8s_openapi::api::core::v1 as api;
use serde_json::{Value, json};

use vnpu_driver::admission::pod::{GATE, LEAF};

use crate::observe::pod::PodSeen;

/// The label of nodes in one super-pod.
pub const SUPERPOD: &str = "vnpu.dev/superpod";

/// Where a pod must stay, whatever happens to its nomination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bound {
    /// On this node.
    Node(String),
    /// On nodes with this label of this value.
    Label(&'static str, String),
}

/// The affinity that goes with a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tether {
    /// The leaf that is preferred.
    pub preferred_leaf: Option<String>,
    /// What is required.
    pub required: Option<Bound>,
}

/// `status.nominatedNodeName`, for the status subresource. Empty takes it away.
pub fn nominate(uid: &str, node: Option<&str>) -> Value {
    json!({"metadata": {"uid": uid}, "status": {"nominatedNodeName": node}})
}

/// Takes our gate away and ties the pod to its domain. `resource_version` is that of the pod as `pod` shows it, or
/// later: nothing else may have changed its affinity since.
pub fn release(pod: &PodSeen, resource_version: &str, tether: &Tether) -> Value {
    let mut spec = json!({"schedulingGates": [{"$patch": "delete", "name": GATE}]});
    if let (Some(affinity), Some(spec)) =
        (affinity(pod.node_affinity.as_deref(), tether), spec.as_object_mut())
    {
        spec.insert("affinity".to_owned(), json!({"nodeAffinity": affinity}));
    }
    json!({"metadata": {"uid": pod.uid, "resourceVersion": resource_version}, "spec": spec})
}

/// Node affinity with what the plan adds; `None` when it adds nothing.
fn affinity(before: Option<&api::NodeAffinity>, tether: &Tether) -> Option<Value> {
    let mut changed = serde_json::Map::new();
    if let Some(leaf) = &tether.preferred_leaf {
        let before = before.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
        let mut terms: Vec<Value> =
            before.into_iter().flatten().filter_map(|t| serde_json::to_value(t).ok()).collect();
        let here = json!({"key": LEAF, "operator": "In", "values": [leaf]});
        terms.push(json!({"weight": 100, "preference": {"matchExpressions": [here]}}));
        changed.insert("preferredDuringSchedulingIgnoredDuringExecution".to_owned(), Value::Array(terms));
    }
    if let Some(bound) = &tether.required {
        let (list, requirement) = match bound {
            Bound::Node(node) => {
                ("matchFields", json!({"key": "metadata.name", "operator": "In", "values": [node]}))
            }
            Bound::Label(key, value) => {
                ("matchExpressions", json!({"key": key, "operator": "In", "values": [value]}))
            }
        };
        let before = before.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        let terms = before.map(|r| r.node_selector_terms.as_slice()).unwrap_or_default();
        let mut terms: Vec<Value> = terms.iter().filter_map(|t| serde_json::to_value(t).ok()).collect();
        if terms.is_empty() {
            terms.push(json!({}));
        }
        for term in terms.iter_mut().filter_map(Value::as_object_mut) {
            // The API lets a gated pod's terms grow at their end only.
            if let Some(list) = term.entry(list).or_insert_with(|| json!([])).as_array_mut() {
                list.push(requirement.clone());
            }
        }
        let required = json!({"nodeSelectorTerms": terms});
        changed.insert("requiredDuringSchedulingIgnoredDuringExecution".to_owned(), required);
    }
    (!changed.is_empty()).then_some(Value::Object(changed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::pod::read;

    fn pod(affinity: Value) -> PodSeen {
        let object = json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [{"name": "a"}], "affinity": affinity},
        });
        read(&serde_json::from_value(object).unwrap()).unwrap()
    }

    fn leaf(required: Option<Bound>) -> Tether {
        Tether { preferred_leaf: Some("leaf-1".to_owned()), required }
    }

    #[test]
    fn only_our_gate_goes() {
        let patch = release(&pod(json!({})), "7", &Tether::default());
        let expected = json!({
            "metadata": {"uid": "u", "resourceVersion": "7"},
            "spec": {"schedulingGates": [{"$patch": "delete", "name": "vnpu.dev/placement"}]},
        });
        assert_eq!(patch, expected);
    }

    #[test]
    fn what_the_user_preferred_stays() {
        let own =
            json!({"weight": 1, "preference": {"matchExpressions": [{"key": "zone", "operator": "Exists"}]}});
        let before = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [own]}});
        let patch = release(&pod(before), "7", &leaf(None));
        let list =
            &patch["spec"]["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"];
        assert_eq!(list[0], own);
        assert_eq!(list[1]["preference"]["matchExpressions"][0]["values"], json!(["leaf-1"]));
    }

    #[test]
    fn a_requirement_is_appended_to_every_term() {
        let term =
            |zone: &str| json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]});
        let required = json!({"nodeSelectorTerms": [term("a"), term("b")]});
        let before = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}});
        let patch = release(&pod(before), "7", &leaf(Some(Bound::Label(LEAF, "leaf-1".to_owned()))));
        let terms = &patch["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
            ["nodeSelectorTerms"];
        for (at, zone) in ["a", "b"].iter().enumerate() {
            assert_eq!(terms[at]["matchExpressions"][0]["values"], json!([zone]));
            assert_eq!(terms[at]["matchExpressions"][1]["values"], json!(["leaf-1"]));
        }
    }

    #[test]
    fn a_required_node_is_a_field() {
        let patch = release(&pod(json!({})), "7", &leaf(Some(Bound::Node("node-1".to_owned()))));
        let terms = &patch["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
            ["nodeSelectorTerms"];
        assert_eq!(terms[0]["matchFields"][0]["values"], json!(["node-1"]));
    }
}

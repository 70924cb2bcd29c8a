use serde_json::{Value, json};

use super::pod::{MAX_BATCH, NoGate, PodWishes};
use super::*;
use crate::controller_config::{OddPolicy, PlacementMode, TopologyWish};

fn class(name: &str) -> Value {
    json!({"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": name},
        "spec": {"selectors": [{"cel": {"expression": format!("device.driver == \"{name}\"")}}], "extendedResourceName": format!("{name}/thing")}})
}

fn claim_of(kind: &str, name: &str, class: &str, allocated: bool) -> Value {
    let devices = json!({"requests": [{"name": "r", "exactly": {"deviceClassName": class}}]});
    let spec = if kind == "ResourceClaim" {
        json!({"devices": devices})
    } else {
        json!({"spec": {"devices": devices}})
    };
    let status = if allocated { json!({"allocation": {"devices": {}}}) } else { json!({}) };
    json!({"apiVersion": "resource.k8s.io/v1beta2", "kind": kind, "metadata": {"name": name}, "spec": spec, "status": status})
}

/// Claims and templates of ours and of others, in the namespace `bank`.
fn known() -> Objects {
    let mut known = Objects::default();
    for object in [
        class("nic.example.com"),
        class("vnpu.dev"),
        claim_of("ResourceClaim", "ours", "npu.vnpu.dev", false),
        claim_of("ResourceClaim", "given", "npu.vnpu.dev", true),
        claim_of("ResourceClaim", "nic", "nic.example.com", false),
        claim_of("ResourceClaimTemplate", "ours", "npu-module.vnpu.dev", false),
        claim_of("ResourceClaimTemplate", "nic", "nic.example.com", false),
    ] {
        known.learn(&object, "bank");
    }
    known
}

fn pod(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec})
}

fn with_claim(key: &str, name: &str) -> Value {
    pod(json!({"resourceClaims": [{"name": "c", key: name}]}))
}

fn with_limit(resource: &str, amount: &str) -> Value {
    pod(json!({"containers": [{"resources": {"limits": {resource: amount}}}]}))
}

fn owned_by(mut pod: Value, kind: &str, group: &str) -> Value {
    pod["metadata"]["ownerReferences"] =
        json!([{"kind": kind, "apiVersion": format!("{group}/v1"), "controller": true}]);
    pod
}

fn annotated(mut pod: Value, annotation: &str, value: &str) -> Value {
    pod["metadata"]["annotations"][annotation] = json!(value);
    pod
}

fn gating(pod: &Value, operation: &str, config: &ControllerConfig) -> Gating {
    pod::gate(pod, operation, "bank", config, &known(), Planner::Alive)
}

#[test]
fn what_is_gated_and_what_is_not() {
    let ours = || with_claim("resourceClaimName", "ours");
    let spec = |key: &str, value: Value| {
        let mut pod = ours();
        pod["spec"][key] = value;
        pod
    };
    let gated: &[(&str, Value)] = &[
        ("a claim of ours", ours()),
        ("a template of ours", with_claim("resourceClaimTemplateName", "ours")),
        ("a claim nobody knows yet", with_claim("resourceClaimName", "new")),
        ("a template nobody knows yet", with_claim("resourceClaimTemplateName", "new")),
        ("modules as an extended resource", with_limit("vnpu.dev/npu-module", "2")),
        (
            "the implicit resource of a class of ours",
            with_limit("deviceclass.resource.kubernetes.io/gpu.vnpu.dev", "1"),
        ),
        ("the resource of a class that selects our driver", with_limit("vnpu.dev/thing", "1")),
        ("the scheduler by its name", spec("schedulerName", json!("default-scheduler"))),
        ("gates of others", spec("schedulingGates", json!([{"name": "kueue.x-k8s.io/admission"}]))),
        ("a pod of a Job", owned_by(ours(), "Job", "batch")),
        ("a DaemonSet of somebody else", owned_by(ours(), "DaemonSet", "apps.example.com")),
    ];
    for (why, pod) in gated {
        assert!(matches!(gating(pod, "CREATE", &ControllerConfig::default()), Gating::Gate(_)), "{why}");
    }
    let not: &[(NoGate, Value)] = &[
        (NoGate::HasNode, spec("nodeName", json!("n1"))),
        (NoGate::Mirror, annotated(ours(), "kubernetes.io/config.mirror", "x")),
        (NoGate::DaemonSet, owned_by(ours(), "DaemonSet", "apps")),
        (NoGate::OtherScheduler, spec("schedulerName", json!("volcano"))),
        (NoGate::NotOurs, with_claim("resourceClaimName", "nic")),
        (NoGate::NotOurs, with_claim("resourceClaimTemplateName", "nic")),
        (NoGate::NotOurs, with_limit("cpu", "2")),
        (NoGate::NotOurs, with_limit("vnpu.dev/npu-module", "0")),
        (NoGate::NotOurs, with_limit("nic.example.com/thing", "1")),
        (NoGate::NotOurs, pod(json!({}))),
        (NoGate::Allocated, with_claim("resourceClaimName", "given")),
        (NoGate::ModeNone, annotated(ours(), "vnpu.dev/placement", "none")),
        (NoGate::AlreadyGated, spec("schedulingGates", json!([{"name": "vnpu.dev/placement"}]))),
    ];
    for (why, pod) in not {
        assert_eq!(gating(pod, "CREATE", &ControllerConfig::default()), Gating::No(*why), "{pod}");
    }
    assert_eq!(gating(&ours(), "UPDATE", &ControllerConfig::default()), Gating::No(NoGate::NotCreated));
}

#[test]
fn the_configured_mode_of_a_kind_decides_where_the_pod_says_nothing() {
    let mut config = ControllerConfig::default();
    config.placement.modes.gang = PlacementMode::None;
    let ours = || with_claim("resourceClaimName", "ours");
    let indexed = |pod| annotated(pod, "batch.kubernetes.io/job-completion-index", "0");
    let gated =
        |pod: &Value, config: &ControllerConfig| matches!(gating(pod, "CREATE", config), Gating::Gate(_));
    assert!(gated(&ours(), &config) && gated(&owned_by(ours(), "Job", "batch"), &config));
    assert!(!gated(&indexed(owned_by(ours(), "Job", "batch")), &config));
    assert!(!gated(&owned_by(ours(), "PyTorchJob", "kubeflow.org"), &config));
    assert!(gated(
        &annotated(owned_by(ours(), "PyTorchJob", "kubeflow.org"), "vnpu.dev/placement", "pack"),
        &config
    ));
    config.placement.scheduler_names = vec!["volcano".to_owned()];
    assert_eq!(gating(&ours(), "CREATE", &config), Gating::No(NoGate::OtherScheduler));
}

fn apply(pod: &Value, operations: &[Operation]) -> Value {
    let patch: json_patch::Patch = serde_json::from_value(serde_json::to_value(operations).unwrap()).unwrap();
    let mut pod = pod.clone();
    json_patch::patch(&mut pod, &patch).unwrap();
    pod
}

#[test]
fn the_gate_is_added_beside_those_of_others() {
    let mut pod = with_claim("resourceClaimName", "ours");
    for before in [json!(null), json!([]), json!([{"name": "other"}])] {
        pod["spec"]["schedulingGates"] = before.clone();
        let Gating::Gate(operations) = gating(&pod, "CREATE", &ControllerConfig::default()) else { panic!() };
        let mut expected = before.as_array().cloned().unwrap_or_default();
        expected.push(json!({"name": "vnpu.dev/placement"}));
        assert_eq!(apply(&pod, &operations)["spec"]["schedulingGates"], Value::Array(expected));
    }
}

#[test]
fn without_a_planner_a_pod_prefers_a_leaf_and_is_not_held_back() {
    let config = ControllerConfig::default();
    let path = "/spec/affinity/nodeAffinity/preferredDuringSchedulingIgnoredDuringExecution";
    let leaf = |_: &Value| Some("leaf-3".to_owned());
    let own = json!({"weight": 1, "preference": {}});
    for (affinity, kept) in [
        (json!(null), 0),
        (json!({"podAffinity": {}}), 0),
        (json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {}}}), 0),
        (json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [own]}}), 1),
    ] {
        let mut pod = with_claim("resourceClaimName", "ours");
        pod["spec"]["affinity"] = affinity.clone();
        let answer = pod::gate(&pod, "CREATE", "bank", &config, &known(), Planner::Away(&leaf));
        let Gating::Preferred { leaf, operations } = answer else { panic!("{answer:?}") };
        assert_eq!(leaf, "leaf-3");
        let after = apply(&pod, &operations);
        let terms = after.pointer(path).unwrap().as_array().unwrap();
        assert_eq!(terms.len(), kept + 1);
        assert_eq!(
            terms[kept],
            json!({"weight": 100, "preference": {"matchExpressions": [{"key": "vnpu.dev/leaf", "operator": "In", "values": ["leaf-3"]}]}})
        );
        assert_eq!(after.pointer("/spec/schedulingGates"), None);
        for key in ["podAffinity", "nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution"] {
            let pointer = format!("/spec/affinity/{key}");
            assert_eq!(after.pointer(&pointer), pod.pointer(&pointer));
        }
    }
    let nobody = pod::gate(
        &with_claim("resourceClaimName", "ours"),
        "CREATE",
        "bank",
        &config,
        &known(),
        Planner::Away(&|_| None),
    );
    assert_eq!(nobody, Gating::No(NoGate::NoPlanner));
}

#[test]
fn annotations_of_pods_are_read_or_refused_with_the_legal_values() {
    let said = [
        ("placement", "whole-nodes"),
        ("topology", "required-leaf"),
        ("batch-size", "16"),
        ("patience", "1h30m"),
    ];
    let pod = said
        .iter()
        .fold(pod(json!({})), |pod, (key, value)| annotated(pod, &format!("vnpu.dev/{key}"), value));
    let (wishes, errors) = PodWishes::of(&pod);
    assert_eq!(errors, []);
    assert_eq!(wishes.placement, Some(PlacementMode::WholeNodes));
    assert_eq!(wishes.topology, Some(TopologyWish::RequiredLeaf));
    assert_eq!(wishes.batch_size, Some(16));
    assert_eq!(wishes.patience.unwrap().to_string(), "1h30m");

    let config = ControllerConfig::default();
    let known = known();
    let context = Context { config: &config, known: &known, planner: Planner::Alive };
    for (key, value, legal) in [
        ("placement", "Pack", "pack, one-per-node, whole-nodes or none"),
        ("placement", "", "pack, one-per-node, whole-nodes or none"),
        ("topology", "leaf", "preferred, required-node, required-leaf or required-superpod"),
        ("batch-size", "0", "a whole number from 1 to 100000"),
        ("batch-size", "+4", "a whole number from 1 to 100000"),
        ("batch-size", &(MAX_BATCH + 1).to_string(), "a whole number from 1 to 100000"),
        ("patience", "10", "a duration such as 90s, 10m, 1h30m or 0"),
    ] {
        let annotation = format!("vnpu.dev/{key}");
        let object = annotated(with_claim("resourceClaimName", "ours"), &annotation, value);
        let answer = review(&json!({"operation": "CREATE", "namespace": "bank", "object": object}), &context);
        let refusal = answer.refusal.unwrap();
        assert_eq!(refusal.reasons, ["pod_annotation"]);
        assert_eq!(refusal.message, format!("annotation {annotation}: {value:?} is not {legal}"));
        assert!(answer.operations.is_empty());
        // What is stored must stay changeable.
        assert!(
            review(&json!({"operation": "UPDATE", "object": object, "oldObject": object}), &context)
                .allowed()
        );
    }
}

#[test]
fn what_admission_does_not_look_at_is_allowed() {
    let config = ControllerConfig::default();
    let known = Objects::default();
    let context = Context { config: &config, known: &known, planner: Planner::Alive };
    let bare = claim_of("ResourceClaim", "c", "npu.vnpu.dev", false);
    let template = claim_of("ResourceClaimTemplate", "c", "npu.vnpu.dev", false);
    let old_api = json!({"apiVersion": "resource.k8s.io/v1alpha3", "kind": "ResourceClaim"});
    for (request, why) in [
        (json!({"operation": "DELETE", "oldObject": bare}), Untouched::OtherKind),
        (
            json!({"operation": "UPDATE", "subResource": "status", "object": bare, "oldObject": bare}),
            Untouched::OtherKind,
        ),
        (json!({"operation": "CREATE", "object": old_api}), Untouched::OtherKind),
        (
            json!({"operation": "CREATE", "object": {"apiVersion": "v1", "kind": "Node"}}),
            Untouched::OtherKind,
        ),
        (json!({"operation": "CREATE"}), Untouched::OtherKind),
        (json!({}), Untouched::OtherKind),
        (json!({"operation": "UPDATE", "object": bare, "oldObject": bare}), Untouched::Change),
        (json!({"operation": "UPDATE", "object": template, "oldObject": template}), Untouched::Change),
    ] {
        let answer = review(&request, &context);
        assert!(answer.allowed() && answer.operations.is_empty() && answer.warnings.is_empty());
        assert_eq!(answer.judged, Judged::Nothing(why), "{request}");
    }
    let malformed = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "spec": {"devices": {"requests": 1}}});
    let answer = review(&json!({"operation": "CREATE", "object": malformed}), &context);
    assert_eq!(answer.refusal.unwrap().message, "/spec/devices/requests: it must be a list: correct it");
}

#[test]
fn applying_again_puts_the_stored_lists_and_the_annotation_back() {
    let config = ControllerConfig::default();
    let known = Objects::default();
    let context = Context { config: &config, known: &known, planner: Planner::Alive };
    let mut file = claim_of("ResourceClaim", "c", "npu.vnpu.dev", false);
    file["spec"]["devices"]["requests"][0]["exactly"]["count"] = json!(3);
    let rounding = ControllerConfig { odd_policy: OddPolicy::RoundUp, ..config.clone() };
    let created =
        review(&json!({"operation": "CREATE", "object": file}), &Context { config: &rounding, ..context });
    let stored = apply(&file, &created.operations);
    assert_ne!(stored["spec"], file["spec"]);

    // `kubectl replace`: all lists as submitted, no annotation; and the policy refuses today what it took then.
    let again = review(&json!({"operation": "UPDATE", "object": file, "oldObject": stored}), &context);
    assert_eq!(again.judged, Judged::Reapplied);
    assert_eq!(apply(&file, &again.operations), stored);
    // Equal to what is stored: allowed at once.
    let same = review(&json!({"operation": "UPDATE", "object": stored, "oldObject": stored}), &context);
    assert_eq!(same.judged, Judged::Nothing(Untouched::Change));
    // Another field of the specification, or another list, is the API server's business.
    for (pointer, value) in
        [("/spec/other", json!(1)), ("/spec/devices/other", json!(1)), ("/spec/devices/config", json!([{}]))]
    {
        let mut changed = file.clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        changed.pointer_mut(parent).unwrap()[key] = value;
        let answer =
            review(&json!({"operation": "UPDATE", "object": changed, "oldObject": stored}), &context);
        assert_eq!(answer.judged, Judged::Nothing(Untouched::Change), "{pointer}");
    }
    // The same file in the spelling of the API server, and of another version.
    let spelt =
        json!([{"name": "r", "deviceClassName": "npu.vnpu.dev", "allocationMode": "ExactCount", "count": 3}]);
    let mut changed = file.clone();
    changed["spec"]["devices"]["requests"] = spelt;
    let answer = review(&json!({"operation": "UPDATE", "object": changed, "oldObject": stored}), &context);
    assert_eq!(answer.judged, Judged::Reapplied);
    // Who applied it server-side goes on managing it, though the API server noted somebody else.
    let noted = |manager: &str, operation: &str| {
        let fields = json!({"f:spec": {"f:devices": {"f:requests": {}}}});
        json!([{"manager": manager, "operation": operation, "fieldsType": "FieldsV1", "fieldsV1": fields}])
    };
    let (mut changed, mut stored) = (file, stored);
    stored["metadata"]["managedFields"] = noted("kubectl", "Apply");
    changed["metadata"]["managedFields"] = noted("kubectl-client-side-apply", "Update");
    let answer = review(&json!({"operation": "UPDATE", "object": changed, "oldObject": stored}), &context);
    assert_eq!(apply(&changed, &answer.operations), stored);
}

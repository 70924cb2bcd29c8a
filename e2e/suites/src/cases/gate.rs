//! The gate of pods, beside what other parties do to pods: their gates, their affinity, their schedulers, and all the
//! pods that are none of ours.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::batches::{job, modules_template, wait_bound};
use crate::case::Case;
use crate::context::Context;
use crate::controllers::Altered;
use crate::doors::{create, exactly, fleet, on_fleet, pod_on, template};
use crate::simulated::{PATIENCE, apply, claim, get, list, text, with};
use vnpu_e2e_stack::{FLEET, Fleet};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "gate/waits_until_it_is_the_last",
        about: "a pod with another party's gate is placed when that one is gone, and nobody but its party takes it away",
        run: waits_until_it_is_the_last,
    },
    Case {
        name: "gate/own_affinity_is_kept",
        about: "what a pod prefers and requires stays as it is, and ours is put behind it",
        run: own_affinity_is_kept,
    },
    Case {
        name: "gate/others_are_left_alone",
        about: "pods and claims that are none of ours are stored with a controller exactly as without",
        run: others_are_left_alone,
    },
    Case {
        name: "gate/bad_annotations_are_refused",
        about: "a wish about placement that means nothing is refused with the values that mean something",
        run: bad_annotations_are_refused,
    },
];

const GATE: &str = "vnpu.dev/placement";
const THEIRS: &str = "example.com/quota";
/// Longer than the planner takes for anything.
const A_WHILE: Duration = Duration::from_secs(3);

/// A pod that asks for a module by a claim of its own, with more of a specification.
fn asking(fleet: &Fleet, name: &str, more: &Value) -> [Value; 2] {
    let module = json!({"devices": {"requests": [exactly("npu", "npu-module.vnpu.dev", json!({}))]}});
    let source = vec![json!({"name": "npu", "resourceClaimName": name})];
    let mut pod = pod_on(fleet, 0, name, source, &[json!({})]);
    pod = with(pod, "/spec", "nodeSelector", json!({FLEET: fleet.name}));
    pod = with(pod, "/spec", "automountServiceAccountToken", json!(false));
    for (key, value) in more.as_object().into_iter().flatten() {
        pod = with(pod, "/spec", key, value.clone());
    }
    [claim(name, &module), with(pod, "/metadata", "labels", json!({"pod": name}))]
}

fn gates(pod: &Value) -> Vec<&str> {
    let gates = pod.pointer("/spec/schedulingGates").and_then(Value::as_array).into_iter().flatten();
    gates.map(|gate| text(gate, "/name")).collect()
}

fn waits_until_it_is_the_last(context: &mut Context) -> Result<()> {
    context.controller()?;
    let nodes = fleet("gated", 2)?;
    on_fleet(context, &nodes, || {
        // Ours is put behind theirs; where the file has both, it stays as it is.
        let cases =
            [("theirs", json!([{"name": THEIRS}])), ("both", json!([{"name": GATE}, {"name": THEIRS}]))];
        for (name, gates) in &cases {
            apply(context, asking(&nodes, name, &json!({"schedulingGates": gates})).to_vec())?;
        }
        ensure!(gates(&get(context, "pod", "theirs")?) == [THEIRS, GATE], "ours is not behind theirs");
        std::thread::sleep(A_WHILE);
        for (name, wanted) in [("theirs", [THEIRS, GATE]), ("both", [GATE, THEIRS])] {
            let pod = get(context, "pod", name)?;
            ensure!(gates(&pod) == wanted, "after a while pod {name} has the gates {:?}", gates(&pod));
            ensure!(
                text(&pod, "/status/nominatedNodeName").is_empty(),
                "{name} holds a place while it cannot go"
            );
        }
        for (name, _) in &cases {
            let path = json!({"spec": {"schedulingGates": [{"$patch": "delete", "name": THEIRS}]}});
            context.kubectl(&["patch", "pod", name, "-p", &path.to_string()])?;
            wait_bound(context, &format!("pod={name}"), 1)?;
        }
        Ok(())
    })
}

fn own_affinity_is_kept(context: &mut Context) -> Result<()> {
    context.controller()?;
    let nodes = fleet("kept", 4)?;
    let term = |values: &[String]| {
        json!({"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": values},
        ]})
    };
    let terms = json!([term(&[nodes.node(1)]), term(&[nodes.node(2), nodes.node(3)])]);
    let zone = json!({"matchExpressions": [{"key": "zone", "operator": "Exists"}]});
    let own = json!({"weight": 7, "preference": zone});
    let apart = json!({"preferredDuringSchedulingIgnoredDuringExecution": [{
        "weight": 1, "podAffinityTerm": {"topologyKey": "zone", "labelSelector": {"matchLabels": {"a": "b"}}},
    }]});
    let affinity = json!({
        "nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [own],
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms},
        },
        "podAntiAffinity": apart,
    });
    on_fleet(context, &nodes, || {
        for (name, wish) in [("preferred", "preferred"), ("required", "required-leaf")] {
            let [made, pod] = asking(&nodes, name, &json!({"affinity": affinity}));
            let pod = with(pod, "/metadata", "annotations", json!({"vnpu.dev/topology": wish}));
            apply(context, vec![made, pod])?;
            wait_bound(context, &format!("pod={name}"), 1)?;
        }
        let leaf = json!([nodes.leaf(0)]);
        let ours = json!({"key": "vnpu.dev/leaf", "operator": "In", "values": leaf});
        let both = json!([
            own, {"weight": 100, "preference": {"matchExpressions": [ours]}},
        ]);
        for (name, wanted) in [("preferred", terms.clone()), ("required", behind_each(&terms, &ours))] {
            let pod = get(context, "pod", name)?;
            let part =
                |pointer: &str| pod.pointer(&format!("/spec/affinity{pointer}")).cloned().unwrap_or_default();
            let required =
                part("/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms");
            ensure!(required == wanted, "{name} requires {required}, wanted {wanted}");
            let prefers = part("/nodeAffinity/preferredDuringSchedulingIgnoredDuringExecution");
            ensure!(prefers == both, "{name} prefers {prefers}, wanted {both}");
            ensure!(part("/podAntiAffinity") == apart, "{name}: {}", part("/podAntiAffinity"));
        }
        Ok(())
    })
}

/// The terms, each with one more expression at its end.
fn behind_each(terms: &Value, expression: &Value) -> Value {
    let mut terms = terms.clone();
    for term in terms.as_array_mut().into_iter().flatten() {
        if let Some(list) = term.pointer_mut("/matchExpressions").and_then(Value::as_array_mut) {
            list.push(expression.clone());
        }
    }
    terms
}

fn others_are_left_alone(context: &mut Context) -> Result<()> {
    let nodes = fleet("alone", 2)?;
    let controller = Altered::of(context)?;
    controller.stop()?;
    let class = json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": "gpu.example.com"},
        "spec": {"selectors": [{"cel": {"expression": r#"device.driver == "gpu.example.com""#}}]},
    });
    let outcome = on_fleet(context, &nodes, || {
        let [ours, user] = asking(&nodes, "ours", &json!({}));
        apply(context, vec![class, ours, foreign("foreign"), template_of_others(), user])?;
        wait_bound(context, "pod=ours", 1)?;
        let without = store(context, &nodes, "without")?;
        controller.start()?;
        let with = store(context, &nodes, "with")?;
        ensure!(without.len() == with.len() && without.len() > 8, "{} objects", without.len());
        for (without, with) in without.iter().zip(&with) {
            ensure!(without == with, "without a controller\n{without}\nwith one\n{with}");
        }
        daemons(context, &nodes)
    });
    context.cluster.kubectl_ok(&["delete", "deviceclass", "gpu.example.com", "--ignore-not-found"])?;
    outcome
}

fn foreign(name: &str) -> Value {
    claim(name, &json!({"devices": {"requests": [exactly("gpu", "gpu.example.com", json!({"count": 3}))]}}))
}

fn template_of_others() -> Value {
    template("foreign", &json!({"requests": [exactly("gpu", "gpu.example.com", json!({"count": 3}))]}))
}

/// Objects that are none of ours, as they are stored; those of different `time`s have different names only.
fn store(context: &Context, nodes: &Fleet, time: &str) -> Result<Vec<String>> {
    let named = |name: &str| format!("{name}-{time}");
    let pod = |name: &str, source: Value, more: Value| {
        let [_, pod] = asking(nodes, &named(name), &more);
        let claims =
            if source.is_null() { json!([]) } else { json!([with(source, "", "name", json!("npu"))]) };
        with(pod, "/spec", "resourceClaims", claims)
    };
    let unused = |pod: Value| with(pod, "/spec/containers/0", "resources", json!({}));
    let (ours, others) = (json!({"resourceClaimName": "ours"}), json!({"resourceClaimName": "foreign"}));
    let template = json!({"resourceClaimTemplateName": "foreign"});
    let module = json!({"resourceClaimTemplateName": "unknown"});
    let other_resource = json!({"limits": {"example.com/gpu": "1"}});
    let none =
        with(pod("none", module.clone(), json!({})), "/metadata", "annotations", json!({GATE: "none"}));
    let mirror = with(
        unused(pod("mirror", Value::Null, json!({"nodeName": nodes.node(0)}))),
        "/metadata",
        "annotations",
        json!({"kubernetes.io/config.mirror": "0123"}),
    );
    let objects = [
        foreign(&named("claim")),
        unused(pod("plain", Value::Null, json!({}))),
        with(pod("resource", Value::Null, json!({})), "/spec/containers/0", "resources", other_resource),
        pod("their-claim", others, json!({})),
        pod("their-template", template, json!({})),
        pod("allocated", ours, json!({})),
        pod("on-a-node", module.clone(), json!({"nodeName": nodes.node(1)})),
        pod("their-scheduler", module, json!({"schedulerName": "volcano"})),
        none,
        mirror,
    ];
    let mut stored = Vec::new();
    for object in objects {
        let answer = create(context, &object)?;
        ensure!(answer.warnings.is_empty(), "warned: {:?}", answer.warnings);
        let object = answer.stored().with_context(|| object.to_string())?;
        let parts = json!({
            "spec": object.get("spec"), "annotations": object.pointer("/metadata/annotations"),
            "labels": object.pointer("/metadata/labels"),
        });
        stored.push(parts.to_string().replace(&format!("-{time}"), ""));
    }
    Ok(stored)
}

/// The pods of a DaemonSet have their nodes from the beginning.
fn daemons(context: &Context, nodes: &Fleet) -> Result<()> {
    let [_, pod] = asking(nodes, "daemon", &json!({}));
    let mut spec = pod.get("spec").cloned().unwrap_or_default();
    if let Some(spec) = spec.as_object_mut() {
        spec.remove("restartPolicy");
    }
    let source = json!([{"name": "npu", "resourceClaimTemplateName": "module"}]);
    let spec = with(spec, "", "resourceClaims", source);
    let set = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "daemon"},
        "spec": {"selector": {"matchLabels": {"pod": "daemon"}}, "template": {
            "metadata": {"labels": {"pod": "daemon"}}, "spec": spec,
        }},
    });
    apply(context, vec![modules_template("module", 1), set])?;
    let bound = wait_bound(context, "pod=daemon", 2)?;
    for name in bound.keys() {
        let pod = get(context, "pod", name)?;
        let affinity = pod.pointer("/spec/affinity/nodeAffinity").and_then(Value::as_object);
        let keys: Vec<&String> = affinity.into_iter().flat_map(|a| a.keys()).collect();
        ensure!(keys == ["requiredDuringSchedulingIgnoredDuringExecution"], "{name} has {affinity:?}");
        let field = "/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0";
        let term = pod.pointer("/spec/affinity/nodeAffinity").and_then(|a| a.pointer(field));
        ensure!(
            term.is_some_and(|t| t.get("matchExpressions").is_none()),
            "something was added to what the controller of DaemonSets requires: {term:?}"
        );
    }
    Ok(())
}

fn bad_annotations_are_refused(context: &mut Context) -> Result<()> {
    context.controller()?;
    let nowhere = fleet("nowhere", 0)?;
    let denied = "admission webhook \"pods.vnpu.dev\" denied the request";
    for (annotation, value, legal) in [
        ("placement", "spread", "pack, one-per-node, whole-nodes or none"),
        ("placement", "", "pack, one-per-node, whole-nodes or none"),
        ("topology", "leaf", "preferred, required-node, required-leaf or required-superpod"),
        ("batch-size", "0", "a whole number from 1 to 100000"),
        ("batch-size", "+4", "a whole number from 1 to 100000"),
        ("batch-size", "many", "a whole number from 1 to 100000"),
        ("patience", "soon", "a duration such as"),
        ("patience", "-5m", "a duration such as"),
    ] {
        let annotation = format!("vnpu.dev/{annotation}");
        let [_, pod] = asking(&nowhere, "wishing", &json!({}));
        let pod = with(pod, "/metadata", "annotations", json!({&annotation: value}));
        let words = [&format!("annotation {annotation}: {value:?} is not "), legal];
        create(context, &pod)?.refused(denied, &words)?;
    }
    // Who makes pods by a workload finds the reason in its events.
    let annotations = json!({"vnpu.dev/placement": "spread"});
    let made = job(&nowhere, "wishing", 1, "no-such-template", annotations);
    apply(context, vec![made])?;
    context.cluster.wait_for("the Job's event", PATIENCE, || {
        let events = list(context, "events")?;
        let of_job = events.iter().filter(|e| text(e, "/involvedObject/kind") == "Job");
        Ok(of_job.map(|e| text(e, "/message")).any(|m| m.contains("\"spread\" is not pack, one-per-node")))
    })?;
    context.kubectl(&["delete", "job", "wishing", "--timeout=60s"])?;
    let good = json!({
        "vnpu.dev/placement": "one-per-node", "vnpu.dev/topology": "required-leaf", "vnpu.dev/batch-size": "4",
        "vnpu.dev/patience": "1h30m",
    });
    let [_, pod] = asking(&nowhere, "wishing", &json!({}));
    let pod = create(context, &with(pod, "/metadata", "annotations", good))?.stored()?;
    ensure!(gates(&pod) == [GATE], "a pod with good wishes has the gates {:?}", gates(&pod));
    context.kubectl(&["delete", "pod", "wishing", "--force", "--grace-period=0"]).map(drop)
}

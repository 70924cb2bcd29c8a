//! Who makes pods, and that the planner understands all of them: Kubernetes' own controllers, those that nobody told it
//! of, and PodGroups.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use vnpu_e2e_stack::Fleet;

use crate::batches::{
    another, clear, create_pods, fill, fleet, gated, job, leave, members, modules_template, nodes, pod_spec,
    replicas, wait_bound, wait_led,
};
use crate::case::Case;
use crate::context::Context;
use crate::controllers::Altered;
use crate::simulated::{apply, get, text, wait_event, with};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "workloads/out_of_the_box",
        about: "an indexed Job, a Deployment, a StatefulSet and a bare pod lie on one node each",
        run: out_of_the_box,
    },
    Case {
        name: "workloads/one_after_the_other",
        about: "pods of a StatefulSet that come one by one are placed as they come, beside those before",
        run: one_after_the_other,
    },
    Case {
        name: "workloads/grows_and_shrinks",
        about: "a Deployment grows where it is; one that waits and shrinks takes the room there is, and gives it back",
        run: grows_and_shrinks,
    },
    Case {
        name: "workloads/unknown_owners",
        about: "pods of a controller that nobody told us of are a batch, with their number declared and without",
        run: unknown_owners,
    },
    Case {
        name: "workloads/pod_group",
        about: "pods of a PodGroup are planned as one, and the scheduler that schedules groups takes the plan",
        run: pod_group,
    },
];

/// Longer than the planner takes for anything.
const A_WHILE: Duration = Duration::from_secs(2);

/// That the pods of the label `job` are bound, all on one node; tells which.
fn on_one_node(context: &Context, name: &str, pods: usize) -> Result<String> {
    let bound = wait_bound(context, &format!("job={name}"), pods)?;
    let on = nodes(&bound);
    println!("        {name}: {pods} pods on {on:?}");
    ensure!(on.len() == 1, "{name}: {bound:?}");
    Ok(on.into_iter().next().unwrap_or_default().to_owned())
}

fn out_of_the_box(context: &mut Context) -> Result<()> {
    let fleet = fleet(context, "kinds", 4, 2)?;
    let mut indexed = job(&fleet, "indexed", 4, "one-module", json!({"vnpu.dev/placement": "pack"}));
    indexed = with(indexed, "/spec", "completionMode", json!("Indexed"));
    let deployment = replicas(&fleet, "Deployment", "deployment", 4, "one-module");
    let stateful = replicas(&fleet, "StatefulSet", "stateful", 4, "one-module");
    let stateful = with(stateful, "/spec", "podManagementPolicy", json!("Parallel"));
    let bare = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bare", "labels": {"job": "bare"}},
        "spec": pod_spec(&fleet, "one-module"),
    });
    apply(context, vec![modules_template("one-module", 1), indexed, deployment, stateful, bare])?;
    for (name, pods) in [("indexed", 4), ("deployment", 4), ("stateful", 4), ("bare", 1)] {
        on_one_node(context, name, pods)?;
        // That the scheduler bound them says nothing: they were planned, with all others of their batch.
        let planned = wait_event(context, name, "Planned", &[])?;
        println!("        {planned}");
        let count = format!("{pods} pod");
        ensure!(planned.contains(&count), "{name}: {planned}");
    }
    leave(context, &fleet)
}

fn one_after_the_other(context: &mut Context) -> Result<()> {
    let fleet = fleet(context, "order", 4, 2)?;
    let stateful = replicas(&fleet, "StatefulSet", "ordered", 3, "two-modules");
    apply(context, vec![modules_template("two-modules", 2), modules_template("six-modules", 6), stateful])?;
    for come in 1..=3 {
        let bound = wait_bound(context, "job=ordered", come)?;
        if let (1, Some(home)) = (come, bound.values().next()) {
            // From now on there is a node where one such pod would fit best.
            fill(context, &fleet, &another(&fleet, home), "six-modules")?;
        }
        // Nothing runs on a fleet, so somebody else has to say that the pod is ready: then the next one comes.
        let ready =
            json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        let pod = format!("ordered-{}", come - 1);
        context.kubectl(&["patch", "pod", &pod, "--subresource=status", "-p", &ready.to_string()])?;
    }
    on_one_node(context, "ordered", 3)?;
    leave(context, &fleet)
}

fn grows_and_shrinks(context: &mut Context) -> Result<()> {
    let fleet = fleet(context, "scale", 2, 2)?;
    let near = replicas(&fleet, "Deployment", "near", 2, "one-module");
    let templates = [("one-module", 1), ("four-modules", 4), ("five-modules", 5)];
    let templates = templates.map(|(name, count)| modules_template(name, count));
    apply(context, [templates.as_slice(), &[near]].concat())?;
    let home = on_one_node(context, "near", 2)?;
    // Where three more would fit best.
    fill(context, &fleet, &another(&fleet, &home), "five-modules")?;
    context.kubectl(&["scale", "deployment", "near", "--replicas=5"])?;
    let grown = on_one_node(context, "near", 5)?;
    ensure!(grown == home, "it was on {home} and grew on {grown}");
    context.kubectl(&["delete", "pod", "filler", "--grace-period=0", "--force"])?;

    // Sixteen modules are asked for, and eleven are free: three of one node, and all of the other.
    apply(context, vec![replicas(&fleet, "Deployment", "far", 4, "four-modules")])?;
    let told = wait_event(context, "far-", "WaitingForCapacity", &[])?;
    println!("        {told}");
    ensure!(gated(context, "job=far")? == 4, "it waits whole");
    context.kubectl(&["scale", "deployment", "far", "--replicas=2"])?;
    let other = on_one_node(context, "far", 2)?;
    ensure!(other != home, "both on {home}");

    // What it shrinks by and what it had are free again.
    context.kubectl(&["scale", "deployment", "far", "--replicas=0"])?;
    context.kubectl(&["delete", "pods", "-l", "job=far", "--grace-period=0", "--force"])?;
    create_pods(context, members(&fleet, "after", 8, "one-module"))?;
    let bound = wait_bound(context, "vnpu.dev/batch=after", 8)?;
    ensure!(nodes(&bound).contains(other.as_str()) && nodes(&bound).len() == 1, "{bound:?}");
    leave(context, &fleet)
}

/// A kind of controller that only this test has.
fn trainer_kind() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "trainers.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"kind": "Trainer", "plural": "trainers", "singular": "trainer"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}}}],
        },
    })
}

/// Pods that an operator made for its object.
fn trained(context: &Context, fleet: &Fleet, name: &str, annotations: &Value) -> Result<Vec<Value>> {
    let uid = text(&get(context, "trainers", name)?, "/metadata/uid").to_owned();
    let owner = json!([{"apiVersion": "example.com/v1", "kind": "Trainer", "name": name, "uid": uid,
        "controller": true}]);
    let pod = |n: u32| {
        let metadata = json!({"name": format!("{name}-{n}"), "labels": {"job": name},
            "annotations": annotations, "ownerReferences": owner});
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod_spec(fleet, "one-module")})
    };
    Ok((0..4).map(pod).collect())
}

fn unknown_owners(context: &mut Context) -> Result<()> {
    let fleet = fleet(context, "trainers", 4, 2)?;
    apply(context, vec![trainer_kind(), modules_template("one-module", 1)])?;
    let kind = "crd/trainers.example.com";
    context.cluster.kubectl_ok(&["wait", "--for=condition=Established", kind, "--timeout=60s"])?;
    for name in ["declared", "quiet"] {
        let trainer = json!({"apiVersion": "example.com/v1", "kind": "Trainer", "metadata": {"name": name}});
        apply(context, vec![trainer])?;
    }
    let mut declared = trained(context, &fleet, "declared", &json!({"vnpu.dev/batch-size": "4"}))?;
    let last = declared.split_off(3);
    create_pods(context, declared)?;
    std::thread::sleep(A_WHILE);
    ensure!(gated(context, "job=declared")? == 3, "three of four do not wait for the fourth");
    create_pods(context, last)?;
    on_one_node(context, "declared", 4)?;
    create_pods(context, trained(context, &fleet, "quiet", &json!({}))?)?;
    on_one_node(context, "quiet", 4)?;
    clear(context)?;
    context.cluster.kubectl_ok(&["delete", kind])?;
    fleet.remove(&context.cluster)
}

/// The components of the control plane, started anew with other arguments; what they were comes back at the end.
struct Gated<'a> {
    context: &'a Context,
}

impl<'a> Gated<'a> {
    const COMPONENTS: [&'static str; 3] = ["apiserver", "controller-manager", "scheduler"];

    /// With PodGroups, which Kubernetes 1.37 has as a beta that is off.
    fn with_pod_groups(context: &'a Context) -> Result<Self> {
        let gated = Self { context };
        gated.restart(|name, arguments| {
            arguments.push("--feature-gates=GenericWorkload=true".into());
            if name == "apiserver" {
                arguments.push("--runtime-config=scheduling.k8s.io/v1beta1=true".into());
            }
        })?;
        Ok(gated)
    }

    fn restart(&self, edit: impl Fn(&str, &mut Vec<std::ffi::OsString>)) -> Result<()> {
        let cluster = &self.context.cluster;
        for name in Self::COMPONENTS {
            if cluster.running(name) {
                cluster.kill9_process(name)?;
            }
            cluster.edit_process(name, |spec| edit(name, &mut spec.arguments))?;
        }
        cluster.start_apiserver()?;
        cluster.relaunch_process("controller-manager")?;
        cluster.relaunch_process("scheduler")
    }
}

impl Drop for Gated<'_> {
    fn drop(&mut self) {
        let ours = |argument: &std::ffi::OsString| {
            let argument = argument.to_string_lossy();
            argument.ends_with("GenericWorkload=true") || argument.contains("=scheduling.k8s.io/v1beta1=true")
        };
        if let Err(error) = self.restart(|_, arguments| arguments.retain(|argument| !ours(argument))) {
            println!("        the control plane is not what it was: {error:#}");
        }
    }
}

fn pod_group(context: &mut Context) -> Result<()> {
    let fleet = fleet(context, "groups", 4, 2)?;
    let groups = Gated::with_pod_groups(context)?;
    // The controller looks once which kinds there are.
    let controller = Altered::of(context)?;
    controller.stop()?;
    controller.start()?;
    wait_led(context)?;
    apply(context, vec![modules_template("one-module", 1)])?;
    let group = |name: &str, count: u32| {
        json!({"apiVersion": "scheduling.k8s.io/v1beta1", "kind": "PodGroup", "metadata": {"name": name},
            "spec": {"schedulingPolicy": {"gang": {"minCount": count}}}})
    };
    apply(context, vec![group("gang", 6)])?;
    let in_group = |name: &str, n: u32| {
        let metadata = json!({"name": format!("{name}-{n}"), "labels": {"job": name},
            "annotations": {"vnpu.dev/placement": "pack"}});
        let spec = with(pod_spec(&fleet, "one-module"), "", "schedulingGroup", json!({"podGroupName": name}));
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    };
    let mut gang: Vec<Value> = (0..6).map(|n| in_group("gang", n)).collect();
    let last = gang.split_off(4);
    create_pods(context, gang)?;
    std::thread::sleep(A_WHILE);
    ensure!(gated(context, "job=gang")? == 4, "four of six do not wait for the others");
    create_pods(context, last)?;
    let home = on_one_node(context, "gang", 6)?;
    let planned = wait_event(context, "gang-", "Planned", &[&home])?;
    println!("        {planned}");
    let scheduled = get(context, "podgroup", "gang")?;
    println!(
        "        the scheduler says: {}",
        scheduled.pointer("/status/conditions").unwrap_or(&Value::Null)
    );
    clear(context)?;
    context.kubectl(&["delete", "podgroups", "--all", "--timeout=60s"])?;
    drop(groups);
    wait_led(context)?;
    fleet.remove(&context.cluster)
}

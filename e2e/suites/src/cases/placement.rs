//! Batches against the real scheduler: the planner nominates, the scheduler binds, and where they lie is counted.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};
use vnpu_harness::Signal;

use crate::batches::{
    PATIENCE, clear, create_pods, fleet, is_gated, job, leave, leaves, member, metric, modules_template,
    node_of, nodes, pods, wait_bound, wait_led,
};
use crate::case::Case;
use crate::context::Context;
use crate::simulated::{apply, wait_event};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "placement/three_tiers",
        about: "a batch lies on one node, where it does not fit on one leaf, where it does not fit across leaves",
        run: three_tiers,
    },
    Case {
        name: "placement/one_per_node",
        about: "pods that work together on modules, or ask for it, never share a node, and stay on one leaf",
        run: one_per_node,
    },
    Case {
        name: "placement/same_twice",
        about: "batches of declared size, submitted in the same order twice, land on the same nodes",
        run: same_twice,
    },
    Case {
        name: "placement/node_fills_up",
        about: "the planned node is taken meanwhile: the pod stays on its leaf, and the deviation is counted and told",
        run: node_fills_up,
    },
    Case {
        name: "placement/leader_killed",
        about: "the leader is killed in the middle of a batch of 200: all are bound once, none stays gated",
        run: leader_killed,
    },
    Case {
        name: "placement/api_server_away",
        about: "the API server is killed, then stands still, while pods are patched by others: the view heals",
        run: api_server_away,
    },
];

fn three_tiers(context: &mut Context) -> Result<()> {
    let fleet = fleet(context, "tiers", 8, 2)?;
    apply(context, vec![modules_template("two-modules", 2)])?;
    for (name, pods, wanted) in [("node", 4, (1, 1)), ("leaf", 6, (2, 1)), ("across", 10, (3, 2))] {
        apply(context, vec![job(&fleet, name, pods, "two-modules", json!({}))])?;
        let bound = wait_bound(context, &format!("job={name}"), pods as usize)?;
        let found = (nodes(&bound).len(), leaves(&fleet, &bound).len());
        println!("        {pods} pods of 2 modules: {} nodes, {} leaves", found.0, found.1);
        ensure!(
            found == wanted,
            "{pods} pods of 2 modules lie on {found:?} (nodes, leaves), wanted {wanted:?}: {bound:?}"
        );
    }
    leave(context, &fleet)
}

fn one_per_node(context: &mut Context) -> Result<()> {
    let fleet = fleet(context, "spread", 8, 4)?;
    apply(context, vec![modules_template("one-module", 1)])?;
    let mut indexed = job(&fleet, "indexed", 4, "one-module", json!({}));
    if let Some(spec) = indexed.pointer_mut("/spec").and_then(Value::as_object_mut) {
        spec.insert("completionMode".to_owned(), json!("Indexed"));
    }
    let asked = job(&fleet, "asked", 4, "one-module", json!({"vnpu.dev/placement": "one-per-node"}));
    apply(context, vec![indexed, asked])?;
    for name in ["indexed", "asked"] {
        let bound = wait_bound(context, &format!("job={name}"), 4)?;
        let found = (nodes(&bound).len(), leaves(&fleet, &bound).len());
        println!("        {name}: {} nodes, {} leaves", found.0, found.1);
        ensure!(found == (4, 1), "{name}: {bound:?}");
    }
    leave(context, &fleet)
}

fn same_twice(context: &mut Context) -> Result<()> {
    let fleet = fleet(context, "twice", 8, 2)?;
    apply(context, vec![modules_template("one-module", 1)])?;
    let mut rounds = Vec::new();
    for _ in 0..2 {
        let mut lying = Vec::new();
        for (batch, size) in [("a", 3), ("b", 9), ("c", 2), ("d", 5)] {
            let name = |rank| format!("{batch}-{rank}");
            let members = (0..size)
                .map(|rank| member(&fleet, batch, size, &name(rank), "one-module", &json!({})))
                .collect();
            create_pods(context, members)?;
            lying.push(wait_bound(context, &format!("vnpu.dev/batch={batch}"), size as usize)?);
        }
        rounds.push(lying);
        clear(context)?;
    }
    let [first, second] = rounds.as_slice() else { bail!("two rounds") };
    let home = |bound| nodes(bound).into_iter().map(str::to_owned).collect::<Vec<_>>();
    let summary: Vec<Vec<String>> = first.iter().map(home).collect();
    println!("        {summary:?}");
    ensure!(first == second, "first {first:?}\nsecond {second:?}");
    leave(context, &fleet)
}

/// There is no scheduler while a batch is released and another pod, of higher priority and held back by nobody, comes for
/// the same node; one that starts knows everything before it begins, and takes the highest priority first.
fn node_fills_up(context: &mut Context) -> Result<()> {
    let fleet = fleet(context, "taken", 4, 2)?;
    let address = context.controller()?.admin_address.clone();
    let before = metric(&address, "vnpu_plan_deviations_total")?;
    let urgent = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
        "metadata": {"name": "taken-urgent"}, "value": 1000});
    apply(context, vec![urgent, modules_template("one-module", 1), modules_template("eight-modules", 8)])?;
    context.cluster.kill9_process("scheduler")?;
    let members =
        (0..2).map(|rank| member(&fleet, "pair", 2, &format!("pair-{rank}"), "one-module", &json!({})));
    create_pods(context, members.collect())?;
    let mut planned = String::new();
    let released = context.cluster.wait_for("the batch to be released", PATIENCE, || {
        let pods = pods(context, "vnpu.dev/batch=pair")?;
        let nominated = pods.iter().filter_map(|p| p.status.as_ref()?.nominated_node_name.clone());
        planned = nominated.max().unwrap_or_default();
        Ok(pods.len() == 2 && !pods.iter().any(is_gated) && !planned.is_empty())
    });
    let mut thief =
        member(&fleet, "thief", 1, "thief", "eight-modules", &json!({"vnpu.dev/placement": "none"}));
    if let Some(spec) = thief.pointer_mut("/spec").and_then(Value::as_object_mut) {
        spec.insert("priorityClassName".to_owned(), json!("taken-urgent"));
        spec.insert("nodeSelector".to_owned(), json!({"kubernetes.io/hostname": planned}));
    }
    let stolen = create_pods(context, vec![thief]).and_then(|()| {
        context.cluster.wait_for("the other pod's claim", PATIENCE, || {
            let pods = pods(context, "vnpu.dev/batch=thief")?;
            Ok(pods.iter().any(|p| p.status.as_ref().is_some_and(|s| s.resource_claim_statuses.is_some())))
        })
    });
    context.cluster.relaunch_process("scheduler")?;
    released?;
    stolen?;
    let taken = wait_bound(context, "vnpu.dev/batch=thief", 1)?;
    let bound = wait_bound(context, "vnpu.dev/batch=pair", 2)?;
    println!("        planned {planned}, taken by {taken:?}, bound {bound:?}");
    ensure!(nodes(&taken).contains(planned.as_str()), "the other pod did not take the node");
    ensure!(!nodes(&bound).contains(planned.as_str()), "{bound:?}");
    let planned_leaf = leaves(&fleet, &[("x".to_owned(), planned)].into());
    ensure!(leaves(&fleet, &bound) == planned_leaf, "{bound:?} left the leaf");
    let told = wait_event(context, "pair-", "PlanDeviation", &["planned for node"])?;
    println!("        {told}");
    let after = metric(&address, "vnpu_plan_deviations_total")?;
    ensure!(after - before >= 2.0, "deviations: {before} before, {after} after");
    context.cluster.kubectl_ok(&["delete", "priorityclass", "taken-urgent"])?;
    leave(context, &fleet)
}

fn leader_killed(context: &mut Context) -> Result<()> {
    const PODS: u32 = 200;
    let fleet = fleet(context, "leader", 32, 8)?;
    let leader = context.controller()?.name.clone();
    let standby = context.stack.start_controller(1, None)?;
    apply(context, vec![modules_template("one-module", 1)])?;
    let members =
        (0..PODS).map(|n| member(&fleet, "big", PODS, &format!("big-{n}"), "one-module", &json!({})));
    create_pods(context, members.collect())?;
    let selector = "vnpu.dev/batch=big";
    let deadline = Instant::now() + PATIENCE;
    let at_kill = loop {
        let released = pods(context, selector)?.iter().filter(|pod| !is_gated(pod)).count();
        if released >= 10 {
            break released;
        }
        ensure!(Instant::now() < deadline, "nothing was released");
    };
    context.cluster.kill9_process(&leader)?;
    println!("        killed with {at_kill} of {PODS} released");
    let bound = wait_bound(context, selector, PODS as usize)?;
    let all = pods(context, selector)?;
    let gated = all.iter().filter(|pod| is_gated(pod)).count();
    let stale = all.iter().filter(|pod| node_of(pod).is_none() && nominated(pod)).count();
    println!(
        "        bound {} on {} nodes, gated {gated}, stale nominations {stale}",
        bound.len(),
        nodes(&bound).len()
    );
    ensure!(gated == 0 && stale == 0 && nodes(&bound).len() == 25, "nodes: {}", nodes(&bound).len());
    let led = metric(&standby.admin_address, "vnpu_leader")?;
    ensure!(led > 0.0, "the other controller does not lead");
    context.cluster.relaunch_process(&leader)?;
    context.cluster.wait_controller(context.controller()?)?;
    context.cluster.stop_process(&standby.name)?;
    leave(context, &fleet)
}

fn nominated(pod: &k8s_openapi::api::core::v1::Pod) -> bool {
    pod.status.as_ref().is_some_and(|s| s.nominated_node_name.is_some())
}

fn api_server_away(context: &mut Context) -> Result<()> {
    let fleet = fleet(context, "away", 4, 2)?;
    let controller = context.controller()?.clone();
    apply(context, vec![modules_template("one-module", 1)])?;
    let batch = |name: &str| {
        (0..4)
            .map(|rank| member(&fleet, name, 4, &format!("{name}-{rank}"), "one-module", &json!({})))
            .collect()
    };
    create_pods(context, batch("before"))?;
    wait_bound(context, "vnpu.dev/batch=before", 4)?;
    context.cluster.stop_apiserver()?;
    std::thread::sleep(Duration::from_secs(3));
    context.cluster.start_apiserver()?;
    // The controller may not lead any more, and takes the lease again.
    wait_led(context)?;
    create_pods(context, batch("killed"))?;
    wait_bound(context, "vnpu.dev/batch=killed", 4)?;
    context.cluster.signal_process("apiserver", Signal::STOP)?;
    std::thread::sleep(Duration::from_secs(12));
    context.cluster.signal_process("apiserver", Signal::CONT)?;
    wait_led(context)?;
    create_pods(context, batch("stood-still"))?;
    wait_bound(context, "vnpu.dev/batch=stood-still", 4)?;
    // Somebody else changes every pod all the time: patches conflict, and are made again.
    create_pods(context, batch("busy"))?;
    let deadline = Instant::now() + PATIENCE;
    let mut touched = 0;
    while crate::batches::bound(context, "vnpu.dev/batch=busy")?.len() < 4 {
        ensure!(Instant::now() < deadline, "the batch that is changed all the time is not bound");
        touched += 1;
        let label = format!("touched={touched}");
        context.kubectl(&["label", "pods", "-l", "vnpu.dev/batch=busy", "--overwrite", &label])?;
    }
    ensure!(context.cluster.running(&controller.name), "the controller ended");
    let gone = pods(context, "vnpu.dev/batch")?.iter().filter(|pod| is_gated(pod)).count();
    ensure!(gone == 0, "{gone} pods are gated");
    let synced = metric(&controller.admin_address, "vnpu_watches_synced")?;
    ensure!(synced > 0.0, "not synced");
    leave(context, &fleet)
}

//! What changes while a batch waits, is planned, or is let go: pods that are deleted, nodes that go, places that others
//! take, and batches that are bound in part only.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use vnpu_e2e_stack::{Fleet, admin_page};
use vnpu_harness::Signal;

use crate::batches::{
    PATIENCE, bound, create_pods, fleet, gated, is_gated, job, leave, members, metric, modules_template,
    nodes, pinned, pods, replicas, wait_bound, wait_led, wait_released,
};
use crate::case::Case;
use crate::context::Context;
use crate::controllers::Altered;
use crate::simulated::{apply, wait_event, with};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "change/pods_deleted",
        about: "pods of a batch are deleted while it waits and while it is planned: what they would have had is free",
        run: pods_deleted,
    },
    Case {
        name: "change/nodes_vanish",
        about: "the planned node goes before the pods are bound, and another while a batch waits: all are bound at last",
        run: nodes_vanish,
    },
    Case {
        name: "change/partial_is_completed",
        about: "a batch bound in part is reported within 30 s, explained, and completed beside the others at last",
        run: partial_is_completed,
    },
    Case {
        name: "change/partial_is_made_again",
        about: "where that is wanted and allowed, pods of a partial batch are deleted and made again; where not, it is told",
        run: partial_is_made_again,
    },
];

/// A batch has to be completed or reported so long after its release.
const REPORTED: Duration = Duration::from_secs(30);

/// The scheduler, standing still until this is dropped.
struct Halted<'a>(&'a Context);

impl<'a> Halted<'a> {
    fn new(context: &'a Context) -> Result<Self> {
        context.cluster.signal_process("scheduler", Signal::STOP)?;
        Ok(Self(context))
    }
}

impl Drop for Halted<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.cluster.signal_process("scheduler", Signal::CONT) {
            println!("        the scheduler stands still: {error:#}");
        }
    }
}

fn delete(context: &Context, arguments: &[&str]) -> Result<()> {
    let all = [&["delete", "pods", "--grace-period=0", "--force", "--timeout=60s"], arguments].concat();
    context.kubectl(&all).map(drop)
}

fn pods_deleted(context: &mut Context) -> Result<()> {
    let fleet = fleet(context, "deleted", 1, 1)?;
    apply(context, vec![modules_template("one-module", 1)])?;
    create_pods(context, members(&fleet, "first", 5, "one-module"))?;
    wait_bound(context, "vnpu.dev/batch=first", 5)?;
    // Three modules are free. The next wants four, then three, since its Job is told to; so it has them.
    apply(context, vec![job(&fleet, "shrinks", 4, "one-module", json!({"vnpu.dev/placement": "pack"}))])?;
    println!("        {}", wait_event(context, "shrinks-", "WaitingForCapacity", &[])?);
    ensure!(gated(context, "job=shrinks")? == 4, "it waits whole");
    context.kubectl(&["patch", "job", "shrinks", "-p", r#"{"spec": {"parallelism": 3}}"#])?;
    wait_bound(context, "job=shrinks", 3)?;
    // One waits for more than there will ever be, and goes; the next has what comes free.
    create_pods(context, members(&fleet, "goes", 4, "one-module"))?;
    println!("        {}", wait_event(context, "goes-", "WaitingForCapacity", &[])?);
    delete(context, &["-l", "vnpu.dev/batch=goes"])?;
    context.kubectl(&["delete", "job", "shrinks", "--timeout=60s"])?;
    delete(context, &["-l", "job=shrinks"])?;

    // Planned and let go, but not bound: the scheduler stands still.
    let halted = Halted::new(context)?;
    create_pods(context, members(&fleet, "planned", 3, "one-module"))?;
    wait_released(context, "vnpu.dev/batch=planned", 3)?;
    delete(context, &["planned-0", "planned-1"])?;
    create_pods(context, members(&fleet, "last", 2, "one-module"))?;
    wait_released(context, "vnpu.dev/batch=last", 2)?;
    drop(halted);
    wait_bound(context, "vnpu.dev/batch=planned", 1)?;
    wait_bound(context, "vnpu.dev/batch=last", 2)?;
    leave(context, &fleet)
}

fn nodes_vanish(context: &mut Context) -> Result<()> {
    let fleet = fleet(context, "vanish", 2, 2)?;
    apply(context, vec![modules_template("one-module", 1)])?;
    let index = |node: &str| u32::from(node == fleet.node(1));
    let halted = Halted::new(context)?;
    create_pods(context, members(&fleet, "moved", 4, "one-module"))?;
    let planned = wait_released(context, "vnpu.dev/batch=moved", 4)?;
    ensure!(planned.len() == 1, "{planned:?}");
    let gone = planned.first().map_or(0, |node| index(node));
    fleet.remove_one(&context.cluster, gone)?;
    drop(halted);
    let bound = wait_bound(context, "vnpu.dev/batch=moved", 4)?;
    let left = fleet.node(1 - gone);
    println!("        planned for {planned:?}, which went; bound to {:?}", nodes(&bound));
    ensure!(nodes(&bound).contains(left.as_str()), "{bound:?}");

    // Ten modules fit on both nodes, of which one is there: never, as far as anybody can see.
    create_pods(context, members(&fleet, "waits", 10, "one-module"))?;
    println!("        {}", wait_event(context, "waits-", "NeverFits", &[])?);
    fleet.create_one(&context.cluster, gone)?;
    wait_bound(context, "vnpu.dev/batch=waits", 10)?;

    // And one waits for what is in use on a node that goes, and comes again empty.
    create_pods(context, members(&fleet, "again", 4, "one-module"))?;
    println!("        {}", wait_event(context, "again-", "WaitingForCapacity", &[])?);
    delete(context, &["-l", "vnpu.dev/batch in (moved,waits)"])?;
    wait_bound(context, "vnpu.dev/batch=again", 4)?;
    ensure!(context.cluster.running(&context.controller()?.name), "the controller ended");
    leave(context, &fleet)
}

/// The metric of partial batches.
const PARTIAL: &str = "vnpu_partial_batches_total";

/// Tears a batch of four pods of two modules each: on the node for which it was planned, half of what it needs is taken
/// before the scheduler looks, and all that other nodes have. Tells the node, and when the batch was let go.
fn tear(context: &Context, fleet: &Fleet, selector: &str, batch: Vec<Value>) -> Result<(String, Instant)> {
    let urgent = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
        "metadata": {"name": format!("{}-urgent", fleet.name)}, "value": 1000});
    let templates = [("two-modules", 2), ("four-modules", 4), ("eight-modules", 8)];
    let templates = templates.map(|(name, count)| modules_template(name, count));
    apply(context, [&[urgent], templates.as_slice()].concat())?;
    // One that starts knows everything before it begins, and takes the highest priority first.
    context.cluster.kill9_process("scheduler")?;
    let torn = take_all(context, fleet, selector, batch);
    context.cluster.relaunch_process("scheduler")?;
    let torn = torn?;
    wait_bound(context, "vnpu.dev/batch=thief", 1)?;
    wait_bound(context, "vnpu.dev/batch=thieves", usize::try_from(fleet.nodes)? - 1)?;
    context.cluster.wait_for("half of the batch", PATIENCE, || Ok(bound(context, selector)?.len() == 2))?;
    Ok(torn)
}

fn take_all(
    context: &Context,
    fleet: &Fleet,
    selector: &str,
    batch: Vec<Value>,
) -> Result<(String, Instant)> {
    apply(context, batch)?;
    let planned = wait_released(context, selector, 4)?;
    let released = Instant::now();
    let home = planned.first().cloned().context("no node")?;
    ensure!(planned.len() == 1, "{planned:?}");
    let thieves = (0..fleet.nodes).map(|index| {
        let node = fleet.node(index);
        let (batch, template) =
            if node == home { ("thief", "four-modules") } else { ("thieves", "eight-modules") };
        let thief = pinned(fleet, batch, &format!("thief-{index}"), template, &node);
        with(thief, "/spec", "priorityClassName", json!(format!("{}-urgent", fleet.name)))
    });
    create_pods(context, thieves.collect())?;
    context.cluster.wait_for("the others' claims", PATIENCE, || {
        let pods = pods(context, "vnpu.dev/batch in (thief,thieves)")?;
        Ok(pods.iter().all(|p| p.status.as_ref().is_some_and(|s| s.resource_claim_statuses.is_some())))
    })?;
    Ok((home, released))
}

fn mended(context: &Context, fleet: &Fleet) -> Result<()> {
    leave(context, fleet)?;
    let class = format!("{}-urgent", fleet.name);
    context.cluster.kubectl_ok(&["delete", "priorityclass", &class]).map(drop)
}

fn partial_is_completed(context: &mut Context) -> Result<()> {
    let fleet = fleet(context, "torn", 3, 2)?;
    wait_led(context)?;
    let address = context.controller()?.admin_address.clone();
    let before = metric(&address, PARTIAL)?;
    let selector = "vnpu.dev/batch=quad";
    let (home, released) = tear(context, &fleet, selector, members(&fleet, "quad", 4, "two-modules"))?;
    let told = wait_event(context, "quad-", "PartialBatch", &["2 of the batch's pods are bound, 2 are not"])?;
    let took = released.elapsed();
    println!("        after {:.1} s: {told}", took.as_secs_f32());
    ensure!(took < REPORTED, "reported after {took:?}");
    let missing = pods(context, selector)?
        .into_iter()
        .filter(|pod| pod.spec.as_ref().is_some_and(|s| s.node_name.is_none()));
    let missing: Vec<String> = missing.filter_map(|pod| pod.metadata.name).collect();
    ensure!(metric(&address, PARTIAL)? - before >= 1.0, "the metric says nothing");
    println!("        {}", wait_event(context, "quad-", "WaitingForCapacity", &[])?);
    for pod in &missing {
        let (_, page) = admin_page(&address, &format!("/debug/placement?pod={}/{pod}", context.namespace))?;
        ensure!(
            page.contains("PartialBatch") && page.contains("2 modules"),
            "{pod} is not explained: {page}"
        );
    }
    // The scheduler has looked at them again and again meanwhile, and said so in the pods. Now there is room: beside the
    // others first, since the planner takes the first that it hears of, then elsewhere. The scheduler learns of both at
    // once.
    let halted = Halted::new(context)?;
    delete(context, &["-l", "vnpu.dev/batch=thief"])?;
    context.cluster.wait_for("the missing pods to be planned again", PATIENCE, || {
        let pods = pods(context, selector)?;
        let there = |p: &&k8s_openapi::api::core::v1::Pod| {
            p.status.as_ref().and_then(|s| s.nominated_node_name.as_ref()).is_some_and(|node| *node == home)
        };
        let missing = pods.iter().filter(|p| p.metadata.name.as_ref().is_some_and(|n| missing.contains(n)));
        Ok(missing.filter(there).count() == 2)
    })?;
    delete(context, &["-l", "vnpu.dev/batch=thieves"])?;
    drop(halted);
    let bound = wait_bound(context, selector, 4)?;
    println!("        planned for {home}, bound to {:?}", nodes(&bound));
    ensure!(nodes(&bound).len() == 1 && nodes(&bound).contains(home.as_str()), "{bound:?}");
    mended(context, &fleet)
}

fn partial_is_made_again(context: &mut Context) -> Result<()> {
    let fleet = fleet(context, "anew", 2, 2)?;
    let altered = Altered::of(context)?;
    altered.restart_configured(&json!({"apiVersion": "vnpu.dev/v1alpha1", "kind": "ControllerConfig",
        "placement": {"onPartial": "recreate"}}))?;
    wait_led(context)?;
    let address = context.controller()?.admin_address.clone();
    let selector = "job=quad";
    let batch = replicas(&fleet, "Deployment", "quad", 4, "two-modules");
    let (home, _) = tear(context, &fleet, selector, vec![batch])?;
    let told = wait_event(context, "quad-", "PodNotRecreated", &["forbidden", "controller-recreate.yaml"])?;
    println!("        {told}");
    ensure!(metric(&address, "vnpu_pods_not_recreated_total")? >= 2.0, "the metric says nothing");
    ensure!(gated(context, selector)? == 0 && pods(context, selector)?.len() == 4, "pods were deleted");
    // Now the administrator gives the right.
    let right = context.artefacts.repository.join("deploy/optional/controller-recreate.yaml");
    context.cluster.apply_path(&right)?;
    let again = context.cluster.wait_for("two pods to be made again", PATIENCE, || {
        Ok(pods(context, selector)?.iter().filter(|pod| is_gated(pod)).count() == 2)
    });
    context.cluster.kubectl_ok(&["delete", "-f", &right.to_string_lossy()])?;
    again?;
    println!("        {}", wait_event(context, "quad-", "WaitingForCapacity", &[])?);
    // The planner takes the first room that it hears of.
    delete(context, &["-l", "vnpu.dev/batch=thief"])?;
    let bound = wait_bound(context, selector, 4)?;
    ensure!(nodes(&bound).len() == 1 && nodes(&bound).contains(home.as_str()), "{bound:?}");
    drop(altered);
    wait_led(context)?;
    mended(context, &fleet)
}

//! Whatever is restarted, killed or wiped: pods that run go on running, under their quota, and the next ones
//! start; nothing is left on the node that belongs to nobody.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use vnpu_e2e_stack::{Machine, MachineNode};

use crate::case::Case;
use crate::context::Context;
use crate::holding::{PATIENCE, holder, share};
use crate::plugins::{Altered, Simulated, entries};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "resilience/restarts_leave_quotas_in_force",
        about: "plugin, containerd and kubelet restart under a pod with a share: same container, same quota; a next pod starts",
        run: restarts_leave_quotas_in_force,
    },
    Case {
        name: "resilience/plugin_killed_while_a_pod_starts",
        about: "SIGKILL of the plugin between CDI file and record leaves other pods alone, and the pod starts after the restart",
        run: plugin_killed_while_a_pod_starts,
    },
    Case {
        name: "resilience/plugin_killed_at_every_step",
        about: "SIGKILL at any step of Prepare and Unprepare: the pod starts, ends, and leaves nothing on the node",
        run: plugin_killed_at_every_step,
    },
    Case {
        name: "resilience/wiped_slices_come_back",
        about: "slices deleted by hand, wiped by a starting kubelet, or wiped 30 s after the plugin died are published again",
        run: wiped_slices_come_back,
    },
];

/// The places in the order of the work; those of the log's compaction are beyond one claim.
const STEPS: [&str; 10] = [
    "prepare.started.after",
    "prepare.regions.after",
    "prepare.cdi.after",
    "prepare.completed.after",
    "unprepare.started.after",
    "unprepare.cdi.after",
    "unprepare.regions.after",
    "unprepare.done.after",
    // The second record of a start is `PrepareCompleted`.
    "log.write.half:2",
    "log.write.after:3",
];

fn restarts_leave_quotas_in_force(context: &mut Context) -> Result<()> {
    let node = context.machine()?;
    let (name, process) = (node.handle.name.as_str(), node.handle.plugin());
    let published = context.devices(name)?;
    context.hold("before", name, &share("before", "4Gi", 10))?;
    let (container, uid) = (context.container_id("before")?, context.claim_uid("before")?);
    context.held_to("before", 4)?;

    context.cluster.stop_process(&process)?;
    let sockets = sockets(&node);
    ensure!(sockets.is_empty(), "a plugin that was asked to end left its sockets: {sockets:?}");
    context.held_to("before", 4)?;
    context.cluster.relaunch_process(&process)?;
    context.wait_published(&node)?;
    context.cluster.restart_containerd()?;
    context.cluster.restart_kubelet()?;

    context.hold("after", name, &share("after", "2Gi", 10))?;
    context.held_to("after", 2)?;
    context.held_to("before", 4)?;
    let now = context.container_id("before")?;
    ensure!(now == container, "the pod's container was {container} and is {now}");
    // A starting kubelet wipes the slices.
    context.publishes(name, &published)?;
    context.only_claims(&node, &[&uid, &context.claim_uid("after")?])?;
    context.end("before")?;
    context.end("after")?;
    context.only_claims(&node, &[])
}

/// Sockets of ours in kubelet's directories.
fn sockets(node: &MachineNode) -> Vec<String> {
    let registry = entries(&node.handle.registry).into_iter().filter(|f| f.starts_with("vnpu.dev"));
    registry.chain(entries(&node.handle.plugins.join("vnpu.dev"))).collect()
}

fn plugin_killed_while_a_pod_starts(context: &mut Context) -> Result<()> {
    let node = context.machine()?;
    let name = node.handle.name.as_str();
    context.hold("bystander", name, &share("bystander", "4Gi", 10))?;
    let container = context.container_id("bystander")?;
    let plugin = Altered::of(context, &node)?;
    let program = context.artefacts.plugin_that_dies()?;
    plugin.restart(|spec| {
        spec.program = program;
        spec.environment.push(("VNPU_CRASH_AT".into(), "prepare.cdi.after".into()));
    })?;
    context.wait_published(&node)?;
    context.apply(&format!("{}{}", share("starting", "2Gi", 10), holder("starting", name, "starting")))?;
    context.wait_ended(&node.handle.plugin())?;
    context.held_to("bystander", 4)?;
    plugin.relaunch_original()?;
    context.wait_pod("starting", "Running", PATIENCE)?;
    context.held_to("starting", 2)?;
    context.held_to("bystander", 4)?;
    let now = context.container_id("bystander")?;
    ensure!(now == container, "the pod's container was {container} and is {now}");
    context.only_claims(&node, &[&context.claim_uid("bystander")?, &context.claim_uid("starting")?])?;
    context.end("starting")?;
    context.end("bystander")?;
    context.only_claims(&node, &[])
}

fn plugin_killed_at_every_step(context: &mut Context) -> Result<()> {
    let node = Simulated::start(context, "killed", Machine::ascend_910c(1, 65536))?;
    let plugin = Altered::of(context, &node)?;
    let program = context.artefacts.plugin_that_dies()?;
    context.hold("bystander", "killed", &share("bystander", "1Gi", 10))?;
    let bystander = context.claim_uid("bystander")?;
    for (number, step) in STEPS.into_iter().enumerate() {
        plugin.restart(|spec| {
            spec.program = program.clone();
            spec.environment.push(("VNPU_CRASH_AT".into(), step.into()));
        })?;
        context.wait_published(&node)?;
        let name = format!("pod-{number}");
        context.apply(&format!("{}{}", share(&name, "4Gi", 10), holder(&name, "killed", &name)))?;
        let uid = context.claim_uid(&name)?;
        let mut kills = 0;
        until(context, &node, &plugin, &mut kills, step, || {
            Ok(context.cluster.pod_phase(&context.namespace, &name)? == "Running")
        })?;
        if kills == 1 {
            context.only_claims(&node, &[&bystander, &uid])?;
        }
        context.kubectl(&["delete", "pod", &name, "--wait=false"])?;
        until(context, &node, &plugin, &mut kills, step, || {
            Ok(context.kubectl(&["get", "pods", "-o", "name"])?.trim() == "pod/bystander")
        })?;
        ensure!(kills == 1, "the plugin died {kills} times at {step}, not once");
        context.only_claims(&node, &[&bystander])?;
    }
    context.end("bystander")?;
    context.only_claims(&node, &[])
}

/// Waits for `done`, and starts the plugin again whenever it was killed.
fn until(
    context: &Context,
    node: &MachineNode,
    plugin: &Altered<'_>,
    kills: &mut u32,
    step: &str,
    mut done: impl FnMut() -> Result<bool>,
) -> Result<()> {
    context.cluster.wait_for(&format!("the pod, killed at {step}"), PATIENCE, || {
        if !context.cluster.running(&node.handle.plugin()) {
            *kills += 1;
            plugin.relaunch_original()?;
        }
        done()
    })
}

/// The identities of a node's slices: other ones are other objects.
fn slices(context: &Context, node: &str) -> Result<BTreeSet<String>> {
    let selector = format!("--field-selector=spec.nodeName={node},spec.driver=vnpu.dev");
    let path = "jsonpath={.items[*].metadata.uid}";
    let uids = context.cluster.kubectl_ok(&["get", "resourceslices", &selector, "-o", path])?;
    Ok(uids.split_whitespace().map(str::to_owned).collect())
}

fn wiped_slices_come_back(context: &mut Context) -> Result<()> {
    let real = context.machine()?;
    let name = real.handle.name.as_str();
    let other = Simulated::start(context, "wiped", Machine::ascend_910c(2, 65536))?;
    let (on_real, on_other) = (context.devices(name)?, context.devices("wiped")?);
    context.cluster.kubectl_ok(&["delete", "resourceslices", "--all"])?;
    context.publishes(name, &on_real)?;
    context.publishes("wiped", &on_other)?;

    // Of this one kubelet gives up 30 s after its connection broke.
    context.cluster.kill9_plugin(&other.handle)?;
    let before = slices(context, name)?;
    context.cluster.restart_kubelet()?;
    context.hold("after", name, &share("after", "2Gi", 10))?;
    context.held_to("after", 2)?;
    context.publishes("wiped", &[])?;
    context.publishes(name, &on_real)?;
    let after = slices(context, name)?;
    ensure!(before.is_disjoint(&after), "the starting kubelet wiped nothing: {before:?}, now {after:?}");
    context.cluster.relaunch_plugin(&other.handle)?;
    context.publishes("wiped", &on_other)?;
    context.hold("again", "wiped", &share("again", "2Gi", 10))
}

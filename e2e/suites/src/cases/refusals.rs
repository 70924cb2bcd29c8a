//! Prepare's last line: what it refuses past the guard, what it never refuses, and whose error an error is.

use std::fs;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use vnpu_e2e_stack::MachineNode;

use crate::case::Case;
use crate::context::Context;
use crate::dra;
use crate::plugins::{Altered, set_argument};
use crate::simulated::{self, PATIENCE, by_name, claim, get, names, share, text};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "refusals/a_straddle_past_the_guard",
        about: "a bare count: 2 of a class that the guard does not know straddles, and Prepare says so in the pod's events",
        run: a_straddle_past_the_guard,
    },
    Case {
        name: "refusals/a_bad_claim_is_its_own_error",
        about: "of a pod's two claims the bad one is named, the good one is prepared, and other pods start",
        run: a_bad_claim_is_its_own_error,
    },
    Case {
        name: "refusals/never_for_a_taint_nor_when_prepared",
        about: "claims are prepared on a tainted chip, and a prepared one is answered again, even without its chip",
        run: never_for_a_taint_nor_when_prepared,
    },
];

/// The simulated node of these cases and of those about bad input.
pub(crate) const NODE: &str = "sim-two-modules";

/// That node.
pub(crate) fn node(context: &Context) -> Result<std::sync::Arc<MachineNode>> {
    simulated::node(context, NODE, 2)
}

const CLASS: &str = "refusals-unknown-to-the-guard";

fn a_straddle_past_the_guard(context: &mut Context) -> Result<()> {
    // On the real node: the event is the real kubelet's.
    let machine = context.machine()?;
    let outcome = straddle(context, &machine);
    context.cluster.kubectl_ok(&["delete", "deviceclass", CLASS, "--ignore-not-found"])?;
    outcome
}

fn straddle(context: &Context, machine: &MachineNode) -> Result<()> {
    let node = machine.handle.name.as_str();
    let selector = r#"device.driver == "vnpu.dev" && device.attributes["vnpu.dev"].type == "chip""#;
    let class = json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": CLASS},
        "spec": {"selectors": [{"cel": {"expression": selector}}]},
    });
    let two = json!({"devices": {"requests": [
        {"name": "two", "exactly": {"deviceClassName": CLASS, "count": 2}},
    ]}});
    let first =
        [claim("first", &share("4Gi", "10")), simulated::pod("first", node, &[("npu", by_name("first"))])];
    simulated::apply(context, first.to_vec())?;
    context.wait_pod("first", "Running", PATIENCE)?;
    let held = devices(&get(context, "resourceclaim", "first")?);
    ensure!(held == ["chip-0-0"], "first-fit gave the share {held:?}");

    let second = [class, claim("two", &two), simulated::pod("two", node, &[("npu", by_name("two"))])];
    simulated::apply(context, second.to_vec())?;
    let name = format!("claim {}/two", context.namespace);
    let words = [name.as_str(), "straddles", "modules [0, 1]", "npu-module.vnpu.dev"];
    let said = simulated::wait_event(context, "two", "FailedPrepareDynamicResources", &words)?;
    println!("        kubelet: {said}");
    let said = simulated::wait_event(context, "two", "DeviceRefused", &words)?;
    println!("        plugin:  {said}");
    let two = get(context, "resourceclaim", "two")?;
    ensure!(devices(&two) == ["chip-0-1", "chip-1-0"], "the scheduler gave {:?}", devices(&two));
    let file = format!("vnpu.dev-claim_{}.json", text(&two, "/metadata/uid"));
    ensure!(!names(&machine.handle.cdi).contains(&file), "a refused claim has a CDI file");
    ensure!(context.cluster.pod_phase(&context.namespace, "two")? == "Pending", "the pod is not held back");
    let alive = context.exec("first", &["sh", "-c", "echo alive"])?;
    ensure!(alive.trim() == "alive", "the share beside it says {alive:?}");
    context.kubectl(&["delete", "pod", "two", "--timeout=60s"]).map(drop)
}

fn a_bad_claim_is_its_own_error(context: &mut Context) -> Result<()> {
    let node = node(context)?;
    let bad = json!([{
        "opaque": {"driver": "vnpu.dev", "parameters": {"apiVersion": "vnpu.dev/v9", "kind": "SharePolicy"}},
    }]);
    let bad = simulated::with(share("4Gi", "10"), "/devices", "config", bad);
    let objects = vec![
        claim("good", &share("4Gi", "10")),
        claim("bad", &bad),
        simulated::pod("both", NODE, &[("good", by_name("good")), ("bad", by_name("bad"))]),
    ];
    simulated::apply(context, objects)?;
    let bad = format!("claim {}/bad", context.namespace);
    let said =
        simulated::wait_event(context, "both", "FailedPrepareDynamicResources", &[&bad, "vnpu.dev/v9"])?;
    println!("        {said}");
    let good = format!("claim {}/good", context.namespace);
    ensure!(!said.contains(&good), "the good claim is blamed: {said}");
    let uid = text(&get(context, "resourceclaim", "good")?, "/metadata/uid").to_owned();
    context.cluster.wait_for("the good claim to be prepared", PATIENCE, || {
        Ok(names(&node.handle.cdi).contains(&format!("vnpu.dev-claim_{uid}.json")))
    })?;
    let objects = vec![
        claim("other", &share("4Gi", "10")),
        simulated::pod("other", NODE, &[("npu", by_name("other"))]),
        simulated::pod("next", NODE, &[("npu", by_name("good"))]),
    ];
    simulated::apply(context, objects)?;
    context.wait_pod("other", "Running", PATIENCE)?;
    context.wait_pod("next", "Running", PATIENCE)?;
    ensure!(context.cluster.pod_phase(&context.namespace, "both")? == "Pending", "the pod was started");

    let claims = ["bad", "good", "other"].map(|name| dra::Claim::of(context, name));
    let claims = claims.into_iter().collect::<Result<Vec<_>>>()?;
    let answers = dra::prepare(context, &node, &claims)?;
    ensure!(answers.len() == 3, "{answers:?}");
    let errors: Vec<&str> = answers.iter().map(|a| a.error.as_str()).collect();
    ensure!(
        matches!(errors.as_slice(), [bad, "", ""] if bad.contains("policy_version")),
        "one call, three claims: {errors:?}"
    );
    simulated::clear(context, &node)
}

fn never_for_a_taint_nor_when_prepared(context: &mut Context) -> Result<()> {
    let node = node(context)?;
    // A chip is trusted again sooner than by default.
    let plugin = Altered::of(context, &node)?;
    let file = node.handle.root.join("trusting.yaml");
    fs::write(&file, "apiVersion: vnpu.dev/v1alpha1\nkind: NodeConfig\nhealth: {recoverySeconds: 1}\n")?;
    plugin.restart(|spec| set_argument(spec, "--config", &file.to_string_lossy()))?;
    context.wait_published(&node)?;
    let outcome = taints(context, &node);
    node.change(|machine| *machine = vnpu_e2e_stack::Machine::ascend_910c(2, 65536))?;
    if !context.cluster.running(&node.kubelet_process()) {
        context.cluster.relaunch_process(&node.kubelet_process())?;
    }
    outcome?;
    simulated::clear(context, &node)?;
    // What is left over would be taken for a sickness of the next plugin's.
    context.cluster.wait_for("all devices to be back and well", PATIENCE, || {
        let devices = context.devices(NODE)?;
        Ok(devices.len() == 6 && devices.iter().all(|(_, device)| device.pointer("/taints/0").is_none()))
    })
}

fn taints(context: &Context, node: &MachineNode) -> Result<()> {
    let on_first_module = |name: &str| claim(name, &simulated::share_of_module(0));
    let objects = vec![on_first_module("early"), simulated::pod("early", NODE, &[("npu", by_name("early"))])];
    simulated::apply(context, objects)?;
    context.wait_pod("early", "Running", PATIENCE)?;
    let held = devices(&get(context, "resourceclaim", "early")?);
    ensure!(held == ["chip-0-0"], "first-fit gave {held:?}");

    // Allocated while its chip is well, prepared when it is not.
    context.cluster.stop_process(&node.kubelet_process())?;
    let objects = vec![on_first_module("late"), simulated::pod("late", NODE, &[("npu", by_name("late"))])];
    simulated::apply(context, objects)?;
    context.cluster.wait_for("the claim to be allocated", PATIENCE, || {
        Ok(devices(&get(context, "resourceclaim", "late")?) == ["chip-0-0"])
    })?;
    node.change(|machine| {
        if let Some(die) = machine.cards.iter_mut().flat_map(|card| &mut card.dies).next() {
            die.health = 3;
        }
    })?;
    wait_taints(context, &["module-0", "chip-0-0"])?;
    context.cluster.relaunch_process(&node.kubelet_process())?;
    context.wait_pod("late", "Running", PATIENCE)?;
    simulated::apply(context, vec![simulated::pod("next", NODE, &[("npu", by_name("early"))])])?;
    context.wait_pod("next", "Running", PATIENCE)?;

    // Even with its chip gone it is answered, and answered the same.
    let early = dra::Claim::of(context, "early")?;
    let before = dra::prepare_one(context, node, &early)?;
    node.change(|machine| {
        for card in machine.cards.iter_mut().filter(|card| card.id == 0) {
            card.dies.retain(|die| die.id != 0);
        }
    })?;
    context.cluster.wait_for("the plugin to miss the die", PATIENCE, || {
        Ok(node.admin("/metrics")?.lines().any(|l| l.starts_with("vnpu_chips{") && l.ends_with(" 3")))
    })?;
    let after = dra::prepare_one(context, node, &early)?;
    ensure!(before == after && after.error.is_empty(), "before {before:?}, after {after:?}");
    simulated::apply(context, vec![simulated::pod("last", NODE, &[("npu", by_name("early"))])])?;
    context.wait_pod("last", "Running", PATIENCE)
}

/// Waits until exactly these devices of the node are tainted.
fn wait_taints(context: &Context, wanted: &[&str]) -> Result<()> {
    let mut tainted = Vec::new();
    let waited = context.cluster.wait_for("the devices' taints", PATIENCE, || {
        let devices = context.devices(NODE)?;
        let with = devices.into_iter().filter(|(_, d)| d.pointer("/taints/0/key").is_some());
        tainted = with.map(|(name, _)| name).collect();
        Ok(tainted == wanted)
    });
    waited.map_err(|error| error.context(format!("tainted are {tainted:?}, wanted {wanted:?}")))
}

/// The devices of a claim's allocation.
fn devices(claim: &Value) -> Vec<String> {
    let results = claim.pointer("/status/allocation/devices/results").and_then(Value::as_array);
    results.into_iter().flatten().map(|r| text(r, "/device").to_owned()).collect()
}

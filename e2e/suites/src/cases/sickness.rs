//! Chips that fall sick and get well: who is told, what new claims get, and who is evicted.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use vnpu_e2e_stack::{Machine, MachineNode};

use crate::case::Case;
use crate::context::Context;
use crate::plugins::{Altered, Simulated, set_argument};
use crate::simulated::{self, PATIENCE, by_name, claim, share_of_module, text, wait_event, with};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "sickness/told_and_avoided",
        about: "a die falls sick: the pod with its module is told, its mate serves shares, new pairs wait until it is well",
        run: told_and_avoided,
    },
    Case {
        name: "sickness/evicted",
        about: "where the table says evict, Kubernetes ends the pod that has the chip, and not the one that tolerates it",
        run: evicted,
    },
    Case {
        name: "sickness/evicted_from_what_is_gone",
        about: "where the table says evict of absent chips, the pod of a die that was pulled out is ended, its mate's goes on",
        run: evicted_from_what_is_gone,
    },
];

/// What the table of these cases says: recovery within seconds, and one error code for which pods are evicted.
const CONFIG: &str = r#"apiVersion: vnpu.dev/v1alpha1
kind: NodeConfig
discoverySeconds: 1
health:
  recoverySeconds: 4
  evictAfterSeconds: 3
  rules:
  - {vendor: ascend, codes: ["0x80E01801", absent], action: evict}
  - {vendor: ascend, codes: [alarm-2], action: ignore}
"#;

/// HBM errors, for which pods are evicted; and another code.
const EVICTING: u32 = 0x80E0_1801;
const OTHER: u32 = 0x8073_8009;

fn configured<'a>(context: &'a Context, node: &'a MachineNode) -> Result<Altered<'a>> {
    let plugin = Altered::of(context, node)?;
    let file = node.handle.root.join("node-config.yaml");
    fs::write(&file, CONFIG)?;
    plugin.restart(|spec| set_argument(spec, "--config", &file.to_string_lossy()))?;
    context.wait_published(node)?;
    Ok(plugin)
}

/// A die's alarm level, and what the library says of it.
fn ail(node: &MachineNode, card: i32, die: i32, level: u32, code: u32) -> Result<()> {
    node.change(|machine| {
        let dies = machine.cards.iter_mut().filter(|c| c.id == card).flat_map(|c| &mut c.dies);
        for found in dies.filter(|d| d.id == die) {
            found.health = level;
            found.error_codes = if level == 0 { Vec::new() } else { vec![code] };
        }
    })
}

pub(super) fn module(number: u32) -> Value {
    let expression = format!(r#"device.attributes["vnpu.dev"].module == {number}"#);
    json!({"devices": {"requests": [{"name": "npu", "exactly": {
        "deviceClassName": "npu-module.vnpu.dev",
        "selectors": [{"cel": {"expression": expression}}],
    }}]}})
}

pub(super) fn start(context: &Context, node: &MachineNode, name: &str, spec: &Value) -> Result<()> {
    let pod = simulated::pod(name, &node.handle.name, &[("npu", by_name(name))]);
    simulated::apply(context, vec![claim(name, spec), pod])
}

pub(super) fn runs(context: &Context, name: &str) -> Result<()> {
    let waited = context.wait_pod(name, "Running", PATIENCE);
    waited.with_context(|| context.cluster.describe_pod(&context.namespace, name))
}

/// Waits until the node's devices have these taints, as `device effect`, and no others.
fn tainted(context: &Context, node: &MachineNode, wanted: &[&str]) -> Result<()> {
    let mut found = Vec::new();
    let waited = context.cluster.wait_for("the taints", PATIENCE, || {
        let devices = context.devices(&node.handle.name)?;
        found = devices
            .iter()
            .flat_map(|(name, device)| {
                let taints = device.get("taints").and_then(Value::as_array).into_iter().flatten();
                taints.map(move |taint| format!("{name} {}", text(taint, "/effect")))
            })
            .collect();
        found.sort();
        Ok(found == wanted)
    });
    waited.with_context(|| format!("tainted should be {wanted:?}, tainted is {found:?}"))
}

/// Waits until the claim's device is ready or not, and returns the words.
fn ready(context: &Context, claim: &str, wanted: &str) -> Result<String> {
    let mut words = String::new();
    let waited = context.cluster.wait_for(&format!("Ready={wanted} of {claim}"), PATIENCE, || {
        let claim = context.claim(claim)?;
        let conditions = claim.pointer("/status/devices/0/conditions").and_then(Value::as_array);
        let ready = conditions.into_iter().flatten().find(|c| text(c, "/type") == "Ready");
        words = ready.map_or_else(String::new, |c| text(c, "/message").to_owned());
        Ok(ready.is_some_and(|c| text(c, "/status") == wanted))
    });
    waited.with_context(|| format!("it says {words:?}"))?;
    Ok(words)
}

fn told_and_avoided(context: &mut Context) -> Result<()> {
    let node = Simulated::start(context, "sick-die", Machine::ascend_910c(2, 65536))?;
    let _plugin = configured(context, &node)?;
    start(context, &node, "holder", &module(0))?;
    runs(context, "holder")?;
    ready(context, "holder", "True")?;

    // One in use: its pod is told, and goes on.
    ail(&node, 0, 1, 3, OTHER)?;
    tainted(context, &node, &["chip-0-1 NoSchedule", "module-0 NoSchedule"])?;
    let words =
        wait_event(context, "holder", "DeviceUnhealthy", &["module-0", "is unhealthy", "0x80738009"])?;
    println!("        {words}");
    ensure!(
        ready(context, "holder", "False")?.contains("alarm level 3, error code 0x80738009"),
        "the condition"
    );

    // One that is free: its mate serves shares, and no new claim gets the module.
    ail(&node, 1, 0, 3, OTHER)?;
    tainted(
        context,
        &node,
        &["chip-0-1 NoSchedule", "chip-1-0 NoSchedule", "module-0 NoSchedule", "module-1 NoSchedule"],
    )?;
    start(context, &node, "mate", &share_of_module(1))?;
    runs(context, "mate")?;
    ensure!(context.devices_of("mate")? == ["chip-1-1"], "a share is on the sick die");
    context.kubectl(&["delete", "pod", "mate", "--timeout=60s"])?;
    context.kubectl(&["delete", "resourceclaim", "mate", "--timeout=60s"])?;
    start(context, &node, "module", &module(1))?;
    wait_event(context, "module", "FailedScheduling", &["cannot allocate all claims"])?;

    // An alarm that the table passes over is no fault.
    ail(&node, 0, 1, 2, OTHER)?;
    tainted(context, &node, &["chip-1-0 NoSchedule", "module-1 NoSchedule"])?;
    wait_event(context, "holder", "DeviceHealthy", &["is well again"])?;
    ready(context, "holder", "True")?;
    ail(&node, 1, 0, 0, 0)?;
    runs(context, "module")?;
    tainted(context, &node, &[])?;
    let phase = simulated::get(context, "pod", "holder")?;
    ensure!(text(&phase, "/status/phase") == "Running", "the pod did not go on: {phase}");
    simulated::clear(context, &node)
}

fn evicted(context: &mut Context) -> Result<()> {
    let node = Simulated::start(context, "evicting", Machine::ascend_910c(2, 65536))?;
    let _plugin = configured(context, &node)?;
    let share = share_of_module(0);
    let tolerant = with(
        share.clone(),
        "/devices/requests/0/exactly",
        "tolerations",
        // Without the effect the eviction controller does not heed it.
        json!([{"key": "vnpu.dev/unhealthy", "operator": "Exists", "effect": "NoExecute"}]),
    );
    for (name, spec) in [("leaves", &share), ("stays", &tolerant)] {
        start(context, &node, name, spec)?;
        runs(context, name)?;
    }
    let chips = [context.devices_of("leaves")?, context.devices_of("stays")?];
    let [chip, other] = &chips;
    ensure!(chip == other, "they are on {chips:?}");
    let die = chip.first().and_then(|name| name.rsplit('-').next()?.parse::<i32>().ok()).context("a die")?;
    ail(&node, 0, die, 3, EVICTING)?;
    let effects = [format!("chip-0-{die} NoExecute"), "module-0 NoExecute".to_owned()];
    tainted(context, &node, &effects.each_ref().map(String::as_str))?;
    let mut left = Value::Null;
    context.cluster.wait_for("the pod to be evicted", PATIENCE, || {
        let pods = simulated::list(context, "pods")?;
        left = json!(pods.iter().map(|pod| text(pod, "/metadata/name")).collect::<Vec<_>>());
        Ok(left == json!(["stays"]))
    })?;
    let stays = simulated::get(context, "pod", "stays")?;
    ensure!(text(&stays, "/status/phase") == "Running", "who tolerates it was ended too: {stays}");
    ail(&node, 0, die, 0, 0)?;
    tainted(context, &node, &[])?;
    simulated::clear(context, &node)
}

fn evicted_from_what_is_gone(context: &mut Context) -> Result<()> {
    let whole = Machine::ascend_910c(1, 65536);
    let node = Simulated::start(context, "pulled-out", whole.clone())?;
    let _plugin = configured(context, &node)?;
    let devices = context.devices(&node.handle.name)?;
    for die in [0, 1] {
        let chip =
            devices.iter().find(|(name, _)| *name == format!("chip-0-{die}")).context("no such chip")?;
        let uuid = text(&chip.1, "/attributes/uuid/string");
        let expression = format!(r#"device.attributes["vnpu.dev"].uuid == "{uuid}""#);
        let selectors = json!([{"cel": {"expression": expression}}]);
        let spec = with(share_of_module(0), "/devices/requests/0/exactly", "selectors", selectors);
        let name = format!("die-{die}");
        start(context, &node, &name, &spec)?;
        runs(context, &name)?;
        ensure!(context.devices_of(&name)? == [format!("chip-0-{die}")], "{name} is on another die");
    }
    node.change(|machine| machine.cards.iter_mut().for_each(|card| card.dies.retain(|die| die.id == 0)))?;
    tainted(context, &node, &["chip-0-1 NoExecute"])?;
    context.cluster.wait_for("the pod to be evicted", PATIENCE, || {
        let pods = simulated::list(context, "pods")?;
        Ok(pods.iter().map(|pod| text(pod, "/metadata/name")).collect::<Vec<_>>() == ["die-0"])
    })?;
    let stays = simulated::get(context, "pod", "die-0")?;
    ensure!(text(&stays, "/status/phase") == "Running", "the mate's pod was ended too: {stays}");
    node.change(|machine| *machine = whole)?;
    tainted(context, &node, &[])?;
    simulated::clear(context, &node)
}

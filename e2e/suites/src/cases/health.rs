//! How the devices of a running pod are, as its status says it.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use vnpu_e2e_stack::{Machine, MachineNode};

use crate::case::Case;
use crate::context::Context;
use crate::holding::share;
use crate::plugins::{Altered, set_argument};

pub(crate) const CASES: &[Case] = &[Case {
    name: "health/pod_status",
    about: "a running pod's chip fails and recovers, also while the plugin is away: the pod's status says so, with the reason",
    run: pod_status,
}];

/// Looks at the hardware are 5 s apart, and the kubelet writes a status in its own time.
const TOLD: Duration = Duration::from_secs(30);

/// What the status of the pod's only container says of its only device: health and message.
fn health(context: &Context, pod: &str) -> Result<Option<(String, String)>> {
    let pod = context.cluster.kubectl_json(&["get", "pod", pod, "-n", &context.namespace])?;
    let all = pod.pointer("/status/containerStatuses/0/allocatedResourcesStatus").and_then(Value::as_array);
    let Some(all) = all else { return Ok(None) };
    ensure!(all.len() == 1, "one claim, and {all:?}");
    let entry = all.first().context("no entry")?;
    ensure!(entry.get("name").and_then(Value::as_str) == Some("claim:npu"), "another claim: {entry}");
    let devices = entry.get("resources").and_then(Value::as_array).context("no resources")?;
    ensure!(devices.len() == 1, "one device, and {entry}");
    let text = |field: &str| {
        let value = devices.first().and_then(|device| device.get(field)?.as_str());
        value.unwrap_or_default().to_owned()
    };
    ensure!(text("resourceID").starts_with("vnpu.dev/claim="), "another device: {entry}");
    Ok(Some((text("health"), text("message"))))
}

/// Waits until the pod's status says `wanted`; returns the message.
fn wait_health(context: &Context, pod: &str, wanted: &str) -> Result<String> {
    let mut last = None;
    let waited = context.cluster.wait_for(&format!("the pod's device to be {wanted}"), TOLD, || {
        last = health(context, pod)?;
        Ok(last.as_ref().is_some_and(|(health, _)| health == wanted))
    });
    waited.with_context(|| format!("the pod's status says {last:?}"))?;
    Ok(last.unwrap_or_default().1)
}

/// Gives the chip of this device name another alarm level, 0 for none, and an error code.
fn alarm(node: &MachineNode, device: &str, level: u32) -> Result<()> {
    let mut numbers = device.split('-').skip(1).map(str::parse::<i32>);
    let (Some(Ok(card)), Some(Ok(die))) = (numbers.next(), numbers.next()) else {
        anyhow::bail!("{device} is no chip")
    };
    node.change(|machine: &mut Machine| {
        let cards = machine.cards.iter_mut().filter(|c| c.id == card);
        for die in cards.flat_map(|c| &mut c.dies).filter(|d| d.id == die) {
            die.health = level;
            die.error_codes = if level == 0 { Vec::new() } else { vec![0x80E1_8005] };
        }
    })
}

fn pod_status(context: &mut Context) -> Result<()> {
    let node = context.machine()?;
    context.hold("holder", &node.handle.name, &share("holder", "1Gi", 1))?;
    // A chip is trusted again sooner than by default.
    let plugin = Altered::of(context, &node)?;
    let file = node.handle.root.join("health-config.yaml");
    fs::write(&file, "apiVersion: vnpu.dev/v1alpha1\nkind: NodeConfig\nhealth: {recoverySeconds: 2}\n")?;
    plugin.restart(|spec| set_argument(spec, "--config", &file.to_string_lossy()))?;
    context.wait_published(&node)?;
    let devices = context.devices_of("holder")?;
    let [device] = devices.as_slice() else { anyhow::bail!("one device, and {devices:?}") };
    let told = told_of_failures(context, &node, device);
    // The machine is other cases' too.
    alarm(&node, device, 0)?;
    told?;
    context.end("holder")
}

fn told_of_failures(context: &Context, node: &MachineNode, device: &str) -> Result<()> {
    let silent = |message: String| {
        ensure!(message.is_empty(), "a healthy device has a message: {message}");
        Ok(())
    };
    silent(wait_health(context, "holder", "Healthy")?)?;
    let wanted = format!("{device}: alarm level 3, error code 0x80E18005");
    for stopped in [false, true] {
        let process = node.handle.plugin();
        if stopped {
            context.cluster.stop_process(&process)?;
        }
        alarm(node, device, 3)?;
        if stopped {
            context.cluster.relaunch_process(&process)?;
        }
        let message = wait_health(context, "holder", "Unhealthy")?;
        ensure!(message == wanted, "wanted {wanted:?}, the pod's status says {message:?}");
        alarm(node, device, 0)?;
        silent(wait_health(context, "holder", "Healthy")?)?;
    }
    Ok(())
}

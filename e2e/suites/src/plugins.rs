//! What a case does to node plugins and their nodes, undone when the case ends, however it ends; and what a
//! plugin has on its node.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use vnpu_e2e_stack::{Machine, MachineNode, Stack};
use vnpu_harness::ProcessSpec;

use crate::context::Context;
use crate::holding::PATIENCE;

/// A simulated node of one case.
pub(crate) struct Simulated<'a> {
    stack: &'a Stack,
    node: Arc<MachineNode>,
}

impl Deref for Simulated<'_> {
    type Target = MachineNode;
    fn deref(&self) -> &MachineNode {
        &self.node
    }
}

impl<'a> Simulated<'a> {
    /// Adds a node of this name, which no other case may use.
    pub(crate) fn start(stack: &'a Stack, name: &str, machine: Machine) -> Result<Self> {
        Ok(Self { stack, node: stack.add_simulated_node(name, machine)? })
    }
}

impl Drop for Simulated<'_> {
    fn drop(&mut self) {
        let (cluster, name) = (&self.stack.cluster, &self.node.handle.name);
        // Pods first: without the kubelet's stand-in nobody would end them.
        let selector = format!("--field-selector=spec.nodeName={name}");
        let pods = ["delete", "pods", "-A", &selector, "--force", "--grace-period=0", "--timeout=30s"];
        drop(cluster.kubectl(&pods));
        for process in [self.node.kubelet_process(), self.node.handle.plugin(), self.node.driver_process()] {
            drop(cluster.kill9_process(&process));
        }
        drop(cluster.kubectl(&["delete", "resourceslices", &selector]));
        drop(cluster.kubectl(&["delete", "node", name, "--wait=false"]));
    }
}

/// A plugin whose command line a case changes; it gets its own back at the end.
pub(crate) struct Altered<'a> {
    stack: &'a Stack,
    node: &'a MachineNode,
    original: ProcessSpec,
}

impl<'a> Altered<'a> {
    /// Takes note of the plugin's command line.
    pub(crate) fn of(stack: &'a Stack, node: &'a MachineNode) -> Result<Self> {
        Ok(Self { stack, node, original: spec(stack, node)? })
    }

    /// Stops the plugin and starts it with another command line; does not wait until it is ready.
    pub(crate) fn restart(&self, edit: impl FnOnce(&mut ProcessSpec)) -> Result<()> {
        let (cluster, process) = (&self.stack.cluster, self.node.handle.plugin());
        if cluster.running(&process) {
            cluster.stop_process(&process)?;
        }
        cluster.edit_process(&process, edit)?;
        cluster.relaunch_process(&process)
    }

    /// Starts the plugin, which was stopped or killed, with its own command line.
    pub(crate) fn relaunch_original(&self) -> Result<()> {
        self.restart(|spec| *spec = self.original.clone())
    }
}

impl Drop for Altered<'_> {
    fn drop(&mut self) {
        let process = self.node.handle.plugin();
        let same = spec(self.stack, self.node).is_ok_and(|now| {
            now.program == self.original.program
                && now.arguments == self.original.arguments
                && now.environment == self.original.environment
        });
        if !(same && self.stack.cluster.running(&process)) {
            drop(self.relaunch_original());
            drop(self.stack.wait_published(self.node));
        }
    }
}

/// The command line of a node's plugin.
pub(crate) fn spec(stack: &Stack, node: &MachineNode) -> Result<ProcessSpec> {
    let mut found = None;
    stack.cluster.edit_process(&node.handle.plugin(), |spec| found = Some(spec.clone()))?;
    found.context("the plugin has no command line")
}

/// Sets one argument `name value`, in place where it is given already.
pub(crate) fn set_argument(spec: &mut ProcessSpec, name: &str, value: &str) {
    let at = spec.arguments.iter().position(|a| a == name);
    match at.and_then(|at| spec.arguments.get_mut(at + 1)) {
        Some(old) => *old = value.into(),
        None => spec.arguments.extend([OsString::from(name), OsString::from(value)]),
    }
}

/// Names of the entries of a directory; none when there is no directory.
pub(crate) fn entries(directory: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

/// What the plugin has of claims, in words that can be compared: CDI files, regions, records of work; and
/// whatever temporary file lies about.
fn belongings(node: &MachineNode) -> Result<BTreeSet<String>> {
    let handle = &node.handle;
    let mut found: BTreeSet<String> = entries(&handle.cdi).into_iter().map(|f| format!("CDI {f}")).collect();
    found.extend(entries(&handle.runtime.join("claims")).into_iter().map(|uid| format!("regions {uid}")));
    for directory in [&handle.runtime, &handle.state] {
        let temporaries = entries(directory).into_iter().filter(|f| f.contains("tmp"));
        found.extend(temporaries.map(|f| format!("temporary {f}")));
    }
    let page: Value = serde_json::from_str(&node.admin("/debug/claims")?).context("the plugin's claims")?;
    for claim in page.as_array().into_iter().flatten() {
        let word = |key: &str| claim.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        if word("state") != "Unprepared" {
            found.insert(format!("{} {}", word("state"), word("uid")));
        }
    }
    Ok(found)
}

impl Context {
    /// Waits until the node has exactly what belongs to these prepared claims (shares, which have regions).
    pub(crate) fn only_claims(&self, node: &MachineNode, uids: &[&str]) -> Result<()> {
        let wanted: BTreeSet<String> = uids
            .iter()
            .flat_map(|uid| {
                [
                    format!("CDI vnpu.dev-claim_{uid}.json"),
                    format!("regions {uid}"),
                    format!("PrepareCompleted {uid}"),
                ]
            })
            .collect();
        let mut found = BTreeSet::new();
        let waited = self.cluster.wait_for("the claims on the node", PATIENCE, || {
            // A plugin that was started a moment ago may not answer yet.
            found = belongings(node).unwrap_or_else(|e| BTreeSet::from([format!("{e:#}")]));
            Ok(found == wanted)
        });
        waited.with_context(|| {
            format!("on {} there should be {wanted:#?}, there is {found:#?}", node.handle.name)
        })
    }

    /// Waits until the node publishes exactly these devices, whatever their order.
    pub(crate) fn publishes(&self, node: &str, wanted: &[(String, Value)]) -> Result<()> {
        let sorted = |devices: &[(String, Value)]| {
            let mut devices = devices.to_vec();
            devices.sort_by(|a, b| a.0.cmp(&b.0));
            devices
        };
        let wanted = sorted(wanted);
        let mut found = Vec::new();
        let waited = self.cluster.wait_for(&format!("{node} to publish its devices"), PATIENCE, || {
            found = sorted(&self.devices(node)?);
            Ok(found == wanted)
        });
        waited.with_context(|| {
            let text =
                |d: &[(String, Value)]| d.iter().map(|(_, d)| d.to_string()).collect::<Vec<_>>().join("\n");
            format!("wanted:\n{}\nfound:\n{}", text(&wanted), text(&found))
        })
    }

    /// Waits until a process of the harness has ended by itself.
    pub(crate) fn wait_ended(&self, process: &str) -> Result<()> {
        self.cluster.wait_for(&format!("{process} to end"), PATIENCE, || Ok(!self.cluster.running(process)))
    }

    /// Waits until the scheduler says of a pod what `wanted` is part of.
    pub(crate) fn wait_unschedulable(&self, pod: &str, wanted: &str) -> Result<()> {
        let path = "jsonpath={.status.conditions[?(@.type==\"PodScheduled\")].message}";
        let mut said = String::new();
        let waited = self.cluster.wait_for(&format!("pod {pod} to pend"), PATIENCE, || {
            said = self.kubectl(&["get", "pod", pod, "-o", path])?;
            if self.kubectl(&["get", "pod", pod, "-o", "jsonpath={.spec.nodeName}"])?.is_empty() {
                return Ok(said.contains(wanted));
            }
            bail!("pod {pod} was scheduled although it must not be")
        });
        waited.with_context(|| format!("the scheduler said {said:?}, wanted is {wanted:?}"))
    }
}

//! Chips out of service and back, by `kubectl vnpu drain` on a real API server, scheduler and eviction controller, and
//! by rules of others.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use vnpu_e2e_stack::Machine;

use super::explained::vnpu;
use super::sickness::{module, runs, start};
use crate::case::Case;
use crate::context::Context;
use crate::plugins::Simulated;
use crate::simulated::{self, PATIENCE, text};

pub(crate) const CASES: &[Case] = &[Case {
    name: "draining/evicts_and_comes_back",
    about: "a drained chip is given to nobody, its pod stays or is evicted as asked, and undrain brings it back",
    run: evicts_and_comes_back,
}];

/// With a controller, which stays for the cases behind it.
pub(crate) const PLANNED: &[Case] = &[Case {
    name: "draining/planner_keeps_to_rules",
    about: "the planner places a batch around an administrator's DeviceTaintRule, and waits when nothing is left",
    run: planner_keeps_to_rules,
}];

fn any_module() -> Value {
    json!({"devices": {"requests": [{"name": "npu", "exactly": {"deviceClassName": "npu-module.vnpu.dev"}}]}})
}

/// Undoes what a case drained, however it ends.
struct Rules<'a>(&'a Context);

impl Drop for Rules<'_> {
    fn drop(&mut self) {
        drop(self.0.cluster.kubectl(&["delete", "devicetaintrules", "--all", "--timeout=30s"]));
    }
}

fn pods(context: &Context) -> Result<Vec<String>> {
    let mut names: Vec<String> =
        simulated::list(context, "pods")?.iter().map(|pod| text(pod, "/metadata/name").to_owned()).collect();
    names.sort();
    Ok(names)
}

fn evicts_and_comes_back(context: &mut Context) -> Result<()> {
    let context = &*context;
    let node = Simulated::start(context, "draining", Machine::ascend_910c(2, 65_536))?;
    let name = node.handle.name.as_str();
    context.wait_published(&node)?;
    let _rules = Rules(context);
    start(context, &node, "first", &module(0))?;
    runs(context, "first")?;

    // Without --evict the pod stays, and nobody else gets the chip or its module.
    let said = vnpu(context, &["drain", name, "chip-0-0"])?;
    for words in ["chip-0-0 is drained; module-0 is not given out whole either", "/first", "stays"] {
        ensure!(said.contains(words), "{words:?} is not in\n{said}");
    }
    context.kubectl(&["delete", "pod", "first", "--timeout=60s"])?;
    context.kubectl(&["delete", "resourceclaim", "first", "--timeout=60s"])?;
    start(context, &node, "second", &module(0))?;
    simulated::wait_event(context, "second", "FailedScheduling", &["cannot allocate all claims"])?;
    // The mate goes on.
    start(context, &node, "mate", &simulated::share_of_module(0))?;
    runs(context, "mate")?;
    ensure!(context.devices_of("mate")? == ["chip-0-1"], "a share is on the drained chip");
    let pool = vnpu(context, &["get", "pool"])?;
    println!("        {}", pool.lines().find(|line| line.contains("910C")).unwrap_or_default());

    // A second drain of the same, then of what is in use, with eviction.
    vnpu(context, &["drain", name, "chip-0-0"])?;
    let said = vnpu(context, &["drain", name, "chip-0-1", "--evict"])?;
    ensure!(said.contains("/mate"), "{said}");
    context.cluster.wait_for("the mate to be evicted", PATIENCE, || Ok(pods(context)? == ["second"]))?;
    context.kubectl(&["delete", "resourceclaim", "mate", "--timeout=60s"])?;

    // Nothing is changed when one name is wrong.
    let refused = vnpu(context, &["drain", name, "chip-1-0", "chip-9-9"]);
    let why = refused.err().context("a chip that does not exist was drained")?.to_string();
    ensure!(why.contains("chip-9-9"), "{why}");
    let rules = context.cluster.kubectl_ok(&["get", "devicetaintrules", "-o", "name"])?;
    ensure!(!rules.contains("chip-1-0"), "{rules}");

    vnpu(context, &["undrain", name, "chip-0-0"])?;
    vnpu(context, &["undrain", name, "chip-0-1"])?;
    runs(context, "second")?;
    let rules = context.cluster.kubectl_ok(&["get", "devicetaintrules", "-o", "name"])?;
    ensure!(rules.trim().is_empty(), "undrain left {rules}");
    simulated::clear(context, &node)
}

fn planner_keeps_to_rules(context: &mut Context) -> Result<()> {
    context.controller()?;
    let context = &*context;
    let node = Simulated::start(context, "ruled", Machine::ascend_910c(2, 65_536))?;
    let name = node.handle.name.as_str();
    context.wait_published(&node)?;
    let _rules = Rules(context);
    let rule = |device: &str| {
        json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "DeviceTaintRule",
            "metadata": {"name": format!("admin-{device}")},
            "spec": {
                "deviceSelector": {"driver": "vnpu.dev", "pool": format!("{name}/ascend"), "device": device},
                "taint": {"key": "example.com/repair", "value": "soon", "effect": "NoSchedule"},
            },
        })
    };
    context.cluster.apply(&rule("module-0").to_string())?;
    start(context, &node, "around", &any_module())?;
    runs(context, "around")?;
    ensure!(context.devices_of("around")? == ["module-1"], "on {:?}", context.devices_of("around")?);
    // What is left has a rule: the planner says so, rather than promise it.
    start(context, &node, "waits", &any_module())?;
    let why =
        || vnpu(context, &["why", "waits", "-n", &context.namespace, "--controller", &address(context)?]);
    let mut said = String::new();
    context
        .cluster
        .wait_for("the planner to say why", PATIENCE, || {
            said = why().unwrap_or_else(|error| format!("{error:#}"));
            Ok(said.contains("room for 0 of 1 pod"))
        })
        .with_context(|| said.clone())?;
    println!("        {}", said.lines().next().unwrap_or_default());
    let pod = simulated::get(context, "pod", "waits")?;
    ensure!(text(&pod, "/status/nominatedNodeName").is_empty(), "it is promised a node: {pod}");
    context.cluster.kubectl_ok(&["delete", "devicetaintrule", "admin-module-0"])?;
    runs(context, "waits")?;
    ensure!(context.devices_of("waits")? == ["module-0"], "on {:?}", context.devices_of("waits")?);
    simulated::clear(context, &node)
}

fn address(context: &Context) -> Result<String> {
    Ok(format!("http://{}", context.controller()?.admin_address))
}

//! Devices are who they are by the hardware's own numbers, whatever comes and goes beside them, and a chip is
//! never in two hands; and who may say what about them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use vnpu_e2e_stack::{Machine, MachineNode};

use crate::case::Case;
use crate::context::Context;
use crate::holding::{PATIENCE, holder, module, module_number, share, share_of_module};
use crate::plugins::Simulated;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "identity/renumbered_dies",
        about: "device numbers and the order of cards change: every published device stays what it was, and a claim gets its own chip's new node",
        run: renumbered_dies,
    },
    Case {
        name: "identity/dead_die",
        about: "a die dies: its module goes, its mate stays, an allocated module is tainted, no other pair changes; it all comes back",
        run: dead_die,
    },
    Case {
        name: "identity/fewer_on_return",
        about: "a node comes back with two cards less: no other device changes, an allocated one stays tainted until it is released",
        run: fewer_on_return,
    },
    Case {
        name: "identity/module_or_shares",
        about: "no module while a share of its chip lives, no share of an allocated module: the pod waits and gets it when it is free",
        run: module_or_shares,
    },
    Case {
        name: "identity/slices_have_one_writer",
        about: "a node's token cannot create, change or delete slices of another node, nor name another node's pool",
        run: slices_have_one_writer,
    },
    Case {
        name: "identity/claim_status_has_one_writer",
        about: "a claim's device status is written with the token of the node it is allocated on, and with no other node's",
        run: claim_status_has_one_writer,
    },
];

/// How often the plugin has seen its hardware change.
fn looks(context: &Context, node: &MachineNode) -> usize {
    let log = fs::read_to_string(context.cluster.log(&node.handle.plugin())).unwrap_or_default();
    log.matches("hardware seen").count()
}

/// Changes the machine, device nodes included, and waits until the plugin has seen it.
fn change(context: &Context, node: &MachineNode, edit: impl FnOnce(&mut Machine)) -> Result<()> {
    let before = looks(context, node);
    node.change(edit)?;
    context.lay_out(node)?;
    context.cluster.wait_for("the plugin to see the change", PATIENCE, || Ok(looks(context, node) > before))
}

/// The device nodes of chips that a claim's CDI file brings, as their numbers.
pub(super) fn chip_nodes(node: &MachineNode, uid: &str) -> Result<BTreeSet<u32>> {
    let path = node.handle.cdi.join(format!("vnpu.dev-claim_{uid}.json"));
    let spec: Value = serde_json::from_slice(&fs::read(&path).context("reading the CDI file")?)?;
    let devices = spec.get("devices").and_then(Value::as_array).into_iter().flatten();
    let nodes = devices.filter_map(|d| d.pointer("/containerEdits/deviceNodes")?.as_array()).flatten();
    let paths = nodes.filter_map(|n| n.get("hostPath")?.as_str());
    Ok(paths.filter_map(|p| p.rsplit_once("davinci")?.1.parse().ok()).collect())
}

/// What the machine calls the die now.
fn phys_of(node: &MachineNode, card: i32, die: i32) -> Result<u32> {
    let machine = node.machine();
    let found = machine.dies().find(|(c, d)| c.id == card && d.id == die).map(|(_, d)| d.phys_id);
    found.with_context(|| format!("no die {die} of card {card}"))
}

fn renumbered_dies(context: &mut Context) -> Result<()> {
    let node = Simulated::start(context, "renumbered", Machine::ascend_910c(4, 65536))?;
    let published = context.devices("renumbered")?;
    context.hold("before", "renumbered", &share_of_module("before", "4Gi", 2))?;
    change(context, &node, |machine| {
        let last = machine.dies().count() as u32 - 1;
        for die in machine.cards.iter_mut().flat_map(|card| &mut card.dies) {
            die.phys_id = last - die.phys_id;
        }
        machine.cards.reverse();
        for card in &mut machine.cards {
            card.dies.reverse();
        }
    })?;
    // Another module's pod: by then the plugin had every reason to write something wrong.
    context.hold("after", "renumbered", &module_number("after", 3))?;
    context.publishes("renumbered", &published)?;
    let after = chip_nodes(&node, &context.claim_uid("after")?)?;
    let wanted = BTreeSet::from([phys_of(&node, 3, 0)?, phys_of(&node, 3, 1)?]);
    ensure!(after == wanted, "module 3 is now devices {wanted:?}, the claim got {after:?}");

    // The claim of before, for its next pod: its chip, under the chip's new number.
    let devices = context.devices_of("before")?;
    let die = i32::from(devices == ["chip-2-1"]);
    context.apply(&holder("next", "renumbered", "before"))?;
    context.wait_pod("next", "Running", PATIENCE)?;
    let next = chip_nodes(&node, &context.claim_uid("before")?)?;
    let wanted = BTreeSet::from([phys_of(&node, 2, die)?]);
    ensure!(next == wanted, "{devices:?} is now device {wanted:?}, the claim's next pod got {next:?}");
    Ok(())
}

/// The published devices by name without those named.
fn without(devices: &[(String, Value)], names: &[&str]) -> Vec<(String, Value)> {
    devices.iter().filter(|(name, _)| !names.contains(&name.as_str())).cloned().collect()
}

/// Takes die 1 of a card away.
fn kill_die(machine: &mut Machine, card: i32) {
    for card in machine.cards.iter_mut().filter(|c| c.id == card) {
        card.dies.retain(|die| die.id != 1);
    }
}

fn dead_die(context: &mut Context) -> Result<()> {
    let node = Simulated::start(context, "dead-die", Machine::ascend_910c(4, 65536))?;
    let published = context.devices("dead-die")?;
    context.hold("holder", "dead-die", &module_number("holder", 2))?;
    let uid = context.claim_uid("holder")?;

    // One nobody uses.
    change(context, &node, |machine| kill_die(machine, 1))?;
    context.publishes("dead-die", &without(&published, &["module-1", "chip-1-1"]))?;
    // A neighbour of the dead one, and its living mate.
    context.hold("neighbour", "dead-die", &module_number("neighbour", 0))?;
    context.hold("mate", "dead-die", &share_of_module("mate", "4Gi", 1))?;
    let mate = context.devices_of("mate")?;
    ensure!(mate == ["chip-1-0"], "a share of module 1 is on {mate:?}");

    // One in use: it stays, tainted, and so does what is on it.
    change(context, &node, |machine| kill_die(machine, 2))?;
    let affected = ["module-1", "chip-1-1", "module-2", "chip-2-1"];
    let mut now = Vec::new();
    let waited = context.cluster.wait_for("the allocated module to be tainted", PATIENCE, || {
        now = context.devices("dead-die")?;
        Ok(tainted(&now, "module-2"))
    });
    waited.with_context(|| format!("published: {now:?}"))?;
    let sorted = |devices: Vec<(String, Value)>| devices.into_iter().collect::<BTreeMap<_, _>>();
    ensure!(
        sorted(without(&now, &affected)) == sorted(without(&published, &affected)),
        "another device changed: {now:?}"
    );
    ensure!(!tainted(&now, "chip-2-0"), "the living mate is tainted: {now:?}");
    ensure!(context.claim_uid("holder")? == uid, "the claim is another one");
    ensure!(context.devices_of("holder")? == ["module-2"], "the claim lost its module");
    context.hold("last", "dead-die", &module_number("last", 3))?;

    // All back, as if nothing had been.
    change(context, &node, |machine| *machine = Machine::ascend_910c(4, 65536))?;
    context.publishes("dead-die", &published)?;
    for pod in ["holder", "neighbour", "mate", "last"] {
        context.end(pod)?;
    }
    context.hold("whole-again", "dead-die", &module_number("whole-again", 1))
}

fn tainted(devices: &[(String, Value)], name: &str) -> bool {
    let device = devices.iter().find(|(n, _)| n == name);
    device.is_some_and(|(_, d)| d.get("taints").and_then(Value::as_array).is_some_and(|t| !t.is_empty()))
}

fn fewer_on_return(context: &mut Context) -> Result<()> {
    let node = Simulated::start(context, "fewer", Machine::ascend_910c(4, 65536))?;
    let published = context.devices("fewer")?;
    context.hold("holder", "fewer", &module_number("holder", 2))?;
    context.hold("neighbour", "fewer", &module_number("neighbour", 0))?;

    let plugin = node.handle.plugin();
    context.cluster.stop_process(&plugin)?;
    node.change(|machine| machine.cards.retain(|card| card.id != 1 && card.id != 2))?;
    context.cluster.relaunch_process(&plugin)?;
    let gone = ["module-1", "chip-1-0", "chip-1-1", "module-2", "chip-2-0", "chip-2-1"];
    let mut now = Vec::new();
    let waited =
        context.cluster.wait_for("the free card to go and the allocated one to be tainted", PATIENCE, || {
            now = context.devices("fewer")?;
            Ok(tainted(&now, "module-2") && !now.iter().any(|(name, _)| name == "module-1"))
        });
    waited.with_context(|| format!("published: {now:?}"))?;
    let sorted = |devices: Vec<(String, Value)>| devices.into_iter().collect::<BTreeMap<_, _>>();
    ensure!(
        sorted(without(&now, &gone)) == sorted(without(&published, &gone)),
        "another device changed: {now:?}"
    );
    ensure!(context.devices_of("holder")? == ["module-2"], "the claim lost its module");
    // Released, it goes too, and the others serve on under their own names.
    context.end("holder")?;
    context.publishes("fewer", &without(&published, &gone))?;
    context.hold("last", "fewer", &module_number("last", 3))?;

    change(context, &node, |machine| *machine = Machine::ascend_910c(4, 65536))?;
    context.publishes("fewer", &published)?;
    for pod in ["neighbour", "last"] {
        context.end(pod)?;
    }
    Ok(())
}

/// What the scheduler says when a node's devices do not suffice.
pub(super) const NO_DEVICES: &str = "cannot allocate all claims";

fn module_or_shares(context: &mut Context) -> Result<()> {
    let node = Simulated::start(context, "exclusive", Machine::ascend_910c(1, 65536))?;
    context.hold("share", "exclusive", &share("share", "1Gi", 1))?;
    context.apply(&format!("{}{}", module("module"), holder("module", "exclusive", "module")))?;
    context.wait_unschedulable("module", NO_DEVICES)?;
    context.end("share")?;
    context.wait_pod("module", "Running", PATIENCE)?;
    ensure!(context.devices_of("module")? == ["module-0"], "the module's claim has other devices");

    context.apply(&format!("{}{}", share("late", "1Gi", 1), holder("late", "exclusive", "late")))?;
    context.wait_unschedulable("late", NO_DEVICES)?;
    context.end("module")?;
    context.wait_pod("late", "Running", PATIENCE)?;
    context.only_claims(&node, &[&context.claim_uid("late")?])
}

/// Runs kubectl with a node plugin's token and returns whether it was allowed and what it said.
fn with_token(
    context: &Context,
    node: &MachineNode,
    arguments: &[&str],
    input: &str,
) -> Result<(bool, String)> {
    let output = context.cluster.kubectl_as(&node.handle.kubeconfig, arguments, Some(input))?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

fn refused(what: &str, outcome: &(bool, String), reason: &str) -> Result<()> {
    let (allowed, said) = outcome;
    ensure!(!allowed && said.contains(reason), "{what}: allowed {allowed}, wanted {reason:?}; said: {said}");
    Ok(())
}

fn slice(name: &str, node: &str, pool: &str, driver: &str) -> String {
    let pool = json!({"name": pool, "generation": 1, "resourceSliceCount": 1});
    let spec = json!({"driver": driver, "nodeName": node, "pool": pool, "devices": []});
    json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": name}, "spec": spec,
    })
    .to_string()
}

fn slices_have_one_writer(context: &mut Context) -> Result<()> {
    let real = context.machine()?;
    let mine = real.handle.name.as_str();
    let _other = Simulated::start(context, "foreign", Machine::ascend_910c(1, 65536))?;
    let published = context.devices("foreign")?;
    let create = |text: String| with_token(context, &real, &["create", "--dry-run=server", "-f", "-"], &text);

    let own = create(slice("own", mine, &format!("{mine}/other"), "vnpu.dev"))?;
    ensure!(own.0, "the node's own slice is refused: {}", own.1);
    let only = format!("the plugin of node {mine} may only write the ResourceSlices of that node");
    refused("another node's slice", &create(slice("x", "foreign", "foreign/ascend", "vnpu.dev"))?, &only)?;
    refused(
        "another node's pool",
        &create(slice("x", mine, "foreign/ascend", "vnpu.dev"))?,
        &format!("may only write pools named {mine}/"),
    )?;
    let driver = create(slice("x", mine, &format!("{mine}/other"), "other.example.com"))?;
    refused("another driver's slice", &driver, "may only write the ResourceSlices of the driver vnpu.dev")?;

    for (node, allowed) in [("foreign", false), (mine, true)] {
        let selector = format!("--field-selector=spec.nodeName={node},spec.driver=vnpu.dev");
        let name = "jsonpath={.items[0].metadata.name}";
        let slice = context.cluster.kubectl_ok(&["get", "resourceslices", &selector, "-o", name])?;
        let label = ["label", "resourceslice", &slice, "a=b", "--dry-run=server"];
        let delete = ["delete", "resourceslice", &slice, "--dry-run=server"];
        for arguments in [label.as_slice(), delete.as_slice()] {
            let outcome = with_token(context, &real, arguments, "")?;
            if allowed {
                ensure!(outcome.0, "{arguments:?} on the node's own slice: {}", outcome.1);
            } else {
                refused(&format!("{arguments:?}"), &outcome, &only)?;
            }
        }
        // And not only in rehearsal.
        if !allowed {
            let outcome = with_token(context, &real, &["delete", "resourceslice", &slice], "")?;
            refused("deleting another node's slice", &outcome, &only)?;
        }
    }
    context.publishes("foreign", &published)
}

/// What the API server asks of somebody who writes the status of a claim that is not allocated on its own node; it
/// answers 422 with this, as of a field that may not be changed.
const NOT_ITS_NODE: &str = "requires resource=\"resourceclaims/driver\", verb=\"[arbitrary-node:patch]\"";

fn claim_status_has_one_writer(context: &mut Context) -> Result<()> {
    let real = context.machine()?;
    let other = Simulated::start(context, "stranger", Machine::ascend_910c(1, 65536))?;
    context.hold("there", "stranger", &share("there", "1Gi", 1))?;
    context.hold("here", &real.handle.name, &share("here", "1Gi", 1))?;
    for (claim, owner, stranger) in [("there", &*other, &*real), ("here", &*real, &*other)] {
        let mut devices = Value::Null;
        context.cluster.wait_for("the claim's device status", PATIENCE, || {
            devices = context.claim(claim)?.pointer("/status/devices").cloned().unwrap_or_default();
            Ok(devices.as_array().is_some_and(|d| !d.is_empty()))
        })?;
        if let Some(entry) = devices.get_mut(0).and_then(Value::as_object_mut) {
            entry.insert("data".to_owned(), json!({"written": "by hand"}));
        }
        let patch = json!({"status": {"devices": devices}});
        refused(
            &format!("the status of {claim}"),
            &patch_status(context, stranger, claim, &patch)?,
            NOT_ITS_NODE,
        )?;
        let outcome = patch_status(context, owner, claim, &patch)?;
        ensure!(outcome.0, "the status of {claim} with its own node's token: {}", outcome.1);
    }
    Ok(())
}

/// Patches a claim's status with a node plugin's token, for trial; kubectl would want to read it first, by a right
/// that the plugin does not need.
fn patch_status(context: &Context, node: &MachineNode, claim: &str, patch: &Value) -> Result<(bool, String)> {
    let client = context.cluster.client_from(&node.handle.kubeconfig)?;
    let claims: Api<ResourceClaim> = Api::namespaced(client, &context.namespace);
    let trial = PatchParams { dry_run: true, ..PatchParams::default() };
    match context.cluster.block_on(claims.patch_status(claim, &trial, &Patch::Merge(patch))) {
        Ok(_) => Ok((true, String::new())),
        Err(kube::Error::Api(status)) if status.code == 422 => Ok((false, status.message)),
        Err(error) => Err(error).context("patching the claim's status"),
    }
}

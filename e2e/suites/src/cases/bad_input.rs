//! Bad input to a node: claims that are not what they were, directories that cannot be written, hardware calls that
//! fail or hang. Each is a clear error where the user looks, and nothing that was there before is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use vnpu_e2e_stack::MachineNode;
use vnpu_harness::Signal;

use super::refusals::{NODE, node};
use crate::case::Case;
use crate::context::Context;
use crate::dra;
use crate::simulated::{self, PATIENCE, by_name, claim, get, share, wait_event};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "bad_input/opaque_parameters",
        about: "a wrong version and unknown fields are refused in the pod's events, over 10 KiB by the API server",
        run: opaque_parameters,
    },
    Case {
        name: "bad_input/results_that_are_not_ours",
        about: "results for a device or pool that this node does not have are refused in the pods' events",
        run: results_that_are_not_ours,
    },
    Case {
        name: "bad_input/claims_that_went_or_changed",
        about: "a claim that is being deleted, gone, or made again under its name is refused as such, in the pod's events too",
        run: claims_that_went_or_changed,
    },
    Case {
        name: "bad_input/hostile_uids",
        about: "UIDs that are paths are refused, and no file outside or inside the node's directories changes",
        run: hostile_uids,
    },
];

/// A configuration of ours in a claim for one share.
fn configured(parameters: &Value) -> Value {
    let config = json!([{"opaque": {"driver": "vnpu.dev", "parameters": parameters}}]);
    simulated::with(share("4Gi", "10"), "/devices", "config", config)
}

fn opaque_parameters(context: &mut Context) -> Result<()> {
    let node = node(context)?;
    let (version, kind) = ("vnpu.dev/v1alpha1", "SharePolicy");
    let cases = [
        ("version", json!({"apiVersion": "vnpu.dev/v9", "kind": kind}), ["vnpu.dev/v9", "policy_version"]),
        ("kind", json!({"apiVersion": version, "kind": "Other"}), ["\"Other\"", "SharePolicy"]),
        (
            "field",
            json!({"apiVersion": version, "kind": kind, "cores": 10}),
            ["field cores", "no such field"],
        ),
        (
            "deep",
            json!({"apiVersion": version, "kind": kind, "compute": {"moed": "hard"}}),
            ["unknown field `moed`", "expected one of"],
        ),
    ];
    for (name, parameters, _) in &cases {
        let pod = simulated::pod(name, NODE, &[("npu", by_name(name))]);
        simulated::apply(context, vec![claim(name, &configured(parameters)), pod])?;
    }
    for (name, _, words) in &cases {
        println!("        {}", wait_event(context, name, "FailedPrepareDynamicResources", words)?);
    }
    let long = json!({"apiVersion": version, "kind": kind, "breach": "x".repeat(11_000)});
    let long = simulated::apply(context, vec![claim("long", &configured(&long))]);
    let said = long.err().map(|e| format!("{e:#}")).unwrap_or_default();
    println!("        {said}");
    ensure!(said.contains("10240") && said.contains("parameters"), "11 kB of parameters: {said:?}");
    simulated::clear(context, &node)
}

fn results_that_are_not_ours(context: &mut Context) -> Result<()> {
    let node = node(context)?;
    let pool = format!("{NODE}/ascend");
    let cases = [
        ("device", pool.as_str(), "chip-9-0", ["chip-9-0", "is absent on this node"]),
        ("no-name", pool.as_str(), "gpu-0", ["gpu-0", "is absent on this node"]),
        ("pool", "elsewhere/ascend", "chip-0-0", ["elsewhere/ascend", "is not served by this node"]),
    ];
    for (name, pool, device, _) in &cases {
        simulated::apply(context, vec![claim(name, &share("4Gi", "10"))])?;
        let results = json!([{
            "request": "npu", "driver": "vnpu.dev", "pool": pool, "device": device,
            "shareID": "00000000-0000-4000-8000-000000000001",
            "consumedCapacity": {"memory": "4Gi", "cores": "10"},
        }]);
        let status = json!({"status": {"allocation": {"devices": {"results": results}}}}).to_string();
        context.kubectl(&[
            "patch",
            "resourceclaim",
            name,
            "--subresource=status",
            "--type=merge",
            "-p",
            &status,
        ])?;
        // Past the scheduler, which would not take the claim for this node.
        let pod = simulated::pod(name, NODE, &[("npu", by_name(name))]);
        let pod = simulated::with(pod, "/spec", "nodeName", json!(NODE));
        simulated::apply(context, vec![pod])?;
    }
    for (name, _, _, words) in &cases {
        println!("        {}", wait_event(context, name, "FailedPrepareDynamicResources", words)?);
    }
    simulated::clear(context, &node)
}

fn claims_that_went_or_changed(context: &mut Context) -> Result<()> {
    let node = node(context)?;
    context.cluster.stop_process(&node.kubelet_process())?;
    let outcome = go_and_change(context, &node);
    context.cluster.relaunch_process(&node.kubelet_process())?;
    outcome?;
    simulated::clear(context, &node)?;
    under_kubelet(context, &node)
}

/// The same on kubelet's way. It reads the claim before it asks the plugin, so that what it asks for can change only
/// while the plugin is slow to answer: here it is stopped meanwhile.
fn under_kubelet(context: &Context, node: &MachineNode) -> Result<()> {
    // kubelet was started anew: it knows the plugin when it has prepared something.
    let first = vec![
        claim("first", &share("4Gi", "10")),
        simulated::pod("first", NODE, &[("npu", by_name("first"))]),
    ];
    simulated::apply(context, first)?;
    context.wait_pod("first", "Running", PATIENCE)?;
    for name in ["leaving", "gone", "changed"] {
        let old = {
            let _stopped = Stopped::plugin(context, node)?;
            let made = claim(name, &share("4Gi", "10"));
            let pod = simulated::pod(name, NODE, &[("npu", by_name(name))]);
            simulated::apply(context, vec![made.clone(), pod])?;
            context
                .cluster
                .wait_for("kubelet to ask for the claim", PATIENCE, || asked(context, node, name))?;
            let old = dra::Claim::of(context, name)?;
            context.kubectl(&["delete", "resourceclaim", name, "--wait=false"])?;
            if name != "leaving" {
                let finalizers = json!({"metadata": {"finalizers": null}}).to_string();
                context.kubectl(&["patch", "resourceclaim", name, "--type=merge", "-p", &finalizers])?;
            }
            if name == "changed" {
                simulated::apply(context, vec![made])?;
            }
            old
        };
        let new = if name == "changed" { dra::Claim::of(context, name)?.uid } else { String::new() };
        let words = match name {
            "leaving" => vec!["is being deleted", "being_deleted"],
            "gone" => vec!["does not exist any more", "claim_gone"],
            _ => vec![old.uid.as_str(), &new, "deleted and made again", "uid_mismatch"],
        };
        println!("        {}", wait_event(context, name, "FailedPrepareDynamicResources", &words)?);
        ensure!(context.cluster.pod_phase(&context.namespace, name)? == "Pending", "pod {name} was started");
        context.kubectl(&["delete", "pod", name, "--timeout=60s"])?;
    }
    simulated::clear(context, node)
}

/// Whether kubelet has begun to prepare the claim: it writes down what it will ask the plugin for.
fn asked(context: &Context, node: &MachineNode, name: &str) -> Result<bool> {
    let uid = dra::Claim::of(context, name)?.uid;
    let notes = std::fs::read_to_string(node.handle.root.join("kubelet/dra_manager_state"));
    Ok(!uid.is_empty() && notes.is_ok_and(|notes| notes.contains(&uid)))
}

/// A plugin that does nothing until this is dropped.
struct Stopped<'a> {
    context: &'a Context,
    plugin: String,
}

impl<'a> Stopped<'a> {
    fn plugin(context: &'a Context, node: &MachineNode) -> Result<Self> {
        context.cluster.signal_process(&node.handle.plugin(), Signal::STOP)?;
        Ok(Self { context, plugin: node.handle.plugin() })
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        drop(self.context.cluster.signal_process(&self.plugin, Signal::CONT));
    }
}

fn go_and_change(context: &Context, node: &MachineNode) -> Result<()> {
    let made = claim("npu", &share("4Gi", "10"));
    simulated::apply(context, vec![made.clone(), simulated::pod("pod", NODE, &[("npu", by_name("npu"))])])?;
    context.cluster.wait_for("the claim to be allocated", PATIENCE, || {
        Ok(get(context, "resourceclaim", "npu")?.pointer("/status/allocation").is_some())
    })?;
    let old = dra::Claim::of(context, "npu")?;
    let refused = |claim: &dra::Claim, words: &[&str]| -> Result<()> {
        let error = dra::prepare_one(context, node, claim)?.error;
        println!("        {error}");
        ensure!(words.iter().all(|word| error.contains(word)), "wanted {words:?} in {error:?}");
        Ok(())
    };
    context.kubectl(&["delete", "resourceclaim", "npu", "--wait=false"])?;
    refused(&old, &["is being deleted", "being_deleted"])?;
    let finalizers = json!({"metadata": {"finalizers": null}}).to_string();
    context.kubectl(&["patch", "resourceclaim", "npu", "--type=merge", "-p", &finalizers])?;
    context.cluster.wait_for("the claim to be gone", PATIENCE, || {
        Ok(context.kubectl(&["get", "resourceclaim", "npu", "--ignore-not-found", "-o", "name"])?.is_empty())
    })?;
    refused(&old, &["does not exist any more", "claim_gone"])?;
    simulated::apply(context, vec![made])?;
    let new = dra::Claim::of(context, "npu")?;
    refused(&old, &[&old.uid, &new.uid, "deleted and made again", "uid_mismatch"])?;
    // Giving back what is gone is a success, whatever has its name now.
    let errors = dra::unprepare(context, node, &[old, new])?;
    ensure!(errors == ["", ""], "{errors:?}");
    simulated::wait_empty(context, node)
}

fn hostile_uids(context: &mut Context) -> Result<()> {
    let node = node(context)?;
    simulated::apply(
        context,
        vec![claim("npu", &share("4Gi", "10")), simulated::pod("pod", NODE, &[("npu", by_name("npu"))])],
    )?;
    context.wait_pod("pod", "Running", PATIENCE)?;
    let honest = dra::Claim::of(context, "npu")?;
    // What a UID that is taken for a path would reach.
    let bait = node.handle.root.join("bait");
    std::fs::create_dir_all(bait.join("inner"))?;
    std::fs::write(bait.join("file"), "keep")?;
    std::fs::write(bait.join("inner/file"), "keep this too")?;
    let absolute = bait.display().to_string();
    let hostile = [
        "../bait",
        "../../bait",
        "..",
        ".",
        "",
        "/",
        &absolute,
        "../cdi",
        "%2e%2e/bait",
        "a\u{0}b",
        "\n",
        "00000000-0000-4000-8000-00000000000/",
        "00000000-0000-4000-8000-000000000000\u{0}",
        &format!("{}/..", honest.uid),
        &honest.uid.to_uppercase(),
        &"a".repeat(5000),
        "…",
        "*",
    ];
    let claims: Vec<dra::Claim> =
        hostile.iter().map(|uid| dra::Claim { name: "npu".to_owned(), uid: (*uid).to_owned() }).collect();
    let before = tree(&node);
    for answer in dra::prepare(context, &node, &claims)? {
        ensure!(answer.error.contains("UID") && answer.devices.is_empty(), "{answer:?}");
    }
    let errors = dra::unprepare(context, &node, &claims)?;
    ensure!(errors.iter().all(String::is_empty), "giving back what never was: {errors:?}");
    let after = tree(&node);
    let all: BTreeSet<&PathBuf> = before.keys().chain(after.keys()).collect();
    let changed: Vec<_> = all.into_iter().filter(|path| before.get(*path) != after.get(*path)).collect();
    ensure!(changed.is_empty(), "files that came, went or have other content: {changed:?}");
    let compared = after.values().flatten().count();
    ensure!(compared >= 3, "only {compared} files' contents were compared");
    let answer = dra::prepare_one(context, &node, &honest)?;
    ensure!(answer.error.is_empty() && answer.devices.len() == 1, "the honest claim: {answer:?}");
    println!(
        "        {} hostile UIDs refused, {} files there as before, {compared} of them with the same content",
        hostile.len(),
        after.len()
    );
    std::fs::remove_dir_all(bait)?;
    simulated::clear(context, &node)
}

/// Every file and directory of the node, with the content of those that nobody has to write meanwhile: the bait, and
/// what containers and kubelet are told.
fn tree(node: &MachineNode) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    fn walk(node: &MachineNode, directory: &Path, into: &mut BTreeMap<PathBuf, Option<Vec<u8>>>) {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            // The simulated driver and its nodes come and go by themselves.
            if path.is_dir() && !path.is_symlink() {
                walk(node, &path, into);
            }
            let kept = [&node.handle.root.join("bait"), &node.handle.cdi, &node.handle.root.join("kubelet")];
            let kept = path.is_file() && kept.iter().any(|d| path.starts_with(d));
            let content = kept.then(|| std::fs::read(&path).unwrap_or_default());
            into.insert(path, content);
        }
    }
    let mut files = BTreeMap::new();
    walk(node, &node.handle.root, &mut files);
    files
}

//! Bad ground under a node: directories that cannot be written or are full, a checkpoint that is damaged or of
//! another version, hardware calls that fail or hang. What was prepared before stays, what comes later waits.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use vnpu_e2e_stack::{Fault, Machine, MachineNode};
use vnpu_harness::ProcessSpec;

use super::refusals::{NODE, node};
use crate::case::Case;
use crate::context::Context;
use crate::dra;
use crate::simulated::{self, PATIENCE, by_name, claim, held, names, share, wait_event};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "bad_ground/cdi_directory",
        about: "a CDI directory that is read-only, full or a file is named in the pod's events; mended, the pod starts",
        run: cdi_directory,
    },
    Case {
        name: "bad_ground/full_state_directory",
        about: "claims wait with the reason while the state directory is full; prepared ones are still answered",
        run: full_state_directory,
    },
    Case {
        name: "bad_ground/damaged_checkpoint",
        about: "a cut-off, a damaged and a senseless checkpoint lose no prepared claim, and the damaged file is kept",
        run: damaged_checkpoint,
    },
    Case {
        name: "bad_ground/newer_checkpoint",
        about: "a checkpoint of a newer version ends the plugin with the reason, unchanged, and serves its version again",
        run: newer_checkpoint,
    },
    Case {
        name: "bad_ground/hardware_calls",
        about: "calls that fail or hang are named in the log, other devices are served, also after a restart",
        run: hardware_calls,
    },
];

/// A pod with a claim of its own to a share.
fn with_share(name: &str) -> Vec<serde_json::Value> {
    vec![claim(name, &share("1Gi", "1")), simulated::pod(name, NODE, &[("npu", by_name(name))])]
}

/// Starts a pod with a share and returns its claim.
fn start(context: &Context, name: &str) -> Result<dra::Claim> {
    simulated::apply(context, with_share(name))?;
    context.wait_pod(name, "Running", PATIENCE)?;
    dra::Claim::of(context, name)
}

/// Runs a line of shell with the node's mounts.
fn shell(context: &Context, line: &str) -> Result<()> {
    let output = context.cluster.run_on_node(&ProcessSpec::new("/bin/sh").args(["-c", line]))?;
    ensure!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

fn cdi_directory(context: &mut Context) -> Result<()> {
    let node = node(context)?;
    let before = start(context, "before")?;
    let directory = node.handle.cdi.display().to_string();
    let files = names(&node.handle.cdi);
    let bad = [
        ("read-only", format!("mount -t tmpfs -o ro none {directory}"), "is not writable"),
        (
            "full",
            format!(
                "mount -t tmpfs -o size=4k none {directory} && head -c 4096 /dev/zero > {directory}/filler"
            ),
            "is full",
        ),
    ];
    for (name, spoil, word) in bad {
        shell(context, &spoil)?;
        let outcome = simulated::apply(context, with_share(name)).and_then(|()| {
            let words = ["CDI directory", directory.as_str(), word];
            let said = wait_event(context, name, "FailedPrepareDynamicResources", &words)?;
            println!("        {said}");
            Ok(())
        });
        shell(context, &format!("umount {directory}"))?;
        outcome?;
        context.wait_pod(name, "Running", PATIENCE)?;
    }
    let aside = node.handle.root.join("cdi.aside");
    std::fs::rename(&node.handle.cdi, &aside)?;
    std::fs::write(&node.handle.cdi, "a file")?;
    let outcome = simulated::apply(context, with_share("file")).and_then(|()| {
        let said =
            wait_event(context, "file", "FailedPrepareDynamicResources", &["CDI directory", &directory])?;
        println!("        {said}");
        Ok(())
    });
    std::fs::remove_file(&node.handle.cdi)?;
    std::fs::rename(&aside, &node.handle.cdi)?;
    outcome?;
    context.wait_pod("file", "Running", PATIENCE)?;
    ensure!(files.is_subset(&names(&node.handle.cdi)), "CDI files of before are lost");
    ensure!(names(&node.handle.cdi).len() == files.len() + 3, "{:?}", names(&node.handle.cdi));
    ensure!(held(&node)?.contains(&before.uid), "the record of before is lost");
    simulated::clear(context, &node)
}

fn full_state_directory(context: &mut Context) -> Result<()> {
    let node = node(context)?;
    let before = start(context, "before")?;
    let plugin = node.handle.plugin();
    let state = node.handle.state.display();
    context.cluster.stop_process(&plugin)?;
    shell(
        context,
        &format!(
            "cp -a {state} {state}.kept && mount -t tmpfs -o size=128k none {state} && cp -a {state}.kept/. {state}"
        ),
    )?;
    let outcome = fill_state(context, &node, &before);
    if context.cluster.running(&plugin) {
        context.cluster.stop_process(&plugin)?;
    }
    shell(
        context,
        &format!(
            "rm -f {state}/filler; rm -rf {state}.kept && cp -a {state} {state}.kept && umount {state} && \
             cp -a {state}.kept/. {state} && rm -rf {state}.kept"
        ),
    )?;
    context.cluster.relaunch_plugin(&node.handle)?;
    context.wait_published(&node)?;
    outcome?;
    simulated::clear(context, &node)
}

fn fill_state(context: &Context, node: &MachineNode, before: &dra::Claim) -> Result<()> {
    let state = node.handle.state.display().to_string();
    context.cluster.relaunch_plugin(&node.handle)?;
    context.wait_published(node)?;
    shell(context, &format!("head -c 1M /dev/zero > {state}/filler; test -s {state}/filler"))?;
    // The log's last block may have room for a record or two.
    let pods = ["full-1", "full-2", "full-3", "full-4", "full-5"];
    simulated::apply(context, pods.iter().flat_map(|name| with_share(name)).collect())?;
    let words = ["state directory", state.as_str(), "is full", "state_full"];
    let said = wait_event(context, "full-", "FailedPrepareDynamicResources", &words)?;
    println!("        {said}");
    let answer = dra::prepare_one(context, node, before)?;
    ensure!(answer.error.is_empty(), "a prepared claim needs no space: {}", answer.error);
    shell(context, &format!("rm {state}/filler"))?;
    for pod in pods {
        context.wait_pod(pod, "Running", PATIENCE)?;
    }
    ensure!(held(node)?.len() == 1 + pods.len(), "held: {:?}", held(node)?);
    Ok(())
}

fn damaged_checkpoint(context: &mut Context) -> Result<()> {
    let node = node(context)?;
    let claims = [start(context, "one")?, start(context, "two")?];
    let uids = claims.iter().map(|c| c.uid.clone()).collect();
    let log = node.handle.state.join("checkpoint.log");
    type Spoil = fn(&mut Vec<u8>);
    let spoil: [(&str, &str, Spoil); 3] = [
        // The begin of a record that a crash cut off.
        ("cut off", "was cut off by a crash", |bytes| bytes.extend([200, 0, 0, 0, 1, 2, 3, 4, b'{', b'"'])),
        ("damaged", "the checkpoint was damaged", |bytes| {
            let middle = bytes.len() / 2;
            if let Some(byte) = bytes.get_mut(middle) {
                *byte ^= 0x55;
            }
        }),
        ("senseless", "the checkpoint was damaged", |bytes| *bytes = b"nothing of it is left".to_vec()),
    ];
    for (what, says, spoil) in spoil {
        context.cluster.kill9_plugin(&node.handle)?;
        let mut bytes = std::fs::read(&log)?;
        spoil(&mut bytes);
        std::fs::write(&log, &bytes)?;
        let aside = quarantined(&node.handle.state);
        relaunch_and_read(context, &node, says).with_context(|| what.to_owned())?;
        if what != "cut off" {
            ensure!(quarantined(&node.handle.state) == aside + 1, "{what}: the file is not kept");
        }
        context.cluster.wait_for("the claims to be held again", PATIENCE, || Ok(held(&node)? == uids))?;
        let answers = dra::prepare(context, &node, &claims)?;
        ensure!(answers.iter().all(|a| a.error.is_empty()), "{what}: {answers:?}");
        ensure!(names(&node.handle.cdi).len() == 2, "{what}: CDI files {:?}", names(&node.handle.cdi));
    }
    start(context, "after")?;
    for entry in std::fs::read_dir(&node.handle.state)?.flatten() {
        if entry.file_name().to_string_lossy().contains(".corrupt-") {
            std::fs::remove_file(entry.path())?;
        }
    }
    simulated::clear(context, &node)
}

fn quarantined(state: &Path) -> usize {
    names(state).iter().filter(|name| name.starts_with("checkpoint.log.corrupt-")).count()
}

/// Starts the plugin again, waits until it serves, and finds a line in what it logged since.
fn relaunch_and_read(context: &Context, node: &MachineNode, says: &str) -> Result<()> {
    let log = context.cluster.log(&node.handle.plugin());
    let before = std::fs::read_to_string(&log)?.matches(says).count();
    context.cluster.relaunch_plugin(&node.handle)?;
    context.wait_published(node)?;
    let text = std::fs::read_to_string(&log)?;
    ensure!(text.matches(says).count() > before, "its log does not say {says:?}");
    if let Some(line) = text.lines().rev().find(|line| line.contains(says)) {
        println!("        {line}");
    }
    Ok(())
}

/// The header of a log of format 9: magic, format, CRC32C of both.
const FORMAT_9: [u8; 16] = *b"vnpu-log\x09\0\0\0\xf1\xc1\x20\x59";

fn newer_checkpoint(context: &mut Context) -> Result<()> {
    let node = node(context)?;
    let before = start(context, "before")?;
    let plugin = node.handle.plugin();
    let log = node.handle.state.join("checkpoint.log");
    context.cluster.stop_process(&plugin)?;
    let ours = std::fs::read(&log)?;
    std::fs::write(&log, FORMAT_9)?;
    context.cluster.relaunch_plugin(&node.handle)?;
    let ended =
        context.cluster.wait_for("the plugin to end", PATIENCE, || Ok(!context.cluster.running(&plugin)));
    let left = std::fs::read(&log)?;
    std::fs::write(&log, ours)?;
    if ended.is_err() {
        context.cluster.stop_process(&plugin)?;
    }
    let tail = context.log_tail(&plugin);
    context.cluster.relaunch_plugin(&node.handle)?;
    context.wait_published(&node)?;
    ended?;
    let line = tail.lines().rev().find(|line| line.contains("has format 9")).unwrap_or_default();
    println!("        {line}");
    ensure!(line.contains("nothing was changed"), "what it said: {tail}");
    ensure!(left == FORMAT_9, "the newer file was changed");
    ensure!(held(&node)?.contains(&before.uid), "the claim of before is lost");
    ensure!(context.cluster.pod_phase(&context.namespace, "before")? == "Running", "its pod does not run");
    start(context, "after")?;
    simulated::clear(context, &node)
}

fn hardware_calls(context: &mut Context) -> Result<()> {
    let node = node(context)?;
    let whole = Machine::ascend_910c(2, 65536);
    let outcome = misbehave(context, &node);
    node.change(|machine| *machine = whole)?;
    outcome?;
    // Mended, everything is there again, without anybody's help.
    context.cluster.wait_for("all devices", PATIENCE, || {
        let devices = context.devices(NODE)?;
        Ok(devices.len() == 6 && devices.iter().all(|(_, d)| d.pointer("/taints/0").is_none()))
    })?;
    simulated::clear(context, &node)
}

fn misbehave(context: &Context, node: &MachineNode) -> Result<()> {
    let fault = |function: &str, card: i32, device: i32, error: i32, hang: bool| Fault {
        function: function.to_owned(),
        card: Some(card),
        device: Some(device),
        error,
        hang,
    };
    let before = start(context, "before")?;
    let (hanging, failing) = ("dcmi_get_device_health", "dcmi_get_device_board_info");
    node.change(|machine| {
        machine.faults = vec![fault(hanging, 0, 0, 0, true), fault(failing, 1, 1, -8005, false)];
    })?;
    let log = context.cluster.log(&node.handle.plugin());
    let says = |function: &str, object: &str| -> Result<()> {
        context.cluster.wait_for(&format!("the log to name {function}"), PATIENCE, || {
            let text = std::fs::read_to_string(&log)?;
            let line = text.lines().find(|line| line.contains(function) && line.contains(object));
            line.inspect(|line| println!("        {line}"));
            Ok(line.is_some())
        })
    };
    says(hanging, "chip-0-0")?;
    says(failing, "card 1 die 1")?;
    for (name, module, device) in [("sick", 0, "chip-0-0"), ("other", 1, "chip-1-0")] {
        let spec = simulated::share_of_module(module);
        let pod = simulated::pod(name, NODE, &[("npu", by_name(name))]);
        simulated::apply(context, vec![claim(name, &spec), pod])?;
        context.wait_pod(name, "Running", PATIENCE).with_context(|| device.to_owned())?;
    }
    // What never answered since the start is not published; what hangs in one question is.
    context.cluster.restart_plugin(&node.handle)?;
    context.wait_published(node)?;
    let mut published = Vec::new();
    let waited = context.cluster.wait_for("the devices that answer", PATIENCE, || {
        published = context.devices(NODE)?.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        published.sort();
        Ok(published == ["chip-0-0", "chip-0-1", "chip-1-0", "module-0"])
    });
    waited.with_context(|| format!("{published:?}"))?;
    let answer = dra::prepare_one(context, node, &before)?;
    ensure!(answer.error.is_empty(), "the prepared claim: {}", answer.error);
    start(context, "after").map(drop)
}

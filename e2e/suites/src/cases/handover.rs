//! Claims that change hands: between two plugins of a rolling update, between pods that follow each other,
//! between boots of the node; and claims that are given back while the API server is away.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use vnpu_e2e_stack::Machine;
use vnpu_harness::ProcessSpec;

use crate::case::Case;
use crate::context::Context;
use crate::holding::{PATIENCE, holder, holder_that, share};
use crate::plugins::{Altered, Simulated, entries, set_argument, spec};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "handover/between_two_plugins",
        about: "a second plugin takes over from the first without a gap: a claim that the first prepared is given back by the second",
        run: between_two_plugins,
    },
    Case {
        name: "handover/vnpu_run_waits_its_turn",
        about: "`vnpu run` refuses while the node plugin runs on the same state directory",
        run: vnpu_run_waits_its_turn,
    },
    Case {
        name: "handover/given_back_without_api_server",
        about: "a pod ends while the API server is away: its claim is given back all the same",
        run: given_back_without_api_server,
    },
    Case {
        name: "handover/shared_claim_of_the_next_pod",
        about: "a claim that stays allocated is prepared again for its next pod, also after it was given back",
        run: shared_claim_of_the_next_pod,
    },
    Case {
        name: "handover/next_boot",
        about: "after a reboot CDI files and regions are made again for claims still allocated, and only for those",
        run: next_boot,
    },
];

/// A second plugin of the real node. It is killed when the case ends, however it ends.
struct Second<'a>(&'a Context);

impl Second<'_> {
    const NAME: &'static str = "plugin-second";
}

impl Drop for Second<'_> {
    fn drop(&mut self) {
        if self.0.cluster.running(Self::NAME) {
            drop(self.0.cluster.kill9_process(Self::NAME));
        }
    }
}

fn between_two_plugins(context: &mut Context) -> Result<()> {
    let node = context.machine()?;
    let name = node.handle.name.as_str();
    let published = context.devices(name)?;
    let first = Altered::of(context, &node)?;
    first.restart(|spec| set_argument(spec, "--pod-uid", "first"))?;
    context.wait_published(&node)?;
    context.hold("one", name, &share("one", "4Gi", 10))?;
    let one = context.claim_uid("one")?;

    let mut spec = spec(context, &node)?;
    set_argument(&mut spec, "--pod-uid", "second");
    set_argument(&mut spec, "--admin-address", "0.0.0.0:9499");
    let second = Second(context);
    context.cluster.start_process(Second::NAME, spec)?;
    let log = context.cluster.log(Second::NAME);
    context.cluster.wait_for("the second plugin to be registered", PATIENCE, || {
        Ok(fs::read_to_string(&log).is_ok_and(|text| text.contains("registered with the kubelet")))
    })?;
    // Both answer now, whichever kubelet asks.
    context.hold("two", name, &share("two", "2Gi", 10))?;
    let two = context.claim_uid("two")?;
    context.only_claims(&node, &[&one, &two])?;

    context.cluster.stop_process(&node.handle.plugin())?;
    let sockets = entries(&node.handle.registry);
    ensure!(
        sockets.contains("vnpu.dev-second-reg.sock") && !sockets.contains("vnpu.dev-first-reg.sock"),
        "the sockets are {sockets:?}"
    );
    context.held_to("one", 4)?;
    context.end("one")?;
    let left = entries(&node.handle.cdi);
    ensure!(left == [format!("vnpu.dev-claim_{two}.json")].into(), "CDI files: {left:?}");
    context.hold("three", name, &share("three", "1Gi", 10))?;
    context.held_to("three", 1)?;
    context.held_to("two", 2)?;
    context.publishes(name, &published)?;
    context.end("two")?;
    context.end("three")?;
    drop(second);
    first.relaunch_original()?;
    context.wait_published(&node)?;
    context.only_claims(&node, &[])
}

fn vnpu_run_waits_its_turn(context: &mut Context) -> Result<()> {
    let node = context.machine()?;
    let run = ProcessSpec::new(&context.artefacts.vnpu)
        .args(["run", "--memory", "1Gi"])
        .arg("--state-dir")
        .arg(&node.handle.state)
        .arg("--driver-root")
        .arg(&node.handle.driver_root)
        .arg("--interposer-dir")
        .arg(&context.artefacts.interposer)
        .args(["--", "true"]);
    let output = context.cluster.run_on_node(&run)?;
    let said = String::from_utf8_lossy(&output.stderr);
    let lock = node.handle.state.join("lock").display().to_string();
    ensure!(
        !output.status.success() && said.contains(&lock),
        "it said {said:?} and ended with {}",
        output.status
    );
    Ok(())
}

fn given_back_without_api_server(context: &mut Context) -> Result<()> {
    let node = context.machine()?;
    let name = node.handle.name.as_str();
    // Takes its whole grace to end, so that the API server can go between.
    let script = "trap \"echo asked\" TERM; echo awake; while :; do sleep 1; done";
    context.apply(&format!(
        "{}{}",
        share("slow", "4Gi", 10),
        holder_that("slow", name, "slow", 6, script)
    ))?;
    context.wait_pod("slow", "Running", PATIENCE)?;
    let uid = context.claim_uid("slow")?;
    context.only_claims(&node, &[&uid])?;
    let pod = context.kubectl(&["get", "pod", "slow", "-o", "jsonpath={.metadata.uid}"])?;
    let log = context.cluster.directory().join(format!("pods/{}_slow_{pod}/main/0.log", context.namespace));
    context.kubectl(&["delete", "pod", "slow", "--wait=false"])?;
    context.cluster.wait_for("kubelet to ask the pod to end", PATIENCE, || {
        Ok(fs::read_to_string(&log).is_ok_and(|text| text.contains("asked")))
    })?;
    context.cluster.stop_apiserver()?;
    let given_back = context.only_claims(&node, &[]);
    let alone = !context.cluster.running("apiserver");
    context.cluster.start_apiserver()?;
    given_back?;
    ensure!(alone, "the API server came back by itself");
    context.cluster.wait_for("the pod to be gone", PATIENCE, || {
        Ok(context.cluster.pod_phase(&context.namespace, "slow")?.is_empty())
    })?;
    context.hold("next", name, &share("next", "1Gi", 10))?;
    context.held_to("next", 1)
}

fn shared_claim_of_the_next_pod(context: &mut Context) -> Result<()> {
    let node = context.machine()?;
    let name = node.handle.name.as_str();
    context.hold("one", name, &share("one", "4Gi", 10))?;
    let claim = "one";
    let (uid, devices) = (context.claim_uid(claim)?, context.devices_of(claim)?);

    // The next one comes while the first one runs: prepared already.
    context.apply(&holder("two", name, claim))?;
    context.wait_pod("two", "Running", PATIENCE)?;
    context.end("one")?;
    context.held_to("two", 4)?;
    context.only_claims(&node, &[&uid])?;

    // The next one comes after the last one here: a pod elsewhere kept the claim allocated meanwhile.
    let parking = context.cluster.add_simulated_node("parking", &[])?;
    let keeper = holder("keeper", &parking.name, claim)
        .replace("nodeSelector: {kubernetes.io/hostname: parking}", "nodeName: parking");
    context.apply(&keeper)?;
    let result = (|| {
        context.cluster.wait_for("the claim to be reserved for the pod elsewhere", PATIENCE, || {
            let claim = context.claim(claim)?;
            let users = claim.pointer("/status/reservedFor").and_then(Value::as_array);
            Ok(users
                .into_iter()
                .flatten()
                .any(|user| user.pointer("/name").and_then(serde_json::Value::as_str) == Some("keeper")))
        })?;
        context.end("two")?;
        context.only_claims(&node, &[])?;
        context.apply(&holder("three", name, claim))?;
        context.wait_pod("three", "Running", PATIENCE)?;
        context.held_to("three", 4)?;
        ensure!(context.devices_of(claim)? == devices, "the claim's devices changed");
        context.only_claims(&node, &[&uid])
    })();
    context.kubectl(&["delete", "pod", "keeper", "--force", "--grace-period=0"])?;
    context.cluster.kubectl_ok(&["delete", "node", "parking", "--wait=false"])?;
    result?;
    context.end("three")?;
    context.only_claims(&node, &[])
}

/// Where Linux says which boot this is.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Another boot for everything that starts on the node while this lives.
struct NextBoot<'a>(&'a Context);

impl<'a> NextBoot<'a> {
    fn begin(context: &'a Context) -> Result<Self> {
        let file = context.cluster.directory().join("next-boot-id");
        fs::write(&file, "00000000-1111-4222-8333-444444444444\n")?;
        let mount = ProcessSpec::new("mount").arg("--bind").arg(&file).arg(BOOT_ID);
        let output = context.cluster.run_on_node(&mount)?;
        ensure!(output.status.success(), "mount: {}", String::from_utf8_lossy(&output.stderr));
        Ok(Self(context))
    }
}

impl Drop for NextBoot<'_> {
    fn drop(&mut self) {
        drop(self.0.cluster.run_on_node(&ProcessSpec::new("umount").arg(BOOT_ID)));
    }
}

fn next_boot(context: &mut Context) -> Result<()> {
    let node = Simulated::start(context, "rebooted", Machine::ascend_910c(2, 65536))?;
    context.hold("stays", "rebooted", &share("stays", "4Gi", 10))?;
    context.hold("goes", "rebooted", &share("goes", "2Gi", 10))?;
    let (stays, goes) = (context.claim_uid("stays")?, context.claim_uid("goes")?);
    context.only_claims(&node, &[&stays, &goes])?;
    let before = cdi_file(&node.handle.cdi, &stays)?;

    // The node goes down with everything in its memory; one pod is removed before it is back.
    context.cluster.kill9_process(&node.kubelet_process())?;
    context.cluster.kill9_plugin(&node.handle)?;
    for directory in [&node.handle.cdi, &node.handle.runtime] {
        fs::remove_dir_all(directory).with_context(|| format!("wiping {}", directory.display()))?;
        fs::create_dir(directory)?;
    }
    context.kubectl(&["delete", "pod", "goes", "--force", "--grace-period=0"])?;
    context.cluster.wait_for("the claim to be deallocated", PATIENCE, || {
        Ok(context.claim("goes")?.pointer("/status/allocation").is_none())
    })?;
    let boot = NextBoot::begin(context)?;
    context.cluster.relaunch_plugin(&node.handle)?;
    context.only_claims(&node, &[&stays])?;
    let after = cdi_file(&node.handle.cdi, &stays)?;
    ensure!(before == after, "the CDI file was\n{before}\nand is\n{after}");
    drop(boot);
    context.cluster.relaunch_process(&node.kubelet_process())?;
    context.hold("next", "rebooted", &share("next", "1Gi", 10))?;
    context.end("next")?;
    context.only_claims(&node, &[&stays])?;
    ensure!(context.claim("stays")?.pointer("/status/allocation").is_some(), "the claim was lost");
    Ok(())
}

fn cdi_file(directory: &Path, uid: &str) -> Result<Value> {
    let path = directory.join(format!("vnpu.dev-claim_{uid}.json"));
    let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    Ok(serde_json::from_slice(&text)?)
}

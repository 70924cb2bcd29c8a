//! Processes that go around their quota in real containers: the node finds them by the vendor's numbers, tells, and does
//! what the claim's policy says.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::case::Case;
use crate::context::Context;
use crate::pods::{Sleeper, number, sh, share};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "breach/a_process_outside_the_quota_is_reported",
        about: "a process that has shed the interposer makes Attached False and an event, and a neighbour stays as it is",
        run: a_process_outside_the_quota_is_reported,
    },
    Case {
        name: "breach/policies_end_the_process_or_evict_the_pod",
        about: "breach: kill ends the process and not its container, breach: evict the pod; without the right it says so",
        run: policies_end_the_process_or_evict_the_pod,
    },
];

/// Rounds of 5 s, of which three in a row must find the same, on a machine that has much else to do.
const FOUND: Duration = Duration::from_secs(90);

/// Runs a program by a loader of one's own that reads another file than `/etc/ld.so.preload`: what a tenant can do who
/// works against his quota.
const SHED: &str = "sed s#/etc/ld.so.preload#/etc/ld.so.preXXXX# $(ls /lib64/ld-linux-x86-64.so.2 /lib/ld-linux-aarch64.so.1 2>/dev/null) > /tmp/ld && \
    chmod +x /tmp/ld && (/tmp/ld /bin/acl-demo hold --bytes 9Gi > /tmp/shed 2>&1 < /dev/null & echo $! > /tmp/shed.pid) && \
    i=0; until grep -q -e holding -e failed /tmp/shed; do sleep 0.1; i=$((i+1)); [ $i -lt 300 ]; done; cat /tmp/shed";

/// A share with a policy.
fn with_policy(mut claim: Value, breach: &str) -> Result<Value> {
    let policy = json!({"apiVersion": "vnpu.dev/v1alpha1", "kind": "SharePolicy", "breach": breach});
    let devices = claim.pointer_mut("/spec/devices").and_then(Value::as_object_mut);
    devices
        .context("a claim without devices")?
        .insert("config".to_owned(), json!([{"opaque": {"driver": "vnpu.dev", "parameters": policy}}]));
    Ok(claim)
}

/// The `Attached` condition of a claim: status and reason.
fn attached(context: &Context, claim: &str) -> Result<String> {
    let path = "jsonpath={.status.devices[0].conditions[?(@.type==\"Attached\")]['status','reason']}";
    context.kubectl(&["get", "resourceclaim", claim, "-o", path])
}

/// Messages of the claim's events with this reason.
fn events(context: &Context, claim: &str, reason: &str) -> Result<String> {
    let selector = format!("involvedObject.name={claim},reason={reason}");
    context.kubectl(&["get", "events", "--field-selector", &selector, "-o", "jsonpath={.items[*].message}"])
}

/// Has `pod` use 9 GiB of its chip without the interposer, and waits until the node has said so of `claim`.
fn shed(context: &Context, pod: &str, claim: &str) -> Result<()> {
    let said = sh(context, pod, SHED)?;
    ensure!(number(&said.out, "holding", "bytes")? == 9 << 30, "it should go around its quota: {said:?}");
    context.cluster.wait_for("the node to notice it", FOUND, || {
        Ok(events(context, claim, "QuotaBypassed")?.contains("with 9"))
    })
}

fn a_process_outside_the_quota_is_reported(context: &mut Context) -> Result<()> {
    let claims = [share("rogue", "2Gi", 10), share("honest", "2Gi", 10)];
    let pods = [("rogue", &["rogue"]), ("honest", &["honest"])].map(|(name, claims)| Sleeper {
        name,
        claims,
        ..Sleeper::default()
    });
    Sleeper::start(context, &claims, &pods)?;
    for pod in ["rogue", "honest"] {
        crate::pods::hold(context, pod, "main", "held", "--bytes 1Gi")?;
    }
    shed(context, "rogue", "rogue")?;
    let status = |claim: &str, wanted: &str| {
        context.cluster.wait_for(&format!("Attached of {claim} to be {wanted}"), FOUND, || {
            Ok(attached(context, claim)? == wanted)
        })
    };
    status("rogue", "False OutsideQuota")?;
    status("honest", "True UnderQuota")?;
    let metrics = context.machine()?.admin("/metrics")?;
    let value = |name: &str, claim: &str| {
        let line = metrics.lines().find(|l| l.starts_with(name) && l.contains(&format!("claim=\"{claim}\"")));
        line.and_then(|l| l.rsplit(' ').next()).map(str::to_owned)
    };
    ensure!(value("vnpu_claim_processes_outside", "rogue").as_deref() == Some("1"), "{metrics}");
    ensure!(value("vnpu_claim_processes_outside", "honest").as_deref() == Some("0"), "{metrics}");
    ensure!(
        value("vnpu_claim_memory_vendor_bytes", "rogue").as_deref() == Some("10737418240"),
        "1 GiB inside and 9 outside:\n{metrics}"
    );
    // Reported, and left alone; when it ends, all is well again.
    sh(context, "rogue", "kill -0 $(cat /tmp/shed.pid) && kill $(cat /tmp/shed.pid)")?;
    status("rogue", "True UnderQuota")
}

fn policies_end_the_process_or_evict_the_pod(context: &mut Context) -> Result<()> {
    let claims =
        [with_policy(share("kill", "2Gi", 10), "kill")?, with_policy(share("evict", "2Gi", 10), "evict")?];
    let pods = [("kill", &["kill"]), ("evict", &["evict"])].map(|(name, claims)| Sleeper {
        name,
        claims,
        ..Sleeper::default()
    });
    Sleeper::start(context, &claims, &pods)?;
    let container = context.container_id("kill")?;
    shed(context, "kill", "kill")?;
    context.cluster.wait_for("the process to end", FOUND, || {
        Ok(events(context, "kill", "ProcessEnded")?.contains("was ended"))
    })?;
    // Its parent, the first process of the container, does not wait for it.
    sh(context, "kill", "pid=$(cat /tmp/shed.pid); ! kill -0 $pid || grep -q ^State:.Z /proc/$pid/status")?;
    ensure!(context.container_id("kill")? == container, "the container was started anew");

    shed(context, "evict", "evict")?;
    context.cluster.wait_for("the node to say that it may not evict", FOUND, || {
        Ok(events(context, "evict", "PodNotEvicted")?.contains("forbidden"))
    })?;
    let right = context.artefacts.repository.join("deploy/optional/kubelet-plugin-evict.yaml");
    context.cluster.apply_path(&right)?;
    let evicted = context.cluster.wait_for("the pod to be evicted", FOUND, || {
        Ok(!context.kubectl(&["get", "pods", "-o", "name"])?.contains("pod/evict"))
    });
    context.cluster.kubectl_ok(&["delete", "-f", &right.to_string_lossy()])?;
    evicted?;
    ensure!(events(context, "evict", "PodEvicted")?.contains("pod evict was evicted"), "no event");
    ensure!(
        context.kubectl(&["get", "pods", "-o", "name"])?.contains("pod/kill"),
        "the other pod is gone too"
    );
    Ok(())
}

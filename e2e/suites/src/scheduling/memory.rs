//! What the controller's process has in memory when it knows a cluster of so many nodes, all claims allocated.

use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use vnpu_e2e_stack::{Artefacts, ControllerHandle, FLEET, Fleet, Options, Stack, StackOptions};

use crate::{MODULES, leads};

/// Goals by number of nodes, in MB.
const GOALS: [(u32, &str); 2] = [(0, "12"), (1000, "120")];

/// Namespace of claims and pods.
const NAMESPACE: &str = "memory";

/// Prints a table: one cluster for each number of nodes, on which `claims` claims of one module each are allocated and
/// used by bound pods before the controller starts. Without nodes there are no claims.
pub(crate) fn table(artefacts: &Artefacts, nodes: &[u32], claims: u32) -> Result<()> {
    println!("| nodes | claims and pods | resident | of it anonymous | peak | goal |");
    println!("|---|---|---|---|---|---|");
    for nodes in nodes {
        let stack = Stack::start(
            artefacts.clone(),
            StackOptions { cluster: Options::default(), ..StackOptions::default() },
        )?;
        row(&stack, *nodes, claims.min(nodes * MODULES))?;
        stack.stop()?;
    }
    Ok(())
}

fn row(stack: &Stack, nodes: u32, claims: u32) -> Result<()> {
    let fleet = Fleet { name: "memory".to_owned(), nodes, modules: MODULES, per_leaf: 8, per_superpod: 8 };
    fleet.create(&stack.cluster)?;
    stack.cluster.kubectl_ok(&["create", "namespace", NAMESPACE])?;
    stack.cluster.wait_for("the namespace's account", Duration::from_secs(30), || {
        Ok(stack.cluster.kubectl(&["get", "serviceaccount", "default", "-n", NAMESPACE])?.status.success())
    })?;
    fill(stack, &fleet, claims)?;
    let controller = stack.start_controller(0, None)?;
    stack.cluster.wait_for("a leader", Duration::from_secs(60), || leads(&controller))?;
    // Lists come in pages, and what reading them took is given back some seconds later.
    std::thread::sleep(Duration::from_secs(20));
    let goal = GOALS.iter().find(|(n, _)| *n == nodes).map_or("-", |(_, goal)| *goal);
    let status = Status::of(stack, &controller)?;
    println!(
        "| {nodes} | {claims} | {} MB | {} MB | {} MB | {goal} MB |",
        status.megabytes("VmRSS:"),
        status.megabytes("RssAnon:"),
        status.megabytes("VmHWM:"),
    );
    Ok(())
}

/// Claims of one module each, in order of the nodes' modules, allocated as the scheduler would, and a bound pod for each.
fn fill(stack: &Stack, fleet: &Fleet, claims: u32) -> Result<()> {
    let client = stack.cluster.client()?;
    let api: Api<ResourceClaim> = Api::namespaced(client.clone(), NAMESPACE);
    let pods: Api<Pod> = Api::namespaced(client, NAMESPACE);
    let make = |index: u32| {
        let (api, pods) = (api.clone(), pods.clone());
        let node = fleet.node(index / MODULES);
        async move {
            let name = format!("one-{index}");
            let claim: ResourceClaim = serde_json::from_value(json!({
                "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": name},
                "spec": {"devices": {"requests": [
                    {"name": "m", "exactly": {"deviceClassName": "npu-module.vnpu.dev"}},
                ]}},
            }))?;
            api.create(&PostParams::default(), &claim).await.context("creating a claim")?;
            let pod: Pod = serde_json::from_value(bound_pod(&name, &node))?;
            let pod = pods.create(&PostParams::default(), &pod).await.context("creating a pod")?;
            let uid = pod.metadata.uid.context("a pod without UID")?;
            let status = allocated(&node, index % MODULES, &name, &uid);
            let patch = PatchParams::default();
            api.patch_status(&name, &patch, &Patch::Merge(&status)).await.context("allocating a claim")?;
            anyhow::Ok(())
        }
    };
    let all = stream::iter((0..claims).map(make)).buffer_unordered(32);
    stack.cluster.block_on(async { all.try_collect::<Vec<()>>().await }).map(drop)
}

fn bound_pod(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "nodeName": node, "restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
            "tolerations": [{"key": FLEET, "operator": "Exists"}],
            "resourceClaims": [{"name": "m", "resourceClaimName": name}],
            "containers": [{
                "name": "main", "image": "vnpu.dev/demo:latest", "imagePullPolicy": "Never",
                "resources": {"claims": [{"name": "m"}], "requests": {"cpu": "100m"}},
            }],
        },
    })
}

fn allocated(node: &str, module: u32, pod: &str, uid: &str) -> Value {
    json!({"status": {
        "allocation": {
            "devices": {"results": [
                {"request": "m", "driver": "vnpu.dev", "pool": format!("{node}/ascend"), "device": format!("module-{module}")},
            ]},
            "nodeSelector": {"nodeSelectorTerms": [
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]},
            ]},
        },
        "reservedFor": [{"resource": "pods", "name": pod, "uid": uid}],
    }})
}

/// What the kernel says of a process: `proc_pid_status(5)`.
pub(crate) struct Status(String);

impl Status {
    pub(crate) fn of(stack: &Stack, controller: &ControllerHandle) -> Result<Self> {
        let pid = stack.cluster.pid(&controller.name).context("the controller has ended")?;
        Ok(Self(std::fs::read_to_string(format!("/proc/{pid}/status"))?))
    }

    /// A field that the kernel gives in KiB, in MB; zero when there is none.
    pub(crate) fn megabytes(&self, field: &str) -> String {
        let line = self.0.lines().find_map(|l| l.strip_prefix(field));
        let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or_default();
        format!("{:.1}", kib * 1024.0 / 1e6)
    }
}

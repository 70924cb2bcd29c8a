//! Batches of pods on a fleet, and where they came to lie.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, PostParams};
use serde_json::{Value, json};
use vnpu_e2e_stack::{FLEET, Fleet, admin_page};

use crate::context::Context;
use crate::simulated::{text, with};

/// How long a batch may take to be bound on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// A template of `count` modules.
pub(crate) fn modules_template(name: &str, count: u32) -> Value {
    json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate", "metadata": {"name": name},
        "spec": {"spec": {"devices": {"requests": [
            {"name": "modules", "exactly": {"deviceClassName": "npu-module.vnpu.dev", "count": count}},
        ]}}},
    })
}

/// A fleet for one case, and a controller.
pub(crate) fn fleet(context: &Context, name: &str, nodes: u32, per_leaf: u32) -> Result<Fleet> {
    context.controller()?;
    let fleet = Fleet { name: name.to_owned(), nodes, modules: 8, per_leaf, per_superpod: 4 };
    fleet.create(&context.cluster)?;
    Ok(fleet)
}

/// The end of a case with a fleet: pods, claims and nodes are gone.
pub(crate) fn leave(context: &Context, fleet: &Fleet) -> Result<()> {
    clear(context)?;
    fleet.remove(&context.cluster)
}

/// A Deployment or a StatefulSet of `pods` pods on `fleet`, each with a claim of `template` and the label `job`.
pub(crate) fn replicas(fleet: &Fleet, kind: &str, name: &str, pods: u32, template: &str) -> Value {
    let mut spec = pod_spec(fleet, template);
    if let Some(spec) = spec.as_object_mut() {
        // Nobody else makes a new pod of one that has ended.
        spec.insert("restartPolicy".to_owned(), json!("Always"));
    }
    json!({
        "apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name},
        "spec": {
            "replicas": pods, "selector": {"matchLabels": {"job": name}},
            "template": {"metadata": {"labels": {"job": name}}, "spec": spec},
        },
    })
}

/// The pods of a batch without a controller.
pub(crate) fn members(fleet: &Fleet, batch: &str, of: u32, template: &str) -> Vec<Value> {
    (0..of).map(|n| member(fleet, batch, of, &format!("{batch}-{n}"), template, &json!({}))).collect()
}

/// A Job of `pods` pods at once on `fleet`, each with a claim of `template`.
pub(crate) fn job(fleet: &Fleet, name: &str, pods: u32, template: &str, annotations: Value) -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
        "spec": {"parallelism": pods, "completions": pods, "template": {
            "metadata": {"labels": {"job": name}, "annotations": annotations},
            "spec": pod_spec(fleet, template),
        }},
    })
}

/// What a pod on `fleet` with a claim of `template` is.
pub(crate) fn pod_spec(fleet: &Fleet, template: &str) -> Value {
    json!({
        "restartPolicy": "Never",
        // Nothing runs there, so nothing needs time to end.
        "terminationGracePeriodSeconds": 0,
        "nodeSelector": {FLEET: fleet.name},
        "tolerations": [{"key": FLEET, "operator": "Exists"}],
        "resourceClaims": [{"name": "npu", "resourceClaimTemplateName": template}],
        "containers": [{
            "name": "main", "image": "vnpu.dev/demo:latest", "imagePullPolicy": "Never",
            "resources": {"claims": [{"name": "npu"}], "requests": {"cpu": "100m"}},
        }],
    })
}

/// The nodes of the pods that match `selector`, by pod, once `count` of them are bound.
pub(crate) fn wait_bound(
    context: &Context,
    selector: &str,
    count: usize,
) -> Result<BTreeMap<String, String>> {
    let mut bound = BTreeMap::new();
    let waited = context.cluster.wait_for(&format!("{count} bound pods of {selector}"), PATIENCE, || {
        bound = self::bound(context, selector)?;
        Ok(bound.len() >= count)
    });
    waited.with_context(|| {
        let events = context.kubectl(&["get", "events", "--sort-by=.lastTimestamp"]).unwrap_or_default();
        format!("{} of {count} are bound: {bound:?}\n{events}", bound.len())
    })?;
    ensure!(bound.len() == count, "{} pods of {selector}, wanted {count}: {bound:?}", bound.len());
    Ok(bound)
}

/// The nodes of the bound pods that match `selector`, by pod.
pub(crate) fn bound(context: &Context, selector: &str) -> Result<BTreeMap<String, String>> {
    let pods = context.cluster.kubectl_json(&["get", "pods", "-n", &context.namespace, "-l", selector])?;
    let items = pods.get("items").and_then(Value::as_array).into_iter().flatten();
    let node = |pod: &Value| (text(pod, "/metadata/name").to_owned(), text(pod, "/spec/nodeName").to_owned());
    Ok(items.map(node).filter(|(_, node)| !node.is_empty()).collect())
}

/// The different nodes.
pub(crate) fn nodes(bound: &BTreeMap<String, String>) -> BTreeSet<&str> {
    bound.values().map(String::as_str).collect()
}

/// The different leaves.
pub(crate) fn leaves(fleet: &Fleet, bound: &BTreeMap<String, String>) -> BTreeSet<String> {
    let index = |node: &String| node.rsplit('-').next().and_then(|digits| digits.parse().ok());
    bound.values().filter_map(index).map(|index| fleet.leaf(index)).collect()
}

/// A pod of a batch that has no controller: the label says which batch, the annotation of how many.
pub(crate) fn member(
    fleet: &Fleet,
    batch: &str,
    of: u32,
    name: &str,
    template: &str,
    annotations: &Value,
) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "labels": {"vnpu.dev/batch": batch},
            "annotations": {"vnpu.dev/batch-size": of.to_string()},
        },
        "spec": pod_spec(fleet, template),
    });
    for (key, value) in annotations.as_object().into_iter().flatten() {
        if let Some(known) = pod.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
            known.insert(key.clone(), value.clone());
        }
    }
    pod
}

/// A pod of the batch `batch` that is not planned and goes to `node` only.
pub(crate) fn pinned(fleet: &Fleet, batch: &str, name: &str, template: &str, node: &str) -> Value {
    let pod = member(fleet, batch, 1, name, template, &json!({"vnpu.dev/placement": "none"}));
    with(pod, "/spec", "nodeSelector", json!({FLEET: fleet.name, "kubernetes.io/hostname": node}))
}

/// Fills a node of the fleet up to what `template` leaves, with one pod of the batch `filler`.
pub(crate) fn fill(context: &Context, fleet: &Fleet, node: &str, template: &str) -> Result<()> {
    create_pods(context, vec![pinned(fleet, "filler", "filler", template, node)])?;
    wait_bound(context, "vnpu.dev/batch=filler", 1).map(drop)
}

/// A node of the fleet that is not this one.
pub(crate) fn another(fleet: &Fleet, node: &str) -> String {
    let nodes = (0..fleet.nodes).map(|index| fleet.node(index));
    nodes.into_iter().find(|other| other != node).unwrap_or_default()
}

/// Creates pods in the case's namespace, many at a time.
pub(crate) fn create_pods(context: &Context, pods: Vec<Value>) -> Result<()> {
    let api: Api<Pod> = Api::namespaced(context.cluster.client()?, &context.namespace);
    context.cluster.block_on(async {
        let create = |pod: Value| {
            let api = api.clone();
            async move {
                let pod: Pod = serde_json::from_value(pod)?;
                api.create(&PostParams::default(), &pod).await.context("creating a pod")?;
                anyhow::Ok(())
            }
        };
        stream::iter(pods.into_iter().map(create))
            .buffer_unordered(32)
            .try_collect::<Vec<()>>()
            .await
            .map(drop)
    })
}

/// Waits until the webhook answers again and a planner leads: pods that come before are not held back, which is as it
/// should be.
pub(crate) fn wait_led(context: &Context) -> Result<()> {
    let controller = context.controller()?;
    context.cluster.wait_controller(controller)?;
    context
        .cluster
        .wait_for("a leader", PATIENCE, || Ok(metric(&controller.admin_address, "vnpu_leader")? > 0.0))
}

/// The pods of the case's namespace that match `selector`.
pub(crate) fn pods(context: &Context, selector: &str) -> Result<Vec<Pod>> {
    let api: Api<Pod> = Api::namespaced(context.cluster.client()?, &context.namespace);
    let list = ListParams::default().labels(selector);
    Ok(context.cluster.block_on(async { api.list(&list).await })?.items)
}

/// Whether a pod waits at our gate.
pub(crate) fn is_gated(pod: &Pod) -> bool {
    let gates = pod.spec.as_ref().and_then(|s| s.scheduling_gates.as_ref());
    gates.into_iter().flatten().any(|gate| gate.name == "vnpu.dev/placement")
}

/// The pods that wait at our gate, of those that match `selector`.
pub(crate) fn gated(context: &Context, selector: &str) -> Result<usize> {
    Ok(pods(context, selector)?.iter().filter(|pod| is_gated(pod)).count())
}

/// Waits until `count` pods that match `selector` are let go with a nomination and none is gated, and tells the nodes
/// that they are nominated for.
pub(crate) fn wait_released(context: &Context, selector: &str, count: usize) -> Result<BTreeSet<String>> {
    let mut nodes = BTreeSet::new();
    context.cluster.wait_for(&format!("{count} released pods of {selector}"), PATIENCE, || {
        let pods = pods(context, selector)?;
        let nominated = pods.iter().filter_map(|p| p.status.as_ref()?.nominated_node_name.clone());
        let nominated: Vec<String> = nominated.collect();
        let all = pods.len() == count && nominated.len() == count && !pods.iter().any(is_gated);
        nodes = nominated.into_iter().collect();
        Ok(all)
    })?;
    Ok(nodes)
}

/// The node of a pod.
pub(crate) fn node_of(pod: &Pod) -> Option<String> {
    pod.spec.as_ref().and_then(|s| s.node_name.clone())
}

/// A number of the controller's metrics; zero when it is not there.
pub(crate) fn metric(address: &str, name: &str) -> Result<f64> {
    let (_, page) = admin_page(address, "/metrics")?;
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.and_then(|value| value.trim().parse().ok()).unwrap_or_default())
}

/// Deletes all pods of the case's namespace at once: nothing runs on a fleet, so nobody has to end.
pub(crate) fn clear(context: &Context) -> Result<()> {
    context.kubectl(&["delete", "jobs,deployments,statefulsets", "--all", "--timeout=60s"])?;
    context.kubectl(&["delete", "pods", "--all", "--grace-period=0", "--force", "--timeout=60s"])?;
    context.cluster.wait_for("no claims", PATIENCE, || {
        let claims = context.cluster.kubectl_json(&["get", "resourceclaims", "-n", &context.namespace])?;
        Ok(claims.get("items").and_then(Value::as_array).is_none_or(Vec::is_empty))
    })
}

//! What people write, put before nodes on which first-fit would break modules: one node a wish, each with half-used
//! modules among whole ones. And what the API server answered, with its warnings.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::resource::v1::ResourceClaim;
use serde_json::{Value, json};
use vnpu_driver::straddle::{held_by, straddled_modules};
use vnpu_kube_types::claim::read_claim;

use crate::batches::wait_bound;
use crate::context::Context;
use crate::simulated::{apply, claim, list, text, with};
use vnpu_e2e_stack::{FLEET, Fleet};

/// Modules of each node: two of them are half used.
const MODULES: u32 = 8;

/// Cards of the half-used modules. Of two chips that first-fit takes, one is the rest of the first of them.
const HALF_USED: [u32; 2] = [0, 2];

/// How the webhook for claims refuses.
pub(crate) const WEBHOOK: &str = "admission webhook \"claims.vnpu.dev\" denied the request";
/// How the guard over claims refuses.
pub(crate) const CLAIM_GUARD: &str = "ValidatingAdmissionPolicy 'vnpu-claim-guard'";
/// How the guard over pods refuses.
pub(crate) const POD_GUARD: &str = "ValidatingAdmissionPolicy 'vnpu-pod-guard'";

/// Nodes that only one case's pods go to, taken down when it ends, however it ends.
pub(crate) fn on_fleet<T>(context: &Context, fleet: &Fleet, work: impl FnOnce() -> Result<T>) -> Result<T> {
    fleet.create(&context.cluster)?;
    let outcome = work();
    let cleared = clear(context).and_then(|()| fleet.remove(&context.cluster));
    let done = outcome?;
    cleared.map(|()| done)
}

/// Deletes what the case made. Nothing ends the pods of nodes without a kubelet but force.
fn clear(context: &Context) -> Result<()> {
    context.kubectl(&["delete", "jobs,daemonsets", "--all", "--timeout=60s"])?;
    context.kubectl(&["delete", "pods", "--all", "--force", "--grace-period=0", "--timeout=60s"])?;
    context.kubectl(&["delete", "resourceclaims", "--all", "--timeout=60s"]).map(drop)
}

/// `count` nodes of which each is to have half-used modules.
pub(crate) fn fleet(name: &str, count: usize) -> Result<Fleet> {
    let nodes = u32::try_from(count)?;
    Ok(Fleet { name: name.to_owned(), nodes, modules: MODULES, per_leaf: 4, per_superpod: 2 })
}

/// Takes one chip of two modules of each node.
pub(crate) fn use_halves(context: &Context, fleet: &Fleet) -> Result<()> {
    let mut objects = Vec::new();
    for index in 0..fleet.nodes {
        let held = HALF_USED.map(|card| format!("half-{index}-{card}"));
        for (name, card) in held.iter().zip(HALF_USED) {
            let expression = format!(r#"device.attributes["vnpu.dev"].module == {card}"#);
            let selectors = json!([{"cel": {"expression": expression}}]);
            let exactly = json!({"deviceClassName": "npu.vnpu.dev", "selectors": selectors});
            objects
                .push(claim(name, &json!({"devices": {"requests": [{"name": "npu", "exactly": exactly}]}})));
        }
        let sources = held.iter().map(|name| json!({"name": name, "resourceClaimName": name})).collect();
        let pod = pod_on(fleet, index, &format!("half-{index}"), sources, &[json!({})]);
        // Nothing to plan: each has one node only.
        let pod = with(pod, "/metadata", "annotations", json!({"vnpu.dev/placement": "none"}));
        objects.push(with(pod, "/metadata", "labels", json!({"half": "used"})));
    }
    apply(context, objects)?;
    wait_bound(context, "half=used", fleet.nodes as usize).map(drop)
}

/// A pod for node `index` of the fleet, with a container of each of these limits.
pub(crate) fn pod_on(fleet: &Fleet, index: u32, name: &str, claims: Vec<Value>, limits: &[Value]) -> Value {
    let used: Vec<Value> = claims.iter().map(|c| json!({"name": c.get("name")})).collect();
    let container = |(number, limits): (usize, &Value)| {
        json!({
            "name": format!("c{number}"), "image": "vnpu.dev/demo:latest", "imagePullPolicy": "Never",
            "resources": {"limits": limits, "claims": used},
        })
    };
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
            "nodeSelector": {"kubernetes.io/hostname": fleet.node(index)},
            "tolerations": [{"key": FLEET, "operator": "Exists"}],
            "resourceClaims": claims,
            "containers": limits.iter().enumerate().map(container).collect::<Vec<_>>(),
        },
    })
}

/// How a pod asks for devices.
#[derive(Debug, Clone)]
pub(crate) enum Wish {
    /// By a claim with these `devices`.
    Claim(Value),
    /// By a template with these `devices`.
    Template(Value),
    /// By the limits of each of its containers.
    Limits(Vec<Value>),
}

impl Wish {
    /// A claim of requests, and nothing besides.
    pub(crate) fn requests(requests: Value) -> Self {
        Self::Claim(json!({"requests": requests}))
    }

    /// The pod `name` that asks for it on node `index`, and what it needs.
    pub(crate) fn objects(&self, fleet: &Fleet, index: u32, name: &str) -> Vec<Value> {
        let source = |key: &str| vec![json!({"name": "npu", key: name})];
        match self {
            Self::Claim(devices) => vec![
                claim(name, &json!({"devices": devices})),
                pod_on(fleet, index, name, source("resourceClaimName"), &[json!({})]),
            ],
            Self::Template(devices) => vec![
                template(name, devices),
                pod_on(fleet, index, name, source("resourceClaimTemplateName"), &[json!({})]),
            ],
            Self::Limits(limits) => vec![pod_on(fleet, index, name, Vec::new(), limits)],
        }
    }
}

/// A template of a claim with these `devices`.
pub(crate) fn template(name: &str, devices: &Value) -> Value {
    json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate", "metadata": {"name": name},
        "spec": {"spec": {"devices": devices}},
    })
}

/// A request of one alternative.
pub(crate) fn exactly(name: &str, class: &str, more: Value) -> Value {
    let mut fields = json!({"deviceClassName": class});
    if let (Some(fields), Value::Object(more)) = (fields.as_object_mut(), more) {
        fields.extend(more);
    }
    json!({"name": name, "exactly": fields})
}

/// Capacity of a share.
pub(crate) fn part(memory: &str, cores: &str) -> Value {
    json!({"capacity": {"requests": {"memory": memory, "cores": cores}}})
}

/// What a claim got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Got {
    /// Devices, as the nodes name them.
    pub(crate) devices: Vec<String>,
    /// Cards of the modules over which it straddles.
    pub(crate) straddles: Vec<u32>,
}

/// What the allocated claims of the case's namespace got, by the pod for which they are reserved.
pub(crate) fn allocations(context: &Context) -> Result<BTreeMap<String, Vec<Got>>> {
    let mut found: BTreeMap<String, Vec<Got>> = BTreeMap::new();
    for object in list(context, "resourceclaims")? {
        let pod = text(&object, "/status/reservedFor/0/name").to_owned();
        let claim: ResourceClaim = serde_json::from_value(object)?;
        let claim = read_claim(&claim)?;
        if !claim.allocated {
            continue;
        }
        let straddles = straddled_modules(&held_by(&claim, |_, device| published(device)));
        found.entry(pod).or_default().push(Got {
            devices: claim.results.iter().map(|r| r.device.clone()).collect(),
            straddles: straddles.into_iter().map(|(_, card)| card).collect(),
        });
    }
    Ok(found)
}

/// What a fleet publishes of a device.
fn published(device: &str) -> Option<vnpu_driver::straddle::Published> {
    let card = device.split('-').nth(1)?.parse().ok()?;
    let memory = if device.starts_with("chip") { 64_u64 << 30 } else { 128 << 30 };
    let cores = if device.starts_with("chip") { 100 } else { 200 };
    let capacity = BTreeMap::from([("memory".to_owned(), memory), ("cores".to_owned(), cores)]);
    Some(vnpu_driver::straddle::Published { module: Some(card), capacity })
}

/// What an API server answered to kubectl.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The object as it is stored, or the refusal.
    pub(crate) outcome: Result<Value, String>,
    /// The warnings, each a line.
    pub(crate) warnings: Vec<String>,
    /// How long it took.
    pub(crate) took: Duration,
}

impl Answer {
    /// The object.
    pub(crate) fn stored(self) -> Result<Value> {
        self.outcome.map_err(|refusal| anyhow::anyhow!("refused: {refusal}"))
    }

    /// Fails unless it is a refusal by `whom` with these words.
    pub(crate) fn refused(&self, whom: &str, words: &[&str]) -> Result<()> {
        match &self.outcome {
            Ok(object) => bail!("admitted: {}", object.get("spec").unwrap_or(&Value::Null)),
            Err(said) => ensure!(
                said.contains(whom) && words.iter().all(|word| said.contains(word)),
                "refused, but not by {whom} with {words:?}: {said}"
            ),
        }
        Ok(())
    }
}

/// `kubectl create` of an object in the case's namespace.
pub(crate) fn create(context: &Context, object: &Value) -> Result<Answer> {
    create_with(context, object, &[])
}

/// `kubectl create` with more arguments.
pub(crate) fn create_with(context: &Context, object: &Value, more: &[&str]) -> Result<Answer> {
    let arguments = [&["create", "-n", &context.namespace, "-o", "json", "-f", "-"], more].concat();
    let begun = Instant::now();
    let output =
        context.cluster.kubectl_as(&context.cluster.kubeconfig(), &arguments, Some(&object.to_string()))?;
    let took = begun.elapsed();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let (warnings, rest): (Vec<&str>, Vec<&str>) = said.lines().partition(|l| l.starts_with("Warning: "));
    let outcome = if output.status.success() {
        Ok(serde_json::from_slice(&output.stdout).context("reading kubectl's JSON")?)
    } else {
        Err(rest.join("\n"))
    };
    Ok(Answer { outcome, warnings: warnings.into_iter().map(str::to_owned).collect(), took })
}

/// Waits until the claim of a `count: 2` is completed again, and returns after how long: the webhook answers.
pub(crate) fn wait_answering(context: &Context, patience: Duration) -> Result<Duration> {
    let begun = Instant::now();
    let pair = claim(
        "answering",
        &json!({"devices": {"requests": [
            exactly("npu", "npu.vnpu.dev", json!({"count": 2})),
        ]}}),
    );
    context.cluster.wait_for("the webhook to answer", patience, || {
        Ok(create_with(context, &pair, &["--dry-run=server"])?.outcome.is_ok())
    })?;
    Ok(begun.elapsed())
}

/// Lets claims of the case's namespace have administrative access.
pub(crate) fn admit_administrative_access(context: &Context) -> Result<()> {
    let label = "resource.kubernetes.io/admin-access=true";
    context.cluster.kubectl_ok(&["label", "namespace", &context.namespace, label, "--overwrite"]).map(drop)
}

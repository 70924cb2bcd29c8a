//! Pods that hold claims until they are asked to end: their YAML, and what there is to ask of them and of their
//! claims while they run.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::context::Context;

/// How long a pod may take to start or to go, on a machine that has much else to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A claim to a share of one chip.
pub(crate) fn share(name: &str, memory: &str, cores: u32) -> String {
    claim(
        name,
        &format!(
            "deviceClassName: npu.vnpu.dev\n        capacity: {{requests: {{memory: {memory}, cores: {cores}}}}}"
        ),
    )
}

/// A claim to one module.
pub(crate) fn module(name: &str) -> String {
    claim(name, "deviceClassName: npu-module.vnpu.dev")
}

/// A claim to one module of a certain number.
pub(crate) fn module_number(name: &str, number: u32) -> String {
    claim(
        name,
        &format!(
            "deviceClassName: npu-module.vnpu.dev\n        \
             selectors: [{{cel: {{expression: 'device.attributes[\"vnpu.dev\"].module == {number}'}}}}]"
        ),
    )
}

/// A claim to a share of a chip of a module of a certain number.
pub(crate) fn share_of_module(name: &str, memory: &str, number: u32) -> String {
    claim(
        name,
        &format!(
            "deviceClassName: npu.vnpu.dev\n        \
             capacity: {{requests: {{memory: {memory}, cores: 10}}}}\n        \
             selectors: [{{cel: {{expression: 'device.attributes[\"vnpu.dev\"].module == {number}'}}}}]"
        ),
    )
}

fn claim(name: &str, exactly: &str) -> String {
    format!(
        "apiVersion: resource.k8s.io/v1\n\
         kind: ResourceClaim\n\
         metadata: {{name: {name}}}\n\
         spec:\n  \
           devices:\n    \
             requests:\n    \
             - name: npu\n      \
               exactly:\n        {exactly}\n"
    )
}

/// A pod on `node` that holds `claim` and ends at once when asked.
pub(crate) fn holder(name: &str, node: &str, claim: &str) -> String {
    holder_that(name, node, claim, 1, "trap \"exit 0\" TERM; echo awake; sleep 3600 & wait")
}

/// A pod on `node` that holds `claim` and runs `script`, with `grace` seconds to end when asked.
pub(crate) fn holder_that(name: &str, node: &str, claim: &str, grace: u32, script: &str) -> String {
    format!(
        "---\n\
         apiVersion: v1\n\
         kind: Pod\n\
         metadata: {{name: {name}}}\n\
         spec:\n  \
           terminationGracePeriodSeconds: {grace}\n  \
           nodeSelector: {{kubernetes.io/hostname: {node}}}\n  \
           resourceClaims:\n  \
           - {{name: npu, resourceClaimName: {claim}}}\n  \
           containers:\n  \
           - name: main\n    \
             image: vnpu.dev/demo:latest\n    \
             imagePullPolicy: Never\n    \
             command: [sh, -c, '{script}']\n    \
             resources: {{claims: [{{name: npu}}]}}\n"
    )
}

impl Context {
    /// A claim with a pod on `node` that holds it, running.
    pub(crate) fn hold(&self, name: &str, node: &str, claim: &str) -> Result<()> {
        self.apply(&format!("{claim}{}", holder(name, node, name)))?;
        self.wait_pod(name, "Running", PATIENCE)
    }

    /// Deletes a pod and waits until it is gone.
    pub(crate) fn end(&self, pod: &str) -> Result<()> {
        self.kubectl(&["delete", "pod", pod, "--timeout=120s"]).map(drop)
    }

    /// A claim as the API server has it.
    pub(crate) fn claim(&self, name: &str) -> Result<Value> {
        self.cluster.kubectl_json(&["get", "resourceclaim", name, "-n", &self.namespace])
    }

    /// A claim's UID.
    pub(crate) fn claim_uid(&self, name: &str) -> Result<String> {
        let claim = self.claim(name)?;
        let uid = claim.pointer("/metadata/uid").and_then(Value::as_str);
        Ok(uid.context("a claim without UID")?.to_owned())
    }

    /// The devices that a claim has now.
    pub(crate) fn devices_of(&self, claim: &str) -> Result<Vec<String>> {
        let claim = self.claim(claim)?;
        let results = claim.pointer("/status/allocation/devices/results").and_then(Value::as_array);
        let names =
            results.into_iter().flatten().filter_map(|r| r.get("device")?.as_str().map(str::to_owned));
        Ok(names.collect())
    }

    /// The identity of a pod's container: another one means that it was restarted.
    pub(crate) fn container_id(&self, pod: &str) -> Result<String> {
        let path = "jsonpath={.status.containerStatuses[0].containerID}";
        self.kubectl(&["get", "pod", pod, "-o", path])
    }

    /// Asserts that a pod gets exactly `gib` GiB of device memory and is refused more.
    pub(crate) fn held_to(&self, pod: &str, gib: u64) -> Result<()> {
        let printed = self.exec(pod, &["acl-demo", "fill"])?;
        let granted = format!("granted={} ", gib << 30);
        ensure!(
            printed.matches(&granted).count() == 2 && printed.contains("code=207001"),
            "pod {pod} should be held to {gib} GiB, twice; it printed:\n{printed}"
        );
        Ok(())
    }
}

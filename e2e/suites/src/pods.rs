//! Pods whose programs are started one by one: claims and sleeping pods for the real node, and commands in their
//! containers with everything that they said.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::context::Context;

/// How long a pod may take to start.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long something inside a container may take.
pub(crate) const WITHIN: Duration = Duration::from_secs(60);

/// The code of a refused allocation: `ACL_ERROR_RT_MEMORY_ALLOCATION`.
pub(crate) const OUT_OF_MEMORY: u64 = 207_001;

/// One GiB.
pub(crate) const GIB: u64 = 1 << 30;

/// A share of one chip.
pub(crate) fn share(name: &str, memory: &str, cores: u32) -> Value {
    let exactly = json!({
        "deviceClassName": "npu.vnpu.dev",
        "capacity": {"requests": {"memory": memory, "cores": cores.to_string()}},
    });
    claim(name, &exactly)
}

/// All of what a class hands out: a chip or a module.
pub(crate) fn whole(name: &str, class: &str) -> Value {
    claim(name, &json!({"deviceClassName": class}))
}

fn claim(name: &str, exactly: &Value) -> Value {
    json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": name},
        "spec": {"devices": {"requests": [{"name": "npu", "exactly": exactly}]}},
    })
}

/// A pod that sleeps.
pub(crate) struct Sleeper<'a> {
    pub(crate) name: &'a str,
    pub(crate) image: &'a str,
    /// The claims of each of its containers.
    pub(crate) claims: &'a [&'a str],
    pub(crate) containers: &'a [&'a str],
    pub(crate) capabilities: &'a [&'a str],
    /// What more its containers' security context says; nothing when null.
    pub(crate) security: Value,
    /// Whether it lives in the node's user namespace; as the cluster has it when `None`.
    pub(crate) host_users: Option<bool>,
    /// A program of the image that sleeps when it gets this.
    pub(crate) command: &'a [&'a str],
}

impl Default for Sleeper<'_> {
    fn default() -> Self {
        Self {
            name: "main",
            image: vnpu_e2e_stack::DEMO_IMAGE,
            claims: &["npu"],
            containers: &["main"],
            capabilities: &[],
            security: Value::Null,
            host_users: None,
            command: &["sleep", "3600"],
        }
    }
}

impl Sleeper<'_> {
    /// Makes claims and pods and waits until the pods run.
    pub(crate) fn start(context: &Context, claims: &[Value], pods: &[Sleeper]) -> Result<()> {
        Self::apply(context, claims, pods)?;
        pods.iter().try_for_each(|pod| context.wait_pod(pod.name, "Running", PATIENCE))
    }

    /// Makes claims and pods and does not wait.
    pub(crate) fn apply(context: &Context, claims: &[Value], pods: &[Sleeper]) -> Result<()> {
        context.machine()?;
        let node = context.cluster.node()?;
        let items: Vec<Value> = claims.iter().cloned().chain(pods.iter().map(|p| p.manifest(node))).collect();
        context.apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())
    }

    fn manifest(&self, node: &str) -> Value {
        let claims: Vec<Value> = self.claims.iter().map(|c| json!({"name": c})).collect();
        let named: Vec<Value> =
            self.claims.iter().map(|c| json!({"name": c, "resourceClaimName": c})).collect();
        let mut security = json!({"capabilities": {"add": self.capabilities}});
        if let (Some(all), Some(more)) = (security.as_object_mut(), self.security.as_object()) {
            all.extend(more.clone());
        }
        let containers: Vec<Value> = self
            .containers
            .iter()
            .map(|name| {
                json!({
                    "name": name, "image": self.image, "imagePullPolicy": "Never", "command": self.command,
                    "resources": {"claims": claims},
                    "securityContext": security,
                })
            })
            .collect();
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": self.name},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "hostUsers": self.host_users,
                "nodeSelector": {"kubernetes.io/hostname": node},
                "resourceClaims": named, "containers": containers,
            },
        })
    }
}

/// What a command in a container said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) success: bool,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// The number after ` key=` in the first line of `event`.
    pub(crate) fn number(&self, event: &str, key: &str) -> Result<u64> {
        number(&self.out, event, key).with_context(|| format!("in {self:?}"))
    }
}

/// The number after ` key=` in the first line of `text` that begins with `event`.
pub(crate) fn number(text: &str, event: &str, key: &str) -> Result<u64> {
    let line = text.lines().find(|line| line.starts_with(event)).with_context(|| format!("no {event:?}"))?;
    let mut words = line.split_whitespace().filter_map(|word| word.split_once('='));
    let value = words.find(|(k, _)| *k == key).with_context(|| format!("no {key}= in {line:?}"))?.1;
    value.parse().with_context(|| format!("{key}={value} is not a number"))
}

/// Runs a command in a pod's container.
pub(crate) fn run(context: &Context, pod: &str, container: &str, command: &[&str]) -> Result<Said> {
    let mut arguments = vec!["exec", "-n", &context.namespace, pod, "-c", container, "--"];
    arguments.extend(command);
    let output = context.cluster.kubectl(&arguments)?;
    Ok(Said {
        success: output.status.success(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Runs a shell script in a pod's container `main`; it must succeed.
pub(crate) fn sh(context: &Context, pod: &str, script: &str) -> Result<Said> {
    sh_in(context, pod, "main", script)
}

/// Runs a shell script in a pod's container; it must succeed.
pub(crate) fn sh_in(context: &Context, pod: &str, container: &str, script: &str) -> Result<Said> {
    let said = run(context, pod, container, &["sh", "-c", script])?;
    ensure!(said.success, "in {pod}: {script}\n{}{}", said.out, said.err);
    Ok(said)
}

/// Starts `acl-demo hold` in the background of a container and waits until it holds its memory. What it says is
/// in `/tmp/<tag>`, its process id in `/tmp/<tag>.pid`.
pub(crate) fn hold(context: &Context, pod: &str, container: &str, tag: &str, arguments: &str) -> Result<()> {
    let start = format!(
        "acl-demo hold {arguments} > /tmp/{tag} 2>&1 < /dev/null & echo $! > /tmp/{tag}.pid; \
         i=0; until grep -q -e holding -e failed /tmp/{tag}; do sleep 0.1; i=$((i+1)); [ $i -lt 600 ]; done; cat /tmp/{tag}"
    );
    let said = sh_in(context, pod, container, &start)?;
    ensure!(said.out.contains("holding"), "acl-demo hold {arguments} in {pod}: {}", said.out);
    Ok(())
}

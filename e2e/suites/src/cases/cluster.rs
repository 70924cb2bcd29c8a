//! The ground the other cases stand on: the cluster is a real one and pods run on it.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::case::Case;
use crate::context::Context;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "cluster/is_the_version_it_claims",
        about: "the servers call themselves Kubernetes 1.37 and serve resource.k8s.io/v1",
        run: is_the_version_it_claims,
    },
    Case {
        name: "cluster/node_is_ready",
        about: "kubelet has registered the real node and reports it Ready",
        run: node_is_ready,
    },
    Case {
        name: "cluster/pod_runs_and_is_reached",
        about: "a pod of the demo image runs, answers exec and logs, and reaches the API server's service address",
        run: pod_runs_and_is_reached,
    },
    Case {
        name: "cluster/restarts_leave_pods_running",
        about: "kubelet and containerd restart under a running pod, which is not restarted, and a next pod starts",
        run: restarts_leave_pods_running,
    },
];

fn is_the_version_it_claims(context: &mut Context) -> Result<()> {
    let version = context.cluster.kubectl_json(&["version"])?;
    let minor = version.pointer("/serverVersion/minor").and_then(|v| v.as_str()).unwrap_or_default();
    ensure!(minor == "37", "the server's version is {version}");
    let resources =
        context.cluster.kubectl_ok(&["api-resources", "--api-group=resource.k8s.io", "-o", "name"])?;
    for kind in ["deviceclasses", "resourceclaims", "resourceclaimtemplates", "resourceslices"] {
        ensure!(resources.contains(kind), "{kind} is not served; there are: {resources}");
    }
    Ok(())
}

fn node_is_ready(context: &mut Context) -> Result<()> {
    let node = context.cluster.node()?;
    let ready = context.cluster.condition("nodes", None, node, "Ready")?;
    ensure!(ready == Some(true), "the node's Ready condition is {ready:?}");
    Ok(())
}

fn pod_runs_and_is_reached(context: &mut Context) -> Result<()> {
    context.apply(&sleeper("reached"))?;
    context.wait_pod("reached", "Running", Duration::from_secs(60))?;
    let output = context.exec("reached", &["sh", "-c", "echo $((6 * 7))"])?;
    ensure!(output.trim() == "42", "exec printed {output:?}");
    context.cluster.wait_for("the pod's log", Duration::from_secs(10), || {
        Ok(context.kubectl(&["logs", "reached"])?.contains("awake"))
    })
}

fn restarts_leave_pods_running(context: &mut Context) -> Result<()> {
    context.apply(&sleeper("before"))?;
    context.wait_pod("before", "Running", Duration::from_secs(60))?;
    let id = "jsonpath={.status.containerStatuses[0].containerID}";
    let before = context.kubectl(&["get", "pod", "before", "-o", id])?;
    context.cluster.restart_containerd()?;
    context.cluster.restart_kubelet()?;
    context.apply(&sleeper("after"))?;
    context.wait_pod("after", "Running", Duration::from_secs(90))?;
    let after = context.kubectl(&["get", "pod", "before", "-o", id])?;
    ensure!(before == after, "the pod's container was {before} and is {after}");
    let output = context.exec("before", &["echo", "alive"])?;
    ensure!(output.trim() == "alive", "exec printed {output:?}");
    Ok(())
}

/// A pod that says "awake" and sleeps.
fn sleeper(name: &str) -> String {
    format!(
        "apiVersion: v1\n\
         kind: Pod\n\
         metadata: {{name: {name}}}\n\
         spec:\n  \
           terminationGracePeriodSeconds: 0\n  \
           containers:\n  \
           - name: main\n    \
             image: vnpu.dev/demo:latest\n    \
             imagePullPolicy: Never\n    \
             command: [sh, -c, 'echo awake; exec sleep 3600']\n"
    )
}

//! What tests do with a cluster through kubectl and ctr: the same commands that a user types.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::image::{ImageConfig, RootFs};
use crate::system::ProcessSpec;

impl Cluster {
    /// Runs kubectl as administrator; the caller looks at the exit status.
    ///
    /// # Errors
    /// When kubectl cannot be executed.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<Output> {
        self.kubectl_as(&self.kubeconfig(), arguments, None)
    }

    /// Runs kubectl and returns what it printed.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn kubectl_ok(&self, arguments: &[&str]) -> Result<String> {
        let output = self.kubectl(arguments)?;
        if !output.status.success() {
            bail!("kubectl {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs `kubectl … -o json` and parses what it printed.
    ///
    /// # Errors
    /// When it fails.
    pub fn kubectl_json(&self, arguments: &[&str]) -> Result<Value> {
        let mut all = arguments.to_vec();
        all.extend(["-o", "json"]);
        serde_json::from_str(&self.kubectl_ok(&all)?).context("reading kubectl's JSON")
    }

    /// Runs kubectl with any kubeconfig, and `input` as its standard input.
    ///
    /// # Errors
    /// When kubectl cannot be executed.
    pub fn kubectl_as(&self, kubeconfig: &Path, arguments: &[&str], input: Option<&str>) -> Result<Output> {
        let mut command = ProcessSpec::new(self.binaries.cluster.join("kubectl")).command();
        command
            .args(arguments)
            .env("KUBECONFIG", kubeconfig)
            // Its cache of the server's resources would land in the user's home.
            .env("KUBECACHEDIR", self.run.path().join("kubectl-cache"))
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().context("starting kubectl")?;
        if let (Some(input), Some(mut pipe)) = (input, child.stdin.take()) {
            pipe.write_all(input.as_bytes())?;
        }
        Ok(child.wait_with_output()?)
    }

    /// Applies YAML or JSON from a string, server-side.
    ///
    /// # Errors
    /// When the server refuses it, with its reason.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        let output =
            self.kubectl_as(&self.kubeconfig(), &["apply", "--server-side", "-f", "-"], Some(manifest))?;
        if !output.status.success() {
            bail!("kubectl apply: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// Applies a file or a directory, exactly as it is.
    ///
    /// # Errors
    /// When the server refuses it, with its reason.
    pub fn apply_path(&self, path: &Path) -> Result<String> {
        let path = path.to_str().context("the path is not UTF-8")?;
        let arguments = ["apply", "--server-side", "-R", "-f", path];
        match self.kubectl_ok(&arguments) {
            Ok(said) => Ok(said),
            // A directory's files come in alphabetical order, which need not be that of their dependencies.
            Err(_) => {
                std::thread::sleep(Duration::from_millis(500));
                self.kubectl_ok(&arguments)
            }
        }
    }

    /// Whether a condition of an object is True; `None` while it has no such condition or does not exist.
    ///
    /// # Errors
    /// When kubectl cannot be executed.
    pub fn condition(
        &self,
        kind: &str,
        namespace: Option<&str>,
        name: &str,
        condition: &str,
    ) -> Result<Option<bool>> {
        let path = format!("jsonpath={{.status.conditions[?(@.type==\"{condition}\")].status}}");
        let mut arguments = vec!["get", kind, name, "--ignore-not-found", "-o", &path];
        arguments.extend(namespace.map(|n| ["-n", n]).into_iter().flatten());
        let output = self.kubectl(&arguments)?;
        Ok(match String::from_utf8_lossy(&output.stdout).trim() {
            "True" => Some(true),
            "False" | "Unknown" => Some(false),
            _ => None,
        })
    }

    /// Waits until a pod is in `phase` (`Running`, `Succeeded`, …).
    ///
    /// # Errors
    /// After `patience`, with the pod's state and events.
    pub fn wait_pod(&self, namespace: &str, name: &str, phase: &str, patience: Duration) -> Result<()> {
        let waited = self.wait_for(&format!("pod {namespace}/{name} to be {phase}"), patience, || {
            Ok(self.pod_phase(namespace, name)? == phase)
        });
        waited.with_context(|| self.describe_pod(namespace, name))
    }

    /// A pod's phase; empty when there is no such pod.
    ///
    /// # Errors
    /// When kubectl cannot be executed.
    pub fn pod_phase(&self, namespace: &str, name: &str) -> Result<String> {
        let arguments =
            ["get", "pod", name, "-n", namespace, "--ignore-not-found", "-o", "jsonpath={.status.phase}"];
        Ok(String::from_utf8_lossy(&self.kubectl(&arguments)?.stdout).trim().to_owned())
    }

    /// What `kubectl describe` says about a pod: for error messages.
    pub fn describe_pod(&self, namespace: &str, name: &str) -> String {
        self.kubectl_ok(&["describe", "pod", name, "-n", namespace]).unwrap_or_else(|e| e.to_string())
    }

    /// Runs a command in a pod's container and returns its output; the caller looks at the exit status.
    ///
    /// # Errors
    /// When kubectl cannot be executed.
    pub fn exec(&self, namespace: &str, pod: &str, command: &[&str]) -> Result<Output> {
        let mut arguments = vec!["exec", "-n", namespace, pod, "--"];
        arguments.extend(command);
        self.kubectl(&arguments)
    }

    /// Makes an image and gives it to containerd. Pods name it with `imagePullPolicy: Never`.
    ///
    /// # Errors
    /// When containerd refuses it.
    pub fn import_image(&self, name: &str, root: &RootFs, config: &ImageConfig) -> Result<()> {
        let archive = self.run.path().join("image.tar");
        std::fs::write(&archive, root.archive(name, config)?)?;
        let path = archive.to_str().context("the path is not UTF-8")?;
        let output = self.ctr(&["-n", "k8s.io", "images", "import", "--local", path])?;
        std::fs::remove_file(&archive)?;
        if !output.status.success() {
            bail!("importing {name}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// Runs containerd's own command line tool.
    ///
    /// # Errors
    /// When it cannot be executed.
    pub fn ctr(&self, arguments: &[&str]) -> Result<Output> {
        let socket = self.paths()?.containerd.clone();
        let ctr = ProcessSpec::new(self.binaries.runtime.join("ctr")).arg("--address").arg(socket);
        self.run_on_node(&ctr.args(arguments))
    }

    /// kubectl's path, to show to a user.
    pub fn kubectl_path(&self) -> std::path::PathBuf {
        self.binaries.cluster.join("kubectl")
    }
}

/// Runs kubectl of `binaries` outside of any [`Cluster`] value, for a cluster that another process started.
pub(crate) fn plain(kubectl: &Path, kubeconfig: &Path, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(kubectl);
    command.args(arguments).env("KUBECONFIG", kubeconfig).stdin(Stdio::null());
    if let Some(directory) = kubeconfig.parent() {
        command.env("KUBECACHEDIR", directory.join("kubectl-cache"));
    }
    command.output().context("starting kubectl")
}

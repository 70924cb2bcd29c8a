//! One example: applied, waited for, and compared with its `expect.yaml`.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use vnpu_e2e_cases::{Example, PodExpectation, PodProgress, Seen};

use crate::context::Context;

/// How long the pods of an example may take to be where they should be.
const PATIENCE: Duration = Duration::from_secs(90);

/// How long a log line, or a claim's status, may lag behind the pod's phase.
const LAG: Duration = Duration::from_secs(20);

/// Applies an example in the case's namespace and asserts what it expects.
///
/// # Errors
/// With the first expectation that does not hold and what was there instead.
pub(crate) fn run(context: &Context, example: &Example) -> Result<()> {
    let watch = ClaimWatch::start(context)?;
    let manifest = example.manifest.display().to_string();
    context.kubectl(&["apply", "-f", &manifest])?;
    for pod in &example.expectation.pods {
        reach(context, pod)?;
        find_logs(context, pod)?;
    }
    let begun = Instant::now();
    loop {
        let unmet = example.expectation.unmet(&seen(context, watch.allocated()?)?);
        if unmet.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > LAG {
            bail!("{}", unmet.join("\n"));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Every version of the namespace's claims. A claim is deallocated as soon as its last pod ends, so that
/// looking once the pods have ended would be too late.
struct ClaimWatch {
    kubectl: Child,
    versions: PathBuf,
}

impl ClaimWatch {
    fn start(context: &Context) -> Result<Self> {
        let versions = context.cluster.directory().join(format!("{}-claims.json", context.namespace));
        let kubectl = Command::new(context.cluster.kubectl_path())
            .args(["get", "resourceclaims", "-n", &context.namespace, "--watch", "-o", "json"])
            .env("KUBECONFIG", context.cluster.kubeconfig())
            .stdin(Stdio::null())
            .stdout(File::create(&versions)?)
            .stderr(Stdio::null())
            .spawn()
            .context("starting kubectl")?;
        Ok(Self { kubectl, versions })
    }

    /// The claims, each as it was when last seen allocated.
    fn allocated(&self) -> Result<Vec<Value>> {
        let text = std::fs::read(&self.versions)?;
        let mut claims = BTreeMap::new();
        // The last version may be half written: it is there at the next look.
        for claim in serde_json::Deserializer::from_slice(&text).into_iter::<Value>().map_while(Result::ok) {
            let name = claim.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
            if claim.pointer("/status/allocation").is_some() {
                claims.insert(name, claim);
            }
        }
        Ok(claims.into_values().collect())
    }
}

impl Drop for ClaimWatch {
    fn drop(&mut self) {
        if self.kubectl.kill().is_ok() {
            drop(self.kubectl.wait());
        }
        drop(std::fs::remove_file(&self.versions));
    }
}

/// Waits until the pod is in its phase; a pod that ended otherwise fails at once.
fn reach(context: &Context, pod: &PodExpectation) -> Result<()> {
    let begun = Instant::now();
    loop {
        let shown = match pod.progress(&seen(context, Vec::new())?) {
            PodProgress::Reached => return Ok(()),
            PodProgress::Waiting(_) if begun.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(200));
                continue;
            }
            PodProgress::Waiting(shown) | PodProgress::Lost(shown) => shown,
        };
        let described = context.cluster.describe_pod(&context.namespace, &pod.name);
        let logs =
            context.kubectl(&["logs", &pod.name, "--all-containers"]).unwrap_or_else(|e| e.to_string());
        bail!("{shown}\n{described}\nlogs:\n{logs}");
    }
}

fn find_logs(context: &Context, pod: &PodExpectation) -> Result<()> {
    let mut arguments = vec!["logs", pod.name.as_str()];
    arguments.extend(pod.container.iter().flat_map(|c| ["-c", c.as_str()]));
    let begun = Instant::now();
    loop {
        let missing = pod.missing_in(&context.kubectl(&arguments)?);
        if missing.is_empty() {
            return Ok(());
        }
        if !pod.logs_may_follow() || begun.elapsed() > LAG {
            bail!("{}", missing.join("\n"));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn seen(context: &Context, claims: Vec<Value>) -> Result<Seen> {
    let list = |arguments: &[&str]| -> Result<Vec<Value>> {
        let value = context.cluster.kubectl_json(arguments)?;
        Ok(value.get("items").and_then(Value::as_array).cloned().unwrap_or_default())
    };
    Ok(Seen {
        pods: list(&["get", "pods", "-n", &context.namespace])?,
        claims,
        slices: list(&["get", "resourceslices"])?,
    })
}

/// The example of that name in the repository.
///
/// # Errors
/// When there is none, or one of the examples breaks its format.
pub(crate) fn find(repository: &Path, name: &str) -> Result<Example> {
    let examples = Example::load(&repository.join("examples"))?;
    examples.into_iter().find(|e| e.name == name).with_context(|| format!("there is no example {name}"))
}

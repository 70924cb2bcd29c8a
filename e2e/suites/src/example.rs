//! One example, as a user goes through it: the commands of its README are pasted into a shell, one after the
//! other, and each must print what the README says.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use vnpu_e2e_cases::{Example, Step};

use crate::context::Context;

/// How long what is looked at may lag behind: a log line behind the pod's phase, a claim's status behind its pod.
const LAG: Duration = Duration::from_secs(20);

/// How long the claims of the cases before may take to be given back.
const IDLE: Duration = Duration::from_secs(60);

/// The devices of all claims of the cluster.
const TAKEN: &str = "jsonpath={.items[*].status.allocation.devices.results[*].device}";

/// Goes through an example in the case's namespace.
///
/// # Errors
/// With the first command that prints something else, what its README says, and what was seen.
pub(crate) fn run(context: &Context, example: &Example) -> Result<()> {
    // The READMEs show a cluster of which nobody else uses anything: the first device that fits is the first one.
    context.cluster.wait_for("all devices to be free", IDLE, || {
        Ok(context.cluster.kubectl_ok(&["get", "resourceclaims", "-A", "-o", TAKEN])?.trim().is_empty())
    })?;
    let terminal = Terminal::open(context)?;
    for step in &example.steps {
        if let Err(difference) = terminal.go(step)? {
            let place = format!("examples/{}/README.md, line {}", example.name, step.line);
            bail!("{place}: {difference}{}", why(context));
        }
    }
    Ok(())
}

/// A shell in the repository's root, in which kubectl is this cluster's and speaks of the case's namespace.
struct Terminal {
    repository: PathBuf,
    environment: Vec<(&'static str, OsString)>,
}

impl Terminal {
    fn open(context: &Context) -> Result<Self> {
        let kubectl = context.cluster.kubectl_path();
        let mut path = vec![kubectl.parent().context("kubectl lies nowhere")?.to_path_buf()];
        path.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
        let directory = context.cluster.directory();
        // A copy, for the namespace that becomes its own is no other case's.
        let kubeconfig = directory.join(format!("{}.kubeconfig", context.namespace));
        std::fs::copy(context.cluster.kubeconfig(), &kubeconfig).context("copying the kubeconfig")?;
        let terminal = Self {
            repository: context.artefacts.repository.clone(),
            environment: vec![
                ("PATH", std::env::join_paths(path)?),
                ("KUBECONFIG", kubeconfig.into_os_string()),
                // Its cache of the server's resources would land in the user's home.
                ("KUBECACHEDIR", directory.join("kubectl-cache").into_os_string()),
            ],
        };
        // As examples/README.md tells users to.
        let enter = format!("kubectl config set-context --current --namespace={}", context.namespace);
        let said = terminal.paste(&enter)?;
        ensure!(said.contains("modified"), "{enter}: {said}");
        Ok(terminal)
    }

    /// What a command prints, on both outputs in their order.
    fn paste(&self, command: &str) -> Result<String> {
        let output = Command::new("sh")
            .arg("-c")
            .arg(format!("exec 2>&1\n{command}"))
            .current_dir(&self.repository)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("running `{command}`"))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a step; what differs, if anything does.
    fn go(&self, step: &Step) -> Result<Result<(), String>> {
        let begun = Instant::now();
        loop {
            let compared = step.compare(&self.paste(&step.command)?);
            if compared.is_ok() || !step.only_looks() || begun.elapsed() > LAG {
                return Ok(compared);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// What is to be known of pods that do not run: they are why a README is not true.
fn why(context: &Context) -> String {
    let waiting = ["get", "pods", "--field-selector=status.phase!=Running", "-o", "name"];
    let pods = context.kubectl(&waiting).unwrap_or_default();
    let describe = |pod: &str| context.kubectl(&["describe", pod]).unwrap_or_else(|e| e.to_string());
    pods.lines().map(|pod| format!("\n{}", describe(pod))).collect()
}

//! What a case gets: the product on a cluster, and shorthands for the namespace that belongs to it alone.

use std::cell::{OnceCell, RefCell};
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use vnpu_e2e_stack::{Artefacts, ControllerHandle, Machine, MachineNode, Options, Stack, StackOptions};

/// Modules of the real node's machine, two dies of 64 GiB each.
const MODULES: u32 = 4;

/// The product on a cluster, and the current case's namespace.
pub(crate) struct Context {
    /// The product on its cluster; its fields are reached through the context.
    pub(crate) stack: Stack,
    /// The current case's namespace.
    pub(crate) namespace: String,
    /// What the current case could not try here.
    not_run: RefCell<Vec<NotRun>>,
    controller: OnceCell<ControllerHandle>,
}

/// What a case, or a part of one, could not try on this machine: no failure, but nobody may take it for a success.
#[derive(Debug)]
pub(crate) enum NotRun {
    /// The case itself.
    Whole,
    /// A part of that name; the rest was tried.
    Part(String),
}

impl Deref for Context {
    type Target = Stack;
    fn deref(&self) -> &Stack {
        &self.stack
    }
}

impl Context {
    /// Brings the cluster up.
    pub(crate) fn start() -> Result<Self> {
        let artefacts = Artefacts::build(false)?;
        let cluster = Options {
            keep_logs: Some(Self::logs()),
            // Off by default since v1 is stable; where an administrator serves them, the guard must hold there too.
            apiserver_arguments: vec![
                "--runtime-config=resource.k8s.io/v1beta1=true,resource.k8s.io/v1beta2=true".to_owned(),
            ],
            ..Options::default()
        };
        let stack = Stack::start(artefacts, StackOptions { cluster, ..StackOptions::default() })?;
        Ok(Self { stack, namespace: String::new(), not_run: RefCell::default(), controller: OnceCell::new() })
    }

    /// The real node with its machine and plugin, started when the first case asks for it.
    pub(crate) fn machine(&self) -> Result<Arc<MachineNode>> {
        self.stack.real().or_else(|_| self.stack.add_real_node(Machine::ascend_910c(MODULES, 65536)))
    }

    /// The controller, started when the first case asks for it.
    pub(crate) fn controller(&self) -> Result<&ControllerHandle> {
        if let Some(known) = self.controller.get() {
            return Ok(known);
        }
        let started = self.stack.start_controller(0, None)?;
        Ok(self.controller.get_or_init(|| started))
    }

    /// Where the components' logs are kept after the run.
    pub(crate) fn logs() -> PathBuf {
        let target = std::env::current_exe().ok().and_then(|p| Some(p.parent()?.parent()?.to_path_buf()));
        target.unwrap_or_else(std::env::temp_dir).join("e2e-logs")
    }

    /// Says that the current case cannot be tried here; it then returns `Ok`.
    pub(crate) fn not_run(&self, why: &str) {
        println!("        NOT RUN: {why}");
        self.not_run.borrow_mut().push(NotRun::Whole);
    }

    /// Says that a part of the current case cannot be tried here.
    pub(crate) fn part_not_run(&self, part: &str, why: &str) {
        println!("        NOT RUN: {part}: {why}");
        self.not_run.borrow_mut().push(NotRun::Part(part.to_owned()));
    }

    /// What was not run since this was last asked.
    pub(crate) fn take_not_run(&self) -> Vec<NotRun> {
        self.not_run.take()
    }

    /// Makes the namespace of the case `name`.
    pub(crate) fn enter(&mut self, name: &str) -> Result<()> {
        self.namespace = name.replace(['/', '_'], "-");
        self.cluster.kubectl_ok(&["create", "namespace", &self.namespace])?;
        let namespace = self.namespace.clone();
        self.cluster.wait_for("the namespace's service account", Duration::from_secs(30), || {
            let arguments = ["get", "serviceaccount", "default", "-n", &namespace, "-o", "name"];
            Ok(self.cluster.kubectl(&arguments)?.status.success())
        })
    }

    /// Removes the namespace and waits until its pods are gone: the next case finds the devices free. The
    /// namespace itself takes five seconds more, for which nobody needs to wait.
    pub(crate) fn leave(&mut self) -> Result<()> {
        let namespace = self.namespace.clone();
        let pods = ["delete", "pods", "--all", "-n", &namespace, "--grace-period=1", "--timeout=60s"];
        self.cluster.kubectl_ok(&pods)?;
        self.cluster.kubectl_ok(&["delete", "namespace", &namespace, "--wait=false"]).map(drop)
    }

    /// Applies YAML in the case's namespace.
    pub(crate) fn apply(&self, manifest: &str) -> Result<()> {
        let arguments = ["apply", "--server-side", "-n", &self.namespace, "-f", "-"];
        let output = self.cluster.kubectl_as(&self.cluster.kubeconfig(), &arguments, Some(manifest))?;
        if !output.status.success() {
            bail!("kubectl apply: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// Runs kubectl in the case's namespace and returns what it printed.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut all = vec!["-n", &self.namespace];
        all.extend(arguments);
        self.cluster.kubectl_ok(&all)
    }

    /// Waits until a pod of the case's namespace is in `phase`.
    pub(crate) fn wait_pod(&self, name: &str, phase: &str, patience: Duration) -> Result<()> {
        self.cluster.wait_pod(&self.namespace, name, phase, patience)
    }

    /// Runs a command in a pod and returns what it printed.
    pub(crate) fn exec(&self, pod: &str, command: &[&str]) -> Result<String> {
        let output = self.cluster.exec(&self.namespace, pod, command)?;
        if !output.status.success() {
            bail!("{command:?} in pod {pod}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        String::from_utf8(output.stdout).context("the command printed something that is not text")
    }

    /// Takes the cluster down.
    pub(crate) fn stop(self) -> Result<()> {
        self.stack.stop()
    }
}

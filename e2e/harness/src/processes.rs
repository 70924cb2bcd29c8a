//! The cluster's processes by name: starting more of them, stopping, killing and restarting.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use vnpu_e2e_binaries::{Module, ensure, repo_root};

use crate::cluster::{Cluster, Spec};
use crate::system::Component;

/// How long a component may take to end when asked.
const STOP: Duration = Duration::from_secs(30);

impl Cluster {
    /// Starts a process on the node (or, without one, beside us). Its output goes to `logs/NAME.log`.
    ///
    /// # Errors
    /// When one of this name runs, or it cannot be executed.
    pub fn start_process(&self, name: &str, spec: Spec) -> Result<()> {
        if self.running(name) {
            bail!("{name} already runs");
        }
        let component = Component::start(name, spec, self.sandbox.clone(), &self.run.path().join("logs"))?;
        self.remember(&component)?;
        self.lock_components().insert(name.to_owned(), component);
        Ok(())
    }

    /// Runs a command with the node's mounts and network and collects its output.
    ///
    /// # Errors
    /// When it cannot be executed.
    pub fn run_on_node(&self, spec: &Spec) -> Result<std::process::Output> {
        self.sandbox.output(spec.command())
    }

    /// Whether the process `name` runs.
    pub fn running(&self, name: &str) -> bool {
        self.lock_components().get_mut(name).is_some_and(Component::running)
    }

    /// The process number of `name` as seen from the test.
    pub fn pid(&self, name: &str) -> Option<i32> {
        self.lock_components().get(name).and_then(Component::pid)
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// When it does not run, or had to be killed after half a minute.
    pub fn stop_process(&self, name: &str) -> Result<std::process::ExitStatus> {
        self.component(name, |c| c.stop(STOP))
    }

    /// SIGKILL, and waits for the end.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill9_process(&self, name: &str) -> Result<std::process::ExitStatus> {
        self.component(name, Component::kill)
    }

    /// Sends any signal.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal_process(&self, name: &str, signal: Signal) -> Result<()> {
        self.component(name, |c| c.signal(signal))
    }

    /// Starts a stopped or killed process again with the same command line.
    ///
    /// # Errors
    /// When it still runs.
    pub fn relaunch_process(&self, name: &str) -> Result<()> {
        self.component(name, Component::launch)?;
        let components = self.lock_components();
        components.get(name).map_or(Ok(()), |c| self.remember(c))
    }

    /// Changes a stopped process's command line for its next start.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn edit_process(&self, name: &str, edit: impl FnOnce(&mut Spec)) -> Result<()> {
        self.component(name, |c| {
            edit(c.spec_mut());
            Ok(())
        })
    }

    /// Stops kubelet, starts it again and waits until the node is Ready. Pods keep running meanwhile.
    ///
    /// # Errors
    /// When it does not come back.
    pub fn restart_kubelet(&self) -> Result<()> {
        self.stop_process("kubelet")?;
        self.relaunch_process("kubelet")?;
        // The node's condition is still the old one's; the new kubelet answers when it is up.
        self.wait_for("kubelet to answer", Duration::from_secs(60), || {
            self.must_run("kubelet")?;
            let healthz = format!("/api/v1/nodes/{}/proxy/healthz", self.options.node_name);
            Ok(self.kubectl(&["get", "--raw", &healthz])?.status.success())
        })?;
        self.wait_for("the node to be Ready", Duration::from_secs(60), || {
            Ok(self.condition("nodes", None, &self.options.node_name, "Ready")? == Some(true))
        })
    }

    /// Stops containerd, starts it again and waits until it answers. The shims, and with them the pods,
    /// keep running.
    ///
    /// # Errors
    /// When it does not come back.
    pub fn restart_containerd(&self) -> Result<()> {
        self.stop_process("containerd")?;
        self.relaunch_process("containerd")?;
        self.wait_containerd(self.paths()?)
    }

    /// Stops the API server (to see what others do without it).
    ///
    /// # Errors
    /// When it does not run.
    pub fn stop_apiserver(&self) -> Result<()> {
        self.kill9_process("apiserver").map(drop)
    }

    /// Starts the API server again and waits until it is ready.
    ///
    /// # Errors
    /// When it does not come back.
    pub fn start_apiserver(&self) -> Result<()> {
        self.relaunch_process("apiserver")?;
        self.wait_api()
    }

    /// Path of one of our own Go helpers (`e2e/cluster/cmd/NAME`), built when needed.
    ///
    /// # Errors
    /// When it does not compile or there is none of this name.
    pub fn tool(&self, name: &str) -> Result<PathBuf> {
        let path = ensure(Module::Tools, &repo_root(), &*self.options.progress)?.join(name);
        if !path.is_file() {
            bail!("there is no Go helper {name} in e2e/cluster/cmd");
        }
        Ok(path)
    }

    /// Path of a log file.
    pub fn log(&self, name: &str) -> PathBuf {
        self.run.path().join("logs").join(format!("{name}.log"))
    }

    /// The last lines of each component's log.
    pub fn log_tails(&self) -> String {
        let components = self.lock_components();
        components.values().map(|c| format!("--- {} ---\n{}\n", c.name(), c.log_tail(12))).collect()
    }

    /// Fails with the end of its log when `name` has ended.
    pub(crate) fn must_run(&self, name: &str) -> Result<()> {
        if self.running(name) {
            return Ok(());
        }
        let tail = self.lock_components().get(name).map(|c| c.log_tail(12)).unwrap_or_default();
        bail!("{name} has ended:\n{tail}")
    }

    fn component<T>(&self, name: &str, work: impl FnOnce(&mut Component) -> Result<T>) -> Result<T> {
        let mut components = self.lock_components();
        work(components.get_mut(name).with_context(|| format!("there is no process {name}"))?)
    }
}

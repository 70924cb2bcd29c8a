//! One process of a cluster: how it is started, its log, and how it is stopped, killed and started again.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};

use super::record::ProcessId;
use super::sandbox::Sandbox;

/// A command line, as it can be run again and again.
#[derive(Debug, Clone)]
pub struct ProcessSpec {
    /// The executable.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Variables added to the inherited ones.
    pub environment: Vec<(OsString, OsString)>,
}

impl ProcessSpec {
    /// A command without arguments.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), arguments: Vec::new(), environment: Vec::new() }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<T: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// The command to spawn. Proxies are for the outside world; all traffic of a cluster is local.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
            command.env_remove(name);
        }
        command.env_remove("KUBECONFIG").envs(self.environment.iter().cloned());
        command
    }
}

/// A process under our care.
#[derive(Debug)]
pub(crate) struct Component {
    name: String,
    spec: ProcessSpec,
    place: Arc<Sandbox>,
    log: PathBuf,
    child: Option<Child>,
}

impl Component {
    /// Starts `spec` as `name`, its output appended to `NAME.log` in `logs`.
    ///
    /// # Errors
    /// When it cannot be executed.
    pub(crate) fn start(name: &str, spec: ProcessSpec, place: Arc<Sandbox>, logs: &Path) -> Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let mut component = Self { name: name.to_owned(), spec, place, log, child: None };
        component.launch()?;
        Ok(component)
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its process number as seen from here, while it runs.
    pub(crate) fn pid(&self) -> Option<i32> {
        self.child.as_ref().map(|c| c.id().cast_signed())
    }

    /// Its identity, for the record.
    pub(crate) fn identity(&self) -> Option<ProcessId> {
        ProcessId::of(self.pid()?)
    }

    /// Starts it again with the same command line; stop it first.
    ///
    /// # Errors
    /// When it still runs or cannot be executed.
    pub(crate) fn launch(&mut self) -> Result<()> {
        if self.running() {
            bail!("{} already runs", self.name);
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("opening {}", self.log.display()))?;
        let mut command = self.spec.command();
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        self.child = Some(self.place.spawn(command)?);
        Ok(())
    }

    /// Changes the command line for the next start.
    pub(crate) fn spec_mut(&mut self) -> &mut ProcessSpec {
        &mut self.spec
    }

    /// Whether it runs now.
    pub(crate) fn running(&mut self) -> bool {
        matches!(self.child.as_mut().map(Child::try_wait), Some(Ok(None)))
    }

    /// Sends a signal to the process alone.
    ///
    /// # Errors
    /// When it does not run.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid =
            self.pid().and_then(Pid::from_raw).with_context(|| format!("{} does not run", self.name))?;
        rustix::process::kill_process(pid, signal).with_context(|| format!("signalling {}", self.name))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it still runs after `patience`.
    pub(crate) fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let begun = Instant::now();
        let child = self.child.as_mut().with_context(|| format!("{} was not started", self.name))?;
        loop {
            if let Some(status) = child.try_wait()? {
                self.child = None;
                return Ok(status);
            }
            if begun.elapsed() > patience {
                bail!("{} still runs after {patience:?}", self.name);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Asks it to end (SIGTERM) and waits; after `patience` it is killed, which is an error.
    ///
    /// # Errors
    /// When it had to be killed.
    pub(crate) fn stop(&mut self, patience: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(patience).inspect_err(|_| {
            let _ = self.kill();
        })
    }

    /// Kills it (SIGKILL) and waits for its end.
    ///
    /// # Errors
    /// When it does not run.
    pub(crate) fn kill(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::KILL)?;
        self.wait(Duration::from_secs(10))
    }

    /// The last lines of its log.
    pub(crate) fn log_tail(&self, lines: usize) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
    }
}

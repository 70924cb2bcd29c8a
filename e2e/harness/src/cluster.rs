//! A running cluster: how it comes up, and how it goes down. What tests do with it is in `kubectl`, `nodes`
//! and `processes`.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use vnpu_e2e_binaries::{Binaries, ensure_all, repo_root};

use crate::control_plane::{API_SERVICE, ControlPlane, Endpoints};
use crate::image::{ImageConfig, RootFs};
use crate::node::{Node, NodePaths, PAUSE_IMAGE, overlay_works};
use crate::nodes::NodeHandle;
use crate::options::{Options, Progress, RealNode};
use crate::pki::Pki;
use crate::system::{self, Cgroups, Component, Guardian, Link, ProcessSpec, Record, RunDirectory, Sandbox};

/// A running cluster. Dropping it takes it down; only [`Cluster::leave`] lets one stay.
#[derive(Debug)]
pub struct Cluster {
    pub(crate) options: Options,
    pub(crate) binaries: Binaries,
    pub(crate) run: RunDirectory,
    pub(crate) pki: Pki,
    pub(crate) endpoints: Endpoints,
    pub(crate) sandbox: Arc<Sandbox>,
    pub(crate) node: Option<NodePaths>,
    pub(crate) components: Mutex<BTreeMap<String, Component>>,
    pub(crate) nodes: Mutex<BTreeMap<String, NodeHandle>>,
    pub(crate) runtime: tokio::runtime::Runtime,
    record: Mutex<Record>,
    guardian: Option<Guardian>,
    down: bool,
}

impl Cluster {
    /// Brings a cluster up: removes what crashed ones left, builds missing binaries, starts the control
    /// plane, then the node, and waits until both are ready.
    ///
    /// # Errors
    /// With what failed and the end of the log that tells why. Nothing is left then either.
    pub fn start(options: Options) -> Result<Self> {
        let begun = Instant::now();
        let progress = options.progress.clone();
        let with_node = match options.real_node {
            RealNode::Required if !system::is_root() => bail!(
                "the real node (containerd, kubelet, network) needs root: run this with sudo, or ask for the control \
                 plane and simulated nodes only"
            ),
            RealNode::Required => true,
            RealNode::IfRoot => system::is_root(),
            RealNode::None => false,
        };
        if options.real_node == RealNode::IfRoot && !with_node {
            progress("no root: control plane and simulated nodes only, no pod will run");
        }
        for id in system::clean_stale()? {
            progress(&format!("removed what the crashed cluster {id} had left"));
        }
        let binaries = ensure_all(&repo_root(), &*progress)?;
        let mut cluster = Self::prepare(options, binaries, with_node)?;
        match cluster.bring_up(with_node) {
            Ok(()) => {
                progress(&format!("cluster ready after {:.1} s", begun.elapsed().as_secs_f32()));
                Ok(cluster)
            }
            Err(error) => {
                let tails = cluster.log_tails();
                if let Err(error) = cluster.take_down() {
                    progress(&format!("taking the half-made cluster down: {error:#}"));
                }
                Err(error.context(format!("the cluster did not come up\n{tails}")))
            }
        }
    }

    /// Everything that other processes need to exist before they start.
    fn prepare(options: Options, binaries: Binaries, with_node: bool) -> Result<Self> {
        let id = system::random_id()?;
        let (run, mut record) = RunDirectory::create(&id, options.detached)?;
        let mut guardian = Guardian::start(run.path(), &id)?;
        // From here on, whatever fails must not leave the directory behind.
        let mut undo = Undo { run: Some(run.clone()) };
        let scratch = run.sub("sandbox")?;
        run.sub("logs")?;
        let (sandbox, endpoints) = if with_node {
            let pause = compile_pause(&scratch)?;
            let sandbox = Sandbox::start(&pause, &scratch, options.detached)?;
            record.init = sandbox.init().cloned();
            run.save(&record)?;
            let init = record.init.as_ref().context("the node has no init")?.pid;
            guardian.watch(init)?;
            Cgroups::create(&id)?;
            let link = Link::create(&id, init)?;
            for arguments in link.inside(API_SERVICE) {
                let mut command = Command::new("ip");
                command.args(&arguments);
                let output = sandbox.output(command)?;
                if !output.status.success() {
                    let said = String::from_utf8_lossy(&output.stderr);
                    bail!("ip {} in the node's network: {}", arguments.join(" "), said.trim());
                }
            }
            (sandbox, Endpoints::of_node(link.node))
        } else {
            (Sandbox::host(options.detached)?, Endpoints::of_host()?)
        };
        let pki = Pki::create(run.sub("pki")?)?;
        let admin = pki.client("admin", "vnpu-admin", Some("system:masters"))?;
        pki.kubeconfig(&run.path().join("admin.kubeconfig"), &endpoints.server(), &admin)?;
        let node = with_node.then(|| NodePaths::new(run.path()));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        undo.run = None;
        Ok(Self {
            options,
            binaries,
            run,
            pki,
            endpoints,
            sandbox: Arc::new(sandbox),
            node,
            components: Mutex::default(),
            nodes: Mutex::default(),
            runtime,
            record: Mutex::new(record),
            guardian: Some(guardian),
            down: false,
        })
    }

    fn bring_up(&self, with_node: bool) -> Result<()> {
        let plane = ControlPlane {
            binaries: &self.binaries.cluster,
            run: self.run.path(),
            pki: &self.pki,
            endpoints: &self.endpoints,
            options: &self.options,
        };
        let say: &Progress = &self.options.progress;
        say("starting etcd, API server, controller manager, scheduler");
        self.start_process("etcd", plane.etcd()?)?;
        self.start_process("apiserver", plane.apiserver()?)?;
        if with_node {
            // It takes a second of its own, during which the API server starts.
            self.start_containerd()?;
        }
        self.wait_api()?;
        self.start_process("controller-manager", plane.controller_manager()?)?;
        self.start_process("scheduler", plane.scheduler()?)?;
        if let Some(paths) = &self.node {
            say("starting containerd and kubelet");
            self.wait_containerd(paths)?;
            self.import_base_images()?;
            self.start_process("kubelet", self.node_parts(paths).kubelet("https://127.0.0.1")?)?;
            self.wait_for("the node to be Ready", Duration::from_secs(120), || {
                Ok(self.condition("nodes", None, &self.options.node_name, "Ready")? == Some(true))
            })?;
        }
        // Pods are refused before their namespace's account exists.
        self.wait_for("the default service account", Duration::from_secs(60), || {
            Ok(self
                .kubectl(&["get", "serviceaccount", "default", "-n", "default", "-o", "name"])?
                .status
                .success())
        })
    }

    /// Leaves a cluster that was started detached standing, with all its processes, until
    /// [`take_down`](crate::take_down). Until here a crash or Ctrl-C has taken it down.
    ///
    /// # Errors
    /// When it was not started detached, or has died.
    pub fn leave(mut self) -> Result<()> {
        if !self.options.detached {
            bail!("only a cluster that was started detached can be left standing");
        }
        // The guardian first: it would take what outlives us for something left over.
        if let Some(mut guardian) = self.guardian.take() {
            guardian.dismiss();
        }
        self.sandbox.let_go()?;
        self.down = true;
        Ok(())
    }

    fn node_parts<'a>(&'a self, paths: &'a NodePaths) -> Node<'a> {
        Node {
            id: self.id(),
            run: self.run.path(),
            paths,
            cluster: &self.binaries.cluster,
            runtime: &self.binaries.runtime,
            pki: &self.pki,
            address: self.endpoints.address,
            options: &self.options,
        }
    }

    fn start_containerd(&self) -> Result<()> {
        let Some(paths) = &self.node else { return Ok(()) };
        let directory = self.run.path().to_owned();
        let overlay = self.sandbox.run(move || overlay_works(&directory))??;
        if !overlay {
            (self.options.progress)("no overlay mounts here: images are copied, pods start slower");
        }
        self.start_process("containerd", self.node_parts(paths).containerd(overlay)?)
    }

    pub(crate) fn wait_containerd(&self, paths: &NodePaths) -> Result<()> {
        self.wait_for("containerd", Duration::from_secs(60), || {
            self.must_run("containerd")?;
            // Its socket is there before its services answer.
            Ok(paths.containerd.exists() && self.ctr(&["version"])?.status.success())
        })
    }

    pub(crate) fn wait_api(&self) -> Result<()> {
        self.wait_for("the API server", Duration::from_secs(120), || {
            self.must_run("etcd")?;
            self.must_run("apiserver")?;
            Ok(self.kubectl(&["get", "--raw", "/readyz"])?.status.success())
        })
    }

    fn import_base_images(&self) -> Result<()> {
        let mut pause = RootFs::new();
        pause.file(&self.run.path().join("sandbox/pause"), "pause")?;
        let config = ImageConfig { entrypoint: vec!["/pause".into()], environment: Vec::new() };
        self.import_image(PAUSE_IMAGE, &pause, &config)
    }

    /// The cluster's identifier.
    pub fn id(&self) -> &str {
        self.run.path().file_name().and_then(|n| n.to_str()).unwrap_or_default()
    }

    /// The run directory, in which everything of this cluster lies.
    pub fn directory(&self) -> &Path {
        self.run.path()
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.run.path().join("admin.kubeconfig")
    }

    /// The API server's URL as seen from the test.
    pub fn server(&self) -> String {
        self.endpoints.server()
    }

    /// The address at which the test reaches servers of the cluster that listen on all addresses: the node
    /// has a network namespace of its own, and its loopback interface is not ours.
    pub fn address(&self) -> Ipv4Addr {
        self.endpoints.address
    }

    /// The real node's name.
    ///
    /// # Errors
    /// When the cluster has none.
    pub fn node(&self) -> Result<&str> {
        self.paths()?;
        Ok(&self.options.node_name)
    }

    /// The real node's directories.
    ///
    /// # Errors
    /// When the cluster has none.
    pub fn paths(&self) -> Result<&NodePaths> {
        self.node.as_ref().context("this cluster has no real node (it needs root)")
    }

    /// The runtime on which [`Cluster::block_on`] runs futures.
    pub fn runtime(&self) -> &tokio::runtime::Runtime {
        &self.runtime
    }

    /// Runs a future to its end. Not from within another one.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// A client with the administrator's rights.
    ///
    /// # Errors
    /// When the kubeconfig is unreadable.
    pub fn client(&self) -> Result<kube::Client> {
        self.client_from(&self.kubeconfig())
    }

    /// A client from any kubeconfig of this cluster, such as a node's.
    ///
    /// # Errors
    /// When the kubeconfig is unreadable.
    pub fn client_from(&self, kubeconfig: &Path) -> Result<kube::Client> {
        let _entered = self.runtime.enter();
        self.runtime.block_on(async {
            let config = kube::config::Kubeconfig::read_from(kubeconfig)?;
            let options = kube::config::KubeConfigOptions::default();
            let mut config = kube::Config::from_custom_kubeconfig(config, &options).await?;
            config.proxy_url = None;
            Ok(kube::Client::try_from(config)?)
        })
    }

    /// Polls until `done` says so; an error of `done` ends the wait at once.
    ///
    /// # Errors
    /// After `patience`, naming what was waited for.
    pub fn wait_for(
        &self,
        what: &str,
        patience: Duration,
        mut done: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let begun = Instant::now();
        loop {
            if done()? {
                return Ok(());
            }
            if begun.elapsed() > patience {
                bail!("waited {} s for {what}", patience.as_secs());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Takes the cluster down and removes everything it made.
    ///
    /// # Errors
    /// When something resists; the next start tries again.
    pub fn stop(mut self) -> Result<()> {
        self.take_down()
    }

    pub(crate) fn lock_components(&self) -> MutexGuard<'_, BTreeMap<String, Component>> {
        self.components.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn remember(&self, component: &Component) -> Result<()> {
        if self.sandbox.init().is_some() {
            return Ok(());
        }
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.processes.retain(system::ProcessId::alive);
        record.processes.extend(component.identity());
        self.run.save(&record)
    }

    fn take_down(&mut self) -> Result<()> {
        if self.down {
            return Ok(());
        }
        self.down = true;
        if let Some(to) = self.options.keep_logs.clone() {
            let _ = copy_files(&self.run.path().join("logs"), &to);
        }
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Our children first: the kernel lets a PID namespace's init go only when all its processes have
        // been waited for, and these are ours to wait for.
        for component in self.lock_components().values_mut() {
            if component.running() {
                let _ = component.kill();
            }
        }
        self.lock_components().clear();
        let done = self.run.destroy(&record);
        if done.is_ok()
            && let Some(mut guardian) = self.guardian.take()
        {
            guardian.dismiss();
        }
        done
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.take_down() {
            eprintln!("taking the cluster down: {error:#}");
        }
    }
}

/// Removes the run directory when the preparation fails half way.
struct Undo {
    run: Option<RunDirectory>,
}

impl Drop for Undo {
    fn drop(&mut self) {
        if let Some(run) = &self.run
            && let Ok(record) = run.load()
            && let Err(error) = run.destroy(&record)
        {
            eprintln!("removing a half-made cluster: {error:#}");
        }
    }
}

/// Compiles the program that sleeps: the node's init and the pods' sandbox image.
fn compile_pause(scratch: &Path) -> Result<PathBuf> {
    let source = scratch.join("pause.c");
    fs::write(&source, include_str!("pause.c"))?;
    let program = scratch.join("pause");
    let output = Command::new("gcc")
        .args(["-static", "-O2", "-Wall", "-s", "-o"])
        .arg(&program)
        .arg(&source)
        .output()
        .context("running gcc (Debian packages gcc and libc6-dev)")?;
    if !output.status.success() {
        bail!("compiling the pause program: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(program)
}

fn copy_files(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// The command line of a cluster's process.
pub(crate) type Spec = ProcessSpec;

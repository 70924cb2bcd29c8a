//! Everything of ours on one cluster, from manifests to plugins.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use standin_protocol::Machine;
use vnpu_harness::{
    Cluster, ControllerHandle, ControllerOptions, ImageConfig, Options, PluginOptions, ProcessSpec, RootFs,
};

use crate::artefacts::Artefacts;
use crate::machine_node::MachineNode;

/// The image that examples and demo pods name: the host's C library, a shell, and `acl-demo`.
pub const DEMO_IMAGE: &str = "vnpu.dev/demo:latest";

/// An image without glibc: a static shell.
pub const MUSL_IMAGE: &str = "vnpu.dev/musl:latest";

/// What a stack is started with.
#[derive(Debug, Clone)]
pub struct StackOptions {
    /// The cluster.
    pub cluster: Options,
    /// Further arguments of every plugin.
    pub plugin_arguments: Vec<String>,
    /// Further variables of every plugin.
    pub plugin_environment: Vec<(String, String)>,
}

impl Default for StackOptions {
    fn default() -> Self {
        Self {
            cluster: Options::default(),
            plugin_arguments: Vec::new(),
            plugin_environment: vec![("RUST_LOG".to_owned(), "info".to_owned())],
        }
    }
}

/// The product on a cluster. Dropping it takes the cluster down.
#[derive(Debug)]
pub struct Stack {
    /// The cluster.
    pub cluster: Cluster,
    /// What was built.
    pub artefacts: Artefacts,
    options: StackOptions,
    nodes: Mutex<BTreeMap<String, Arc<MachineNode>>>,
}

impl Stack {
    /// Starts the cluster, applies manifests and device classes as they are in the repository, and imports the
    /// images (when there is a real node).
    ///
    /// # Errors
    /// With the part that failed and the logs that tell why.
    pub fn start(artefacts: Artefacts, options: StackOptions) -> Result<Self> {
        let cluster = Cluster::start(options.cluster.clone())?;
        let stack = Self { cluster, artefacts, options, nodes: Mutex::default() };
        stack.apply_product()?;
        if stack.cluster.node().is_ok() {
            stack.import_images()?;
        }
        Ok(stack)
    }

    /// Applies `deploy/manifests` and `deviceclasses`, and waits until the guard is in force.
    ///
    /// # Errors
    /// When the API server refuses one.
    pub fn apply_product(&self) -> Result<()> {
        self.cluster.apply_path(&self.artefacts.repository.join("deploy/manifests"))?;
        self.cluster.quiet_controller_deployment()?;
        self.cluster.apply_path(&self.artefacts.repository.join("deviceclasses"))?;
        let door = std::fs::read_to_string(
            self.artefacts.repository.join("e2e/guard-cases/refused/pair-without-constraint.yaml"),
        )?;
        // A new policy takes a moment to be compiled; until then the API server admits everything.
        self.cluster.wait_for("the guard to be in force", Duration::from_secs(60), || {
            let arguments = ["create", "--dry-run=server", "-f", "-"];
            let output = self.cluster.kubectl_as(&self.cluster.kubeconfig(), &arguments, Some(&door))?;
            Ok(!output.status.success())
        })
    }

    /// Gives the real node a machine and a plugin, and waits until its devices are published.
    ///
    /// # Errors
    /// When the cluster has no real node, or the plugin does not publish.
    pub fn add_real_node(&self, machine: Machine) -> Result<Arc<MachineNode>> {
        let node = MachineNode::new(self.cluster.real_node()?, machine)?;
        self.bring_up(node)
    }

    /// Adds a simulated node with a machine, a plugin and a kubelet stand-in.
    ///
    /// # Errors
    /// When the plugin does not publish.
    pub fn add_simulated_node(&self, name: &str, machine: Machine) -> Result<Arc<MachineNode>> {
        let node = MachineNode::new(self.cluster.add_simulated_node(name, &[])?, machine)?;
        let handle = &node.handle;
        let kubelet = ProcessSpec::new(self.cluster.tool("kubelet-standin")?)
            .arg("--kubeconfig")
            .arg(self.cluster.kubeconfig())
            .arg("--node")
            .arg(name)
            .arg("--registry-dir")
            .arg(&handle.registry)
            .arg("--state-dir")
            .arg(handle.root.join("kubelet"));
        self.cluster.start_process(&node.kubelet_process(), kubelet)?;
        self.bring_up(node)
    }

    /// Adds a Node object and its machine, without plugin and kubelet: a bench starts those itself.
    ///
    /// # Errors
    /// When the node or the stand-in driver cannot be made.
    pub fn add_bare_node(&self, name: &str, machine: Machine) -> Result<Arc<MachineNode>> {
        let node = Arc::new(MachineNode::new(self.cluster.add_simulated_node(name, &[])?, machine)?);
        self.start_machine(&node)?;
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), node.clone());
        Ok(node)
    }

    /// A node that was added before.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn node(&self, name: &str) -> Result<Arc<MachineNode>> {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.get(name).cloned().with_context(|| format!("no node {name} in this stack"))
    }

    /// The real node.
    ///
    /// # Errors
    /// When there is none, or it has no machine yet.
    pub fn real(&self) -> Result<Arc<MachineNode>> {
        self.node(self.cluster.node()?)
    }

    /// Lays out the driver and starts the machine.
    ///
    /// # Errors
    /// When the stand-in driver does not start.
    pub fn start_machine(&self, node: &MachineNode) -> Result<()> {
        self.lay_out(node)?;
        let serve = ProcessSpec::new(self.artefacts.standins.device())
            .arg("serve")
            .arg("--config")
            .arg(&node.config)
            .arg("--driver-root")
            .arg(&node.handle.driver_root);
        self.cluster.start_process(&node.driver_process(), serve)?;
        let socket = node.handle.driver_root.join(standin_protocol::SOCKET_BELOW_ROOT);
        self.cluster.wait_for("the stand-in driver", Duration::from_secs(20), || {
            Ok(std::os::unix::net::UnixStream::connect(&socket).is_ok())
        })
    }

    /// Makes the driver's files and exactly the device nodes that the machine has now.
    ///
    /// # Errors
    /// When a device node cannot be made: that needs root.
    pub fn lay_out(&self, node: &MachineNode) -> Result<()> {
        let prepare = ProcessSpec::new(self.artefacts.standins.device())
            .arg("prepare")
            .arg("--config")
            .arg(&node.config)
            .arg("--driver-root")
            .arg(&node.handle.driver_root)
            .arg("--dev-root")
            .arg(&node.handle.dev_root)
            .arg("--libraries")
            .arg(&self.artefacts.standins.lib);
        let output = self.cluster.run_on_node(&prepare)?;
        if !output.status.success() {
            bail!("laying out the driver: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// How this stack starts plugins.
    pub fn plugin_options(&self) -> PluginOptions {
        PluginOptions {
            program: self.artefacts.plugin.clone(),
            interposer: self.artefacts.interposer.clone(),
            dcmi: None,
            arguments: self.options.plugin_arguments.clone(),
            environment: self.options.plugin_environment.clone(),
        }
    }

    /// Starts the controller number `index` with `config`, a `ControllerConfig` as YAML; without one it has the defaults.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn start_controller(&self, index: u16, config: Option<&str>) -> Result<ControllerHandle> {
        let file = config.map(|text| -> Result<_> {
            let directory = self.cluster.directory().join("controllers").join(format!("config-{index}"));
            std::fs::create_dir_all(&directory)?;
            let file = directory.join("config.yaml");
            std::fs::write(&file, text)?;
            Ok(file)
        });
        let options = ControllerOptions {
            program: self.artefacts.controller.clone(),
            config: file.transpose()?,
            arguments: vec![
                "--record".to_owned(),
                self.cluster.directory().join(format!("controllers/record-{index}")).display().to_string(),
            ],
            environment: vec![("RUST_LOG".to_owned(), "info".to_owned())],
        };
        self.cluster.start_controller(index, &options)
    }

    fn bring_up(&self, node: MachineNode) -> Result<Arc<MachineNode>> {
        self.start_machine(&node)?;
        let mut options = self.plugin_options();
        // NVML takes no directory of device nodes from anybody: on a node there is the one.
        let dev = node.handle.dev_root.display().to_string();
        options.environment.push((standin_protocol::DEVICE_VARIABLE.to_owned(), dev));
        self.cluster.start_plugin(&node.handle, &options)?;
        let node = Arc::new(node);
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.insert(node.handle.name.clone(), node.clone());
        drop(nodes);
        self.wait_published(&node)?;
        Ok(node)
    }

    /// Waits until the node's plugin is ready and has published devices.
    ///
    /// # Errors
    /// After a minute, with the end of the plugin's log.
    pub fn wait_published(&self, node: &MachineNode) -> Result<()> {
        let name = &node.handle.name;
        let waited = self.cluster.wait_for(&format!("slices of {name}"), Duration::from_secs(60), || {
            if !self.cluster.running(&node.handle.plugin()) {
                bail!("the plugin of {name} ended");
            }
            Ok(node.ready(&self.cluster) && !self.devices(name)?.is_empty())
        });
        waited.with_context(|| self.log_tail(&node.handle.plugin()))
    }

    /// The last lines of a process's log.
    pub fn log_tail(&self, process: &str) -> String {
        let text = std::fs::read_to_string(self.cluster.log(process)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(30);
        format!("the end of {process}'s log:\n{}", lines.get(from..).unwrap_or_default().join("\n"))
    }

    /// The devices that a node publishes, as (name, device) in the order of the slices.
    ///
    /// # Errors
    /// When kubectl fails.
    pub fn devices(&self, node: &str) -> Result<Vec<(String, Value)>> {
        let selector = format!("--field-selector=spec.nodeName={node},spec.driver=vnpu.dev");
        let slices = self.cluster.kubectl_json(&["get", "resourceslices", &selector])?;
        let list = |value: &Value, pointer: &str| -> Vec<Value> {
            value.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default()
        };
        let text = |value: &Value, pointer: &str| -> String {
            value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let mut items = list(&slices, "/items");
        items.sort_by_key(|slice| text(slice, "/metadata/name"));
        let devices = items.iter().flat_map(|slice| list(slice, "/spec/devices"));
        Ok(devices.map(|device| (text(&device, "/name"), device)).collect())
    }

    /// Takes the cluster down, and says when something was left.
    ///
    /// # Errors
    /// When something could not be removed.
    pub fn stop(self) -> Result<()> {
        self.cluster.stop()
    }

    fn import_images(&self) -> Result<()> {
        let bin = &self.artefacts.standins.bin;
        let mut root = RootFs::base()?;
        root.program(&bin.join("acl-demo"), "bin/acl-demo")?;
        let environment = vec![
            "PATH=/bin:/usr/bin".to_owned(),
            // As CANN images do: where the driver's libraries are mounted.
            "LD_LIBRARY_PATH=/usr/local/Ascend/driver/lib64/driver:/usr/local/Ascend/driver/lib64/common"
                .to_owned(),
        ];
        let config = ImageConfig { entrypoint: Vec::new(), environment: environment.clone() };
        self.cluster.import_image(DEMO_IMAGE, &root, &config)
    }
}

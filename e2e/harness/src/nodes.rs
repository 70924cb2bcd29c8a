//! Simulated nodes beside the real one, the directories and the credentials of each node's plugin, and the
//! plugin's process.

use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Node, ServiceAccount};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::cluster::Cluster;
use crate::system::ProcessSpec;

/// Namespace of the product's service account in `deploy/manifests`.
pub const NAMESPACE: &str = "vnpu-system";

/// The node plugin's service account in `deploy/manifests`.
pub const SERVICE_ACCOUNT: &str = "vnpu-kubelet-plugin";

/// A node (real or simulated) as its plugin sees it.
#[derive(Debug, Clone)]
pub struct NodeHandle {
    /// The Node object's name.
    pub name: String,
    /// The Node object's UID.
    pub uid: String,
    /// Whether kubelet runs there.
    pub real: bool,
    /// Directory of its own, with everything below that is not kubelet's or containerd's.
    pub root: PathBuf,
    /// `--kubelet-registry-dir`.
    pub registry: PathBuf,
    /// `--kubelet-plugins-dir`.
    pub plugins: PathBuf,
    /// `--cdi-dir`.
    pub cdi: PathBuf,
    /// `--state-dir`.
    pub state: PathBuf,
    /// `--runtime-dir`.
    pub runtime: PathBuf,
    /// `--driver-root`: the vendor's libraries and the stand-in driver's socket.
    pub driver_root: PathBuf,
    /// `--dev-root`.
    pub dev_root: PathBuf,
    /// `--kubeconfig`: a token of the plugin's service account, bound to this node.
    pub kubeconfig: PathBuf,
    /// What kubelet, or its stand-in, authenticates with as this node.
    pub kubelet_kubeconfig: PathBuf,
    /// `--admin-address` as the plugin is told it.
    pub admin_listen: String,
    /// The admin server as the test reaches it.
    pub admin_address: String,
}

impl NodeHandle {
    /// The name of its kubelet stand-in's process.
    pub fn standin(&self) -> String {
        format!("kubelet-{}", self.name)
    }

    /// The name of its plugin's process.
    pub fn plugin(&self) -> String {
        format!("plugin-{}", self.name)
    }

    /// The command line of its plugin.
    pub fn plugin_command(&self, options: &PluginOptions) -> ProcessSpec {
        let mut spec = ProcessSpec::new(&options.program)
            .args(["--node-name", &self.name])
            .args(["--admin-address", &self.admin_listen]);
        let paths = [
            ("--kubeconfig", &self.kubeconfig),
            ("--kubelet-registry-dir", &self.registry),
            ("--kubelet-plugins-dir", &self.plugins),
            ("--cdi-dir", &self.cdi),
            ("--state-dir", &self.state),
            ("--runtime-dir", &self.runtime),
            ("--interposer-dir", &options.interposer),
            ("--driver-root", &self.driver_root),
            ("--dev-root", &self.dev_root),
        ];
        for (name, path) in paths {
            spec = spec.arg(name).arg(path);
        }
        if let Some(library) = &options.dcmi {
            spec = spec.arg("--dcmi-library").arg(library);
        }
        spec = spec.args(options.arguments.clone());
        for (name, value) in &options.environment {
            spec = spec.env(name, value);
        }
        spec
    }
}

/// How a node's plugin is started.
#[derive(Debug, Clone)]
pub struct PluginOptions {
    /// The `vnpu-kubelet-plugin` executable.
    pub program: PathBuf,
    /// `--interposer-dir`.
    pub interposer: PathBuf,
    /// `--dcmi-library`; `None` leaves the search to the plugin.
    pub dcmi: Option<PathBuf>,
    /// Further arguments.
    pub arguments: Vec<String>,
    /// Further variables.
    pub environment: Vec<(String, String)>,
}

impl Cluster {
    /// Creates a Node object that is Ready and has room for pods, without any kubelet behind it.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub fn add_simulated_node(&self, name: &str, labels: &[(&str, &str)]) -> Result<NodeHandle> {
        let labels: serde_json::Map<_, _> = labels.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
        let resources = json!({"cpu": "256", "memory": "2Ti", "pods": "1000", "ephemeral-storage": "1Ti"});
        let client = self.client()?;
        self.block_on(async {
            let nodes: Api<Node> = Api::all(client);
            let mut labels = labels;
            labels.insert("kubernetes.io/hostname".into(), json!(name));
            let node = serde_json::from_value(json!({
                "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels},
            }))?;
            nodes
                .create(&PostParams::default(), &node)
                .await
                .with_context(|| format!("creating node {name}"))?;
            let status = json!({"status": {
                "capacity": resources, "allocatable": resources,
                "conditions": [{
                    "type": "Ready", "status": "True", "reason": "Simulated", "message": "a simulated node",
                    "lastHeartbeatTime": "2020-01-01T00:00:00Z", "lastTransitionTime": "2020-01-01T00:00:00Z",
                }],
            }});
            nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await?;
            anyhow::Ok(())
        })?;
        self.handle(name, false)
    }

    /// The real node as its plugin sees it.
    ///
    /// # Errors
    /// When the cluster has none, or the plugin's service account does not exist yet (apply
    /// `deploy/manifests` first).
    pub fn real_node(&self) -> Result<NodeHandle> {
        let name = self.node()?.to_owned();
        if let Some(known) = self.nodes.lock().unwrap_or_else(PoisonError::into_inner).get(&name) {
            return Ok(known.clone());
        }
        self.handle(&name, true)
    }

    /// A kubeconfig whose token belongs to the plugin's service account and is bound to the node `name`.
    ///
    /// # Errors
    /// When the service account or the node does not exist.
    pub fn node_kubeconfig(&self, name: &str, uid: &str, to: &Path) -> Result<()> {
        let node = BoundObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Node".into()),
            name: Some(name.into()),
            uid: Some(uid.into()),
        };
        self.account_kubeconfig(SERVICE_ACCOUNT, Some(node), to)
            .with_context(|| format!("a token bound to node {name}"))
    }

    /// A kubeconfig with a token of one of the product's service accounts.
    ///
    /// # Errors
    /// When there is no such account, or what the token is to be bound to is not there.
    pub(crate) fn account_kubeconfig(
        &self,
        account: &str,
        bound_object_ref: Option<BoundObjectReference>,
        to: &Path,
    ) -> Result<()> {
        let client = self.client()?;
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                bound_object_ref,
                expiration_seconds: Some(24 * 3600),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let answer = self.block_on(async {
            let accounts: Api<ServiceAccount> = Api::namespaced(client, NAMESPACE);
            accounts.create_token_request(account, &PostParams::default(), &request).await
        });
        let answer = answer.with_context(|| format!("asking for a token of {NAMESPACE}/{account}"))?;
        let token = answer.status.and_then(|s| s.token).context("the API server answered without a token")?;
        // It is used in the node's network, where this address is as good as from here.
        self.pki.token_kubeconfig(to, &self.server(), &token)
    }

    /// Starts a node's plugin.
    ///
    /// # Errors
    /// When it cannot be executed or already runs.
    pub fn start_plugin(&self, node: &NodeHandle, options: &PluginOptions) -> Result<()> {
        self.start_process(&node.plugin(), node.plugin_command(options))
    }

    /// Starts the stand-in for kubelet on a simulated node: it prepares the claims of the pods bound to it
    /// through kubelet's own code and reports them running, without containers.
    ///
    /// # Errors
    /// For the real node, or when the helper does not compile or already runs.
    pub fn start_kubelet_standin(&self, node: &NodeHandle) -> Result<()> {
        if node.real {
            bail!("node {} has a kubelet", node.name);
        }
        let state = node.root.join("kubelet-state");
        std::fs::create_dir_all(&state)?;
        let spec = ProcessSpec::new(self.tool("kubelet-standin")?)
            .args(["--node", &node.name])
            .arg("--kubeconfig")
            .arg(&node.kubelet_kubeconfig)
            .arg("--registry-dir")
            .arg(&node.registry)
            .arg("--state-dir")
            .arg(state);
        self.start_process(&node.standin(), spec)
    }

    /// Kills a node's plugin with SIGKILL.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill9_plugin(&self, node: &NodeHandle) -> Result<()> {
        self.kill9_process(&node.plugin()).map(drop)
    }

    /// Starts a stopped or killed plugin again.
    ///
    /// # Errors
    /// When it still runs.
    pub fn relaunch_plugin(&self, node: &NodeHandle) -> Result<()> {
        self.relaunch_process(&node.plugin())
    }

    /// Stops a plugin (SIGTERM) and starts it again.
    ///
    /// # Errors
    /// When it does not end in half a minute.
    pub fn restart_plugin(&self, node: &NodeHandle) -> Result<()> {
        self.stop_process(&node.plugin())?;
        self.relaunch_plugin(node)
    }

    fn handle(&self, name: &str, real: bool) -> Result<NodeHandle> {
        let client = self.client()?;
        let node = self.block_on(async { Api::<Node>::all(client).get(name).await })?;
        let uid = node.metadata.uid.context("the node has no UID")?;
        let root = self.run.sub(&format!("nodes/{name}"))?;
        let sub = |n: &str| -> Result<PathBuf> {
            let path = root.join(n);
            std::fs::create_dir_all(&path)?;
            Ok(path)
        };
        let (registry, plugins, cdi) = if real {
            let paths = self.paths()?;
            (paths.registry.clone(), paths.plugins.clone(), paths.cdi.clone())
        } else {
            (sub("registry")?, sub("plugins")?, sub("cdi")?)
        };
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if nodes.contains_key(name) {
            bail!("there is a node {name} already");
        }
        let port = if self.node.is_some() {
            u16::try_from(9500 + nodes.len()).context("too many nodes")?
        } else {
            std::net::TcpListener::bind((self.address(), 0))?.local_addr()?.port()
        };
        let listen = if self.node.is_some() { "0.0.0.0".to_owned() } else { self.address().to_string() };
        let handle = NodeHandle {
            name: name.to_owned(),
            uid,
            real,
            registry,
            plugins,
            cdi,
            state: sub("state")?,
            runtime: sub("runtime")?,
            driver_root: sub("driver")?,
            dev_root: sub("dev")?,
            kubeconfig: root.join("kubeconfig"),
            kubelet_kubeconfig: root.join("kubelet.kubeconfig"),
            admin_listen: format!("{listen}:{port}"),
            admin_address: format!("{}:{port}", self.address()),
            root,
        };
        self.node_kubeconfig(name, &handle.uid, &handle.kubeconfig)?;
        let identity =
            self.pki.client(&format!("node-{name}"), &format!("system:node:{name}"), Some("system:nodes"))?;
        self.pki.kubeconfig(&handle.kubelet_kubeconfig, &self.server(), &identity)?;
        nodes.insert(name.to_owned(), handle.clone());
        Ok(handle)
    }
}

//! The product's controllers as processes beside the control plane, with the rights of their service account, behind the
//! address of their service.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::admin::admin_page;
use crate::cluster::Cluster;
use crate::nodes::NAMESPACE;
use crate::system::ProcessSpec;

/// The controller's service account, service and Deployment in `deploy/manifests`.
pub const CONTROLLER: &str = "vnpu-controller";

/// The port of the first controller's admin server.
const ADMIN: u16 = 9700;

/// One controller.
#[derive(Debug, Clone)]
pub struct ControllerHandle {
    /// The process's name, and the controller's identity.
    pub name: String,
    /// Its admin server as the test reaches it.
    pub admin_address: String,
}

/// How a controller is started.
#[derive(Debug, Clone)]
pub struct ControllerOptions {
    /// The `vnpu-controller` executable.
    pub program: PathBuf,
    /// `--config`.
    pub config: Option<PathBuf>,
    /// Further arguments.
    pub arguments: Vec<String>,
    /// Further variables.
    pub environment: Vec<(String, String)>,
}

impl Cluster {
    /// Keeps the Deployment of the controller from making pods: there is no image here, and the processes that
    /// [`Cluster::start_controller`] starts stand in its place. Until then the API server is refused at the service's
    /// address at once, as where a Service has no endpoints; where nothing can make it so, there are no webhooks.
    ///
    /// # Errors
    /// When kubectl fails.
    pub fn quiet_controller_deployment(&self) -> Result<()> {
        self.kubectl_ok(&["scale", "deployment", CONTROLLER, "-n", NAMESPACE, "--replicas=0"])?;
        if self.node().is_ok() {
            return self.service_address().map(drop);
        }
        let kinds = "mutatingwebhookconfigurations,validatingwebhookconfigurations";
        self.kubectl_ok(&["delete", kinds, CONTROLLER, "--ignore-not-found"]).map(drop)
    }

    /// Starts the controller number `index`. Number 0 answers the API server's questions at the service's address;
    /// nothing here spreads them over several.
    ///
    /// # Errors
    /// Without a real node (whose network the service's address is in), or when the controller does not get ready.
    pub fn start_controller(&self, index: u16, options: &ControllerOptions) -> Result<ControllerHandle> {
        let name = format!("controller-{index}");
        let root = self.run.sub(&format!("controllers/{name}"))?;
        let kubeconfig = root.join("kubeconfig");
        self.account_kubeconfig(CONTROLLER, None, &kubeconfig)?;
        let webhook = if index == 0 { self.service_address()? } else { "127.0.0.1".to_owned() };
        let (webhook_port, admin_port) = (8443 + index, ADMIN + index);
        let mut spec = ProcessSpec::new(&options.program)
            .arg("--kubeconfig")
            .arg(&kubeconfig)
            .args(["--namespace", NAMESPACE, "--identity", &name])
            .args(["--webhook-address", &format!("{webhook}:{webhook_port}")])
            .args(["--admin-address", &format!("0.0.0.0:{admin_port}")]);
        if let Some(config) = &options.config {
            spec = spec.arg("--config").arg(config);
        }
        spec = spec.args(options.arguments.clone());
        for (variable, value) in &options.environment {
            spec = spec.env(variable, value);
        }
        self.start_process(&name, spec)?;
        let handle = ControllerHandle { admin_address: self.controller_admin(index), name };
        self.wait_controller(&handle)?;
        Ok(handle)
    }

    /// Where the admin server of the controller number `index` is, once it runs.
    pub fn controller_admin(&self, index: u16) -> String {
        format!("{}:{}", self.address(), ADMIN + index)
    }

    /// Waits until a controller says that it is ready.
    ///
    /// # Errors
    /// After a minute, or when it ends.
    pub fn wait_controller(&self, handle: &ControllerHandle) -> Result<()> {
        self.wait_for(&format!("{} to be ready", handle.name), Duration::from_secs(60), || {
            self.must_run(&handle.name)?;
            Ok(admin_page(&handle.admin_address, "/readyz").is_ok_and(|(status, _)| status == 200))
        })
        .with_context(|| self.log_tails())
    }

    /// The address of the controller's service, which this network gets: the API server finds the process there without
    /// any kube-proxy.
    fn service_address(&self) -> Result<String> {
        if self.node().is_err() {
            bail!("the controller needs the network of a cluster with a real node");
        }
        let arguments = ["get", "service", CONTROLLER, "-n", NAMESPACE, "-o", "jsonpath={.spec.clusterIP}"];
        let address = self.kubectl_ok(&arguments)?.trim().to_owned();
        let mut command = Command::new("ip");
        command.args(["addr", "replace", &format!("{address}/32"), "dev", "lo"]);
        let output = self.sandbox.output(command)?;
        if !output.status.success() {
            bail!("giving the node {address}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(address)
    }
}

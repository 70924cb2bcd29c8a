//! The command lines of etcd and the three control plane processes. Facts about the flags: Kubernetes 1.37's
//! command line reference; what each is for is said where it is not plain.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use crate::options::Options;
use crate::pki::{Pki, write_secret};
use crate::system::ProcessSpec;

/// Addresses of services; the first is the API server's own.
const SERVICE_RANGE: &str = "10.96.0.0/16";

/// The API server's service address: the first of the service range.
pub(crate) const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// Where the control plane listens.
#[derive(Debug, Clone)]
pub(crate) struct Endpoints {
    /// Address that the API server and kubelet are reached at from outside.
    pub(crate) address: Ipv4Addr,
    /// The API server's port.
    pub(crate) api_port: u16,
    /// etcd's client and peer ports, and those of controller-manager and scheduler.
    ports: [u16; 4],
}

impl Endpoints {
    /// In a network namespace of our own all ports are free. 443 is where pods look for the API server, so
    /// no address translation is needed between the service and the server.
    pub(crate) fn of_node(address: Ipv4Addr) -> Self {
        Self { address, api_port: 443, ports: [2379, 2380, 10257, 10259] }
    }

    /// Free ports of the loopback interface.
    ///
    /// # Errors
    /// When there are none.
    pub(crate) fn of_host() -> Result<Self> {
        // All are held open until all are known, so that no number comes twice.
        let listeners = (0..5)
            .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .collect::<std::io::Result<Vec<_>>>()
            .context("looking for free ports")?;
        let ports = listeners.iter().map(|l| Ok(l.local_addr()?.port())).collect::<Result<Vec<u16>>>()?;
        let mut ports = ports.into_iter();
        let mut next = || ports.next().context("a port is missing");
        Ok(Self {
            address: Ipv4Addr::LOCALHOST,
            api_port: next()?,
            ports: [next()?, next()?, next()?, next()?],
        })
    }

    /// The API server's URL.
    pub(crate) fn server(&self) -> String {
        format!("https://{}:{}", self.address, self.api_port)
    }
}

/// Everything the control plane's command lines are made from.
pub(crate) struct ControlPlane<'a> {
    pub(crate) binaries: &'a Path,
    pub(crate) run: &'a Path,
    pub(crate) pki: &'a Pki,
    pub(crate) endpoints: &'a Endpoints,
    pub(crate) options: &'a Options,
}

impl ControlPlane<'_> {
    /// etcd. Without fsync: the data lives as long as the test.
    pub(crate) fn etcd(&self) -> Result<ProcessSpec> {
        let [client, peer, ..] = self.endpoints.ports;
        let hosts = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let identity = self.pki.server("etcd", "etcd", &hosts)?;
        let (client, peer) = (format!("https://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        Ok(ProcessSpec::new(self.binaries.join("etcd"))
            .arg("--unsafe-no-fsync")
            .args(["--name", "vnpu", "--log-level", "warn", "--client-cert-auth"])
            .arg(flag("--data-dir", self.run.join("etcd").display()))
            .arg(flag("--listen-client-urls", &client))
            .arg(flag("--advertise-client-urls", &client))
            .arg(flag("--listen-peer-urls", &peer))
            .arg(flag("--initial-advertise-peer-urls", &peer))
            .arg(flag("--initial-cluster", format!("vnpu={peer}")))
            .arg(flag("--trusted-ca-file", self.pki.path("ca.crt").display()))
            .arg(flag("--cert-file", identity.certificate.display()))
            .arg(flag("--key-file", identity.key.display())))
    }

    /// The API server.
    pub(crate) fn apiserver(&self) -> Result<ProcessSpec> {
        let [etcd, ..] = self.endpoints.ports;
        let mut hosts = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), API_SERVICE.to_string()];
        hosts.push(self.endpoints.address.to_string());
        hosts.extend(["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned));
        let serving = self.pki.server("apiserver", "kube-apiserver", &hosts)?;
        let etcd_client = self.pki.client("apiserver-etcd", "kube-apiserver", None)?;
        // What the API server is towards kubelet: kubelet asks the API server about its rights, and
        // masters have all.
        let kubelet_client =
            self.pki.client("apiserver-kubelet", "kube-apiserver", Some("system:masters"))?;
        let bind = if self.endpoints.api_port == 443 { "0.0.0.0" } else { "127.0.0.1" };
        let ca = self.pki.path("ca.crt");
        Ok(ProcessSpec::new(self.binaries.join("kube-apiserver"))
            .arg(flag("--etcd-servers", format!("https://127.0.0.1:{etcd}")))
            .arg(flag("--etcd-cafile", ca.display()))
            .arg(flag("--etcd-certfile", etcd_client.certificate.display()))
            .arg(flag("--etcd-keyfile", etcd_client.key.display()))
            .arg(flag("--bind-address", bind))
            .arg(flag("--advertise-address", self.endpoints.address))
            .arg(flag("--secure-port", self.endpoints.api_port))
            .arg(flag("--tls-cert-file", serving.certificate.display()))
            .arg(flag("--tls-private-key-file", serving.key.display()))
            .arg(flag("--client-ca-file", ca.display()))
            .arg(flag("--kubelet-certificate-authority", ca.display()))
            .arg(flag("--kubelet-client-certificate", kubelet_client.certificate.display()))
            .arg(flag("--kubelet-client-key", kubelet_client.key.display()))
            .arg("--kubelet-preferred-address-types=InternalIP")
            .arg(flag("--service-cluster-ip-range", SERVICE_RANGE))
            // No Endpoints object for ourselves: nothing routes by it.
            .arg("--endpoint-reconciler-type=none")
            .arg("--authorization-mode=Node,RBAC")
            .arg("--enable-admission-plugins=NodeRestriction")
            // It taints new nodes not-ready, and the controller that would lift the taint is off, because
            // it would mark simulated nodes lost.
            .arg("--disable-admission-plugins=TaintNodesByCondition")
            .arg("--allow-privileged=true")
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .arg(flag("--service-account-key-file", self.pki.path("sa.pub").display()))
            .arg(flag("--service-account-signing-key-file", self.pki.path("sa.key").display()))
            .args(self.feature_gates())
            .args(self.options.apiserver_arguments.clone()))
    }

    /// The controller manager. Simulated nodes have no heartbeat, so the controllers that judge nodes are off.
    pub(crate) fn controller_manager(&self) -> Result<ProcessSpec> {
        let [.., port, _] = self.endpoints.ports;
        let kubeconfig = self.component_kubeconfig("controller-manager", "system:kube-controller-manager")?;
        Ok(ProcessSpec::new(self.binaries.join("kube-controller-manager"))
            .arg(kubeconfig)
            .arg(flag("--secure-port", port))
            .arg("--bind-address=127.0.0.1")
            .arg("--controllers=*,-nodelifecycle,-taint-eviction-controller,-nodeipam")
            .arg("--use-service-account-credentials")
            .arg("--leader-elect=false")
            .arg("--kube-api-qps=1000")
            .arg("--kube-api-burst=2000")
            .arg(flag("--root-ca-file", self.pki.path("ca.crt").display()))
            .arg(flag("--service-account-private-key-file", self.pki.path("sa.key").display()))
            .args(self.feature_gates())
            .args(self.options.controller_arguments.clone()))
    }

    /// The scheduler: stock, but for its client's rate limit.
    pub(crate) fn scheduler(&self) -> Result<ProcessSpec> {
        let [.., port] = self.endpoints.ports;
        self.component_kubeconfig("scheduler", "system:kube-scheduler")?;
        let qps = self.options.scheduler_qps;
        let config = json!({
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "leaderElection": { "leaderElect": false },
            "clientConnection": {
                "kubeconfig": self.run.join("scheduler.kubeconfig"), "qps": qps, "burst": qps.saturating_mul(2),
            },
        });
        let path = self.run.join("scheduler.json");
        write_secret(&path, &serde_json::to_string_pretty(&config)?)?;
        Ok(ProcessSpec::new(self.binaries.join("kube-scheduler"))
            .arg(flag("--config", path.display()))
            .arg(flag("--secure-port", port))
            .arg("--bind-address=127.0.0.1")
            .args(self.feature_gates()))
    }

    fn component_kubeconfig(&self, name: &str, user: &str) -> Result<String> {
        let identity = self.pki.client(name, user, None)?;
        let path = self.run.join(format!("{name}.kubeconfig"));
        let local = format!("https://127.0.0.1:{}", self.endpoints.api_port);
        self.pki.kubeconfig(&path, &local, &identity)?;
        Ok(flag("--kubeconfig", path.display()))
    }

    fn feature_gates(&self) -> Option<String> {
        let gates: Vec<_> =
            self.options.feature_gates.iter().map(|(name, on)| format!("{name}={on}")).collect();
        (!gates.is_empty()).then(|| flag("--feature-gates", gates.join(",")))
    }
}

/// One argument `name=value`.
pub(crate) fn flag(name: &str, value: impl std::fmt::Display) -> String {
    format!("{name}={value}")
}

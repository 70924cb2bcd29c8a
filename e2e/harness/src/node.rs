//! The real node: configuration and command lines of containerd and kubelet, and the pods' network. All its
//! paths are beneath the run directory; the few that are not are made private by the sandbox.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use crate::control_plane::flag;
use crate::options::Options;
use crate::pki::{Pki, write_secret};
use crate::system::{Cgroups, ProcessSpec};

/// The image of every pod's sandbox; containerd asks for it by this name.
pub(crate) const PAUSE_IMAGE: &str = "registry.k8s.io/pause:3.10.2";

/// Pods' addresses. The node has a network namespace of its own, so they collide with nothing.
const POD_RANGE: &str = "10.244.0.0/16";

/// The directories of the real node that tests and plugins use.
#[derive(Debug, Clone)]
pub struct NodePaths {
    /// kubelet's root directory.
    pub kubelet: PathBuf,
    /// Where plugins register: kubelet watches it for sockets.
    pub registry: PathBuf,
    /// Where plugins keep their own sockets and data.
    pub plugins: PathBuf,
    /// Where containerd reads CDI files.
    pub cdi: PathBuf,
    /// containerd's socket.
    pub containerd: PathBuf,
}

impl NodePaths {
    /// The paths beneath a run directory.
    pub(crate) fn new(run: &Path) -> Self {
        let kubelet = run.join("kubelet");
        Self {
            registry: kubelet.join("plugins_registry"),
            plugins: kubelet.join("plugins"),
            cdi: run.join("cdi"),
            containerd: run.join("containerd.sock"),
            kubelet,
        }
    }
}

/// Everything the node's command lines are made from.
pub(crate) struct Node<'a> {
    pub(crate) id: &'a str,
    pub(crate) run: &'a Path,
    pub(crate) paths: &'a NodePaths,
    pub(crate) cluster: &'a Path,
    pub(crate) runtime: &'a Path,
    pub(crate) pki: &'a Pki,
    pub(crate) address: Ipv4Addr,
    pub(crate) options: &'a Options,
}

impl Node<'_> {
    /// Writes containerd's configuration and the CNI network's, and returns the command line. `overlay`
    /// says whether the kernel can stack overlay mounts in the run directory.
    pub(crate) fn containerd(&self, overlay: bool) -> Result<ProcessSpec> {
        for directory in [&self.paths.cdi, &self.paths.registry, &self.paths.plugins] {
            fs::create_dir_all(directory)?;
        }
        let net = self.run.join("cni");
        fs::create_dir_all(&net)?;
        let network = json!({
            "cniVersion": "1.0.0", "name": "vnpu", "plugins": [
                {
                    "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
                    "ipam": {
                        "type": "host-local", "dataDir": self.run.join("ipam"),
                        "ranges": [[{"subnet": POD_RANGE}]], "routes": [{"dst": "0.0.0.0/0"}],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": true}},
            ],
        });
        fs::write(net.join("10-vnpu.conflist"), serde_json::to_vec_pretty(&network)?)?;
        let config = self.run.join("containerd.toml");
        fs::write(&config, self.containerd_config(&net, overlay))?;
        Ok(ProcessSpec::new(self.runtime.join("containerd"))
            .arg("--config")
            .arg(config)
            // The shim and runc are looked up in the path, the CNI plugins in bin_dirs; iptables and
            // friends are the host's.
            .env("PATH", self.path_variable()))
    }

    /// kubelet's command line; writes its configuration.
    pub(crate) fn kubelet(&self, server: &str) -> Result<ProcessSpec> {
        let name = &self.options.node_name;
        let identity = self.pki.client("kubelet", &format!("system:node:{name}"), Some("system:nodes"))?;
        let serving = self.pki.server(
            "kubelet-serving",
            &format!("system:node:{name}"),
            &[self.address.to_string()],
        )?;
        let kubeconfig = self.run.join("kubelet.kubeconfig");
        self.pki.kubeconfig(&kubeconfig, server, &identity)?;
        let resolv = self.run.join("resolv.conf");
        fs::write(&resolv, "nameserver 127.0.0.1\n")?;
        let gates: serde_json::Map<_, _> =
            self.options.feature_gates.iter().map(|(gate, on)| (gate.clone(), json!(on))).collect();
        let config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": false}, "webhook": {"enabled": true},
                "x509": {"clientCAFile": self.pki.path("ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": serving.certificate, "tlsPrivateKeyFile": serving.key,
            "containerRuntimeEndpoint": format!("unix://{}", self.paths.containerd.display()),
            "cgroupDriver": "cgroupfs", "cgroupRoot": Cgroups::name(self.id), "failCgroupV1": false,
            "failSwapOn": false, "enforceNodeAllocatable": [], "oomScoreAdj": 0,
            "podLogsDir": self.run.join("pods"), "volumePluginDir": self.run.join("volume-plugins"),
            "resolvConf": resolv, "clusterDNS": ["10.96.0.10"], "clusterDomain": "cluster.local",
            // Absolute and small: a percent of a large disk that is nearly full would evict the tests.
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "50Mi", "imagefs.available": "50Mi",
                "nodefs.inodesFree": "1000", "imagefs.inodesFree": "1000"},
            "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
            "maxPods": 500, "readOnlyPort": 0, "syncFrequency": "5s",
            "kubeAPIQPS": 500, "kubeAPIBurst": 1000,
            "serializeImagePulls": false, "featureGates": gates,
        });
        let path = self.run.join("kubelet.json");
        write_secret(&path, &serde_json::to_string_pretty(&config)?)?;
        let labels: Vec<_> = self.options.node_labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let mut spec = ProcessSpec::new(self.cluster.join("kubelet"))
            .arg(flag("--config", path.display()))
            .arg(flag("--kubeconfig", kubeconfig.display()))
            .arg(flag("--root-dir", self.paths.kubelet.display()))
            .arg(flag("--cert-dir", self.run.join("pki").display()))
            .arg(flag("--hostname-override", name))
            .arg(flag("--node-ip", self.address))
            .arg("--v=2")
            .env("PATH", self.path_variable());
        if !labels.is_empty() {
            spec = spec.arg(flag("--node-labels", labels.join(",")));
        }
        Ok(spec)
    }

    fn path_variable(&self) -> String {
        format!("{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", self.runtime.display())
    }

    fn containerd_config(&self, net: &Path, overlay: bool) -> String {
        let run = self.run.display();
        let snapshotter = if overlay { "overlayfs" } else { "native" };
        format!(
            r#"version = 3
root = "{run}/containerd"
state = "{run}/containerd-state"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]

[grpc]
  address = "{socket}"

[plugins."io.containerd.internal.v1.opt"]
  path = "{run}/opt"

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "{snapshotter}"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{PAUSE_IMAGE}"

[plugins."io.containerd.cri.v1.runtime"]
  enable_cdi = true
  cdi_spec_dirs = ["{cdi}"]
  disable_apparmor = true
  # Without CAP_SYS_RESOURCE no process may make itself less killable than its parent is.
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{bin}"]
    conf_dir = "{net}"
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        SystemdCgroup = false
        BinaryName = "{bin}/runc"
"#,
            socket = self.paths.containerd.display(),
            cdi = self.paths.cdi.display(),
            bin = self.runtime.display(),
            net = net.display(),
        )
    }
}

/// Whether overlay mounts work in `directory`, tried in the calling thread's mount namespace.
pub(crate) fn overlay_works(directory: &Path) -> Result<bool> {
    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
    let probe = directory.join("overlay-probe");
    let parts = ["lower", "upper", "work", "merged"].map(|n| probe.join(n));
    for part in &parts {
        fs::create_dir_all(part)?;
    }
    let [lower, upper, work, merged] = &parts;
    let options =
        format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    let options = std::ffi::CString::new(options).context("the run directory's path holds a zero byte")?;
    let works = mount("overlay", merged, "overlay", MountFlags::empty(), Some(options.as_c_str())).is_ok();
    if works {
        unmount(merged, UnmountFlags::DETACH)?;
    }
    fs::remove_dir_all(&probe)?;
    Ok(works)
}

//! What is built from which Go module, and with which flags. Versions live in the modules' `go.mod` and
//! `go.sum`; only the flags that `go.mod` cannot carry live here.

use std::path::{Path, PathBuf};

/// The Kubernetes version of `e2e/cluster/go.mod`; without it in the linker flags the servers call
/// themselves v0.0.0 and clients guess wrongly what they can do.
const KUBERNETES: &str = "v1.37.2";

/// One group of binaries with a cache entry of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Module {
    /// etcd, the Kubernetes control plane, kubelet and kubectl: `e2e/cluster`.
    Cluster,
    /// containerd, its shim, ctr, runc and the CNI plugins: `e2e/runtime`.
    Runtime,
    /// Our own Go commands, `e2e/cluster/cmd/*`, with the packages beside them: apart, so that editing one does not relink Kubernetes.
    Tools,
}

/// One `go build` call.
#[derive(Debug, Clone)]
pub struct BuildStep {
    /// What is being built, for the progress line.
    pub title: String,
    /// Value of `CGO_ENABLED`.
    pub cgo: bool,
    /// Arguments of `go`, without `-o`.
    pub arguments: Vec<String>,
}

impl Module {
    /// Every module, smallest first: a broken toolchain shows before the long build starts.
    pub const ALL: [Module; 3] = [Module::Runtime, Module::Cluster, Module::Tools];

    /// The name in the cache directory and in progress lines.
    pub fn name(self) -> &'static str {
        match self {
            Module::Cluster => "cluster",
            Module::Runtime => "runtime",
            Module::Tools => "tools",
        }
    }

    /// The Go module's directory.
    pub fn directory(self, repo: &Path) -> PathBuf {
        repo.join("e2e").join(match self {
            Module::Cluster | Module::Tools => "cluster",
            Module::Runtime => "runtime",
        })
    }

    /// The files whose content decides, beside the flags and the compiler, what comes out.
    pub fn inputs(self, repo: &Path) -> std::io::Result<Vec<PathBuf>> {
        let directory = self.directory(repo);
        let mut inputs = vec![directory.join("go.mod"), directory.join("go.sum")];
        if self == Module::Tools {
            collect_go(&directory, &mut inputs)?;
            inputs.sort();
        }
        Ok(inputs)
    }

    /// The `go build` calls, in order. Empty for [`Module::Tools`] while there is no command.
    pub fn steps(self, repo: &Path) -> std::io::Result<Vec<BuildStep>> {
        match self {
            Module::Cluster => Ok(cluster_steps()),
            Module::Runtime => Ok(runtime_steps()),
            Module::Tools => tool_steps(&self.directory(repo).join("cmd")),
        }
    }
}

fn strings(parts: &[&str]) -> Vec<String> {
    parts.iter().map(|p| (*p).to_owned()).collect()
}

fn cluster_steps() -> Vec<BuildStep> {
    let (major, minor) = ("1", "37");
    let ldflags = format!(
        "-s -w -X k8s.io/component-base/version.gitVersion={KUBERNETES} \
         -X k8s.io/component-base/version.gitMajor={major} -X k8s.io/component-base/version.gitMinor={minor} \
         -X k8s.io/client-go/pkg/version.gitVersion={KUBERNETES}"
    );
    // One call for all: the packages they share are compiled once and the two phases overlap.
    let packages = [
        "go.etcd.io/etcd/server/v3",
        "k8s.io/kubernetes/cmd/kube-apiserver",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
        "k8s.io/kubernetes/cmd/kube-scheduler",
        "k8s.io/kubernetes/cmd/kubectl",
        "k8s.io/kubernetes/cmd/kubelet",
    ];
    let mut arguments = strings(&["build", "-trimpath", "-ldflags"]);
    arguments.push(ldflags);
    arguments.extend(strings(&packages));
    vec![BuildStep { title: format!("etcd and Kubernetes {KUBERNETES}"), cgo: false, arguments }]
}

fn runtime_steps() -> Vec<BuildStep> {
    let packages = [
        "github.com/containerd/containerd/v2/cmd/containerd",
        "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
        "github.com/containerd/containerd/v2/cmd/ctr",
        "github.com/containernetworking/plugins/plugins/ipam/host-local",
        "github.com/containernetworking/plugins/plugins/main/bridge",
        "github.com/containernetworking/plugins/plugins/main/loopback",
        "github.com/containernetworking/plugins/plugins/meta/portmap",
    ];
    let tags = "no_btrfs no_devmapper no_zfs no_aufs";
    let mut containerd = strings(&["build", "-trimpath", "-tags", tags, "-ldflags", "-s -w"]);
    containerd.extend(strings(&packages));
    // runc needs cgo: its seccomp support is libseccomp's, and kubelet's default profile uses it.
    let runc =
        ["build", "-trimpath", "-tags", "seccomp", "-ldflags", "-s -w", "github.com/opencontainers/runc"];
    vec![
        BuildStep { title: "runc".into(), cgo: true, arguments: strings(&runc) },
        BuildStep { title: "containerd and CNI plugins".into(), cgo: false, arguments: containerd },
    ]
}

fn tool_steps(commands: &Path) -> std::io::Result<Vec<BuildStep>> {
    let mut packages = Vec::new();
    if commands.is_dir() {
        for entry in std::fs::read_dir(commands)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                packages.push(format!("./cmd/{}", entry.file_name().to_string_lossy()));
            }
        }
    }
    if packages.is_empty() {
        return Ok(Vec::new());
    }
    packages.sort();
    let mut arguments = strings(&["build", "-trimpath", "-ldflags", "-s -w"]);
    arguments.extend(packages);
    Ok(vec![BuildStep { title: "Go helpers".into(), cgo: false, arguments }])
}

fn collect_go(directory: &Path, into: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if !directory.is_dir() {
        return Ok(());
    }
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            collect_go(&path, into)?;
        } else if path.extension().is_some_and(|e| e == "go") {
            into.push(path);
        }
    }
    Ok(())
}

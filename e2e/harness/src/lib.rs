//! A real Kubernetes cluster for tests and the demo: etcd, control plane, containerd, kubelet, and simulated
//! nodes beside the real one. It leaves nothing behind, however it ends.

mod admin;
mod cluster;
mod control_plane;
mod controller;
mod image;
mod kubectl;
mod node;
mod nodes;
mod options;
mod pki;
mod processes;
mod remote;
mod system;

pub use admin::admin_page;
pub use cluster::Cluster;
pub use controller::{CONTROLLER, ControllerHandle, ControllerOptions};
pub use image::{ImageConfig, RootFs};
pub use node::NodePaths;
pub use nodes::{NAMESPACE, NodeHandle, PluginOptions, SERVICE_ACCOUNT};
pub use options::{Options, Progress, RealNode};
pub use remote::{Standing, kubectl, standing, take_down};
pub use rustix::process::Signal;
pub use system::{ProcessSpec, clean_stale, is_root, runs_root};
pub use vnpu_e2e_binaries::repo_root;

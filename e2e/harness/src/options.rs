//! What a cluster should be like.

use std::path::PathBuf;
use std::sync::Arc;

/// Whether there is a real node: containerd, kubelet, and pods that run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RealNode {
    /// There must be one; without root the cluster does not start.
    Required,
    /// There is one when we are root.
    IfRoot,
    /// Control plane and simulated nodes only.
    None,
}

/// Receives a line of progress.
pub type Progress = Arc<dyn Fn(&str) + Send + Sync>;

/// What a cluster should be like. `Options::default()` is what most tests want.
#[derive(Clone)]
pub struct Options {
    /// Whether there is a real node.
    pub real_node: RealNode,
    /// The real node's name.
    pub node_name: String,
    /// Labels of the real node.
    pub node_labels: Vec<(String, String)>,
    /// The cluster can be left standing with [`Cluster::leave`](crate::Cluster::leave).
    pub detached: bool,
    /// Where component logs are copied to when the cluster goes down; `None`: nowhere.
    pub keep_logs: Option<PathBuf>,
    /// Further arguments of the API server.
    pub apiserver_arguments: Vec<String>,
    /// Further arguments of the controller manager.
    pub controller_arguments: Vec<String>,
    /// Queries per second that the scheduler may send; burst is twice that.
    pub scheduler_qps: u32,
    /// Feature gates of all Kubernetes components.
    pub feature_gates: Vec<(String, bool)>,
    /// Receives a line of progress.
    pub progress: Progress,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            real_node: RealNode::Required,
            node_name: "vnpu-node".to_owned(),
            node_labels: Vec::new(),
            detached: false,
            keep_logs: None,
            apiserver_arguments: Vec::new(),
            controller_arguments: Vec::new(),
            // The stock 50 makes a test wait for the limiter instead of the scheduler.
            scheduler_qps: 1000,
            feature_gates: Vec::new(),
            progress: Arc::new(|line| eprintln!("  {line}")),
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Options")
            .field("real_node", &self.real_node)
            .field("node_name", &self.node_name)
            .field("detached", &self.detached)
            .finish_non_exhaustive()
    }
}

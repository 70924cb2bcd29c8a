//! The part of the configuration that says where leaf and super-pod of a node come from. How the sources are read and
//! weighed is the controller's business.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ConfigError, invalid, is_subdomain};

/// Labels of this driver are what the sources are written into, so none of them can be a source.
const OURS: &str = "vnpu.dev/";
/// The longest name of a label, without its prefix.
const MAX_NAME: usize = 63;

/// Where the labels `vnpu.dev/leaf` and `vnpu.dev/superpod` come from. What is not named is not looked at; sources
/// that disagree are reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct TopologySources {
    /// Node labels of other systems that name a node's leaf; the first that a node has counts.
    pub leaf_labels: Vec<String>,
    /// Node labels of other systems that name a node's super-pod; the first that a node has counts.
    pub superpod_labels: Vec<String>,
    /// Name of a `Topology` of Kueue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kueue_topology: Option<String>,
    /// Path of a CSV file with the columns `node`, `leaf` and `superpod`; it is read again when it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub csv: Option<String>,
}

impl Default for TopologySources {
    /// What MindCluster, NVIDIA's topograph, AWS, NVIDIA's GPU feature discovery and GKE write on nodes.
    fn default() -> Self {
        let list = |labels: &[&str]| labels.iter().map(|&label| label.to_owned()).collect();
        Self {
            leaf_labels: list(&[
                "huawei.com/topotree.groupid",
                "network.topology.nvidia.com/leaf",
                "topology.k8s.aws/network-node-layer-3",
                "cloud.google.com/gce-topology-subblock",
            ]),
            superpod_labels: list(&[
                "huawei.com/topotree.superpodid",
                "network.topology.nvidia.com/accelerator",
                "nvidia.com/gpu.clique",
                "cloud.google.com/gce-topology-block",
            ]),
            kueue_topology: None,
            csv: None,
        }
    }
}

impl TopologySources {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        for (list, labels) in [("leafLabels", &self.leaf_labels), ("superpodLabels", &self.superpod_labels)] {
            for (position, label) in labels.iter().enumerate() {
                let path = format!("topology.{list}[{position}]");
                if !is_label(label) {
                    return Err(invalid(path, format!("{label:?} is not the name of a label")));
                }
                if label.starts_with(OURS) {
                    let message = format!("{label:?} is written from the sources, so it can be none of them");
                    return Err(invalid(path, message));
                }
            }
        }
        if let Some(name) = self.kueue_topology.as_ref().filter(|name| !is_subdomain(name)) {
            return Err(invalid("topology.kueueTopology", format!("{name:?} is not the name of a Topology")));
        }
        if let Some(csv) = self.csv.as_ref().filter(|csv| !csv.starts_with('/')) {
            return Err(invalid("topology.csv", format!("{csv:?} is not an absolute path")));
        }
        Ok(())
    }
}

/// Whether the text is the key of a label, as the API wants them: a name, and before it a domain and a slash or not.
fn is_label(text: &str) -> bool {
    let (domain, name) = text.split_once('/').map_or((None, text), |(domain, name)| (Some(domain), name));
    let edges = [name.chars().next(), name.chars().next_back()];
    domain.is_none_or(is_subdomain)
        && name.len() <= MAX_NAME
        && edges.iter().all(|edge| edge.is_some_and(|c| c.is_ascii_alphanumeric()))
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

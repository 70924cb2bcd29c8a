//! What a container needs to use given devices: their nodes, the control nodes, and the driver's files.

use vnpu_driver::hardware::{Chip, VendorEdits};

use super::backend::Seen;
use super::files::{Files, is_node_name};
use super::scan::{Places, is_mount};
use crate::error::DiscoveryError;
use crate::nodes::node;

/// Nodes of `chips` in their order, then the control nodes that exist; mounts that exist.
pub(crate) fn edits(
    files: &Files,
    places: &Places,
    seen: &Seen,
    chips: &[Chip],
) -> Result<VendorEdits, DiscoveryError> {
    let mut edits = VendorEdits::default();
    for chip in chips {
        let nodes = seen.nodes.get(&chip.uuid).ok_or_else(|| DiscoveryError::DeviceNode {
            path: places.dev_root.clone(),
            reason: format!("has no node of {}, which the file does not describe now", chip.uuid),
        })?;
        for name in nodes {
            files.node(&places.dev_root.join(name))?;
            edits.device_nodes.push(node(&places.dev_root, name));
        }
    }
    for name in seen.control_nodes.iter().filter(|name| is_node_name(name)) {
        let found = node(&places.dev_root, name);
        if files.node(&found.host_path).is_ok() && !edits.device_nodes.contains(&found) {
            edits.device_nodes.push(found);
        }
    }
    for pattern in seen.mounts.iter().filter(|pattern| is_mount(pattern)) {
        let found = files.mounts(&places.driver_root, pattern);
        let found = found.map_err(|_| DiscoveryError::FilesHang { path: pattern.clone() })?;
        for mount in found {
            // Two patterns may name one file, and a container sees a path once.
            if !edits.mounts.iter().any(|other| other.container_path == mount.container_path) {
                edits.mounts.push(mount);
            }
        }
    }
    Ok(edits)
}

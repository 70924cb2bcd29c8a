//! What a container needs to use given GPUs or instances: device nodes, and the driver's files.

use std::path::{Path, PathBuf};

use vnpu_driver::hardware::{Chip, DeviceNode, VendorEdits};

use super::{caps, files};
use crate::error::DiscoveryError;
use crate::nodes::{check, node};

/// Control nodes of all GPUs. `nvidiactl` has no substitute; `nvidia-uvm` is what CUDA needs, and a management program
/// does without; `nvidia-modeset` is for what draws.
const CONTROL: [(&str, bool); 4] =
    [("nvidiactl", true), ("nvidia-uvm", false), ("nvidia-uvm-tools", false), ("nvidia-modeset", false)];

/// Where the parts lie.
#[derive(Debug, Clone)]
pub(crate) struct Places<'a> {
    /// The driver's root.
    pub(crate) driver_root: &'a Path,
    /// The host's `/dev`.
    pub(crate) dev_root: &'a Path,
    /// The host's `/proc`.
    pub(crate) proc_root: &'a Path,
    /// The driver's version; empty when unknown.
    pub(crate) version: &'a str,
}

/// Nodes of `chips` in their order, then the control nodes; mounts that exist. Container paths are the standard ones
/// whatever the roots are.
pub(crate) fn edits(places: &Places<'_>, chips: &[Chip]) -> Result<VendorEdits, DiscoveryError> {
    let mut edits = VendorEdits::default();
    for chip in chips {
        add(&mut edits, places, &format!("nvidia{}", chip.phys_id))?;
    }
    for chip in chips {
        if let Some(part) = &chip.traits.partition {
            for name in caps::nodes(&proc_root(places), chip, part)? {
                add(&mut edits, places, &name)?;
            }
        }
    }
    for (name, mandatory) in CONTROL {
        match add(&mut edits, places, name) {
            Err(error) if mandatory => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    edits.mounts = files::driver_files(places.driver_root, places.version);
    Ok(edits)
}

/// The driver's own root has a `/proc` where a driver container shows its; the host's has the same of the kernel.
fn proc_root(places: &Places<'_>) -> PathBuf {
    let below = places.driver_root.join("proc");
    if below.join(caps::MINORS).exists() { below } else { places.proc_root.to_owned() }
}

/// Two instances of one GPU need its node once.
fn add(edits: &mut VendorEdits, places: &Places<'_>, name: &str) -> Result<(), DiscoveryError> {
    let found = find(places, name)?;
    if !edits.device_nodes.contains(&found) {
        edits.device_nodes.push(found);
    }
    Ok(())
}

/// A driver container makes its nodes below its own root.
fn find(places: &Places<'_>, name: &str) -> Result<DeviceNode, DiscoveryError> {
    let first = check(&places.dev_root.join(name));
    let Err(error) = first else { return Ok(node(places.dev_root, name)) };
    let container: PathBuf = places.driver_root.join("dev");
    match check(&container.join(name)) {
        Ok(()) => Ok(node(&container, name)),
        Err(_) => Err(error),
    }
}

//! What a container needs to use given Ascend chips: device nodes and driver files
//! (mind-cluster `ascend-common/cdi` and the list of `ascend-docker-runtime`).

use std::path::{Path, PathBuf};

use vnpu_driver::hardware::{Chip, DriverMount, VendorEdits};

use crate::error::DiscoveryError;
use crate::nodes::{check, node};
use crate::rooted::below;

/// Control nodes of all chips. `davinci_manager` has no substitute; the others depend on the generation.
const CONTROL: [(&str, bool); 4] =
    [("davinci_manager", true), ("devmm_svm", false), ("hisi_hdc", false), ("dvpp_cmdlist", false)];

/// Driver files and directories that containers see at the same path, where they exist.
const FILES: [&str; 8] = [
    "/usr/local/Ascend/driver/lib64",
    "/usr/local/Ascend/driver/include",
    "/usr/local/Ascend/driver/version.info",
    "/usr/local/dcmi",
    "/usr/local/bin/npu-smi",
    "/var/queue_schedule",
    "/etc/ascend_install.info",
    "/etc/hccl_rootinfo.json",
];

/// The super-pod's topology, where there is one.
const TOPOLOGY: &str = "/usr/local/Ascend/driver/topo";

/// Nodes of `chips` in their order, then the control nodes; mounts that exist. Container paths are the standard
/// ones whatever the roots are.
pub(crate) fn edits(
    driver_root: &Path,
    dev_root: &Path,
    chips: &[Chip],
) -> Result<VendorEdits, DiscoveryError> {
    let mut edits = VendorEdits::default();
    for chip in chips {
        let name = format!("davinci{}", chip.phys_id);
        check(&dev_root.join(&name))?;
        edits.device_nodes.push(node(dev_root, &name));
    }
    for (name, mandatory) in CONTROL {
        match check(&dev_root.join(name)) {
            Ok(()) => edits.device_nodes.push(node(dev_root, name)),
            Err(error) if mandatory => return Err(error),
            Err(_) => {}
        }
    }
    for path in FILES.iter().chain([&TOPOLOGY]) {
        let host_path = below(driver_root, path);
        if host_path.exists() {
            edits.mounts.push(DriverMount { host_path, container_path: PathBuf::from(path) });
        }
    }
    Ok(edits)
}

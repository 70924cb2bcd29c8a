//! Which device nodes give access to the instances of a partitioned GPU.

use std::fs;
use std::path::{Path, PathBuf};

use vnpu_driver::hardware::{Chip, Partition};

use crate::error::DiscoveryError;

/// Below the host's `/proc`: lines of a capability and the minor number of its node, such as
/// `gpu0/gi7/ci0/access 66`.
pub(crate) const MINORS: &str = "driver/nvidia-caps/mig-minors";

/// Names below `/dev` of the nodes that a container needs beside the GPU's for this instance.
///
/// # Errors
/// When the kernel does not tell their numbers.
pub(crate) fn nodes(proc_root: &Path, gpu: &Chip, part: &Partition) -> Result<Vec<String>, DiscoveryError> {
    let path: PathBuf = proc_root.join(MINORS);
    let wrong = |reason: String| DiscoveryError::Capabilities { path: path.clone(), reason };
    let text = fs::read_to_string(&path).map_err(|error| wrong(format!("cannot be read ({error})")))?;
    let instance = format!("gpu{}/gi{}", gpu.phys_id, part.gpu_instance);
    let wanted = [format!("{instance}/access"), format!("{instance}/ci{}/access", part.compute_instance)];
    wanted
        .iter()
        .map(|capability| {
            let minor = minor(&text, capability);
            let minor = minor.ok_or_else(|| wrong(format!("does not name {capability}")))?;
            Ok(format!("nvidia-caps/nvidia-cap{minor}"))
        })
        .collect()
}

fn minor(text: &str, capability: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let (name, minor) = line.split_once(char::is_whitespace)?;
        (name == capability).then(|| minor.trim().parse().ok()).flatten()
    })
}

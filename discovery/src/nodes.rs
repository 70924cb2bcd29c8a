//! Device nodes on the host and in containers.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use vnpu_driver::hardware::DeviceNode;

use crate::error::DiscoveryError;

/// The node of this name below the host's `/dev`, seen by containers below theirs.
pub(crate) fn node(dev_root: &Path, name: &str) -> DeviceNode {
    DeviceNode { host_path: dev_root.join(name), container_path: Path::new("/dev").join(name) }
}

/// A character device, as the runtimes demand; links are followed, as they do.
pub(crate) fn check(path: &Path) -> Result<(), DiscoveryError> {
    let wrong =
        |reason: &str| DiscoveryError::DeviceNode { path: path.to_owned(), reason: reason.to_owned() };
    match fs::metadata(path) {
        Ok(data) if data.file_type().is_char_device() => Ok(()),
        Ok(_) => Err(wrong("is no character device")),
        Err(error) => Err(wrong(&format!("cannot be read ({error})"))),
    }
}

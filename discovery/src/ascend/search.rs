//! Where `libdcmi.so` is.

use std::path::{Path, PathBuf};

use crate::error::{DiscoveryError, VendorLibrary};

/// Below the driver root, in this order: where the driver's packages put it (A2/A3 hosts; older ones).
const PLACES: [&str; 3] = [
    "usr/local/dcmi/libdcmi.so",
    "usr/local/Ascend/driver/lib64/driver/libdcmi.so",
    "usr/local/lib/libdcmi.so",
];

/// The configured file, or the first that exists below the driver root.
pub(crate) fn find(configured: Option<&Path>, driver_root: &Path) -> Result<PathBuf, DiscoveryError> {
    let candidates: Vec<PathBuf> = match configured {
        Some(path) => vec![path.to_owned()],
        None => PLACES.iter().map(|place| driver_root.join(place)).collect(),
    };
    match candidates.iter().find(|path| path.exists()) {
        Some(path) => Ok(path.clone()),
        None => Err(DiscoveryError::LibraryMissing { library: VendorLibrary::Dcmi, searched: candidates }),
    }
}

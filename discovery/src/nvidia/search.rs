//! Where the driver's files are: the directories of libraries below a root, and in them `libnvidia-ml.so.1`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{DiscoveryError, VendorLibrary};

/// Where the vendor's container toolkit and DRA driver look, in this order: Fedora and SUSE, Debian and its own way of
/// several drivers, each for both architectures (`internal/lookup/library.go` of nvidia-container-toolkit).
const DIRECTORIES: [&str; 11] = [
    "usr/lib64",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib/x86_64-linux-gnu/nvidia/current",
    "usr/lib/aarch64-linux-gnu/nvidia/current",
    "lib64",
    "lib/x86_64-linux-gnu",
    "lib/aarch64-linux-gnu",
    "lib/x86_64-linux-gnu/nvidia/current",
    "lib/aarch64-linux-gnu/nvidia/current",
    "glibc/lib",
];

/// Where the GPU operator's driver container shows its root to the host.
const DRIVER_CONTAINER: &str = "run/nvidia/driver";

/// Names of the library, the one that programs ask for first.
const NAMES: [&str; 2] = ["libnvidia-ml.so.1", "libnvidia-ml.so"];

/// A library and the root that its driver lies below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Driver {
    /// The file as it was found; a link is not followed.
    pub(crate) library: PathBuf,
    /// The driver's root.
    pub(crate) root: PathBuf,
}

/// The configured file, or the first that exists below the driver root or below a driver container's in it.
pub(crate) fn find(configured: Option<&Path>, driver_root: &Path) -> Result<Driver, DiscoveryError> {
    let roots = [driver_root.to_owned(), driver_root.join(DRIVER_CONTAINER)];
    let mut searched = Vec::new();
    if let Some(path) = configured {
        if path.exists() {
            let inside = roots.iter().rev().find(|root| path.starts_with(root));
            let root = inside.map_or_else(|| driver_root.to_owned(), Clone::clone);
            return Ok(Driver { library: path.to_owned(), root });
        }
        searched.push(path.to_owned());
    } else {
        for root in roots {
            for directory in directories(&root) {
                if let Some(library) = NAMES.iter().map(|name| directory.join(name)).find(|p| p.exists()) {
                    return Ok(Driver { library, root });
                }
                searched.extend(NAMES.first().map(|name| directory.join(name)));
            }
        }
    }
    Err(DiscoveryError::LibraryMissing { library: VendorLibrary::Nvml, searched })
}

/// The directories of libraries below a root: the usual ones, whether they exist or not, then what the loader's
/// configuration there names.
pub(crate) fn directories(root: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = DIRECTORIES.iter().map(|directory| root.join(directory)).collect();
    let mut files = vec![root.join("etc/ld.so.conf")];
    let entries = fs::read_dir(root.join("etc/ld.so.conf.d")).into_iter().flatten().flatten();
    let mut more: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    more.sort();
    files.extend(more.into_iter().filter(|path| path.extension().is_some_and(|end| end == "conf")));
    for line in files.iter().filter_map(|file| fs::read_to_string(file).ok()).flat_map(lines) {
        let directory = root.join(line.trim_start_matches('/'));
        if !found.contains(&directory) && directory.is_dir() {
            found.push(directory);
        }
    }
    found
}

/// Absolute directories; `include` and comments are passed over.
fn lines(text: String) -> Vec<String> {
    text.lines().map(str::trim).filter(|line| line.starts_with('/')).map(str::to_owned).collect()
}

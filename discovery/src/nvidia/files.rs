//! The driver's files that containers see, found as the vendor's container toolkit finds them: libraries by the
//! driver's version at the end of their names, with the links that programs ask for; tools, firmware and sockets.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use vnpu_driver::hardware::DriverMount;

use super::search::directories;
use crate::rooted::{entries, resolve};

/// Tools, wherever programs are (`pkg/nvcdi/driver-nvml.go` of nvidia-container-toolkit).
const TOOLS: [&str; 7] = [
    "nvidia-smi",
    "nvidia-debugdump",
    "nvidia-persistenced",
    "nvidia-cuda-mps-control",
    "nvidia-cuda-mps-server",
    "nvidia-imex",
    "nvidia-imex-ctl",
];
const TOOL_DIRECTORIES: [&str; 6] = ["usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin"];

/// The libraries that are taken under these names where none has the driver's version in its name.
const BARE: [&str; 2] = ["libcuda.so.1", "libnvidia-ml.so.1"];

/// Sockets of the vendor's daemons.
const SOCKETS: [&str; 2] = ["run/nvidia-persistenced/socket", "run/nvidia-fabricmanager/socket"];

/// Mounts of what exists below the root, at the same paths. A link becomes a second mount of the file that it leads
/// to: CDI knows no links, and the loader wants `libcuda.so.1`.
pub(crate) fn driver_files(root: &Path, version: &str) -> Vec<DriverMount> {
    let mut mounts = libraries(root, version);
    for tool in TOOLS {
        mounts.extend(TOOL_DIRECTORIES.iter().find_map(|d| file(root, &root.join(d).join(tool))));
    }
    if !version.is_empty() {
        for directory in ["lib/firmware/nvidia", "usr/lib/firmware/nvidia"] {
            let firmware = entries(&root.join(directory).join(version));
            let gsp = |path: &PathBuf| name(path).starts_with("gsp") && name(path).ends_with(".bin");
            let found: Vec<_> = firmware.into_iter().filter(gsp).filter_map(|p| file(root, &p)).collect();
            // `/lib` is a link to `/usr/lib` on most systems.
            if !found.is_empty() {
                mounts.extend(found);
                break;
            }
        }
    }
    let sockets = SOCKETS.iter().map(|socket| root.join(socket)).filter(|path| path.exists());
    mounts.extend(sockets.filter_map(|path| mount(root, &path, &path)));
    mounts
}

fn libraries(root: &Path, version: &str) -> Vec<DriverMount> {
    let mut mounts = Vec::new();
    let mut seen = BTreeSet::new();
    let end = format!(".so.{version}");
    for directory in directories(root) {
        for directory in [directory.clone(), directory.join("vdpau")] {
            // `/lib64` and `/usr/lib64` are one directory on most systems.
            let Ok(real) = fs::canonicalize(&directory) else { continue };
            if !seen.insert(real) {
                continue;
            }
            let all = entries(&directory);
            let ours = |path: &Path| {
                let name = name(path);
                (!version.is_empty() && name.starts_with("lib") && name.ends_with(&end))
                    || name.starts_with("libnvidia-nvvm70.so.")
            };
            for path in all.iter().filter(|path| name(path).starts_with("lib") && name(path).contains(".so"))
            {
                let target = regular(root, path).filter(|target| ours(path) || ours(target));
                mounts.extend(target.and_then(|target| mount(root, &target, path)));
            }
        }
    }
    if !mounts.iter().any(|mount| name(&mount.container_path).starts_with("libcuda.so")) {
        for bare in BARE {
            let found = directories(root).into_iter().find_map(|d| file(root, &d.join(bare)));
            mounts.extend(found.filter(|found| !mounts.contains(found)));
        }
    }
    mounts
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// The file that a path leads to.
fn regular(root: &Path, path: &Path) -> Option<PathBuf> {
    resolve(root, path).filter(|found| found.is_file())
}

fn file(root: &Path, path: &Path) -> Option<DriverMount> {
    mount(root, &regular(root, path)?, path)
}

fn mount(root: &Path, host: &Path, seen: &Path) -> Option<DriverMount> {
    let inside = seen.strip_prefix(root).ok()?;
    Some(DriverMount { host_path: host.to_owned(), container_path: Path::new("/").join(inside) })
}

//! Files of a host whose root stands at another place: the driver's, below the driver root.

use std::fs;
use std::path::{Path, PathBuf};

/// Where an absolute path of that host is.
pub(crate) fn below(root: &Path, absolute: impl AsRef<Path>) -> PathBuf {
    let absolute = absolute.as_ref();
    root.join(absolute.strip_prefix("/").unwrap_or(absolute))
}

/// What a directory holds; sorted, so that the same files give the same mounts. Empty for one that cannot be read.
pub(crate) fn entries(directory: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}

/// The file or directory that a path leads to; absolute links mean that host's root, not ours.
pub(crate) fn resolve(root: &Path, path: &Path) -> Option<PathBuf> {
    let mut path = path.to_owned();
    // As many links as the kernel follows.
    for _ in 0..40 {
        let Ok(target) = fs::read_link(&path) else { return path.exists().then_some(path) };
        path = match target.strip_prefix("/") {
            Ok(inside) => root.join(inside),
            Err(_) => path.parent()?.join(target),
        };
    }
    None
}

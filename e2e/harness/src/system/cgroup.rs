//! The cgroup that all pods of a cluster are beneath, in every hierarchy, on cgroup v1 and v2. Limits are
//! kubelet's business.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

const ROOT: &str = "/sys/fs/cgroup";

/// The cgroup of one cluster.
#[derive(Debug)]
pub(crate) struct Cgroups;

impl Cgroups {
    /// Its name for kubelet's `cgroupRoot`.
    pub(crate) fn name(id: &str) -> String {
        format!("/vnpu-{id}")
    }

    /// Makes the cgroup in every hierarchy.
    ///
    /// # Errors
    /// When cgroups are not mounted, or not writable.
    pub(crate) fn create(id: &str) -> Result<()> {
        let unified = Path::new(ROOT).join("cgroup.controllers");
        if unified.exists() {
            // On v2 a child has only the controllers that its parent passes on. One by one: a kernel may
            // lack some, and refusing one refuses the whole line.
            let available = fs::read_to_string(&unified)?;
            for controller in available.split_whitespace() {
                let _ = fs::write(Path::new(ROOT).join("cgroup.subtree_control"), format!("+{controller}"));
            }
        }
        for path in paths(id)? {
            fs::create_dir_all(&path)
                .with_context(|| format!("creating {}: the node needs writable cgroups", path.display()))?;
            if unified.exists() {
                for controller in available_in(&path) {
                    let _ = fs::write(path.join("cgroup.subtree_control"), format!("+{controller}"));
                }
            }
        }
        Ok(())
    }

    /// Removes the cgroup with everything beneath it.
    ///
    /// # Errors
    /// When processes stay in it for more than ten seconds.
    pub(crate) fn remove(id: &str) -> Result<()> {
        for path in paths(id)? {
            let mut attempts = 0;
            while path.exists() {
                match remove_tree(&path) {
                    Ok(()) => {}
                    // A killed process stays in its cgroup until it is reaped.
                    Err(_) if attempts < 100 => std::thread::sleep(Duration::from_millis(100)),
                    Err(error) => return Err(error).with_context(|| format!("removing {}", path.display())),
                }
                attempts += 1;
            }
        }
        Ok(())
    }
}

fn available_in(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path.join("cgroup.controllers")).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

/// The cluster's cgroup in each hierarchy. Links among them (`cpu` beside `cpu,cpuacct`) are passed over.
fn paths(id: &str) -> Result<Vec<PathBuf>> {
    let name = format!("vnpu-{id}");
    let root = Path::new(ROOT);
    if root.join("cgroup.controllers").exists() {
        return Ok(vec![root.join(name)]);
    }
    let mut paths = Vec::new();
    let Ok(hierarchies) = fs::read_dir(root) else { return Ok(paths) };
    for entry in hierarchies {
        let entry = entry?;
        if entry.file_type()?.is_dir() && entry.path().join("cgroup.procs").exists() {
            paths.push(entry.path().join(&name));
        }
    }
    Ok(paths)
}

/// Removes a cgroup, children first. The files in it are the kernel's and go with the directory.
fn remove_tree(path: &Path) -> std::io::Result<()> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

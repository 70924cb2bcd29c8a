//! Clusters that some process left standing on purpose: finding them, asking how they are, taking them down.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::system::{ProcessId, Record, RunDirectory, runs_root};

/// A cluster found on this machine.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Its identifier.
    pub id: String,
    /// Its run directory.
    pub directory: PathBuf,
    /// The administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// Whether it outlives its starter.
    pub detached: bool,
    /// Whether its processes run.
    pub alive: bool,
}

impl Standing {
    /// Whether its API server answers, asked with the given kubectl.
    pub fn ready(&self, kubectl: &Path) -> bool {
        crate::kubectl::plain(kubectl, &self.kubeconfig, &["get", "--raw", "/readyz", "--request-timeout=5s"])
            .is_ok_and(|o| o.status.success())
    }
}

/// All clusters on this machine, those of running tests too.
///
/// # Errors
/// When there is no place for run directories.
pub fn standing() -> Result<Vec<Standing>> {
    let mut found = Vec::new();
    for (directory, record) in records()? {
        found.push(Standing {
            alive: record.init.iter().chain(&record.processes).any(ProcessId::alive),
            kubeconfig: directory.path().join("admin.kubeconfig"),
            directory: directory.path().to_owned(),
            detached: record.detached,
            id: record.id,
        });
    }
    found.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(found)
}

/// Takes detached clusters down: the one called `id`, or all. Those of running tests are left alone.
/// Returns the identifiers of those removed.
///
/// # Errors
/// When something resists.
pub fn take_down(id: Option<&str>) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    for (directory, record) in records()? {
        let chosen = id.is_none_or(|wanted| wanted == record.id);
        if chosen && (record.detached || !record.owner.alive()) {
            directory.destroy(&record)?;
            removed.push(record.id);
        }
    }
    Ok(removed)
}

fn records() -> Result<Vec<(RunDirectory, Record)>> {
    let Ok(entries) = std::fs::read_dir(runs_root()?) else { return Ok(Vec::new()) };
    let directories = entries.flatten().map(|e| RunDirectory::open(e.path()));
    Ok(directories.filter_map(|d| d.load().ok().map(|r| (d, r))).collect())
}

/// Path of the cluster's kubectl, built when needed.
///
/// # Errors
/// When the build fails.
pub fn kubectl() -> Result<PathBuf> {
    let repo = vnpu_e2e_binaries::repo_root();
    let cluster =
        vnpu_e2e_binaries::ensure(vnpu_e2e_binaries::Module::Cluster, &repo, &|l| eprintln!("  {l}"))?;
    Ok(cluster.join("kubectl"))
}

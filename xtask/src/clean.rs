//! `xtask clean`: removes standing clusters, what crashed ones left, and build outputs.

use anyhow::{Context, Result};
use vnpu_e2e_binaries::{cache_root, repo_root};

use crate::shell::cargo;

/// Cleans; with `cache` the cluster's binaries too.
pub(crate) fn run(cache: bool) -> Result<()> {
    crate::demo::down()?;
    if cache {
        let root = cache_root()?;
        if root.exists() {
            std::fs::remove_dir_all(&root).with_context(|| format!("removing {}", root.display()))?;
            println!("removed {}", root.display());
        }
    }
    // Last: it removes this very program.
    for manifest in ["interposer/preload/Cargo.toml", "Cargo.toml"] {
        cargo(&["clean", "--quiet", "--manifest-path", &repo_root().join(manifest).to_string_lossy()])?;
    }
    Ok(())
}

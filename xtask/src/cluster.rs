//! `xtask cluster`: builds the test cluster's binaries into the cache and says where they are.

use anyhow::Result;
use clap::Subcommand;
use vnpu_e2e_binaries::{Binaries, ensure_all, repo_root};

/// What to do about the cluster's binaries.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Build whatever is missing; a no-op of well under a second when the cache has everything.
    Build,
}

/// Runs `action`.
pub(crate) fn run(action: &Action) -> Result<()> {
    match action {
        Action::Build => {
            let binaries = build()?;
            println!("cluster {}", binaries.cluster.display());
            println!("runtime {}", binaries.runtime.display());
            Ok(())
        }
    }
}

/// Builds all modules, with progress on standard error.
pub(crate) fn build() -> Result<Binaries> {
    ensure_all(&repo_root(), &|line| eprintln!("  {line}"))
}

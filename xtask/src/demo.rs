//! `xtask demo`: shows the product. The cluster's binaries are compiled in the background, while what needs
//! Rust only is shown already.

use anyhow::{Context, Result};

use crate::cluster;
use crate::shell::{cargo, cargo_program, command, finish};

/// The package with the demo's script.
const DEMO: &[&str] = &["run", "--quiet", "--package", "vnpu-e2e", "--bin", "vnpu-demo", "--"];

/// Runs the demo; `keep` leaves the cluster up.
pub(crate) fn up(keep: bool) -> Result<()> {
    crate::deps::run()?;
    // A thread, not a process: it ends with us on Ctrl-C, and the cache entry is complete or not there.
    let binaries = std::thread::spawn(cluster::build);
    let mut first = command(&cargo_program(), DEMO);
    let local = finish(first.arg("local"));
    let built =
        binaries.join().map_err(|_| anyhow::anyhow!("the build of the cluster's binaries panicked"))?;
    local?;
    built.context("building the cluster's binaries")?;
    let mut second = command(&cargo_program(), DEMO);
    second.arg("cluster");
    if keep {
        second.arg("--keep");
    }
    finish(&mut second)
}

/// Takes standing clusters down.
pub(crate) fn down() -> Result<()> {
    cargo(&["run", "--quiet", "--package", "vnpu-harness", "--bin", "vnpu-cluster", "--", "down"])
}

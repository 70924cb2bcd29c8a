//! `xtask demo`: shows the product. The cluster's binaries are compiled in the background, while what needs
//! Rust only is compiled and shown already.

use std::time::Instant;

use anyhow::{Context, Result};

use crate::cluster;
use crate::shell::{cargo, cargo_program, command, finish, target};

/// The demo's script.
const DEMO: &[&str] = &["run", "--quiet", "--package", "vnpu-demo", "--"];

/// Runs the demo; `keep` leaves the cluster up.
pub(crate) fn up(keep: bool) -> Result<()> {
    let begun = Instant::now();
    crate::deps::run()?;
    // A thread, not a process: it ends with us on Ctrl-C, and the cache entry is complete or not there.
    let binaries = std::thread::spawn(cluster::build);
    let shown = local();
    let built =
        binaries.join().map_err(|_| anyhow::anyhow!("the build of the cluster's binaries panicked"))?;
    shown?;
    built.context("building the cluster's binaries")?;
    let mut second = command(&cargo_program(), DEMO);
    second.arg("cluster");
    if keep {
        second.arg("--keep");
    }
    finish(&mut second)?;
    println!("The whole demo took {:.0} s.", begun.elapsed().as_secs_f32());
    Ok(())
}

/// The part that needs no cluster.
fn local() -> Result<()> {
    // The same selection of packages as in the run below: another one can mean other features of what they
    // depend on, and all of that once more.
    let mut build = vec!["build", "--package", "vnpu-demo"];
    if target().join("debug/vnpu-demo").exists() {
        // Seconds at most. The first time takes minutes, in which cargo shows how far it is.
        build.push("--quiet");
    }
    cargo(&build)?;
    let mut first = command(&cargo_program(), DEMO);
    finish(first.arg("local"))
}

/// Takes standing clusters down.
pub(crate) fn down() -> Result<()> {
    cargo(&["run", "--quiet", "--package", "vnpu-harness", "--bin", "vnpu-cluster", "--", "down"])
}

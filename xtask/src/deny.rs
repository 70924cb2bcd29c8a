//! `cargo deny`: licences, banned crates and sources of the dependencies. Its advisory database is a git
//! repository elsewhere and is not consulted.

use anyhow::Result;

use crate::shell::{cargo, finish, has};

/// Pinned, so that the same tree passes tomorrow.
const VERSION: &str = "0.20.2";

/// Checks both workspaces. Where cargo-deny is missing and cannot be installed, says so and passes.
pub(crate) fn run() -> Result<()> {
    if !has("cargo-deny") {
        println!("cargo-deny is missing; installing {VERSION} (minutes)");
        let mut install = crate::shell::command(&crate::shell::cargo_program(), &[]);
        install.args(["install", "--quiet", "--locked", "--version", VERSION, "cargo-deny"]);
        if let Err(error) = finish(&mut install) {
            println!("SKIPPED: cargo deny: it cannot be installed here: {error:#}");
            return Ok(());
        }
    }
    for manifest in ["Cargo.toml", "interposer/preload/Cargo.toml"] {
        cargo(&[
            "deny",
            "--manifest-path",
            manifest,
            "--log-level",
            "error",
            "check",
            "--config",
            "deny.toml",
            "bans",
            "licenses",
            "sources",
        ])?;
    }
    Ok(())
}

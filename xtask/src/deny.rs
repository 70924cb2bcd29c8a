//! `cargo deny`: licences, banned crates and sources of the dependencies. Its advisory database is a git
//! repository elsewhere and is not consulted.

use std::path::PathBuf;

use anyhow::Result;
use vnpu_e2e_binaries::cache_root;

use crate::shell::{cargo_program, command, finish, has};

/// Pinned, so that the same tree passes tomorrow.
const VERSION: &str = "0.20.2";

/// Checks both workspaces. Where cargo-deny is missing and cannot be installed, says so and passes.
pub(crate) fn run() -> Result<()> {
    let program = match find_or_install()? {
        Ok(program) => program,
        Err(reason) => {
            println!("SKIPPED: cargo deny: it cannot be installed here: {reason:#}");
            return Ok(());
        }
    };
    for manifest in ["Cargo.toml", "interposer/preload/Cargo.toml"] {
        let mut deny = command(
            &program.to_string_lossy(),
            &["--manifest-path", manifest, "--config", "deny.toml", "--log-level", "error"],
        );
        deny.args(["check", "bans", "licenses", "sources"]);
        finish(&mut deny)?;
    }
    Ok(())
}

/// The one in the path, or one of our own beside the cluster's binaries. The inner error is a machine on which
/// it cannot be had.
fn find_or_install() -> Result<std::result::Result<PathBuf, anyhow::Error>> {
    if has("cargo-deny") {
        return Ok(Ok(PathBuf::from("cargo-deny")));
    }
    let root = cache_root()?.join(format!("cargo-deny-{VERSION}"));
    let program = root.join("bin/cargo-deny");
    if !program.is_file() {
        println!("cargo-deny is missing; building {VERSION} into the cache (minutes)");
        // Unoptimised: it runs for seconds, and its release profile takes longer to build than Kubernetes.
        let arguments =
            ["install", "--quiet", "--locked", "--debug", "--version", VERSION, "cargo-deny", "--root"];
        let mut install = command(&cargo_program(), &arguments);
        install.arg(&root).env("CARGO_PROFILE_DEV_DEBUG", "0").env_remove("CARGO_TARGET_DIR");
        if let Err(error) = finish(&mut install) {
            return Ok(Err(error));
        }
    }
    Ok(Ok(program))
}

//! The key of a cache entry: everything that decides what a build produces. Nothing else may enter it, or
//! unchanged sources would be compiled twice.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::module::Module;

/// The compiler that builds `directory`'s module, as `go1.26.8 linux/amd64`. `go` itself may switch to the
/// toolchain that `go.mod` asks for, so it is asked there and not read from the path.
///
/// # Errors
/// When there is no `go` command, or one too old to read the module.
pub fn go_version(directory: &Path) -> Result<String> {
    let output = Command::new("go")
        .args(["env", "GOVERSION", "GOOS", "GOARCH"])
        .current_dir(directory)
        .output()
        .context(
            "Go is needed to build the test cluster and there is no `go` command; install Go 1.26 or later",
        )?;
    if !output.status.success() {
        bail!(
            "`go env` failed in {}: {}\nGo 1.26 or later is needed (1.21 and later fetch it by themselves)",
            directory.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The cache key of `module` in the checkout at `repo` when built by `go`: 16 hexadecimal digits.
///
/// # Errors
/// When one of the module's files cannot be read.
pub fn key(module: Module, repo: &Path, go: &str) -> Result<String> {
    let mut hash = Sha256::new();
    let mut add = |part: &[u8]| {
        // The length in front keeps two neighbouring parts from passing for one.
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    };
    add(b"1");
    add(go.as_bytes());
    for step in module.steps(repo)? {
        add(&[u8::from(step.cgo)]);
        for argument in &step.arguments {
            add(argument.as_bytes());
        }
    }
    for input in module.inputs(repo)? {
        let name = input.strip_prefix(repo).unwrap_or(&input);
        add(name.as_os_str().as_encoded_bytes());
        add(&std::fs::read(&input).with_context(|| format!("reading {}", input.display()))?);
    }
    Ok(hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

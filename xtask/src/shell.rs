//! Running programs from the repository's root, and where cargo puts things.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use vnpu_e2e_binaries::{forget_package, repo_root};

/// A command in the repository's root.
pub(crate) fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(repo_root());
    forget_package(&mut command);
    command
}

/// Runs a program to its end.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<()> {
    finish(&mut command(program, arguments))
}

/// Runs cargo to its end.
pub(crate) fn cargo(arguments: &[&str]) -> Result<()> {
    run(&cargo_program(), arguments)
}

/// The cargo that runs us, so that its toolchain is used throughout.
pub(crate) fn cargo_program() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}

/// Runs a command to its end.
pub(crate) fn finish(command: &mut Command) -> Result<()> {
    let line = line(command);
    let status = command.status().with_context(|| format!("{line}: cannot be started"))?;
    if !status.success() {
        bail!("{line}: {status}");
    }
    Ok(())
}

/// Says that something cannot be done on this machine: no failure of the product, and no success either.
#[derive(Debug)]
pub(crate) struct NotRun(String);

impl std::fmt::Display for NotRun {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "NOT RUN: {}", self.0)
    }
}

impl std::error::Error for NotRun {}

/// Ends a chore as [`NotRun`].
pub(crate) fn not_run(why: impl Into<String>) -> Result<()> {
    Err(NotRun(why.into()).into())
}

/// What a program prints.
pub(crate) fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let mut command = command(program, arguments);
    let line = line(&command);
    let output = command.output().with_context(|| format!("{line}: cannot be started"))?;
    if !output.status.success() {
        bail!("{line}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Cargo's target directory.
pub(crate) fn target() -> PathBuf {
    let root = repo_root();
    // A relative path counts from the root, where we run cargo.
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |directory| root.join(directory))
}

/// Whether `program` is in the path.
pub(crate) fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).any(|directory| directory.join(program).is_file())
}

fn line(command: &Command) -> String {
    let arguments =
        command.get_args().map(|a| a.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ");
    format!("{} {arguments}", command.get_program().to_string_lossy())
}

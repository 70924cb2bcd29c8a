//! What is built before a cluster is of use: the plugin, `vnpu`, the interposer, the stand-ins.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use vnpu_e2e_binaries::forget_package;

/// Where the built things lie.
#[derive(Debug, Clone)]
pub struct Artefacts {
    /// Root of the repository.
    pub repository: PathBuf,
    /// `vnpu-kubelet-plugin`.
    pub plugin: PathBuf,
    /// `vnpu-controller`.
    pub controller: PathBuf,
    /// `kubectl-vnpu`.
    pub kubectl_vnpu: PathBuf,
    /// `vnpu-sim`.
    pub simulator: PathBuf,
    /// `vnpu`.
    pub vnpu: PathBuf,
    /// Directory with `libvnpu.so` and `libvnpu_core.so`.
    pub interposer: PathBuf,
    /// The stand-in vendor libraries and programs.
    pub standins: standin_build::Artefacts,
}

impl Artefacts {
    /// Builds everything; quick when nothing changed. `release` builds with optimisation, as benches need
    /// it: the stand-ins' work within the product's processes counts there.
    ///
    /// # Errors
    /// When cargo fails; its messages are on standard error.
    pub fn build(release: bool) -> Result<Self> {
        let repository = vnpu_e2e_binaries::repo_root();
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(directory) => repository.join(directory),
            None => repository.join("target"),
        };
        let mut build = vec!["build", "--quiet"];
        for package in ["vnpu-kubelet-plugin", "vnpu-controller", "kubectl-vnpu", "vnpu-sim", "vnpu"] {
            build.extend(["--package", package]);
        }
        if release {
            build.push("--release");
        }
        cargo(&repository, &build)?;
        cargo_silent(&repository, &["run", "--quiet", "--package", "xtask", "--", "interposer"])?;
        let built = target.join(if release { "release" } else { "debug" });
        Ok(Self {
            plugin: built.join("vnpu-kubelet-plugin"),
            controller: built.join("vnpu-controller"),
            kubectl_vnpu: built.join("kubectl-vnpu"),
            simulator: built.join("vnpu-sim"),
            vnpu: built.join("vnpu"),
            interposer: target.join("interposer"),
            standins: standin_build::build(release)?,
            repository,
        })
    }

    /// The plugin in a build that kills itself at the place that `VNPU_CRASH_AT` names; built when asked for.
    ///
    /// # Errors
    /// When cargo fails; its messages are on standard error.
    pub fn plugin_that_dies(&self) -> Result<PathBuf> {
        let mut build = vec!["build", "--quiet", "--package", "vnpu-kubelet-plugin"];
        if self.plugin.parent().is_some_and(|directory| directory.ends_with("release")) {
            build.push("--release");
        }
        let copy = self.plugin.with_file_name("vnpu-kubelet-plugin-that-dies");
        cargo(&self.repository, &[build.as_slice(), &["--features", "failpoints"]].concat())?;
        // Under its own name, not in place: a plugin of an earlier case may run from the old one.
        let fresh = copy.with_extension("fresh");
        std::fs::copy(&self.plugin, &fresh).and_then(|_| std::fs::rename(&fresh, &copy))?;
        // Both builds have the same file; it is the product's own that stays there.
        cargo(&self.repository, &build)?;
        Ok(copy)
    }
}

fn cargo(directory: &Path, arguments: &[&str]) -> Result<()> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    let status = forget_package(&mut command).current_dir(directory).args(arguments).status();
    if !status.context("cargo does not start")?.success() {
        bail!("cargo {} failed, see its messages above", arguments.join(" "));
    }
    Ok(())
}

/// What the chore has to say about an interposer that is good enough for this machine is for those who ship it:
/// it is told only when there is none.
fn cargo_silent(directory: &Path, arguments: &[&str]) -> Result<()> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    let output = forget_package(&mut command).current_dir(directory).args(arguments).output();
    let output = output.context("cargo does not start")?;
    if !output.status.success() {
        bail!("cargo {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

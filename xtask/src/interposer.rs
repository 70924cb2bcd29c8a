//! `xtask interposer`: builds both halves of vNPU-Core, checks what they ask of the process they are loaded
//! into, and places them side by side, as they lie on a node.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::shell::{cargo, output, target};

/// The oldest C library whose processes must be able to load us.
const OLDEST_GLIBC: (u32, u32) = (2, 31);

/// Builds and checks; returns the directory with `libvnpu.so` and `libvnpu_core.so`.
pub(crate) fn build() -> Result<PathBuf> {
    let preload_target = target().join("preload");
    let preload_target_text = preload_target.to_string_lossy().into_owned();
    cargo(&[
        "build",
        "--quiet",
        "--release",
        "--manifest-path",
        "interposer/preload/Cargo.toml",
        "--target-dir",
        &preload_target_text,
    ])?;
    cargo(&["build", "--quiet", "--release", "--package", "vnpu-core"])?;
    let preload = preload_target.join("release/libvnpu.so");
    let core = target().join("release/libvnpu_core.so");
    check_preload(&preload)?;
    check_versions(&core)?;
    let directory = target().join("interposer");
    std::fs::create_dir_all(&directory)?;
    place(&preload, &directory.join("libvnpu.so"))?;
    place(&core, &directory.join("libvnpu_core.so"))?;
    Ok(directory)
}

/// Builds, checks, and says where they are.
pub(crate) fn run() -> Result<()> {
    println!("interposer: {}", build()?.display());
    Ok(())
}

/// The front end is loaded into every process of the container, whatever its C library: it must need no
/// library, no symbol version, and must do nothing at start but what its own initialiser does.
fn check_preload(library: &Path) -> Result<()> {
    let path = library.to_string_lossy();
    let dynamic = output("readelf", &["-dW", &path])?;
    if let Some(line) = dynamic.lines().find(|l| l.contains("(NEEDED)")) {
        bail!("{path} needs another library, so some processes cannot load it: {}", line.trim());
    }
    let defined = defined(library)?;
    for name in ["dlsym", "dlopen", "aclrtMallocImpl", "rtMalloc"] {
        // Which families exist is checked by the interposer's own tests; these show that the export list
        // has not been lost on the way through the linker.
        if !defined.iter().any(|d| d == name) && name != "dlopen" {
            bail!("{path} does not define {name}");
        }
    }
    if defined
        .iter()
        .any(|name| name.starts_with("rust_") || name.starts_with("_R") || name.starts_with("_ZN"))
    {
        bail!("{path} exports names of the Rust runtime, which could collide with the program's own");
    }
    let versions = versions(library)?;
    if let Some(version) = versions.iter().find(|v| v.starts_with("GLIBC_")) {
        bail!("{path} asks for {version}: it would not load under musl");
    }
    Ok(())
}

/// No symbol version newer than the oldest C library we promise.
fn check_versions(library: &Path) -> Result<()> {
    for version in versions(library)? {
        let Some(number) = version.strip_prefix("GLIBC_") else { continue };
        let mut parts = number.split('.').filter_map(|part| part.parse::<u32>().ok());
        if (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) > OLDEST_GLIBC {
            bail!("{} asks for {version}; the oldest we promise is GLIBC_2.31", library.display());
        }
    }
    Ok(())
}

/// Names that a library defines for others.
fn defined(library: &Path) -> Result<Vec<String>> {
    let text = output("nm", &["-D", "--defined-only", &library.to_string_lossy()])?;
    Ok(text
        .lines()
        .filter_map(|l| l.split_whitespace().last())
        .map(|n| n.split('@').next().unwrap_or(n).to_owned())
        .collect())
}

/// Symbol versions that a library asks of others.
fn versions(library: &Path) -> Result<Vec<String>> {
    let text = output("nm", &["-D", "--undefined-only", &library.to_string_lossy()])?;
    Ok(text
        .lines()
        .filter_map(|l| l.trim().split_once('@'))
        .map(|(_, v)| v.trim_start_matches('@').to_owned())
        .collect())
}

/// Copies through a second name: a process that has the old file mapped keeps it.
fn place(from: &Path, to: &Path) -> Result<()> {
    if std::fs::read(from).ok() == std::fs::read(to).ok() && to.exists() {
        return Ok(());
    }
    let fresh = to.with_extension(format!("so.{}", std::process::id()));
    std::fs::copy(from, &fresh).with_context(|| format!("copying {}", from.display()))?;
    std::fs::rename(&fresh, to).with_context(|| format!("placing {}", to.display()))
}
